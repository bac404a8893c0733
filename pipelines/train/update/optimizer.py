"""Parameter groups with muP's learning rates, and the optimizer over them: AdamW, or Muon for the hidden matrices.

Sources: MiniCPM (arXiv 2404.06395) Table 7 for η/m on hidden matrices; the author's published BMTrain code for what the
paper leaves open: embedding, output projection and norms keep η; betas (0.9, 0.95); weight decay 0.1 on *every* parameter.
Decay is decoupled and scaled by the group's own rate, p ← p − lr·wd·p, so matrices' decay shrinks by 1/m with their rate.
Muon's matrices take η/√m instead: docs/recipe.md derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from pipelines.config import Amount, Momentum, Positive, config_class
from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.update.adamw import AdamW
from pipelines.train.update.muon import Muon


@config_class
class OptimizerConfig:
    """The defaults are the recipe's."""

    kind: Literal["adamw", "muon"] = "adamw"  # muon: for the hidden matrices, with AdamW for embedding and norms
    momentum: Momentum = 0.95  # of muon
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: Amount = 0.1
    gradient_clip: Amount = 1.0  # global norm
    mup_lr: bool = True  # false for DPO: the recipe trains it without muP's learning-rate scaling

    def __post_init__(self) -> None:
        """Raises: ConfigError for a momentum that forgets nothing or grows."""
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"optimizer.momentum is {self.momentum}; expected at least 0 and below 1, e.g. 0.95")


def learning_rate_factors(model: ModelConfig, config: OptimizerConfig) -> dict[str, float]:
    """Each group's factor on the schedule's rate: under muP hidden matrices 1/m (Muon 1/√m), everything else 1."""
    power = 0.0 if not config.mup_lr else 0.5 if config.kind == "muon" else 1.0
    return {"matrices": model.width_multiplier**-power, "embedding": 1.0, "norms": 1.0}


def group_of(name: str, shape: Sequence[int]) -> str:
    """Which group a parameter belongs to, by its name and shape."""
    if "embed_tokens" in name:
        return "embedding"
    return "matrices" if len(shape) > 1 else "norms"


def parameter_groups(module: nn.Module, model: ModelConfig, config: OptimizerConfig) -> list[dict[str, Any]]:
    """The three groups, each with its `name`, `factor` and weight decay; the loop sets `lr` before every step."""
    members: dict[str, list[nn.Parameter]] = {"matrices": [], "embedding": [], "norms": []}
    for name, parameter in module.named_parameters():
        members[group_of(name, parameter.shape)].append(parameter)
    factors = learning_rate_factors(model, config)
    return [
        {"params": parameters, "name": group, "factor": factors[group], "lr": 0.0, "weight_decay": config.weight_decay}
        for group, parameters in members.items()
    ]


def build(module: nn.Module, model: ModelConfig, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer over `parameter_groups`; Muon has to be bound to slices before its first step."""
    groups = parameter_groups(module, model, config)
    if config.kind == "muon":
        return Muon(groups, config.momentum, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
    return AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: Any, base: float) -> None:
    """Write the schedule's rate into every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]
