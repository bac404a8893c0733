"""One block of a plain Llama, computed map by map, so that somebody can look at what goes into each.

Legend: B rows, T tokens, D model width, F feed-forward width, H query heads, G key/value heads, K head width.

Enters: the weights of a block in Llama's names without `model.layers.N.`, and what the block before gave. Leaves: what
goes into each of its maps, and what the block gives. Maps with the same input are one site; a site is one parameter of
our own model, too.

    qkv_proj       reads the normed stream           gives queries, keys, values: attention
    o_proj         reads what attention gave         adds to the stream
    gate_up_proj   reads the normed stream           gives what down_proj reads
    down_proj      reads silu(gate) · up             adds to the stream
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.attention import Documents, attend, locate
from pipelines.train.network.model import rotary_tables, rotate
from pipelines.train.quantization.contract import CalibrationRows

SiteName = Literal["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
INPUT_NORM, OUTPUT_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
_CHUNK_TOKENS = 4096  # of all rows that are computed at once


@dataclass(frozen=True)
class Site:
    """The maps of a block that read the same."""

    name: SiteName
    parameter: str  # our own, without `layers.N.`
    maps: tuple[str, ...]
    adds: bool  # whether it adds to the stream of hidden states


def _site(name: SiteName, part: str, maps: tuple[str, ...], adds: bool = False) -> Site:
    return Site(name, f"{part}.{name}.weight", tuple(f"{part}.{map_}_proj.weight" for map_ in maps), adds)


SITES = (
    _site("qkv_proj", "self_attn", ("q", "k", "v")),
    _site("o_proj", "self_attn", ("o",), adds=True),
    _site("gate_up_proj", "mlp", ("gate", "up")),
    _site("down_proj", "mlp", ("down",), adds=True),
)
QUERY, KEY, VALUE = SITES[0].maps
(OUTPUT,), (GATE, UP), (DOWN,) = SITES[1].maps, SITES[2].maps, SITES[3].maps

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Chunk:
    """Some rows that are computed at once, and where their tokens stand."""

    rows: slice
    rotary: tuple[Tensor, Tensor]
    documents: Documents
    real_N: Tensor  # which of the flattened tokens are no filling, boolean


def chunks(calibration: CalibrationRows, model: ModelConfig, dtype: torch.dtype = torch.float32) -> Iterator[Chunk]:
    """All rows, a few at a time."""
    count, length = calibration.ids.shape
    step = max(1, _CHUNK_TOKENS // length)
    for at in range(0, count, step):
        rows = slice(at, min(count, at + step))
        positions_BT = calibration.positions[rows]
        rotary = rotary_tables(positions_BT, model.d_head, model.rope_base, dtype)
        yield Chunk(rows, rotary, locate(positions_BT, "blocks", masking=True), calibration.real[rows].flatten())


@dataclass
class Stream:
    """Hidden states of all rows on their way through the blocks.

    Attributes: hidden, (B, T, D); attended, what attention of this block gave, (B, T, D), until o_proj has read it.
    """

    model: ModelConfig
    hidden: Tensor
    attended: Tensor | None = None

    def inputs(self, site: SiteName, weights: Weights, chunk: Chunk) -> Tensor:
        """What goes into a site: (rows, T, its inputs). Those before it in the block have been passed."""
        if site == "o_proj":
            assert self.attended is not None
            return self.attended[chunk.rows]
        hidden = self.hidden[chunk.rows]
        if site == "qkv_proj":
            return self._normed(hidden, weights[INPUT_NORM])
        normed = self._normed(hidden, weights[OUTPUT_NORM])
        if site == "gate_up_proj":
            return normed
        return F.silu(F.linear(normed, weights[GATE])) * F.linear(normed, weights[UP])

    def pass_site(self, site: SiteName, weights: Weights, chunk: Chunk) -> None:
        """Compute what a site gives, for the rows of one chunk."""
        inputs = self.inputs(site, weights, chunk)
        if site == "qkv_proj":
            if self.attended is None:
                self.attended = torch.empty_like(self.hidden)
            self.attended[chunk.rows] = self._attention(inputs, weights, chunk)
        elif site == "o_proj":
            self.hidden[chunk.rows] += F.linear(inputs, weights[OUTPUT])
        elif site == "down_proj":
            self.hidden[chunk.rows] += F.linear(inputs, weights[DOWN])

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (self.model.d_model,), weight, self.model.norm_eps)

    def _attention(self, x_BTD: Tensor, weights: Weights, chunk: Chunk) -> Tensor:
        q_BTHK, k_BTGK, v_BTGK = (
            F.linear(x_BTD, weights[name]).view(*x_BTD.shape[:2], -1, self.model.d_head) for name in (QUERY, KEY, VALUE)
        )
        y_BTHK = attend(rotate(q_BTHK, chunk.rotary), rotate(k_BTGK, chunk.rotary), v_BTGK, chunk.documents)
        return y_BTHK.flatten(2)

    def copied(self) -> Stream:
        """Another with hidden states of its own."""
        return dataclasses.replace(self, hidden=self.hidden.clone())
