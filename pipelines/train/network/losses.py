"""What objectives are made of: the cross-entropy of targets, its sum, and the log-probability of a row.

Legend: B rows, T tokens, D width, N = B·T.

Enters: the model's hidden states and a batch. Leaves: what the objectives sum (`pipelines/train/objectives/`).
"""

from __future__ import annotations

from torch import Tensor

from pipelines.train.network import linear_cross_entropy
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import chunk_tokens
from pipelines.train.network.model import Transformer


def token_losses(model: Transformer, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    """(B, T) float32 cross-entropy in nats, softmax in float32; the logits exist in chunks only."""
    losses_N = linear_cross_entropy.token_losses(
        hidden_BTD.flatten(0, 1), model.embed_tokens.weight, targets_BT.flatten(), _chunk(model)
    )
    return losses_N.view(targets_BT.shape)


def _chunk(model: Transformer) -> int:
    return model.compute.loss_chunk or chunk_tokens(model.config.vocabulary, model.embed_tokens.weight.device.type)


def weighted_loss(model: Transformer, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss sum over the targets that count, a float32 scalar to differentiate; each target's part of it, (B, T)."""
    total, losses_N = linear_cross_entropy.weighted_sum(
        hidden_BTD.flatten(0, 1),
        model.embed_tokens.weight,
        batch.targets.flatten(),
        batch.loss_mask.flatten(),
        _chunk(model),
    )
    return total, losses_N.view(batch.targets.shape)


def row_logps(model: Transformer, hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """(B,) float32: log-probability of each row's counted targets, summed."""
    return -(token_losses(model, hidden_BTD, batch.targets) * batch.loss_mask).sum(dim=1)
