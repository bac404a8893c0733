"""FLOPs of a token by part, to the last product: as torch's own counter counts them on the model that is trained.

Enters: a `ModelConfig` and the length of a window. Leaves: FLOPs of training one token, forward and backward, two for
each multiply-and-add. Norms, rotations and activations are no products and count as none, as in the counter and in
every table of MFU.

    blocks      6 · L · (2·D² + 2·D·G·K + 3·D·F)      each weight once forward, twice backward
    output      6 · V · D                             the tied embedding as output projection
    attention   6 · L · D · T causal, 12 · L · D · T in full: two products forward, four backward, of which a causal
                kernel computes half. A document that ends within the window makes it less, which no plan knows.

`architecture.flops_per_token`, by which training logs its MFU, counts norms as products too: 7e-5 more at 2.4B.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.compute import BlockPolicy
from pipelines.train.plan.memory import Setup, recomputed_flops


@dataclass(frozen=True)
class TokenFlops:
    """FLOPs of one token in training."""

    blocks: float
    output: float
    attention: float  # causal

    @property
    def causal(self) -> float:
        """All of it, attention as a causal kernel computes it: what plans and logs count."""
        return self.blocks + self.output + self.attention

    @property
    def full(self) -> float:
        """With attention in full, as PaLM (arXiv 2204.02311, appendix B) and torch's counter have it."""
        return self.blocks + self.output + 2 * self.attention

    @property
    def blocks_only(self) -> float:
        """6·N, N the non-embedding parameters: how scaling laws count."""
        return self.blocks


def token_flops(model: ModelConfig, sequence_length: int) -> TokenFlops:
    """FLOPs of a token by part."""
    products = 2 * model.d_model**2 + 2 * model.d_model * model.kv_heads * model.d_head
    return TokenFlops(
        blocks=6.0 * model.layers * (products + 3 * model.d_model * model.d_ff),
        output=6.0 * model.vocabulary * model.d_model,
        attention=6.0 * model.layers * model.d_model * sequence_length,
    )


def recomputed_share(setup: Setup, policy: BlockPolicy) -> float:
    """What the backward pass computes again, as a share of the FLOPs that count: 0.25 is a quarter more work."""
    counted = token_flops(setup.model, setup.sequence_length).causal
    return recomputed_flops(setup, policy) / (setup.tokens * counted)
