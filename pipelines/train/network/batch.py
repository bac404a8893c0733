"""What one forward pass reads and what its loss counts, as tensors on one device.

Legend: B rows, T tokens.

Enters: the arrays of a loader, or ids that evaluation lays out. Leaves: one object that embedding, blocks and objective
each take their part of. So an input of a new kind is one more entry of `sidecars`, and nobody's signature grows.

`ModelInput` is what the model reads: evaluation and generation need no more. `Batch` adds what an objective counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipelines.train.network.attention import Documents


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """What `Transformer.forward` takes.

    Attributes:
        inputs: token ids, (B, T) int64.
        positions: place of each token in its document, (B, T) int64, 0 at each document's first token.
        documents: where documents lie, located on the host; None: the model locates them in `positions`.
        sidecars: what else comes with the tokens, by name. A row of `data.tokens.sidecars` says the shape.
    """

    inputs: Tensor
    positions: Tensor
    documents: Documents | None = None
    sidecars: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Batch(ModelInput):
    """One micro-batch of training.

    Attributes:
        targets: the id that follows each input, (B, T) int64.
        loss_mask: 1 where the target counts, (B, T) float32.
        sources: index of each row's source, (B,) int64.
    """

    targets: Tensor
    loss_mask: Tensor
    sources: Tensor

    @classmethod
    def shifted(
        cls,
        tokens: Tensor,
        positions: Tensor,
        loss_mask: Tensor,
        sources: Tensor,
        documents: Documents | None = None,
        sidecars: Mapping[str, Tensor] | None = None,
    ) -> Batch:
        """A batch whose targets are its own ids, one place on. Inputs and targets are views of the same memory.

        Args: tokens, (B, T+1); the others as the attributes.
        """
        return cls(
            inputs=tokens[:, :-1],
            targets=tokens[:, 1:],
            positions=positions,
            loss_mask=loss_mask,
            sources=sources,
            documents=documents,
            sidecars=sidecars or {},
        )
