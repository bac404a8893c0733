"""Muon for hidden matrices, AdamW for embedding and norms: settings and what it keeps; `muon_step.py` computes.

Sources: K. Jordan, "Muon" (2024); Liu et al. (arXiv 2502.16982); docs/recipe.md for muP's factor on the rate, 1/√m.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipelines.config import Momentum, Positive, config_class
from pipelines.errors import ConfigError
from pipelines.train.network.roles import Role, RoleKind
from pipelines.train.optimizers.adamw import AdamWRow
from pipelines.train.optimizers.contract import OptimizerSettings

if TYPE_CHECKING:
    import torch

    from pipelines.train.optimizers.muon_step import Muon
    from pipelines.train.optimizers.pieces import Slice


@config_class
class MuonSettings(OptimizerSettings):
    """Of Muon, and of the AdamW for embedding and norms beside it."""

    kind: Literal["muon"] = "muon"
    momentum: Momentum = 0.95
    betas: tuple[Momentum, Momentum] = (0.9, 0.95)
    eps: Positive = 1e-8

    def __post_init__(self) -> None:
        """Raises: ConfigError for a momentum that forgets nothing or grows."""
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"optimizer.momentum is {self.momentum}; expected at least 0 and below 1, e.g. 0.95")


class MuonRow(AdamWRow):
    """One moment for a matrix; what AdamW says of everything else."""

    Settings = MuonSettings  # type: ignore[assignment]

    def build(self, groups: list[dict[str, Any]], settings: MuonSettings) -> Muon:  # type: ignore[override]
        from pipelines.train.optimizers.muon_step import Muon

        return Muon(groups, settings.momentum, lr=0.0, betas=settings.betas, eps=settings.eps, fused=True)

    def bytes_kept(self, kind: RoleKind) -> int:
        return 4 if kind == "matrix" else super().bytes_kept(kind)

    def width_power(self, kind: RoleKind) -> float:
        """An update of a given spectral norm takes 1/√m, not AdamW's 1/m: docs/recipe.md derives it."""
        return 0.5 if kind == "matrix" else 0.0

    def bind(self, optimizer: Muon, slices: Sequence[Slice], roles: Mapping[str, Role], device: torch.device) -> None:
        optimizer.bind(slices, roles, device)
