"""The MiniCPM decoder with its scalings and initialisation.

Legend: B batch, T tokens, D model width, H query heads, G key/value heads (H divisible by G), K head width, F
feed-forward width, V vocabulary, L layers; m = D / dim_model_base is muP's width multiplier.

Source: MiniCPM (arXiv 2404.06395), Tables 2 and 7; the author's published BMTrain code for what the paper leaves open.

    embedding output       × scale_emb
    each residual branch   h + f(h) · scale_depth / √L
    logits                 tied embedding applied to h / m
    hidden matrices        N(0, (init_std / √m)²);  embedding N(0, init_std²);  norms 1
    learning rate          hidden matrices η/m, everything else η (`optimizers/groups.py`)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from pipelines.train.network import cudnn_attention
from pipelines.train.network.architecture import ModelConfig, check_shapes
from pipelines.train.network.attention import Documents, attend, locate
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.compute import (
    IN_GRAPH,
    BlockPolicy,
    ComputeConfig,
    choose_attention,
    compiler_options,
    compiles,
    joins,
)
from pipelines.train.network.roles import Role, roles


class Attention(nn.Module):
    """The projections of grouped-query attention, fused: one product gives queries, keys and values."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads, self.kv_heads, self.d_head = config.heads, config.kv_heads, config.d_head
        self.qkv_proj = nn.Linear(config.d_model, (config.heads + 2 * config.kv_heads) * config.d_head, bias=False)
        self.o_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def project(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, K), keys and values (B, T, G, K), queries and keys rotated to their positions."""
        B, T, _ = x_BTD.shape
        qkv_BTnK = self.qkv_proj(x_BTD).view(B, T, -1, self.d_head)
        qk_BTnK, v_BTGK = torch.split(qkv_BTnK, [self.heads + self.kv_heads, self.kv_heads], dim=2)
        q_BTHK, k_BTGK = torch.split(rotate(qk_BTnK, rotary), [self.heads, self.kv_heads], dim=2)
        return q_BTHK, k_BTGK, v_BTGK


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) · up(x)), gate and up in one product."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up_proj = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        out: Tensor = self.down_proj(F.silu(gate_BTF) * up_BTF)
        return out


class Block(nn.Module):
    """Pre-norm residual block; both branches are scaled by scale_depth / √L.

    Compiled, it is one function where the attention kernel can be an operator of its graph. Elsewhere what lies on
    either side of the kernel is a function of its own, and each of the two is compiled.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.residual_scale = config.residual_scale
        self.probe: Callable[[Tensor, Tensor], None] | None = None  # sees a row's queries and keys; see monitor.py
        self.whole: Callable[[Tensor, tuple[Tensor, Tensor], Documents], Tensor] | None = None  # `joined`, compiled
        self.input_layernorm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        if self.whole is not None and documents.kernel in IN_GRAPH:
            return self._forward_whole(x_BTD, rotary, documents)
        q_BTHK, k_BTGK, v_BTGK = self.before(x_BTD, rotary)
        if self.probe is not None:
            self.probe(q_BTHK, k_BTGK)
        y_BTHK = attend(q_BTHK, k_BTGK, v_BTGK, documents)
        out: Tensor = self.after(x_BTD, y_BTHK.flatten(2))
        return out

    def _forward_whole(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        if self.probe is not None:
            # beside the block: a step that is looked at runs the same code as any other, so the curve stays bit-equal
            with torch.no_grad():
                cos, sin = rotary
                q_1THK, k_1TGK, _ = Block.before(self, x_BTD[:1], (cos[:1], sin[:1]))
            self.probe(q_1THK, k_1TGK)
        # evaluation comes in many widths, each of which would be compiled anew for a few batches
        compute = self.whole if self.whole is not None and torch.is_grad_enabled() else self.joined
        return compute(x_BTD, rotary, documents)

    def joined(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        """The whole block, as it is compiled where it may keep everything."""
        return self._joined(x_BTD, rotary, documents, apart=True)

    def joined_keeping_products(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], documents: Documents) -> Tensor:
        """The same, but the compiler is told to keep what products and attention gave, and to make the rest again. By
        itself it keeps whatever a product of the backward pass reads: both norms and the feed-forward's middle.
        """
        more: Any = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": _PRODUCTS}
        out: Tensor = checkpoint(self._joined, x_BTD, rotary, documents, False, **more)
        return out

    def _joined(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], documents: Documents, apart: bool) -> Tensor:
        """Args: apart, whether values are copied: kept for the backward pass, a view would keep the whole product."""
        # of the class: in a block that is prepared they are compiled ones of its own, and no two would share a graph
        q_BTHK, k_BTGK, v_BTGK = Block.before(self, x_BTD, rotary)
        y_BTHK = attend(q_BTHK, k_BTGK, v_BTGK.contiguous() if apart else v_BTGK, documents)
        return Block.after(self, x_BTD, y_BTHK.flatten(2))

    def before(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The block's input to what attention reads."""
        return self.self_attn.project(self.input_layernorm(x_BTD), rotary)

    def after(self, x_BTD: Tensor, y_BTD: Tensor) -> Tensor:
        """The block's input and what attention gave to the block's output."""
        x_BTD = torch.add(x_BTD, self.self_attn.o_proj(y_BTD), alpha=self.residual_scale)
        return torch.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)), alpha=self.residual_scale)


