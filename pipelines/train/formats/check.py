"""What the checks of formats share: held-out rows, our own logits on them, a model that runs on a stream of weights.

Enters: a `Source`, and a written folder. Leaves: logits to compare, or an ArtifactError.

No model is ever whole in memory. A model is built on torch's meta device, where weights have shapes and no values; each
of its layers takes its own from the stream when it is called, and gives them up after (`fed`). Of our own model the
hidden states are kept, and logits are made of them where they are compared, a row at a time. So two models are compared
in the memory of one layer of each, the embedding twice, and the logits of two rows (positions · vocabulary · 4 bytes).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import ArtifactError
from pipelines.train.formats.contract import LIMIT, Delivered, Source, Stored
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer

BLOCK_LIMIT = 1e-5  # of hidden states after a block, relative to the largest of them, float32 against float32
_ROWS, _TOKENS = 4, 256


@contextlib.contextmanager
def fed(
    model: nn.Module, layers: Sequence[nn.Module], weights: Iterator[tuple[str, Tensor]], kept: nn.Module | None = None
) -> Iterator[Callable[[nn.Module], None]]:
    """Run a model of the meta device on a stream of its weights, one layer in memory.

    Args:
        layers: the modules that hold all weights, in the order of their calls, which is that of the stream.
        kept: one more module, whose weights come first; it has them from now on.

    Yields: what gives one more module the weights that come next in the stream.
    """
    prefixes = {module: f"{name}." for name, module in model.named_modules()}

    def take(module: nn.Module, *_: Any) -> None:
        prefix, values = prefixes[module], {}
        names = {prefix + name for name, _ in module.named_parameters()}
        while names:
            name, value = next(weights)
            names.remove(name)
            values[name.removeprefix(prefix)] = value
        module.load_state_dict(values, assign=True)

    def give_up(module: nn.Module, *_: Any) -> None:
        module.to("meta")

    if kept is not None:
        take(kept)
    hooks = [layer.register_forward_pre_hook(take) for layer in layers]
    hooks += [layer.register_forward_hook(give_up) for layer in layers]
    try:
        with torch.no_grad():
            yield take
    finally:
        for hook in hooks:
            hook.remove()


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the training model says to rows of ids, in float32 on the CPU.

    Attributes: rows_BT, int64; hidden_BTD, what logits are made of; blocks, hidden states after each block, (B, T, D),
        where they were asked for.
    """

    source: Source
    rows_BT: Tensor
    hidden_BTD: Tensor
    blocks: tuple[Tensor, ...] = ()

    def logits(self) -> Iterator[Tensor]:
        """(T, V) of one row after the other. The embedding is read anew, and in memory as long as this goes on."""
        with torch.device("meta"):
            model = Transformer(self.source.model)
        with fed(model, [], self.source.weights(), kept=model.embed_tokens):
            for hidden_TD in self.hidden_BTD:
                yield model.logits(hidden_TD)


def own_answers(source: Source, rows_BT: Tensor, keep_blocks: bool = False) -> Expected:
    """Run the training model on rows of ids.

    Args: keep_blocks, whether hidden states after each block are kept, B · T · D · 4 bytes each.
    """
    with torch.device("meta"):
        model = Transformer(dataclasses.replace(source.model, document_masking=False)).eval()
    positions_BT = torch.arange(rows_BT.shape[1]).expand_as(rows_BT)
    blocks: list[Tensor] = []
    layers = [*model.layers, model.norm]
    with fed(model, layers, source.weights(), kept=model.embed_tokens):
        if keep_blocks:
            for block in model.layers:
                block.register_forward_hook(lambda _module, _input, output: blocks.append(output))
        hidden_BTD = model(ModelInput(inputs=rows_BT, positions=positions_BT))
    return Expected(source, rows_BT, hidden_BTD, tuple(blocks))


@contextlib.contextmanager
def llama_answers(
    config: Any,
    weights: Iterator[tuple[str, Tensor]],
    rows_BT: Tensor,
    dtype: str = "float32",
    watch: Callable[[Tensor], None] | None = None,
) -> Iterator[Iterator[Tensor]]:
    """What Llama as `transformers` has it says to rows of ids: logits (T, V) in float32, one row after the other.

    Args:
        config: a `transformers` config of a Llama.
        weights: in its names, in `dtype`, in the order that they are needed: embedding, blocks, final norm, output
            matrix.
        watch: is given the hidden states after each block, (B, T, D).
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    body = model.model
    body.rotary_emb = type(body.rotary_emb)(config)  # what it holds is no weight: it is made on the CPU
    with fed(model, [body.embed_tokens, *body.layers, body.norm], weights) as take:
        if watch is not None:
            for block in body.layers:
                block.register_forward_hook(lambda _module, _input, output: watch(_hidden(output)))
        hidden_BTD = body(rows_BT, use_cache=False).last_hidden_state
        take(model.lm_head)
        yield (model.lm_head(hidden_TD).float() for hidden_TD in hidden_BTD)


def _hidden(output: Any) -> Tensor:
    """Of a block of `transformers`, whose versions return it alone or first of several."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def llama_config_of(delivered: Delivered) -> Any:
    """The `transformers` config of a folder that was read back."""
    from transformers import LlamaConfig

    return LlamaConfig.from_dict({**delivered.config, "model_type": "llama", "tie_word_embeddings": False})


# ── Float formats: logits, and hidden states block by block ───────────────────────────────────────────────────────────


def transformers_difference(
    config: Any, weights: Iterator[tuple[str, Tensor]], expected: Expected, dtype: str
) -> float:
    """The largest difference of a logit between Llama as `transformers` has it and what is expected.

    Args: as of `llama_answers`.
    """
    with llama_answers(config, weights, expected.rows_BT, dtype) as rows:
        return _largest_difference(rows, expected)


