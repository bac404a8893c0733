"""Objectives as sums, so that one division by the global count is exact over ranks and accumulation steps.

Legend: B rows, T tokens, V vocabulary. A loss function returns a *sum* and what it counted; the engine divides by the
count over all ranks and micro-batches (`engine.py`). A mean per micro-batch would be wrong by up to 4e-3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.train.network import linear_cross_entropy
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer


def token_losses(model: Transformer, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """(B, T) float32 cross-entropy in nats, softmax in float32; the logits exist in chunks only."""
    losses_N = linear_cross_entropy.token_losses(
        hidden_BTD.flatten(0, 1), model.embed_tokens.weight, targets_BT.flatten(), _chunk(model)
    )
    return losses_N.view(targets_BT.shape)


def _chunk(model: Transformer) -> int:
    return model.compute.loss_chunk or linear_cross_entropy.chunk_tokens(
        model.config.vocabulary, model.embed_tokens.weight.device.type
    )


def row_logps(model: Transformer, hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """(B,) float32: log-probability of each row's counted targets, summed."""
    return -(token_losses(model, hidden_BTD, batch.targets) * batch.loss_mask).sum(dim=1)


def preference_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """(P,) DPO loss per pair, −log σ(β·((π_c − π_r) − (ρ_c − ρ_r))): Rafailov et al. (arXiv 2305.18290) eq. 7.

    Args: log-probabilities (P,) under policy and reference; beta, strength of the pull to the reference.
    """
    return -F.logsigmoid(beta * ((chosen - rejected) - (reference_chosen - reference_rejected)))


class LanguageModelling:
    """Next-token prediction over the tokens that count: pretrain, anneal and SFT."""

    unit = "tokens"

    def count(self, batch: Batch) -> Tensor:
        """How many targets this micro-batch adds to the divisor."""
        return batch.loss_mask.sum()

    def sums(self, model: Transformer, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss sum to differentiate, and per-row loss sums for the per-source report."""
        total, losses_N = linear_cross_entropy.weighted_sum(
            hidden.flatten(0, 1), model.embed_tokens.weight, batch.targets.flatten(), batch.loss_mask.flatten(), _chunk(model)
        )  # fmt: skip
        return total, {"row_loss": losses_N.view(batch.targets.shape).sum(dim=1)}


@dataclass(frozen=True)
class Preference:
    """DPO over pairs: rows 2i are chosen, rows 2i+1 rejected.

    The batch's sidecar `reference`, (B,) float32, is the frozen reference's log-probability of each row.
    """

    beta: float
    unit = "pairs"

    def count(self, batch: Batch) -> Tensor:
        return torch.tensor(float(len(batch.inputs) // 2), device=batch.inputs.device)

    def sums(self, model: Transformer, hidden: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logps, reference = row_logps(model, hidden, batch), batch.sidecars["reference"]
        chosen, rejected = logps[0::2], logps[1::2]
        ref_chosen, ref_rejected = reference[0::2], reference[1::2]
        losses = preference_loss(chosen, rejected, ref_chosen, ref_rejected, self.beta)
        margin = (chosen - rejected) - (ref_chosen - ref_rejected)
        return losses.sum(), {
            "accuracy": (margin > 0).float().sum().detach(),
            "margin": margin.sum().detach() * self.beta,
        }
