"""Parameter groups with muP's learning rates, and AdamW.

Sources: MiniCPM (arXiv 2404.06395) Table 7 for η/m on hidden matrices; the author's published BMTrain code for what the
paper leaves open: embedding, output projection and norms keep η; betas (0.9, 0.95); weight decay 0.1 on *every* parameter.
Decay is decoupled and scaled by the group's own rate, p ← p − lr·wd·p, so matrices' decay shrinks by 1/m with their rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipelines.train.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; the defaults are the recipe's."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    gradient_clip: float = 1.0  # global norm
    mup_lr: bool = True  # false for DPO: the recipe trains it without muP's learning-rate scaling


def learning_rate_factors(model: ModelConfig, mup_lr: bool) -> dict[str, float]:
    """Each group's factor on the schedule's rate: hidden matrices 1/m under muP, everything else 1."""
    return {"matrices": 1 / model.width_multiplier if mup_lr else 1.0, "embedding": 1.0, "norms": 1.0}


def group_of(name: str, parameter: torch.Tensor) -> str:
    """Which group a parameter belongs to, by its name."""
    if "embed_tokens" in name:
        return "embedding"
    shape = getattr(parameter, "ds_shape", parameter.shape)  # under ZeRO-3 a parameter's own shape is empty
    return "matrices" if len(shape) > 1 else "norms"


def parameter_groups(module: nn.Module, model: ModelConfig, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The three groups, each with its `name`, `factor` and weight decay; the loop sets `lr` before every step."""
    members: dict[str, list[nn.Parameter]] = {"matrices": [], "embedding": [], "norms": []}
    for name, parameter in module.named_parameters():
        members[group_of(name, parameter)].append(parameter)
    factors = learning_rate_factors(model, config.mup_lr)
    return [
        {"params": parameters, "name": group, "factor": factors[group], "lr": 0.0, "weight_decay": config.weight_decay}
        for group, parameters in members.items()
    ]


def build(module: nn.Module, model: ModelConfig, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused AdamW over `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(module, model, config), lr=0.0, betas=config.betas, eps=config.eps, fused=True
    )


def set_learning_rate(optimizer: Any, base: float) -> None:
    """Write the schedule's rate into every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]
