"""What an objective is: what a stage minimises, what it reads for that, and what it needs before its first step.

Enters: hidden states and a batch. Leaves: a loss *sum* and what it counted. The engine divides by the count over all
ranks and micro-batches, so every layout of the same global batch gives the same gradient. A mean per micro-batch would
be wrong by up to 4e-3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.config import config_class
from pipelines.store.draft import Draft
from pipelines.train.batches import Arrays, Batches

# a command that plans a run asks the table too, and does not wait the two seconds that torch takes
if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.train.network.batch import Batch
    from pipelines.train.network.model import Transformer

    # what a function gives of a micro-batch under the engine's weights, without gradients; all ranks call it together
    Forward = Callable[[Callable[[Transformer, Tensor, Batch], Tensor], Arrays], Tensor]


@config_class
class ObjectiveSettings:
    """The key `objective` of a stage's config; an objective's own `Settings` adds its fields to the name."""

    name: str


class Objective(ABC):
    """One row of `OBJECTIVES`.

    Attributes:
        Settings: its config class.
        unit: what `count` counts, and a loss is a mean over: tokens, pairs.
        batches: what it reads, and how: sources, rows per unit, whether micro-batches are of one shape.
        metrics: names of what `sums` returns beside the loss; the means stand in the log, the curve and MLflow.
    """

    Settings: ClassVar[type[ObjectiveSettings]]
    unit: ClassVar[str]
    batches: ClassVar[type[Batches]]
    metrics: ClassVar[tuple[str, ...]] = ()
    settings: Any

    def __init__(self, settings: ObjectiveSettings | None = None):
        """Args: settings, of its own class; None: their defaults."""
        self.settings = self.Settings() if settings is None else settings  # type: ignore[call-arg]

    @abstractmethod
    def count(self, batch: Batch) -> Tensor:
        """How many units a micro-batch adds to the divisor: a scalar."""

    @abstractmethod
    def sums(self, model: Transformer, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss sum to differentiate, and other sums by name.

        Args: hidden, (B, T, D), what the model gave for the batch.
        Returns: the loss sum, a scalar; and a scalar for each of `metrics`, and where tokens are counted `row_loss`,
            the loss sum of each row [B], for the report by source.
        """

    # most objectives prepare nothing, so neither of these two need be written
    def prepare(self, draft: Draft, batches: Any, forward: Forward, fresh: bool) -> None:  # noqa: B027
        """Have ready what the first step needs, and after a restart read it back; all ranks call it together.

        Args:
            draft: the run, for what has to outlive a restart.
            batches: those that the run reads, of this objective's kind; `attach` adds to them.
            fresh: whether the engine holds the weights that the run began with.
        """

    def verify_prepared(self, draft: Draft) -> None:  # noqa: B027
        """Refuse what `prepare` could not read back: the driver asks before it starts Ray. Raises: ArtifactError."""

    def __str__(self) -> str:
        """E.g. `dpo (beta=0.1), a mean over pairs`."""
        own = {name: value for name, value in vars(self.settings).items() if name != "name"}
        told = f" ({', '.join(f'{name}={value}' for name, value in own.items())})" if own else ""
        return f"{self.settings.name}{told}, a mean over {self.unit}"
