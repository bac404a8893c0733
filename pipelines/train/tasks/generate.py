"""Sample completions, for people to read.

Legend: B prompts, T tokens, V vocabulary. Enters: prompts as ids. Leaves: the ids that the model adds to each.

All prompts run as one batch, padded on the right: attention is causal, so padding never reaches a real token, and each
row reads its logits at its own end. There is no key-value cache: a completion of n tokens after a prompt of p costs
forwards over n·(p + n/2) tokens, seconds for a handful of samples; serving is the business of an exported model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer

Ids = NDArray[np.integer[Any]]


@torch.no_grad()
def complete(
    model: Transformer,
    prompts: Sequence[Ids],
    max_new_tokens: int,
    stop_id: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt until `stop_id`, `max_new_tokens` more, or the model's last position.

    Args:
        prompts: ids, each at least one.
        temperature: 0 takes the likeliest id; above, ids are drawn from softmax(logits / temperature).
        seed: of the draws; row i draws from seed + i, so a completion does not depend on the other prompts.

    Returns: the new ids of each prompt, `stop_id` left out.
    """
    place = model.embed_tokens.weight.device
    longest = min(model.config.max_positions, max(map(len, prompts)) + max_new_tokens)
    tokens_BT = torch.zeros(len(prompts), longest, dtype=torch.int64, device=place)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, : len(prompt)] = torch.from_numpy(prompt.astype(np.int64))
    lengths = [len(prompt) for prompt in prompts]
    limits = [min(longest, length + max_new_tokens) for length in lengths]
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
    going = [row for row in range(len(prompts)) if lengths[row] < limits[row]]
    while going:
        width = max(lengths[row] for row in going)
        positions_BT = torch.arange(width, device=place).expand(len(going), width)
        hidden_BTD = model(ModelInput(inputs=tokens_BT[going, :width], positions=positions_BT))
        last_BD = hidden_BTD[range(len(going)), [lengths[row] - 1 for row in going]]
        logits_BV = model.logits(last_BD).float().cpu()
        for row, logits_V in zip(list(going), logits_BV, strict=True):
            chosen = _choose(logits_V, temperature, generators[row])
            if chosen == stop_id:
                going.remove(row)
                continue
            tokens_BT[row, lengths[row]] = chosen
            lengths[row] += 1
            if lengths[row] == limits[row]:
                going.remove(row)
    return [tokens_BT[row, len(prompt) : lengths[row]].tolist() for row, prompt in enumerate(prompts)]


def _choose(logits_V: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(logits_V.argmax())
    return int(torch.multinomial((logits_V / temperature).softmax(dim=-1), 1, generator=generator))
