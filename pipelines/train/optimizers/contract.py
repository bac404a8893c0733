"""What one optimizer says of itself, so that nobody else has to know it.

Enters: settings, parameters by their role's kind. Leaves: a torch optimizer, the power of the width in its learning
rate, the bytes that it keeps for a parameter, and what a resumed state needs beside a checkpoint's tensors.

A checkpoint keeps every tensor of the optimizer's state that has the shape of what is updated, under its own name.
Whatever else is in the state has to follow from the number of updates (`OptimizerRow.scalars`). At ZeRO stage 0 what
is updated is a parameter; at stages 1 to 3 it is a flat range of a group, in which `bind` says where parameters lie.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.config import Amount, config_class
from pipelines.errors import ConfigError
from pipelines.train.network.roles import Role, RoleKind

# a command that plans a run asks the table too, and does not wait the two seconds that torch takes
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.train.optimizers.pieces import Slice


@config_class
class OptimizerSettings:
    """What every optimizer takes; the defaults are the recipe's."""

    kind: str
    weight_decay: Amount = 0.1
    gradient_clip: Amount = 1.0  # global norm
    mup_lr: bool = True  # false for DPO: the recipe trains it without muP's learning-rate scaling


class OptimizerRow(ABC):
    """One row of the table `OPTIMIZERS`."""

    Settings: ClassVar[type[OptimizerSettings]]

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], settings: Any) -> torch.optim.Optimizer:
        """The optimizer over groups of one role kind each, with their `name`, `lr` and `weight_decay` (groups.py)."""

    @abstractmethod
    def bytes_kept(self, kind: RoleKind) -> int:
        """Bytes of state per number of a parameter of this kind: 4 for each moment."""

    def width_power(self, kind: RoleKind) -> float:
        """p: under muP a parameter of this kind learns with η · m^-p, m being the width multiplier."""
        return 1.0 if kind == "matrix" else 0.0

    def bind(self, optimizer: Any, slices: Sequence[Slice], roles: Mapping[str, Role], device: torch.device) -> None:
        """Learn which ranges this rank updates, of which parameters; all ranks call it together, before any step."""
        del optimizer, slices, roles, device

    def scalars(self, kept: Collection[str], updates: int, device: torch.device) -> dict[str, Tensor]:
        """What the state holds after `updates` beside tensors of the weights' shape. Args: kept, their names."""
        del kept, updates, device
        return {}

    def check_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse state that a checkpoint would not keep, so that no run resumes without it; asked after the first step.

        Raises: ConfigError naming the state.
        """
        import torch

        for flat, state in optimizer.state.items():
            kept = {name for name, value in state.items() if torch.is_tensor(value) and value.shape == flat.shape}
            if lost := sorted(state.keys() - kept - self.scalars(kept, 1, flat.device).keys()):
                raise ConfigError(
                    f"the optimizer {self.Settings().kind} keeps {', '.join(lost)} of a tensor {list(flat.shape)}, "  # type: ignore[call-arg]
                    "and a checkpoint keeps only state of that very shape, so a resumed run would go on without: keep "
                    "it in that shape, or work it out of the number of updates in `scalars` "
                    "(pipelines/train/optimizers/contract.py)"
                )
