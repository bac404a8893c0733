"""`on_change=rebuild` of a command that makes many artifacts: each is made anew once, however often it is cut.

Enters: what the command makes, and in which configuration. Leaves: a note in the store of what is made anew already,
until all is: `.rebuilds/recipe/<name>.json`, `.rebuilds/sweep/<group>.json`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, TypeVar

from pipelines.config import WorkflowConfig
from pipelines.display.progress import say
from pipelines.identity import fingerprint
from pipelines.store.sealed import sealed, unsealed
from pipelines.store.storage import Storage

C = TypeVar("C", bound=WorkflowConfig)


class Rebuild:
    """What of a rebuild is done."""

    def __init__(self, storage: Storage, name: str, decides: Any, on: bool):
        """Args: name, of the command's note, e.g. recipe/demo; decides, plain data that another rebuild of that name
        would have otherwise; on, whether something is to be made anew.
        """
        self._storage, self._name, self._key, self._on = storage, name, f".rebuilds/{name}.json", on
        self._decides = fingerprint(decides)
        self._done: list[str] = []
        if self._on and (text := self._storage.find(self._key)) is not None:
            with contextlib.suppress(ValueError):  # a damaged note: everything is made anew
                note = unsealed(text, ())
                self._done = note["done"] if note.get("decides") == self._decides else []
            if self._done:
                say(
                    f"   the rebuild of {name} was interrupted and goes on: made anew already are "
                    f"{', '.join(self._done)} (delete {self._storage.uri}/{self._key} to begin with the first again)"
                )

    def once(self, config: C, folder: str) -> C:
        """The config of an artifact, without the rebuild where that is done."""
        return dataclasses.replace(config, on_change="refuse") if folder in self._done else config

    def done(self, folder: str) -> None:
        """Note that an artifact is made anew."""
        if self._on and folder not in self._done:
            self._done.append(folder)
            self._storage.write(self._key, sealed({"decides": self._decides, "done": self._done}))

    def over(self) -> None:
        """Forget about it: all is made."""
        if self._on:
            self._storage.delete(self._key)
