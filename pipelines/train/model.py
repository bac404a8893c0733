"""The MiniCPM decoder with its scalings and initialisation.

Legend: B batch, T tokens, D model width, H query heads, G key/value heads (H divisible by G), K head width, F feed-forward
width, V vocabulary, L layers; m = D / dim_model_base is muP's width multiplier.

Source: MiniCPM (arXiv 2404.06395), Tables 2 and 7; the author's published BMTrain code for what the paper leaves open.

    embedding output       × scale_emb
    each residual branch   h + f(h) · scale_depth / √L
    logits                 tied embedding applied to h / m
    hidden matrices        N(0, (init_std / √m)²);  embedding N(0, init_std²);  norms 1
    learning rate          hidden matrices η/m, everything else η (`optimizer.py`)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One architecture; `conf/model/` holds the published sizes."""

    layers: int
    d_model: int
    d_ff: int
    heads: int
    kv_heads: int
    vocabulary: int
    max_positions: int
    scale_emb: float = 12.0
    scale_depth: float = 1.4
    dim_model_base: int = 256
    init_std: float = 0.1
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
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


def check(config: ModelConfig) -> None:
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
            f"head width {config.d_head} (model.d_model / model.heads) is odd; rotary positions need an even one"
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


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Training FLOPs per token: 6 · (non-embedding + output projection) + 12·L·D·T/2, i.e. causal attention counted once."""
    counts = parameter_counts(config)
    return 6.0 * counts["total"] + 6.0 * config.layers * config.d_model * sequence_length


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; causal within a document."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        kv_width = config.kv_heads * config.d_head
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.v_proj = nn.Linear(config.d_model, kv_width, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        B, T, D = x_BTD.shape
        config = self.config
        q_BHTK = self.q_proj(x_BTD).view(B, T, config.heads, config.d_head).transpose(1, 2)
        k_BGTK = self.k_proj(x_BTD).view(B, T, config.kv_heads, config.d_head).transpose(1, 2)
        v_BGTK = self.v_proj(x_BTD).view(B, T, config.kv_heads, config.d_head).transpose(1, 2)
        q_BHTK, k_BGTK = rotate(q_BHTK, rotary), rotate(k_BGTK, rotary)
        if config.kv_heads < config.heads:
            share = config.heads // config.kv_heads
            k_BGTK, v_BGTK = k_BGTK.repeat_interleave(share, dim=1), v_BGTK.repeat_interleave(share, dim=1)
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, attn_mask=mask, is_causal=mask is None)
        out: Tensor = self.o_proj(y_BHTK.transpose(1, 2).reshape(B, T, D))
        return out


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out


class Block(nn.Module):
    """Pre-norm residual block; both branches are scaled by scale_depth / √L."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.residual_scale = config.residual_scale
        self.input_layernorm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.residual_scale * self.self_attn(self.input_layernorm(x_BTD), rotary, mask)
        out: Tensor = x_BTD + self.residual_scale * self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class Transformer(nn.Module):
    """The decoder. Parameter names follow the Llama layout of `transformers`, so export is a rename."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        check(config)
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)

    def initialise(self, seed: int) -> Transformer:
        """Draw the weights from `seed` alone, in parameter order: the same on every rank and any device."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.ones_(parameter)
                continue
            std = self.config.init_std
            if not name.startswith("embed_tokens"):
                std /= math.sqrt(self.config.width_multiplier)
            drawn = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
            parameter.data.copy_(drawn)
        return self

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """Hidden states after the final norm, divided by m: (B, T) int → (B, T, D). `logits` turns them into logits.

        Args:
            tokens_BT: token ids.
            positions_BT: position inside its document; 0 marks a document's first token.
        """
        x_BTD = self.embed_tokens(tokens_BT) * self.config.scale_emb
        rotary = rotary_tables(positions_BT, self.config.d_head, self.config.rope_base, x_BTD.dtype)
        mask = document_mask(positions_BT) if self.config.document_masking else None
        for block in self.layers:
            x_BTD = block(x_BTD, rotary, mask)
        out: Tensor = self.norm(x_BTD) / self.config.width_multiplier
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) hidden states from `forward` → (…, V) logits, through the tied embedding."""
        return F.linear(hidden, self.embed_tokens.weight)


def document_mask(positions_BT: Tensor) -> Tensor:
    """(B, 1, T, T) boolean: query may see key when both are in one document and the key is not later."""
    document_BT = (positions_BT == 0).cumsum(dim=1)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    T = positions_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=positions_BT.device).tril()
    return (same_BTT & causal_TT)[:, None]


def rotary_tables(positions_BT: Tensor, d_head: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (B, 1, T, K), in the half-split layout of Llama.

    Angles are float64: at position 4,000 a float32 angle is off by 1e-4 radians, a thousand times a float32 rounding.
    """
    frequencies = base ** -(torch.arange(0, d_head, 2, device=positions_BT.device, dtype=torch.float64) / d_head)
    angles_BTk = positions_BT[:, :, None] * frequencies
    angles_B1TK = torch.cat([angles_BTk, angles_BTk], dim=-1)[:, None]
    return angles_B1TK.cos().to(dtype), angles_B1TK.sin().to(dtype)


def rotate(x_BHTK: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to queries or keys."""
    cos, sin = rotary
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos + torch.cat([-second, first], dim=-1) * sin
