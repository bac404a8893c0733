"""Odds-ratio preference optimisation: Hong et al. (arXiv 2403.07691) eq. 6 and 7. It needs no reference.

    loss = NLL(chosen) − λ·log σ(log odds(chosen) − log odds(rejected)),   odds = p / (1 − p)

p is the geometric mean of the probabilities of an answer's tokens, so long and short answers count alike.

Legend: B rows, P pairs; rows 2i are chosen and rows 2i + 1 rejected.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.config import Positive, config_class
from pipelines.train.batches.pairs import Pairs
from pipelines.train.network.batch import Batch
from pipelines.train.network.losses import token_losses
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.objective import Objective, ObjectiveSettings


class Orpo(Objective):
    """A loss per pair of the policy alone; see the module."""

    @config_class
    class Settings(ObjectiveSettings):
        """λ, the weight of the odds ratio."""

        name: Literal["orpo"] = "orpo"
        weight: Positive = 0.1

    unit = "pairs"
    batches = Pairs
    metrics = ("accuracy", "chosen_nll", "log_odds_ratio")
    settings: Settings

    def count(self, batch: Batch) -> Tensor:
        return torch.tensor(float(len(batch.inputs) // 2), device=batch.inputs.device)

    def sums(self, model: Transformer, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        counted_B = batch.loss_mask.sum(1).clamp(min=1)
        nats_B = (token_losses(model, hidden, batch.targets) * batch.loss_mask).sum(1) / counted_B
        log_odds_B = -nats_B - torch.log1p(-torch.exp(-nats_B))
        ratio_P = log_odds_B[0::2] - log_odds_B[1::2]
        loss = (nats_B[0::2] - self.settings.weight * F.logsigmoid(ratio_P)).sum()
        return loss, {
            "accuracy": (ratio_P > 0).float().sum().detach(),
            "chosen_nll": nats_B[0::2].sum().detach(),
            "log_odds_ratio": ratio_P.sum().detach(),
        }
