"""A delivered model in this process: a plain Llama, whose scalings are folded into its weights.

Legend: D model width, V vocabulary.

Enters: a stream of weights in Llama's names (embedding, blocks, final norm, output matrix), as a format reads them back
from its folder. Leaves: a `Transformer` that evaluation tasks measure like any checkpoint.

Why not `transformers`' Llama: tasks ask for hidden states and make logits only where a target counts. The two are
compared by every export's check (`formats/`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import roles

PREFIX, OUTPUT = "model.", "lm_head.weight"


def plain_llama(model: ModelConfig) -> ModelConfig:
    """The same shape with every scaling at 1, and causal attention alone: what is left once scalings are folded."""
    return dataclasses.replace(
        model,
        scale_emb=1.0,
        scale_depth=math.sqrt(model.layers),
        dim_model_base=model.d_model,
        document_masking=False,
    )


class UntiedTransformer(Transformer):
    """A `Transformer` whose output matrix is its own, (V, D)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.lm_head = nn.Linear(config.d_model, config.vocabulary, bias=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) hidden states → (…, V) logits."""
        return F.linear(hidden, self.lm_head.weight)


def merge_projections(weights: Iterable[tuple[str, Tensor]], model: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Llama's names to ours: maps that are one product here are put one below the other.

    Args: weights, in the order of `split_projections`; those before a product's last map are in memory with it.
    """
    owner = {part: name for name, role in roles(model).items() for part, _ in role.parts}
    waiting: list[Tensor] = []
    for given, value in weights:
        name = given.removeprefix(PREFIX)
        fused = owner.get(name)
        if fused is None:
            yield (given if given == OUTPUT else name), value
            continue
        waiting.append(value)
        if len(waiting) == len(roles(model)[fused].parts):
            yield fused, torch.cat(waiting)
            waiting = []


def untied_model(weights: Iterable[tuple[str, Tensor]], model: ModelConfig) -> UntiedTransformer:
    """All of a delivered model in float32 on the CPU, 4 bytes a parameter, for single documents.

    Args: weights, in Llama's names; model, of the checkpoint that it was made from.
    """
    with torch.device("meta"):
        made = UntiedTransformer(plain_llama(model))
    values = {name: value.float() for name, value in merge_projections(weights, model)}
    made.load_state_dict(values, assign=True)
    return made.eval().requires_grad_(False)
