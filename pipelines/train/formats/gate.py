"""What stands before the commit: programs that load an export are asked the same as the training model.

Enters: a written folder or file, and a `Source`. Leaves: an `Asked` for each program, or an ArtifactError that says
what differs, and where.

A program is asked for ids of texts, ids of conversations by its own chat template, logits of held-out text, and greedy
answers. Our own side of an answer is never generated: one streamed pass of what the file holds, in float32, reads the
program's ids, and each must be the likeliest at its place, or so near to it that rounding decides (`Margin`). So a
model of any size is asked in the memory of the program alone, and of one layer after it.

What the file holds was compared with the checkpoint before: bit by bit, or by KL. Programs compute in float32 where the
model is small enough (`EXACT_BYTES`), else in the type that is stored, with a wider margin. A difference between
tokenizers is accepted only where a rule of `RULES` names its reason, and is counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.tokens.chat import ASSISTANT_ID, EOS_ID, GUARD, SPECIAL_TOKENS, USER_ID, Message
from pipelines.data.tokens.codepoints import unsettled
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.display.progress import Progress
from pipelines.errors import ArtifactError
from pipelines.train.formats import questions
from pipelines.train.formats.check import heldout_rows, llama_answers, llama_config_of, own_answers
from pipelines.train.formats.contract import Asked, Delivered, Source, Stored
from pipelines.train.formats.folder import TOKENIZER
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.runtimes import RUNTIMES
from pipelines.train.runtimes.contract import Loaded, LoadSettings, Sampling

GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
_THREADS_HELP = 100_000_000  # parameters
_LOGIT_TOKENS = 64  # of one held-out row, whose logits a program is asked for


@dataclass(frozen=True)
class Rule:
    """A difference between tokenizers that is accepted."""

    words: str  # completes "12 strings differ that …"
    holds: Callable[[str], bool]


RULES: dict[str, tuple[Rule, ...]] = {
    "llama_cpp": (
        Rule(
            "hold a code point that Unicode gave a meaning only lately, whose kind the two libraries tell differently",
            lambda text: bool(unsettled([text])),
        ),
    ),
}


@dataclass(frozen=True)
class Margin:
    """What rounding may do to a program's logits.

    A generated id may fall behind the likeliest by `nats`; the program's probabilities on held-out text may be `kl`
    nats per token from those of the model that reads its answers.
    """

    nats: float
    kl: float


# float32 weights and sums: differences are below 1e-4
EXACT = Margin(1e-3, 1e-6)
# llama.cpp multiplies weights of few bits with inputs of 8 bits; of a trained model of 10M (q4_0, q8_0) that is 6e-5
# nats of KL, and of 1,280 tokens 1 and 10 are not the likeliest, by 0.04 nats at most
INTEGER = Margin(0.25, 5e-3)
# all sums in half precision
HALF = Margin(0.5, 2e-2)
EXACT_BYTES = 6_000_000_000  # of a model in float32 that a program loads whole; so 2.4B stays below 12 GB


def encoder_of(source: Source) -> Encoder:
    """The tokenizer that made the training data."""
    return Encoder(source.tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)


def heldout_texts(source: Source, encoder: Encoder, most: int = 200) -> list[str]:
    """Some held-out text as it reads, cut anywhere."""
    return [encoder.decode(row.tolist()) for row in heldout_rows(source, most, 64)]


# ── Tokenizer and chat template ───────────────────────────────────────────────────────────────────────────────────────


def ask_tokenizer(
    name: str,
    encode: Callable[[str], Sequence[int]],
    encode_chat: Callable[[Sequence[Message]], Sequence[int]],
    source: Source,
    rules: Sequence[Rule] = (),
) -> Asked:
    """Compare a program's tokenizer and chat template with those of training.

    Args: name, of the program, for messages. encode, ids of a text, in which a typed marker is text. encode_chat, ids
        of a conversation, open for an answer. rules, differences that are accepted.
    Raises: ArtifactError on the first text or conversation that gives other ids.
    """
    encoder = encoder_of(source)
    texts = questions.strings(questions.STRINGS, heldout=heldout_texts(source, encoder))
    accepted = dict.fromkeys((rule.words for rule in rules), 0)
    guarded = 0
    with _no_warnings():
        ids_of_theirs = [list(encode(text)) for text in texts]
    for text, theirs in zip(texts, ids_of_theirs, strict=True):
        ours = _ids(encoder, text)
        if theirs == ours:
            continue
        if GUARD in text and theirs == _ids(encoder, text.replace(GUARD, "")):
            guarded += 1
            continue
        rule = next((rule.words for rule in rules if rule.holds(text)), None)
        if rule is None:
            raise _other_ids(name, f"the text {_short(text)}", theirs, ours)
        accepted[rule] += 1
    asked = questions.conversations()
    spelled = 0
    for messages in asked:
        theirs, ours = list(encode_chat(messages)), encoder.encode_prompt(messages).tolist()
        if theirs == ours:
            continue
        # a program without the tokenizer's normalizer reads the guard in a typed marker as bytes: still no marker
        if theirs != encoder.encode_prompt([_guarded(message) for message in messages]).tolist():
            raise _other_ids(name, f"the conversation {_short(str(messages))}", theirs, ours)
        spelled += 1
    notes = [f"{count:,} strings differ that {words}" for words, count in accepted.items() if count]
    if guarded:
        notes.append(f"takes U+FDD1 out of {guarded:,} strings, as the template needs it")
    if spelled:
        notes.append(f"reads U+FDD1 in typed markers of {spelled:,} conversations as bytes; no marker comes of it")
    differing = sum(accepted.values())
    return Asked(
        name, strings=len(texts) - differing, strings_differing=differing, conversations=len(asked), notes=tuple(notes)
    )


def _ids(encoder: Encoder, text: str) -> list[int]:
    return [int(id_) for id_ in encoder.encode([text])[0]]


def _guarded(message: Message) -> Message:
    content = message["content"]
    for marker in SPECIAL_TOKENS:
        content = content.replace(marker, marker[0] + GUARD + marker[1:])
    return {**message, "content": content}


def _short(text: str, most: int = 80) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}…")


def _other_ids(name: str, of: str, theirs: Sequence[int], ours: Sequence[int]) -> ArtifactError:
    place = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    return ArtifactError(
        f"{name} gives other ids than the training tokenizer for {of}: from place {place} on "
        f"{list(theirs[place : place + 8])} instead of {list(ours[place : place + 8])}; nothing was committed"
    )


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer as `transformers` has it."""
    from transformers import AutoTokenizer

    with _no_warnings():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """`transformers` warns of architectures that it does not know, and of texts longer than a model: it reads both."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def ask_transformers_tokenizer(folder: Path, source: Source) -> Asked:
    """Compare the folder's tokenizer as `transformers` loads it. Raises: ArtifactError when it gives other ids."""
    from transformers import __version__

    theirs = load_tokenizer(folder)
    markers = theirs.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    if markers != [EOS_ID, USER_ID, ASSISTANT_ID]:
        raise _other_ids("transformers", f"the markers {SPECIAL_TOKENS}", markers, [EOS_ID, USER_ID, ASSISTANT_ID])

    def encode(text: str) -> list[int]:
        ids: list[int] = theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def encode_chat(messages: Sequence[Message]) -> list[int]:
        rendered = theirs.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        ids: list[int] = theirs(rendered, add_special_tokens=False)["input_ids"]
        return ids

    return ask_tokenizer(f"transformers {__version__} (tokenizer alone)", encode, encode_chat, source)


