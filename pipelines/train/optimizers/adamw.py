"""AdamW: torch's own, without what torch wraps around it for its compiler.

The wrappers import the whole of that compiler at the first use of an optimizer, which nothing here compiles: 1.3 s of
CPU in each worker before its first step is done, as much as torch itself takes. What is computed is the same.

Source: Loshchilov and Hutter (arXiv 1711.05101); MiniCPM (arXiv 2404.06395) Table 7 for η/m on hidden matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.config import Momentum, Positive, config_class
from pipelines.train.network.roles import RoleKind
from pipelines.train.optimizers.contract import OptimizerRow, OptimizerSettings


@config_class
class AdamWSettings(OptimizerSettings):
    """The recipe's: the published code's, since the paper does not give them."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: Positive = 1e-8


def _inner(method: Callable[..., Any]) -> Any:
    """The method that a decorator of torch's went around; the method itself where there is no decorator."""
    return getattr(method, "__wrapped__", method)


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, to the bit."""

    step = torch.no_grad()(_inner(torch.optim.AdamW.step))
    add_param_group = _inner(Optimizer.add_param_group)
    zero_grad = _inner(Optimizer.zero_grad)
    state_dict = _inner(Optimizer.state_dict)
    load_state_dict = _inner(Optimizer.load_state_dict)


class AdamWRow(OptimizerRow):
    """Two moments for every parameter."""

    Settings = AdamWSettings

    def build(self, groups: list[dict[str, Any]], settings: AdamWSettings) -> AdamW:
        return AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)

    def bytes_kept(self, kind: RoleKind) -> int:
        return 8

    def scalars(self, kept: Collection[str], updates: int, device: torch.device) -> dict[str, Tensor]:
        """The number of updates, by which the bias of the moments is corrected: a tensor to the fused kernel."""
        return {"step": torch.tensor(float(updates), device=device)} if "exp_avg" in kept else {}
