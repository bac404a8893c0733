"""The documents of a batch on their way through the passes: what each is now, and which are still in the running.

Enters: documents as their reader gave them. Leaves: for each, in order, the clean document or the reason why there is
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import config_class
from pipelines.data.text.document import Document, Dropped


class Batch:
    """Args: documents; notes, the keys that passes write into metadata: a record's own fields of these names go.

    Attributes: texts and languages, one for each document; alive, the indices of those that no pass has dropped,
        ascending.
    """

    def __init__(self, documents: Sequence[Document], notes: Iterable[str]):
        self.documents = documents
        self.texts: list[str] = []
        self.languages = [""] * len(documents)
        self.alive = list(range(len(documents)))
        self._dropped: dict[int, Dropped] = {}
        keys = tuple(notes)
        for document in documents:
            for key in keys:
                document.metadata.pop(key, None)

    @property
    def living(self) -> list[str]:
        """The texts of those that are alive."""
        return [self.texts[i] for i in self.alive]

    def drop(self, reasons: Sequence[str | None]) -> None:
        """Take those out of the running that have a reason; `reasons` has one entry for each that was in it."""
        self.take_out(
            {
                i: Dropped(reason, self.documents[i].id, self.texts[i])
                for i, reason in zip(self.alive, reasons, strict=True)
                if reason is not None
            }
        )

    def take_out(self, dropped: Mapping[int, Dropped]) -> None:
        """Take these out of the running, by index, for what is given."""
        self._dropped.update(dropped)
        self.alive = [i for i in self.alive if i not in self._dropped]

    def results(self) -> list[Document | Dropped]:
        """One entry for each document; those that stay have their text and language as they are now."""
        for i in self.alive:
            self.documents[i].text = self.texts[i]
            self.documents[i].metadata["language"] = self.languages[i]
        return [self._dropped.get(i, document) for i, document in enumerate(self.documents)]


@config_class
class FurtherSettings:
    """What a further pass is told; its `Settings` extend this with `name: Literal["…"] = "…"` and thresholds."""

    name: str


@dataclass(frozen=True)
class FurtherPass:
    """A pass that a recipe can ask for (see `further`).

    Attributes: Settings, the class of its mapping in the recipe. run, which drops documents of a batch for named
        reasons (`batch.drop`). again: whether documents that lost lines as boilerplate are judged anew.
    """

    Settings: type[FurtherSettings]
    run: Callable[[Batch, Any], None]
    again: bool = True
