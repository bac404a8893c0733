"""What each parameter is, said once: whoever treats parameters differently asks its role, never its name.

Enters: a `ModelConfig`. Leaves: a `Role` for every parameter of `model.Transformer`, by its name and in the model's
order. A name therefore means something in this file and in `model.py` alone, and no torch is needed to know what a
model consists of.

    kind         shape                     initial values          learning rate       in the output of a block
    matrix       (rows, columns)           N(0, (init_std / √m)²)  the optimizer's      o_proj, down_proj: × its scale
    embedding    (vocabulary, d_model)     N(0, init_std²)         η
    norm         (d_model,)                1                       η

A fused product is one parameter that holds several maps, one below the other; `parts` names
them as Llama's layout does.

Source: MiniCPM (arXiv 2404.06395), Table 7; the names are those of `transformers`' Llama.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig

RoleKind = Literal["matrix", "embedding", "norm"]
KINDS: tuple[RoleKind, ...] = ("matrix", "embedding", "norm")


@dataclass(frozen=True, kw_only=True)
class Role:
    """What one parameter is."""

    kind: RoleKind
    shape: tuple[int, ...]
    layer: int | None = None  # number of its block, from 0; None: before or after all blocks
    init_std: float | None = None  # of the normal distribution that it is drawn from; None: it begins as ones
    parts: tuple[tuple[str, int], ...] = ()  # of a fused product: each map's name in Llama's layout, and its rows
    residual: bool = False  # whether its product is added to the residual stream, times `ModelConfig.residual_scale`

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def maps(self) -> tuple[int, ...]:
        """Rows of each linear map in it, from the top; one map where it is no fused product."""
        return tuple(rows for _, rows in self.parts) or (self.shape[0],)

    @property
    def place(self) -> str:
        """Which part of the model it belongs to, for people: `embedding`, `layer_03` or `final_norm`."""
        if self.layer is not None:
            return f"layer_{self.layer:02d}"
        return "embedding" if self.kind == "embedding" else "final_norm"


@functools.cache
def roles(model: ModelConfig) -> Mapping[str, Role]:
    """The role of every parameter by its name, in the order of `Transformer.named_parameters`."""
    D, F, keys = model.d_model, model.d_ff, model.kv_heads * model.d_head
    std = model.init_std / math.sqrt(model.width_multiplier)
    named = {"embed_tokens.weight": Role(kind="embedding", shape=(model.vocabulary, D), init_std=model.init_std)}
    for layer in range(model.layers):
        at, attention, mlp = f"layers.{layer}.", f"layers.{layer}.self_attn.", f"layers.{layer}.mlp."
        queries_keys_values = tuple(
            (f"{attention}{map_}_proj.weight", n) for map_, n in zip("qkv", (D, keys, keys), strict=True)
        )
        gate_up = tuple((f"{mlp}{map_}_proj.weight", F) for map_ in ("gate", "up"))
        named |= {
            f"{at}input_layernorm.weight": Role(kind="norm", shape=(D,), layer=layer),
            f"{attention}qkv_proj.weight": Role(
                kind="matrix", shape=(D + 2 * keys, D), layer=layer, init_std=std, parts=queries_keys_values
            ),
            f"{attention}o_proj.weight": Role(kind="matrix", shape=(D, D), layer=layer, init_std=std, residual=True),
            f"{at}post_attention_layernorm.weight": Role(kind="norm", shape=(D,), layer=layer),
            f"{mlp}gate_up_proj.weight": Role(
                kind="matrix", shape=(2 * F, D), layer=layer, init_std=std, parts=gate_up
            ),
            f"{mlp}down_proj.weight": Role(kind="matrix", shape=(D, F), layer=layer, init_std=std, residual=True),
        }
    return {**named, "norm.weight": Role(kind="norm", shape=(D,))}


def places(model: ModelConfig) -> list[str]:
    """Every `Role.place` of a model, in its order."""
    return list(dict.fromkeys(role.place for role in roles(model).values()))


@functools.cache
def numbers(model: ModelConfig) -> Mapping[RoleKind, int]:
    """How many numbers the parameters of each kind hold together."""
    counts = dict.fromkeys(KINDS, 0)
    for role in roles(model).values():
        counts[role.kind] += role.numel
    return counts


def check_kinds(trains: Collection[str] | None, where: str = "trains") -> None:
    """Refuse kinds of parameters that no model has. Args: trains, which kinds train; None: all. Raises: ConfigError."""
    if trains is None:
        return
    unknown = sorted(set(trains) - set(KINDS))
    if unknown or not trains:
        raise ConfigError(
            f"{where} is [{', '.join(trains)}]; expected some of the kinds of parameters ({', '.join(KINDS)}), or "
            "null, with which all of them train"
        )


def frozen_numbers(model: ModelConfig, trains: Collection[str] | None) -> int:
    """How many numbers the parameters hold that stay as they are. Args: trains, the kinds that train; None: all."""
    return sum(held for kind, held in numbers(model).items() if trains is not None and kind not in trains)


def frozen(model: ModelConfig, trains: Collection[str] | None) -> frozenset[str]:
    """Names of the parameters that stay as they are. Args: trains, the kinds that train; None: all."""
    return frozenset(name for name, role in roles(model).items() if trains is not None and role.kind not in trains)