def compared_by_block(
    config: Any, weights: Iterator[tuple[str, Tensor]], expected: Expected
) -> tuple[float, tuple[float, ...]]:
    """The largest difference of a logit, and of hidden states after each block relative to the largest of them.

    Args: as of `llama_answers`, in float32; expected, with its blocks.
    Raises: ArtifactError when they differ by more than `LIMIT` and `BLOCK_LIMIT`, with the first block that does.
    """
    blocks: list[float] = []

    def compare(hidden_BTD: Tensor) -> None:
        ours_BTD = expected.blocks[len(blocks)]
        blocks.append(float((hidden_BTD - ours_BTD).abs().max() / ours_BTD.abs().max().clamp_min(1e-30)))

    with llama_answers(config, weights, expected.rows_BT, watch=compare) as rows:
        difference = _largest_difference(rows, expected)
    differing = next((number for number, block in enumerate(blocks) if not block <= BLOCK_LIMIT), None)
    refuse_difference(expected.source, difference, blocks, differing)
    return difference, tuple(blocks)


def _largest_difference(rows: Iterator[Tensor], expected: Expected) -> float:
    differences = [
        theirs_TV.sub_(ours_TV).abs_().max() for theirs_TV, ours_TV in zip(rows, expected.logits(), strict=True)
    ]
    return float(torch.stack(differences).max())


def refuse_difference(
    source: Source, difference: float, blocks: Sequence[float] = (), first_block: int | None = None
) -> None:
    """Raises: ArtifactError when logits differ by more than `LIMIT`, or are no numbers, or a block differs."""
    if difference <= LIMIT and first_block is None:
        return  # also refuses NaN
    where = ""
    if blocks:
        where = "no hidden state does: the final norm or the output matrix is wrong; "
    if first_block is not None:
        where = (
            f"hidden states differ first after block {first_block} of {len(blocks)}, by {blocks[first_block]:.3g} of "
            f"the largest (accepted is {BLOCK_LIMIT:g}); "
        )
    raise ArtifactError(
        f"the exported model's logits differ from those of {source.run} by {difference:.3g} on held-out tokens; "
        f"accepted is {LIMIT:g}: {where}nothing was committed; this is a fault in the export, please report it"
    )


# ── Quantized formats: KL and the likeliest id ────────────────────────────────────────────────────────────────────────


def agreement(source: Source, delivered: Delivered, rows_BT: Tensor) -> tuple[float, float]:
    """How far a delivered model is from the full one, neither of them whole in memory.

    Args: rows_BT, held-out ids, int64; see `heldout_rows`.
    Returns: KL(full ‖ delivered) in nats per token, and the share of places where both find the same id likeliest.
    """
    expected, config = own_answers(source, rows_BT), llama_config_of(delivered)
    kl, same = 0.0, 0
    with llama_answers(config, delivered.weights(), rows_BT) as rows:
        for theirs_TV, ours_TV in zip(rows, expected.logits(), strict=True):
            same += int((theirs_TV.argmax(-1) == ours_TV.argmax(-1)).sum())
            ours_TV, theirs_TV = ours_TV.log_softmax(-1), theirs_TV.log_softmax(-1)
            kl += float(F.kl_div(theirs_TV, ours_TV, reduction="sum", log_target=True))
    return max(0.0, kl / rows_BT.numel()), same / rows_BT.numel()


def refuse_disagreement(source: Source, stored: Stored, kl: float, top1: float) -> None:
    """Raises: ArtifactError when a quantized model is further from the full one than its dtype may be, or gives NaN."""
    if stored.most_kl is not None and not kl <= stored.most_kl:
        raise ArtifactError(
            f"the exported model is {kl:.3g} nats of KL per token from {source.run} on held-out text; accepted for "
            f"{stored.words} is {stored.most_kl:g}: nothing was committed; take a dtype of more bits, or quantize with "
            "a calibrated method first (python -m workflows.quantize)"
        )
    if stored.least_top1 is not None and not top1 >= stored.least_top1:
        raise ArtifactError(
            f"the exported model finds the same id likeliest as {source.run} at {top1:.1%} of held-out places; "
            f"accepted for {stored.words} is {stored.least_top1:.0%}: nothing was committed; take a dtype of "
            "more bits, or quantize with a calibrated method first (python -m workflows.quantize)"
        )


# ── Held-out text, tokenizer ──────────────────────────────────────────────────────────────────────────────────────────


def heldout_rows(source: Source, most: int = _ROWS, tokens: int = _TOKENS) -> Tensor:
    """Windows of held-out ids, sources in turn: int64 [rows, T].

    Args: most, so many rows at most. tokens, so many ids in a row at most.
    Raises: ArtifactError when nothing is held out.
    """
    length = min(tokens, source.model.max_positions)
    opened = [
        heldout.shard(0).tokens
        for heldout in open_sources(source.tokens, "heldout", sidecars=FOUNDING).values()
        if heldout.prefixes
    ]
    rows: list[NDArray[np.int64]] = []
    for number in range(most):  # the first window of each source, then the second, ...
        for ids in opened:
            window = ids[number * length : (number + 1) * length].astype(np.int64)
            if len(window) == length:
                rows.append(window)
            elif len(window) and not number:
                rows.append(np.resize(window, length))
    if not rows:
        raise ArtifactError(
            f"{source.tokens.folder} holds nothing out, so the export cannot be checked: hold documents out in the "
            "corpus"
        )
    return torch.from_numpy(np.stack(rows[:most]))