class Transformer(nn.Module):
    """The decoder. Parameters are named as in the Llama layout of `transformers`, but for the two fused products."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        check_shapes(config)
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.compute = ComputeConfig()
        self.policy = BlockPolicy(all=config.layers)
        self.compiled = False

    def prepare(
        self,
        compute: ComputeConfig,
        policy: BlockPolicy | None = None,
        device: torch.device | None = None,
        whole_weights: bool = True,
    ) -> Transformer:
        """Choose how to compute from here on.

        Args:
            policy: what each block keeps for its backward pass; None: everything.
            device: where the model will be.
            whole_weights: False under ZeRO-3, whose gathering of weights inside a block cannot be compiled.
        """
        self.compute = compute
        self.policy = policy or BlockPolicy(all=self.config.layers)
        place = device or self.embed_tokens.weight.device
        if compute.attention == "cudnn" and place.type == "cuda":
            cudnn_attention.require()
        # its gradient joins the output projection's: on a CPU a few rows are added faster than a whole matrix
        self.embed_tokens.sparse = place.type == "cpu" and whole_weights
        self.compiled = whole_weights and compiles(compute, place.type)
        if self.compiled:
            rules: Any = {"dynamic": False, "options": compiler_options(place.type)}
            for number, layer in enumerate(self.layers):  # those alike share what is compiled for the first
                block: Any = layer
                block.before = torch.compile(block.before, **rules)
                block.after = torch.compile(block.after, **rules)
                if joins(place.type):  # `fullgraph`: what cannot be one graph, or is compiled too often, is an error
                    products = self.policy.keep(number) == "products"
                    joined = block.joined_keeping_products if products else block.joined
                    block.whole = torch.compile(joined, fullgraph=True, **rules)
                    # one graph serves a model and a shape of batch; a process may train several, one after another
                    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
        return self

    def initialise(self, seed: int) -> Transformer:
        """Draw the weights from `seed` alone, in parameter order: the same on every rank and any device."""
        generator = torch.Generator().manual_seed(seed)
        for parameter, role in zip(self.parameters(), roles(self.config).values(), strict=True):
            if role.init_std is None:
                nn.init.ones_(parameter)
            else:
                drawn = torch.empty(parameter.shape).normal_(0.0, role.init_std, generator=generator)
                parameter.data.copy_(drawn)
        return self

    def forward(self, batch: ModelInput) -> Tensor:
        """Hidden states after the final norm, divided by m: (B, T, D). `logits` turns them into logits.

        The three calls may be made apart: each module gathers its own weights, under ZeRO-3 too.
        """
        return self.head(self.blocks(self.embed(batch), batch))

    def embed(self, batch: ModelInput) -> Tensor:
        """What the first block reads: (B, T, D)."""
        x_BTD: Tensor = self.embed_tokens(batch.inputs) * self.config.scale_emb
        return x_BTD

    def blocks(self, x_BTD: Tensor, batch: ModelInput) -> Tensor:
        """All blocks, one after another: (B, T, D). Of `batch` they read where each token stands, never its id."""
        rotary = rotary_tables(batch.positions, self.config.d_head, self.config.rope_base, x_BTD.dtype)
        documents = batch.documents or self.locate(batch.positions)
        if self.compiled and torch.is_grad_enabled():
            documents = documents.of_any_number()
        for number, block in enumerate(self.layers):
            keep = self.policy.keep(number) if torch.is_grad_enabled() else "all"
            # a compiled block keeps the products by itself: see `joined_keeping_products`
            if keep == "all" or (keep == "products" and self.compiled):
                x_BTD = block(x_BTD, rotary, documents)
            else:
                contexts = _PRODUCTS if keep == "products" else noop_context_fn
                x_BTD = checkpoint(
                    block, x_BTD, rotary, documents, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
                )
        return x_BTD

    def head(self, x_BTD: Tensor) -> Tensor:
        """The final norm, divided by m: (B, T, D)."""
        out: Tensor = self.norm(x_BTD) / self.config.width_multiplier
        return out

    def locate(self, positions_BT: Tensor) -> Documents:
        """The documents of a batch, as the attention kernel of this model's device wants them."""
        # not by its name: asking ZeRO-3 for a parameter by name gathers it from all ranks, and this is called from the
        # thread that reads ahead, at another moment on each
        weight = next(self.parameters())
        precision = "float32" if weight.dtype == torch.float32 else "bfloat16"
        kernel = choose_attention(self.compute, weight.device.type, precision)
        return locate(positions_BT, kernel, self.config.document_masking, self.compute.repeatable)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) hidden states from `head` → (…, V) logits, through the tied embedding."""
        return F.linear(hidden, self.embed_tokens.weight)


def rotary_tables(positions_BT: Tensor, d_head: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (B, T, 1, K/2): the first half of a head turns against the second, as in Llama.

    Angles are float64: at position 4,000 a float32 angle is off by 1e-4 radians, a thousand times a float32 rounding.
    """
    frequencies = base ** -(torch.arange(0, d_head, 2, device=positions_BT.device, dtype=torch.float64) / d_head)
    angles_BT1k = (positions_BT[:, :, None] * frequencies)[:, :, None]
    return angles_BT1k.cos().to(dtype), angles_BT1k.sin().to(dtype)


def rotate(x_BTHK: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary positions to queries or keys (B, T, heads, K)."""
    cos, sin = rotary
    first, second = x_BTHK.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def split_projections(weights: Iterable[tuple[str, Tensor]], config: ModelConfig) -> Iterator[tuple[str, Role, Tensor]]:
    """A stream of weights under Llama's names, each with its role; fused products are cut into their maps (views)."""
    named = roles(config)
    for name, value in weights:
        role = named[name]
        if not role.parts:
            yield name, role, value
            continue
        maps = torch.split(value, list(role.maps))
        yield from ((part, role, map_) for (part, _), map_ in zip(role.parts, maps, strict=True))


def _products_kept(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    kept = operation in _COSTLY or operation.namespace in ("torch_attn", "trunkline")
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_MOST_GRAPHS = 32  # of one function, before it is an error: torch's own 8 are met by a programme that compares
_COSTLY = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        "mm", "addmm", "bmm", "_scaled_mm",
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    )
)  # fmt: skip
_PRODUCTS = functools.partial(create_selective_checkpoint_contexts, _products_kept)
