"""Sample completions: what the model makes of a few prompts, for people to read. No number comes of it.

Where nobody names prompts, they are the first words of documents, and the questions of conversations, that the tokens
of the model hold out: the first ones of each source in stored order, alike for every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Amount, Count, changed, config_class
from pipelines.data.tokens.chat import ASSISTANT_ID, EOS_ID, USER_ID
from pipelines.data.tokens.token_sources import open_sources
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.tasks.task import TOKENIZER, Measured, Sample, Subject, Task, TaskPlan, TaskSettings

if TYPE_CHECKING:
    from pipelines.train.network.model import Transformer

_KINDS = ("documents", "conversations")  # of sources whose held-out text gives prompts
_HELDOUT_PROMPTS = 6  # of all sources together
_FIRST_IDS, _FIRST_WORDS, _FIRST_CHARACTERS = 48, 8, 48  # of a document: what it begins with
_SMALL = 50_000_000  # parameters, below which a second thread costs a token more than it gives


@config_class
class Prompt:
    """What a sample completion continues."""

    text: str
    chat: bool = False  # a question in the chat format, instead of text to go on with


@config_class
class CompletionSettings(TaskSettings):
    """Which prompts, and how they are continued."""

    # null: of held-out documents; []: none, and no tokenizer is needed
    prompts: tuple[Prompt, ...] | None = changed(None, founding=())
    max_new_tokens: Count = 48
    temperature: Amount = 0.0  # 0: greedy

    def __post_init__(self) -> None:
        """Raises: ConfigError for a prompt without text."""
        if empty := [place for place, prompt in enumerate(self.prompts or ()) if not prompt.text.strip()]:
            raise ConfigError(
                f"tasks.completions.prompts[{empty[0]}].text is empty; expected text to go on with, or a question "
                "(chat: true)"
            )


def plan_completions(subject: Subject, settings: CompletionSettings) -> TaskPlan:
    """Raises: ArtifactError where there are prompts and no tokenizer."""
    if settings.prompts and TOKENIZER not in subject.tokens.manifest["files"]:
        raise ArtifactError(
            f"{subject.tokens.folder} holds no tokenizer ({TOKENIZER}), so prompts cannot be encoded: pass "
            "tasks.completions.prompts=[] to go without sample completions, or tokens=tokens/<name> of one that has it"
        )
    drawn = f"temperature {settings.temperature:g}" if settings.temperature else "greedy"
    if settings.prompts is None:
        count = sum(count for _, count in _heldout_counts(subject.tokens))
        where = (
            f"the first words of held-out documents, {drawn}" if count else "none: no text is held out, or no tokenizer"
        )
        return TaskPlan(announcement=f"{count}, {where}" if count else where, samples=count)
    return TaskPlan(announcement=f"{len(settings.prompts)}, {drawn}", samples=len(settings.prompts))


def _heldout_counts(tokens: Artifact) -> list[tuple[str, int]]:
    """Sources that hold text out, and of how many of its documents each gives the beginning."""
    if TOKENIZER not in tokens.manifest["files"]:
        return []
    sources = tokens.statistics["sources"]
    held = {kind: [n for n, s in sources.items() if s["kind"] == kind and s["heldout"]["documents"]] for kind in _KINDS}
    names = [name for kind in _KINDS for name in held[kind]][:_HELDOUT_PROMPTS]
    each = max(1, _HELDOUT_PROMPTS // 2 // max(1, len(names)))
    return [(name, min(each, sources[name]["heldout"]["documents"])) for name in names]


def heldout_prompts(tokens: Artifact, encoder: Encoder) -> Iterator[Prompt]:
    """The beginnings of held-out documents, and questions of held-out conversations, source by source."""
    for name, count in _heldout_counts(tokens):
        source = open_sources(tokens, "heldout", [name], ())[name]
        shard, found = source.shard(0), 0
        for index in range(shard.documents):
            ids = np.asarray(shard.document(index))
            prompt = _question(ids, encoder) if source.kind == "conversations" else _beginning(ids, encoder)
            if prompt is not None:
                yield prompt
                found += 1
            if found == count:
                break


def _beginning(ids: NDArray[Any], encoder: Encoder) -> Prompt | None:
    """The first words of a document; of a script without spaces so many characters."""
    text = encoder.decode(ids[:_FIRST_IDS]).rstrip("\ufffd")
    cut = " ".join(text.split(" ")[:_FIRST_WORDS])[:_FIRST_CHARACTERS].rstrip()
    return Prompt(text=cut) if cut.strip() else None


def _question(ids: NDArray[Any], encoder: Encoder) -> Prompt | None:
    """The first question of a conversation."""
    ends = np.flatnonzero(ids == ASSISTANT_ID)
    if not len(ends) or ids[0] != USER_ID or ends[0] > 2 * _FIRST_IDS:
        return None
    text = encoder.decode(ids[1 : int(ends[0])])
    return Prompt(text=text, chat=True) if text.strip() else None


def measure_completions(model: Transformer, subject: Subject, settings: CompletionSettings) -> Measured:
    """Continue every prompt."""
    if settings.prompts == () or TOKENIZER not in subject.tokens.manifest["files"]:
        return Measured()
    encoder = Encoder(subject.tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)
    asked = list(heldout_prompts(subject.tokens, encoder)) if settings.prompts is None else list(settings.prompts)
    if not asked:
        return Measured()
    prompts = [
        encoder.encode_prompt([{"role": "user", "content": prompt.text}])
        if prompt.chat
        else encoder.encode([prompt.text])[0]
        for prompt in asked
    ]
    import torch

    from pipelines.train.tasks.generate import complete

    threads = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < _SMALL
    torch.set_num_threads(1 if small else threads)
    try:
        made = complete(model, prompts, settings.max_new_tokens, EOS_ID, settings.temperature, subject.seed)
    finally:
        torch.set_num_threads(threads)
    samples = (
        Sample(
            prompt=prompt.text,
            note="question in the chat format" if prompt.chat else "text to go on with",
            text=encoder.decode(ids),
            tokens=len(ids),
        )
        for prompt, ids in zip(asked, made, strict=True)
    )
    return Measured(samples=tuple(samples))


COMPLETIONS = Task(
    Settings=CompletionSettings,
    plan_task=plan_completions,
    measure=measure_completions,
    title="Sample completions",
    reading="What the model writes; no number comes of it.",
)
