"""What runtimes share: an answer, id by id, with what was read before kept, and a smaller model that proposes.

Legend: T positions, V vocabulary.

Enters: ids and `Sampling`. Leaves: new ids. A runtime gives three operations on its key-value cache (`_read`, `_keep`,
`_logits_of_all`); the rest is here, so that runtimes differ in arithmetic alone.

Speculative decoding (arXiv 2211.17192): the draft proposes some ids, the model reads all of them in one pass, and from
its own logits chooses as it would have without them. A proposal that equals the choice is accepted; the first that
differs ends the pass. So every id is the model's own choice, and the draft changes the speed alone: the same seed gives
the same answer at any temperature, but for the rounding of passes of another length. Acceptance by the ratio of
probabilities, as the paper has it, would accept more of a sampled answer and give another one.

Why not `generate(assistant_model=…)` of `transformers` and `draft_model=` of llama-cpp-python: each streams and samples
in its own way, and neither says how many proposals were accepted. `benchmarks/speculative.py` compares with the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ConfigError
from pipelines.train.runtimes.contract import DraftCounts, Loaded, LoadSettings, Message, Sampling
from pipelines.train.runtimes.sampling import Sampler

_FIRST_PROPOSALS, _MOST_PROPOSALS = 4, 16
# what tokenizers of different models are seen to disagree on
_PROBES = (
    "Once upon a time, 12 + 7 = 19.\n\n\tdef f(x):\n        return x**2  # end\n",
    "话说天下大势，分久必合，合久必分。 I'LL we're ... ١٢٣ １２３ e\u0301 👩‍👩‍👧 a</s>b",
)


class Answering:
    """The part of a `Loaded` that no runtime does for itself."""

    runtime: str
    context: int
    eos: int
    vocabulary: int
    draft: DraftCounts | None = None
    prompt_read = 0

    def __init__(self) -> None:
        self._held: list[int] = []  # ids in the key-value cache
        self._ends: set[int] = set()  # ids that end an answer
        self._drafting: Answering | None = None
        self._proposals = _FIRST_PROPOSALS

    # ── What a runtime does ───────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> bytes:
        raise NotImplementedError

    def _read(self, ids: Sequence[int], last: int) -> NDArray[np.float32]:
        """Put ids behind those in the cache. Returns: logits after the `last` ones of them, (last, V)."""
        raise NotImplementedError

    def _keep(self, count: int) -> None:
        """Leave the first `count` ids in the cache."""
        raise NotImplementedError

    def _logits_of_all(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each id, (T, V). The cache may be used for it; it is emptied afterwards."""
        raise NotImplementedError

    def _release(self) -> None:
        """Give the memory back."""
        raise NotImplementedError

    # ── What all do alike ─────────────────────────────────────────────────────────────────────────────────────────────

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each id, (T, V)."""
        self._refuse_length(ids)
        self._forget(0)
        try:
            return self._logits_of_all(ids)
        finally:
            self._forget(0)

    def stream(self, ids: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """New ids, each as soon as it is chosen; `Loaded.stream` says more."""
        self._refuse_length(ids)
        sampler, text = Sampler(sampling, ids), list(ids)
        room = min(sampling.max_new_tokens, self.context - len(ids))
        self.draft = DraftCounts() if self._drafting else None
        kept = shared_prefix(self._held, text[:-1])
        self.prompt_read = len(text) - kept
        proposals: list[int] = []
        while room:
            self._forget(kept)
            rows = self._advance([*text[kept:], *proposals], 1 + len(proposals))
            accepted = 0
            for place, logits_V in enumerate(rows):
                chosen = sampler.choose(logits_V)
                if chosen in self._ends:
                    return
                text.append(chosen)
                room -= 1
                if agreed := place < len(proposals) and proposals[place] == chosen:
                    accepted += 1
                    assert self.draft is not None
                    self.draft.accepted += 1
                yield chosen
                if not agreed or not room:
                    break
            kept = len(text) - 1
            proposals = self._proposed(text, room, accepted, len(proposals))

    def draw_on(self, draft: Any) -> None:
        """Let another loaded model propose ids from now on. Raises: ConfigError when it has another tokenizer."""
        if difference := tokenizers_differ(self, draft):
            raise ConfigError(
                f"the draft has another tokenizer ({difference}): what it proposes means nothing to the model; draft "
                "takes a smaller model that was trained on the same tokens"
            )
        self._drafting = draft

    def forget(self) -> None:
        """Read everything anew from now on."""
        self._forget(0)
        if self._drafting is not None:
            self._drafting.forget()

    def close(self) -> None:
        """Give the memory back, that of the draft too."""
        self._held = []
        self._release()
        if self._drafting is not None:
            self._drafting.close()

    def _proposed(self, text: list[int], room: int, accepted: int, proposed: int) -> list[int]:
        """What the draft says comes next; more of it where it was right, less where it was not."""
        if self._drafting is None or self.draft is None:
            return []
        if proposed:
            self._proposals += 2 if accepted == proposed else -1
            self._proposals = max(1, min(_MOST_PROPOSALS, self._proposals))
        # the pass itself chooses one more
        count = min(self._proposals, room - 1, self.context - len(text) - 1)
        proposals = self._drafting.propose(text, count, self.vocabulary)
        self.draft.proposed += len(proposals)
        return proposals

    def propose(self, text: Sequence[int], count: int, vocabulary: int) -> list[int]:
        """The `count` likeliest next ids, one after the other; fewer at an answer's end or this model's last place."""
        proposals: list[int] = []
        kept = shared_prefix(self._held, text[:-1])
        ahead = list(text[kept:])
        while len(proposals) < count and len(text) + len(proposals) <= self.context:
            self._forget(kept)
            chosen = int(self._advance(ahead, 1)[0].argmax())
            if chosen in self._ends or chosen >= vocabulary:
                break
            proposals.append(chosen)
            kept, ahead = len(self._held), [chosen]
        return proposals

    def _advance(self, ids: Sequence[int], last: int) -> NDArray[np.float32]:
        """`_read`, and nothing in the cache that is not known to be there, whatever interrupts it."""
        held, self._held = self._held, []
        try:
            logits = self._read(ids, last)
        except BaseException:
            self._keep(0)
            raise
        self._held = [*held, *ids]
        return logits

    def _forget(self, kept: int) -> None:
        if kept < len(self._held) or not kept:
            self._keep(kept)
            self._held = self._held[:kept]

    def _refuse_length(self, ids: Sequence[int]) -> None:
        if not 0 < len(ids) <= self.context:
            raise ConfigError(
                f"{len(ids):,} ids were given to a model of {self.context:,} positions; expected 1 to "
                f"{self.context:,}: shorten the text"
            )


def shared_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at the beginning are the same."""
    count = 0
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            break
        count += 1
    return count


def tokenizers_differ(one: Loaded | Answering, other: Loaded | Answering) -> str:
    """In what two models' tokenizers differ, "" where they do not.

    Compared are what each id spells, the end, and the ids of some texts. One model may have more ids than the other if
    they spell nothing: some are padded to a round number.
    """
    if one.eos != other.eos:
        return f"an answer ends with id {other.eos}, not {one.eos}"
    for id_ in range(max(one.vocabulary, other.vocabulary)):
        if one.decode([id_]) != other.decode([id_]):
            return f"id {id_} spells {other.decode([id_])!r} for one and {one.decode([id_])!r} for the other"
    for probe in _PROBES:
        if one.encode(probe) != other.encode(probe):
            return f"other ids for {probe[:20]!r}"
    return ""


def context_of(settings: LoadSettings, trained: int, path: object) -> int:
    """Positions to make room for. Raises: ConfigError for more than the model was trained with."""
    if settings.context is None:
        return min(trained, settings.at_most or trained)
    if settings.context > trained:
        raise ConfigError(
            f"a context of {settings.context:,} positions was asked for, and {path} was trained with {trained:,}: ask "
            "for at most that"
        )
    return settings.context
