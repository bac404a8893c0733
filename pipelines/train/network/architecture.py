"""The shape of a model, and what follows from it by arithmetic: no weights, no torch.

Enters: a `ModelConfig`, as `conf/model/` states it. Leaves: a refusal of shapes that do not divide, the number of
parameters, the FLOPs of a token. So a plan is made without building the model (`model.py`).

Source: MiniCPM (arXiv 2404.06395), Tables 2 and 7.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pipelines.config import Count, Positive, Range, config_class
from pipelines.errors import ConfigError

# of a branch: its parent's base, one stretched for longer windows (`plan/context.py`), or a number
RopeBase = Literal["keep", "ntk"] | Annotated[float, Range(above=1)]


@config_class
class ModelConfig:
    """One architecture; `conf/model/` holds the published sizes."""

    layers: Annotated[int, Range(1, 2**10)]  # a plan tries each split of them in three
    d_model: Count
    d_ff: Count
    heads: Count
    kv_heads: Count
    vocabulary: Count
    max_positions: Count
    scale_emb: Positive = 12.0
    scale_depth: Positive = 1.4
    dim_model_base: Count = 256
    init_std: Positive = 0.1
    rope_base: Annotated[float, Range(above=1)] = 10_000.0
    norm_eps: Positive = 1e-5
    document_masking: bool = True  # documents in one window do not attend to each other

    @property
    def d_head(self) -> int:
        return self.d_model // self.heads

    @property
    def width_multiplier(self) -> float:
        return self.d_model / self.dim_model_base

    @property
    def residual_scale(self) -> float:
        return self.scale_depth / math.sqrt(self.layers)


def check_shapes(config: ModelConfig) -> None:
    """Refuse shapes that do not divide. Raises: ConfigError."""
    for name in ("layers", "d_model", "d_ff", "heads", "kv_heads", "vocabulary", "max_positions", "dim_model_base"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"model.{name} is {getattr(config, name)}; expected a positive whole number")
    if config.d_model % config.heads:
        raise ConfigError(
            f"model.d_model {config.d_model} is not divisible by model.heads {config.heads}: change one of them"
        )
    if config.heads % config.kv_heads:
        raise ConfigError(
            f"model.heads {config.heads} is not divisible by model.kv_heads {config.kv_heads}: change one of them"
        )
    if config.d_head % 2:
        raise ConfigError(
            f"head width {config.d_head} (model.d_model / model.heads) is odd; rotary positions need an even one: set "
            f"model.d_model={config.d_model + config.heads} or another number of model.heads"
        )


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters without building the model: `non_embedding` as the paper counts it, `embedding` (tied), `total`.

    Per layer: q, o D·D; k, v D·G·K; gate, up, down D·F; two norms; plus the final norm.
    """
    attention = 2 * config.d_model**2 + 2 * config.d_model * config.kv_heads * config.d_head
    layer = attention + 3 * config.d_model * config.d_ff + 2 * config.d_model
    non_embedding = config.layers * layer + config.d_model
    embedding = config.vocabulary * config.d_model
    return {"non_embedding": non_embedding, "embedding": embedding, "total": non_embedding + embedding}


def flops_per_token(config: ModelConfig, sequence_length: int, frozen: int = 0) -> float:
    """Training FLOPs per token: 6 · (non-embedding + output projection) + 12·L·D·T/2: causal attention counts once.

    Args: frozen, how many of the weights do not train: each costs 4 instead of 6, since it has no gradient of its own.
    """
    weights = 6.0 * parameter_counts(config)["total"] - 2.0 * frozen
    return weights + 6.0 * config.layers * config.d_model * sequence_length