# ── A program that runs the model ─────────────────────────────────────────────────────────────────────────────────────


def ask_runtime(name: str, path: Path, source: Source, stored: Stored, delivered: Delivered | None = None) -> Asked:
    """Ask one program about what was written.

    Args:
        name: a row of RUNTIMES.
        path: the folder or file that it loads.
        stored: how weights are stored.
        delivered: what the file holds, which reads the answers; None: the checkpoint reads them, as may be where the
            file holds its very numbers.

    Raises: ArtifactError for ids, logits or answers that differ, with prompt, place and ids.
    """
    if (line := RUNTIMES[name].missing()) is not None:
        return Asked(name, not_asked=line)
    encoder = encoder_of(source)
    heldout = heldout_rows(source, 1, _LOGIT_TOKENS)[0].tolist()
    beginnings = _beginnings(encoder, source.model.max_positions)
    longest = max(len(heldout), *(len(ids) + questions.GREEDY_TOKENS for ids in beginnings.values()))
    context = min(source.model.max_positions, longest)
    settings, margin = _how(name, source, stored)
    loaded = RUNTIMES[name].load(path, dataclasses.replace(settings, context=context))
    try:
        tokenized = ask_tokenizer(loaded.runtime, loaded.encode, loaded.encode_chat, source, RULES.get(name, ()))
        theirs_TV = loaded.logits(heldout)
        progress, answers = Progress(f"ask {name}", len(beginnings), "prompts"), {}
        for prompt, ids in beginnings.items():
            answers[prompt] = _answer(loaded, ids, context)
            progress.update()
        runtime = loaded.runtime
    finally:
        loaded.close()
    del loaded
    rows = [heldout, *(ids + answers[prompt] for prompt, ids in beginnings.items())]
    agreeing = 0
    with contextlib.closing(_read(source, delivered, rows)) as read:
        kl, difference = _compare(theirs_TV, next(read))
        if not kl <= margin.kl:
            raise ArtifactError(
                f"{runtime} computes other logits than the model that was exported: {kl:.3g} nats of KL per token on "
                f"held-out text, accepted is {margin.kl:g}; a logit differs by {difference:.3g} at most: nothing was "
                "committed"
            )
        for (prompt, ids), logits_TV in zip(beginnings.items(), read, strict=True):
            agreeing += _likeliest(runtime, prompt, ids, answers[prompt], logits_TV, margin, encoder)
    return dataclasses.replace(
        tokenized,
        prompts=len(beginnings),
        greedy_tokens=sum(map(len, answers.values())),
        greedy_agreeing=agreeing,
        kl=kl,
    )


