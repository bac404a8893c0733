"""AdamW: its settings and what it keeps; `adamw_step.py` computes.

Source: Loshchilov and Hutter (arXiv 1711.05101); MiniCPM (arXiv 2404.06395) Table 7 for η/m on hidden matrices.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

from pipelines.config import Momentum, Positive, config_class
from pipelines.train.network.roles import RoleKind
from pipelines.train.optimizers.contract import OptimizerRow, OptimizerSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.train.optimizers.adamw_step import AdamW


@config_class
class AdamWSettings(OptimizerSettings):
    """The recipe's: the published code's, since the paper does not give them."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: Positive = 1e-8


class AdamWRow(OptimizerRow):
    """Two moments for every parameter."""

    Settings = AdamWSettings

    def build(self, groups: list[dict[str, Any]], settings: AdamWSettings) -> AdamW:
        from pipelines.train.optimizers.adamw_step import AdamW

        return AdamW(groups, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)

    def bytes_kept(self, kind: RoleKind) -> int:
        return 8

    def scalars(self, kept: Collection[str], updates: int, device: torch.device) -> dict[str, Tensor]:
        """The number of updates, by which the bias of the moments is corrected: a tensor to the fused kernel."""
        import torch

        return {"step": torch.tensor(float(updates), device=device)} if "exp_avg" in kept else {}
