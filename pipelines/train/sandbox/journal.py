"""The journal of a search, kept beside what the search made, in a folder or in a bucket.

Enters: what Optuna writes down of its trials. Leaves: one object of JSON Lines in the store. It is Optuna's own format
(`JournalFileBackend` and optuna-dashboard read a copy of it), but not its own file: that one is appended to, needs a
lock, cannot lie on S3, and is unreadable once a killed driver has left half a line. This object is written whole.
"""

from __future__ import annotations

import json
from typing import Any

from pipelines.store.storage import Storage


class DamagedJournal(ValueError):
    """A journal that Optuna cannot have written; the message follows its name."""


class Journal:
    """A backend for Optuna's `JournalStorage`. It is one driver's alone: the sandbox holds a lease on its folder."""

    def __init__(self, storage: Storage, key: str):
        """Args: key, of the object in the store. Raises: DamagedJournal."""
        self.storage, self.key = storage, key
        text = storage.find(key) or b""
        try:
            self.entries: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        except ValueError as error:
            raise DamagedJournal(f"holds a line that is no JSON ({error})") from error
        if not all(isinstance(entry, dict) and "op_code" in entry for entry in self.entries):
            raise DamagedJournal("holds a line that is no entry of a journal")
        self._lines = [line + b"\n" for line in text.splitlines()]
        self._saved = len(self.entries)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Entries from this number on."""
        return self.entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries; they are in the store after `save`."""
        for entry in logs:
            line = json.dumps(entry, separators=(",", ":"))
            # through JSON, so that what this driver goes on with is what the next one reads
            self.entries.append(json.loads(line))
            self._lines.append(line.encode() + b"\n")

    def save(self) -> None:
        """Put the journal into the store, where there is something new."""
        if len(self.entries) > self._saved:
            self.storage.write(self.key, b"".join(self._lines))
            self._saved = len(self.entries)
