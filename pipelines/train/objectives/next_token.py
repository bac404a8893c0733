"""Next-token prediction over the tokens that count: pretrain, anneal and SFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipelines.config import config_class
from pipelines.train.batches.windows import Windows
from pipelines.train.objectives.objective import Objective, ObjectiveSettings

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.train.network.batch import Batch
    from pipelines.train.network.model import Transformer


class NextToken(Objective):
    """The mean cross-entropy of the targets that count, in nats."""

    @config_class
    class Settings(ObjectiveSettings):
        """It has none."""

        name: Literal["next_token"] = "next_token"

    unit = "tokens"
    batches = Windows

    def count(self, batch: Batch) -> Tensor:
        return batch.loss_mask.sum()

    def sums(self, model: Transformer, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        from pipelines.train.network.losses import weighted_loss

        total, losses_BT = weighted_loss(model, hidden, batch)
        return total, {"row_loss": losses_BT.sum(dim=1)}
