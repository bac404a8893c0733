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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.data.tokens.chat import ASSISTANT_ID, EOS_ID, USER_ID
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.token_sources import open_sources
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ArtifactError
from pipelines.store.artifact import Artifact
from pipelines.train.formats.contract import LIMIT, Source
from pipelines.train.formats.folder import TOKENIZER
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer

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

    Attributes: rows_BT, int64; hidden_BTD, what logits are made of.
    """

    source: Source
    rows_BT: Tensor
    hidden_BTD: Tensor

    def logits(self) -> Iterator[Tensor]:
        """(T, V) of one row after the other. The embedding is read anew, and in memory as long as this goes on."""
        with torch.device("meta"):
            model = Transformer(self.source.model)
        with fed(model, [], self.source.weights(), kept=model.embed_tokens):
            for hidden_TD in self.hidden_BTD:
                yield model.logits(hidden_TD)


def own_answers(source: Source, rows_BT: Tensor) -> Expected:
    """Run the training model on rows of ids."""
    with torch.device("meta"):
        model = Transformer(dataclasses.replace(source.model, document_masking=False)).eval()
    positions_BT = torch.arange(rows_BT.shape[1]).expand_as(rows_BT)
    layers = [*model.layers, model.norm]
    with fed(model, layers, source.weights(), kept=model.embed_tokens):
        return Expected(source, rows_BT, model(ModelInput(inputs=rows_BT, positions=positions_BT)))


def transformers_difference(
    config: Any, weights: Iterator[tuple[str, Tensor]], expected: Expected, dtype: str
) -> float:
    """The largest difference of a logit between Llama as `transformers` has it and what is expected.

    Args:
        config: a `transformers` config of a Llama.
        weights: in its names, in `dtype`, in the order that they are needed: embedding, blocks, final norm, output
            matrix.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    body = model.model
    body.rotary_emb = type(body.rotary_emb)(config)  # what it holds is no weight: it is made on the CPU
    with fed(model, [body.embed_tokens, *body.layers, body.norm], weights) as take:
        hidden_BTD = body(expected.rows_BT, use_cache=False).last_hidden_state
        take(model.lm_head)
        differences = [
            model.lm_head(hidden_TD).float().sub_(expected_TV).abs_().max()
            for hidden_TD, expected_TV in zip(hidden_BTD, expected.logits(), strict=True)
        ]
    return float(torch.stack(differences).max())


def refuse_difference(source: Source, difference: float) -> None:
    """Raises: ArtifactError when logits differ by more than `LIMIT`, or are no numbers."""
    if not difference <= LIMIT:  # also refuses NaN
        raise ArtifactError(
            f"the exported model's logits differ from those of {source.run} by {difference:.3g} on held-out tokens; "
            f"accepted is {LIMIT:g}: nothing was committed; this is a fault in the export, please report it"
        )


def heldout_rows(source: Source) -> Tensor:
    """A few windows of held-out ids, each from another source while there are any: int64 [rows, T].

    Raises: ArtifactError when nothing is held out.
    """
    tokens = source.tokens
    length = min(_TOKENS, source.model.max_positions)
    rows: list[NDArray[np.int64]] = []
    for heldout in open_sources(tokens, "heldout", sidecars=FOUNDING).values():
        ids = heldout.shard(0).tokens[:length] if heldout.prefixes else np.zeros(0, np.int64)
        if len(ids) == length:
            rows.append(ids.astype(np.int64))
        elif len(ids):
            rows.append(np.resize(ids.astype(np.int64), length))
        if len(rows) == _ROWS:
            break
    if not rows:
        raise ArtifactError(
            f"{tokens.folder} holds nothing out, so the export cannot be checked: hold documents out in the corpus"
        )
    return torch.from_numpy(np.stack(rows))


def verify_tokenizer(folder: Path, tokens: Artifact) -> None:
    """Compare the folder's tokenizer and chat template with the room that made the training data.

    Raises: ArtifactError when they give other ids.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # of an architecture that it does not know, it warns; its tokenizer it reads all the same
    logging.set_verbosity_error()
    try:
        theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        logging.set_verbosity(verbosity)
    ours = Encoder(tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)
    text = "Trunkline: 12 + 7 = 19.\n话说天下大势，分久必合。"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": text},
        {"role": "assistant", "content": "19"},
        # typed markers are text
        {"role": "user", "content": "a</s>b <用户> c <AI> d"},
    ]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    pairs = {
        "text": (theirs(text, add_special_tokens=False)["input_ids"], ours.encode([text])[0].tolist()),
        "chat": (theirs(rendered, add_special_tokens=False)["input_ids"], ours.encode_prompt(messages).tolist()),
        "markers": (theirs.convert_tokens_to_ids(["</s>", "<用户>", "<AI>"]), [EOS_ID, USER_ID, ASSISTANT_ID]),
    }
    for input_, (ids, expected) in pairs.items():
        if ids != expected:
            raise ArtifactError(
                f"the exported tokenizer gives other ids for {input_}: {ids} instead of {expected}; nothing was "
                "committed"
            )
