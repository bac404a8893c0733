"""Lion: the sign of an interpolated momentum, and one moment.

    U = sign(β1·M + (1−β1)·G)
    W ← W − lr·wd·W − lr·U
    M ← β2·M + (1−β2)·G

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms" (arXiv 2302.06675), Algorithm 2. Under muP an
update of signs has entries of one size whatever the width, as AdamW's has: its learning rate takes 1/m too.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from pipelines.config import Momentum, config_class
from pipelines.train.network.roles import RoleKind
from pipelines.train.optimizers.contract import OptimizerRow, OptimizerSettings


@config_class
class LionSettings(OptimizerSettings):
    """The paper's."""

    kind: Literal["lion"] = "lion"
    betas: tuple[Momentum, Momentum] = (0.9, 0.99)


class Lion(torch.optim.Optimizer):
    """State of a parameter: `exp_avg`, of its shape."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]):
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self.betas = betas

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        interpolated, kept = self.betas
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                momentum = state.setdefault("exp_avg", torch.zeros_like(weight))
                update = torch.lerp(weight.grad, momentum, interpolated).sign_()
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                momentum.lerp_(weight.grad, 1 - kept)


class LionRow(OptimizerRow):
    """One moment for every parameter."""

    Settings = LionSettings

    def build(self, groups: list[dict[str, Any]], settings: LionSettings) -> Lion:
        return Lion(groups, settings.betas)

    def bytes_kept(self, kind: RoleKind) -> int:
        return 4
