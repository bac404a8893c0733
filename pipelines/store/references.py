"""References: how a config names an artifact, or a checkpoint of a run.

Enters: text, `kind/name[@step-200 | @latest]`. Leaves: its parts, and the folder in the store. A name is a path of the
store, so what cannot be one is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import LONGEST_NAME
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
                f"pretrain/demo@latest{_meant(text)}"
            )
        if len(match["name"].encode()) > LONGEST_NAME:
            raise ConfigError(f"{text[:40]}… is no reference: a name has {LONGEST_NAME} bytes at most")
        return cls(match["kind"], match["name"], match["at"])

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        return self.folder + (f"@{self.at}" if self.at else "")


def _meant(text: str) -> str:
    """What else was typed in the place of a reference: a clause with what to write, or nothing."""
    if run := re.search(r"://.*/runs/(?P<id>[0-9a-f]{32})\b", text):
        return f": of a page of MLflow, write the run's id alone, {run['id']}"
    if "://" in text:
        return ": nothing is read from an address here; an artifact is made in the store first"
    if inside := re.search(r"(?:^|/)(?P<folder>[a-z_]+/\w[\w.-]*)/checkpoints/(?:step-)?0*(?P<step>\d+)/?$", text):
        return f": write {inside['folder']}@step-{inside['step']}"
    if step := re.fullmatch(r"(?P<folder>[a-z_]+/\w[\w.-]*)[@:](?:step)?[-_:=]?0*(?P<step>\d+)", text):
        return f": write {step['folder']}@step-{step['step']}"
    if len(text.encode()) > LONGEST_NAME:
        return ""
    path, plain = Path(text).expanduser(), re.fullmatch(r"\w[\w.-]*", text)
    if (path / "manifest.json").is_file() and len(path.absolute().parts) > 3:
        kind, name = path.absolute().parts[-2:]
        return f": that folder is {kind}/{name} of a store: write {kind}/{name} with store={path.absolute().parents[1]}"
    if path.is_file() or re.search(r"\.(jsonl?|txt|csv|parquet|md|html?|gz|zst|bin|safetensors|gguf)$", text):
        return (
            ": files become artifacts first: text by `python -m workflows.corpus` (corpus=own_data shows how), then "
            "tokenize and mixture"
        )
    if path.is_dir():
        kinds = f"its kind is missing, as in mixture/{text}, or a folder was meant: " if plain else ""
        return (
            f": {kinds}a folder is no artifact; its files become one by `python -m workflows.corpus` (corpus=own_data)"
        )
    if plain:
        return f": its kind is missing, as in mixture/{text} or pretrain/{text}"
    if text != text.lower() and _REFERENCE.fullmatch(text.partition("/")[0].lower() + "/" + text.partition("/")[2]):
        return f": write {text.partition('/')[0].lower()}/{text.partition('/')[2]}"
    return ""
