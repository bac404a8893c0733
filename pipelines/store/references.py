"""References: how a config names an artifact, or a checkpoint of a run.

Enters: text, `kind/name[@step-200 | @latest]`. Leaves: its parts, and the folder in the store. A name is a path of the
store, so what cannot be one is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipelines.errors import ConfigError

_REFERENCE = re.compile(r"(?P<kind>[a-z_]+)/(?P<name>\w[\w.-]*)(@(?P<at>latest|step-(?P<step>\d+)))?")


@dataclass(frozen=True)
class Reference:
    """`kind/name`, optionally `@step-200` or `@latest` for a checkpoint inside a training run."""

    kind: str
    name: str
    at: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises: ConfigError when `text` is not of the form above."""
        match = _REFERENCE.fullmatch(text)
        if not match:
            raise ConfigError(
                f"{text!r} is not a reference; expected kind/name, kind/name@step-200 or kind/name@latest, e.g. "
                "pretrain/demo@latest"
            )
        return cls(match["kind"], match["name"], match["at"])

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        return self.folder + (f"@{self.at}" if self.at else "")
