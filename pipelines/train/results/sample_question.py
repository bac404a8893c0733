"""What a person is shown to ask a delivered model: something of its own held-out data.

Enters: the tokens that a model was trained on, and its lineage. Leaves: for a model that was taught to answer, the
first question of a held-out conversation; for one that only continues text, the first words of a held-out document.
Where nothing of that kind is held out, a placeholder, and a line that says so.

The formats write how to run a model with a question of the demo. Their source is in the fingerprint of every export:
another text there would make all finished exports stale, though it changes no weight. So the question is put into what
they wrote, here, and this module is not hashed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data.stream.preferences import open_preferences
from pipelines.data.tokens.chat import ASSISTANT_ID, USER_ID
from pipelines.data.tokens.token_sources import open_sources
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.store.artifact import Artifact
from pipelines.train.checkpoint.lineage import Link
from pipelines.train.formats.contract import Format, HowToRun
from pipelines.train.stages import STAGES
from pipelines.train.tasks.task import TOKENIZER

WRITTEN = "What is 12 plus 7?"  # the question in the formats' texts
_CHARACTERS, _WORDS = 120, 8  # of a question at most; of a beginning
_DOCUMENTS = 200  # of a source, that are looked at for a question that is short enough
_OWN_QUESTION, _OWN_BEGINNING = "your question", "the beginning of your text"

# how a text asks in the chat format, and how the same program continues a text
_CONTINUES = (
    (
        f'messages = [{{"role": "user", "content": "{WRITTEN}"}}]\ninputs = tokenizer.apply_chat_template(messages, '
        'add_generation_prompt=True, return_tensors="pt", return_dict=True)\n',
        f'inputs = tokenizer("{WRITTEN}", return_tensors="pt")\n',
    ),
    (
        f'messages = [{{"role": "user", "content": "{WRITTEN}"}}]\n'
        'print(model.create_chat_completion(messages, max_tokens=64)["choices"][0]["message"]["content"])\n',
        f'print(model.create_completion("{WRITTEN}", max_tokens=64)["choices"][0]["text"])\n',
    ),
    ("/v1/chat/completions", "/v1/completions"),
    (f'"messages": [{{"role": "user", "content": "{WRITTEN}"}}]', f'"prompt": "{WRITTEN}"'),
)


@dataclass(frozen=True)
class SampleQuestion:
    """What a model is asked first.

    Attributes: chat, whether it is a question in the chat format, or text to go on with; source, of the held-out text,
        None where nothing of that kind is held out and `text` is a placeholder.
    """

    text: str
    chat: bool
    source: str | None

    def __str__(self) -> str:
        """For an announcement."""
        if self.source is None:
            own, kind = ("a question", "conversation") if self.chat else ("a text", "document")
            return f"{own} of your own: no {kind} was held out of the training data"
        kind = "a held-out question" if self.chat else "the first words of a held-out document"
        return f"{json.dumps(self.text, ensure_ascii=False)}, {kind} of {self.source}"

    @property
    def remark(self) -> str:
        """A line above a text that asks it."""
        if self.source is None:
            kind, own = ("conversation", "ask a question") if self.chat else ("document", "begin a text")
            return f"no {kind} was held out of the training data: {own} of your own"
        return f"asked: {'a question' if self.chat else 'a beginning'} that was held out of training ({self.source})"


def sample_question(tokens: Artifact, links: Sequence[Link]) -> SampleQuestion:
    """What a model of these tokens is asked.

    Args: links, its lineage: a stage that starts by `initialise` has taught it to answer, as the model card says.
    """
    stages = [STAGES[kind] for link in links if (kind := link.folder.split("/")[0]) in STAGES]
    chat = any(stage.starts == "initialise" for stage in stages)
    sources = tokens.statistics["sources"]
    kinds = ("conversations", "preferences") if chat else ("documents",)
    heldout = [name for name, one in sources.items() if one["kind"] in kinds and one["heldout"]["documents"]]
    if TOKENIZER in tokens.manifest["files"] and heldout:
        encoder = Encoder(tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)
        # conversations before pairs; then what the model knows best
        for name in sorted(heldout, key=lambda n: (kinds.index(sources[n]["kind"]), -sources[n]["train"]["tokens"])):
            if (text := _first_of(tokens, name, chat, encoder)) is not None:
                return SampleQuestion(text, chat, name)
    return SampleQuestion(_OWN_QUESTION if chat else _OWN_BEGINNING, chat, None)


def _first_of(tokens: Artifact, name: str, chat: bool, encoder: Encoder) -> str | None:
    """The first held-out document of a source that gives a short question or a beginning; None where none does."""
    if tokens.statistics["sources"][name]["kind"] == "preferences":
        shard = open_preferences(tokens, "heldout", [name])[name][0].shard(0)
    else:
        shard = open_sources(tokens, "heldout", [name], ())[name].shard(0)
    for index in range(min(shard.documents, _DOCUMENTS)):
        ids = np.asarray(shard.document(index))
        if not chat:
            text = encoder.decode(ids[: 2 * _CHARACTERS]).rstrip("\ufffd")
            text = " ".join(text.split(" ")[:_WORDS])[: _CHARACTERS // 2].strip()
        else:
            ends = np.flatnonzero(ids == ASSISTANT_ID)
            if not len(ends) or ids[0] != USER_ID:
                continue
            text = encoder.decode(ids[1 : int(ends[0])]).strip()
        if text and len(text) <= _CHARACTERS:
            return text
    return None


def asking(format_: Format, question: SampleQuestion) -> Format:
    """The format, its ways to run a model with this question in them."""

    def run(folder: str) -> Sequence[HowToRun]:
        return tuple(_asked(way, question) for way in format_.run(folder))

    return dataclasses.replace(format_, run=run)


def _asked(way: HowToRun, question: SampleQuestion) -> HowToRun:
    if WRITTEN not in way.text:
        return way
    text = way.text
    if not question.chat:
        for asks, continues in _CONTINUES:
            text = text.replace(asks, continues)
    quoted = json.dumps(question.text, ensure_ascii=False)
    if way.language == "bash":  # within single quotes
        quoted = quoted.replace("'", "'\\''")
    text = text.replace(json.dumps(WRITTEN), quoted)
    if way.language != "text":
        text = f"# {question.remark}\n{text}"
    return dataclasses.replace(way, text=text)