def _how(name: str, source: Source, stored: Stored) -> tuple[LoadSettings, Margin]:
    """How a program loads the model, and what its rounding may do."""
    counts = parameter_counts(source.model)
    fits = 4 * (counts["total"] + counts["embedding"]) <= EXACT_BYTES
    # threads wait for each other longer than they take for a small matrix, where other work shares the cores
    threads = 1 if counts["total"] < _THREADS_HELP else None
    if name == "transformers":
        dtype = "bfloat16" if stored.bits == 32 and not fits else "auto"
        return LoadSettings(exact=fits, dtype=dtype, threads=threads), EXACT if fits else HALF
    # llama.cpp multiplies the stored numbers as they are, whatever it is asked for
    exact = stored.is_float and stored.bits == 32
    return LoadSettings(exact=True, threads=threads), EXACT if exact else INTEGER


def _beginnings(encoder: Encoder, positions: int) -> dict[str, list[int]]:
    """The prompts, by how they read, as ids; cut at the front where the model has not the positions for an answer."""
    room = max(1, positions - questions.GREEDY_TOKENS) if positions > questions.GREEDY_TOKENS else positions // 2
    found: dict[str, list[int]] = {}
    asked = questions.prompts()
    for prompt in asked[:: max(1, len(asked) // questions.PROMPTS)]:
        ids = _ids(encoder, prompt) if isinstance(prompt, str) else encoder.encode_prompt(prompt).tolist()
        found[prompt if isinstance(prompt, str) else str(prompt[-1]["content"])] = ids[-room:]
    return found


def _answer(loaded: Loaded, ids: list[int], context: int) -> list[int]:
    """The greedy ids after a prompt; where it ended by itself, its end too."""
    most = min(questions.GREEDY_TOKENS, context - len(ids))
    answer = list(loaded.stream(ids, Sampling(**{**vars(GREEDY), "max_new_tokens": most})))
    return answer if len(answer) == most else [*answer, loaded.eos]


def _read(source: Source, delivered: Delivered | None, rows: Sequence[list[int]]) -> Generator[Tensor]:
    """Logits after each id of each row, (T, V) of one row after the other, from one pass over the weights."""
    rows_BT = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for number, row in enumerate(rows):  # what follows a row never reaches it: attention is causal
        rows_BT[number, : len(row)] = torch.tensor(row)
    if delivered is None:
        logits = own_answers(source, rows_BT).logits()
        yield from (logits_TV[: len(row)] for row, logits_TV in zip(rows, logits, strict=True))
        return
    with llama_answers(llama_config_of(delivered), delivered.weights(), rows_BT) as logits:
        yield from (logits_TV[: len(row)] for row, logits_TV in zip(rows, logits, strict=True))


def _compare(theirs_TV: NDArray[np.float32], ours_TV: Tensor) -> tuple[float, float]:
    """KL in nats per token, ours to theirs, and the largest difference of a logit."""
    given_TV = torch.from_numpy(np.ascontiguousarray(theirs_TV, dtype=np.float32))
    difference = float((given_TV - ours_TV).abs().max())
    kl = torch.nn.functional.kl_div(given_TV.log_softmax(-1), ours_TV.log_softmax(-1), reduction="sum", log_target=True)
    return max(0.0, float(kl) / len(ours_TV)) if torch.isfinite(kl) else float("nan"), difference


def _likeliest(
    name: str, prompt: str, ids: list[int], answer: list[int], logits_TV: Tensor, margin: Margin, encoder: Encoder
) -> int:
    """How many ids of an answer are the likeliest at their places. Raises: ArtifactError where one is far from it."""
    at_TV = logits_TV[len(ids) - 1 : len(ids) - 1 + len(answer)]
    chosen = at_TV.gather(1, torch.tensor(answer)[:, None])[:, 0]
    likeliest, best = at_TV.max(dim=1)
    behind = likeliest - chosen
    for place in (~(behind <= margin.nats)).nonzero()[:, 0].tolist():
        wanted = int(best[place])
        raise ArtifactError(
            f"{name} answers otherwise than the model that was exported: to {_short(prompt)}, at new token {place + 1} "
            f"of {len(answer)}, it chose id {answer[place]} ({encoder.decode([answer[place]], False)!r}), which is "
            f"{float(behind[place]):.3g} nats behind the likeliest, {wanted} ({encoder.decode([wanted], False)!r}); "
            f"accepted is {margin.nats:g}: nothing was committed"
        )
    return int((best == torch.tensor(answer)).sum())
