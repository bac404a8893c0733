"""Parameters by role kind, with muP's learning rates, and the optimizer over them.

Sources: MiniCPM (arXiv 2404.06395) Table 7 for η/m on hidden matrices; the author's published BMTrain code for what the
paper leaves open: embedding, output projection and norms keep η; betas (0.9, 0.95); weight decay 0.1 on *every*
parameter. Decay is decoupled and scaled by the group's own rate, p ← p − lr·wd·p, so matrices' decay shrinks by 1/m
with their rate.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.roles import KINDS, RoleKind, roles
from pipelines.train.optimizers import row_of
from pipelines.train.optimizers.contract import OptimizerSettings


def freeze(model: nn.Module, config: ModelConfig, trains: Collection[str] | None) -> None:
    """Let only parameters of some role kinds train: the others get no gradient. Args: trains, the kinds; None: all."""
    for parameter, role in zip(model.parameters(), roles(config).values(), strict=True):
        parameter.requires_grad_(trains is None or role.kind in trains)


def learning_rate_factor(kind: RoleKind, model: ModelConfig, settings: OptimizerSettings) -> float:
    """The factor of parameters of a kind on the schedule's rate."""
    power = row_of(settings).width_power(kind) if settings.mup_lr else 0.0
    return float(model.width_multiplier**-power)


def parameter_groups(model: nn.Module, config: ModelConfig, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """A group for each role kind of which parameters train, with its `name`, `factor` and weight decay.

    Args: model, `Transformer`; config, its shape. The engine sets each group's `lr` before every step.
    """
    members: dict[RoleKind, list[nn.Parameter]] = {kind: [] for kind in KINDS}
    for parameter, role in zip(model.parameters(), roles(config).values(), strict=True):
        if parameter.requires_grad:
            members[role.kind].append(parameter)
    return [
        {
            "params": parameters,
            "name": kind,
            "factor": learning_rate_factor(kind, config, settings),
            "lr": 0.0,
            "weight_decay": settings.weight_decay,
        }
        for kind, parameters in members.items()
        if parameters
    ]


def build(model: nn.Module, config: ModelConfig, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`; its row binds it to slices before its first step."""
    return row_of(settings).build(parameter_groups(model, config, settings), settings)


def set_learning_rate(optimizer: Any, base: float) -> None:
    """Write the schedule's rate into every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]
