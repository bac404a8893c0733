"""Artifacts: what one workflow leaves for the next, committed by a manifest written last.

An artifact is the folder `<store>/<kind>/<name>/`. Its life:

    begin    `claim.json` records the fingerprint before any work, so an unfinished run is resumed only by the same config
    publish  each finished piece (a shard, a source) gets a receipt naming its files, sizes and checksums
    commit   `manifest.json` is written; from here on the artifact exists

The fingerprint covers the config that changes the result, the inputs' fingerprints and the code that makes it. The same
name with another fingerprint is refused with a diff: nothing stale is served silently and no name is re-addressed.
"""

from __future__ import annotations

import ast
import datetime
import functools
import hashlib
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pipelines
from pipelines.config import difference, fingerprint
from pipelines.errors import ArtifactError, ConfigError
from pipelines.storage import Storage, open_storage, sha256

OnChange = Literal["refuse", "rebuild", "keep"]
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
                f"{text!r} is not a reference; expected kind/name, kind/name@step-200 or kind/name@latest, e.g. pretrain/demo@latest"
            )
        return cls(match["kind"], match["name"], match["at"])

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.name}"

    def __str__(self) -> str:
        return self.folder + (f"@{self.at}" if self.at else "")


@dataclass(frozen=True)
class Artifact:
    """A committed result, read-only."""

    storage: Storage
    folder: str
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.manifest["config"])

    @property
    def statistics(self) -> dict[str, Any]:
        return dict(self.manifest["statistics"])

    def path(self, file: str) -> Path:
        """A local path to one of the artifact's files, its size checked against the manifest.

        Raises: ArtifactError when the file is not in the manifest or its size differs.
        """
        entry = self.manifest["files"].get(file)
        if entry is None:
            raise ArtifactError(f"{self.folder} holds no file {file}; it holds {_some(self.manifest['files'])}")
        path = self.storage.fetch(f"{self.folder}/{file}")
        if path.stat().st_size != entry["bytes"]:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}: it was changed after it was made; rebuild with on_change=rebuild"
            )
        return path

    def verified(self, file: str) -> Path:
        """`path` with the checksum compared as well: reads the whole file once."""
        path = self.path(file)
        if sha256(path) != self.manifest["files"][file]["sha256"]:
            raise ArtifactError(
                f"{path} does not match its checksum: it was changed or damaged after it was made; rebuild with on_change=rebuild"
            )
        return path

    def json(self, file: str) -> Any:
        """The parsed content of a JSON file of this artifact."""
        return json.loads(self.path(file).read_bytes())


@dataclass(frozen=True)
class Draft:
    """An artifact being made. Picklable: shard functions on other machines publish into it."""

    storage: Storage
    folder: str
    claim: dict[str, Any]

    def scratch(self, file: str) -> Path:
        """A local path to write `file` to, before `publish`."""
        return self.storage.scratch(f"{self.folder}/{file}")

    def publish(
        self, piece: str, files: Mapping[str, Path], statistics: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Commit one piece of the artifact: its finished local files, then its receipt.

        Args:
            piece: a name derived from the piece's *input*, so a rerun finds it whatever the number of workers.
            files: name inside the artifact -> finished scratch file (consumed).
            statistics: JSON-able facts, kept with the receipt.

        Returns: the receipt, `{"files": {name: {"bytes", "sha256"}}, "statistics": {...}}`.
        """
        entries = {}
        for name, source in files.items():
            entries[name] = {"bytes": source.stat().st_size, "sha256": sha256(source)}
            self.storage.put(source, f"{self.folder}/{name}")
        receipt = {"files": entries, "statistics": dict(statistics or {})}
        self.storage.write(f"{self.folder}/receipts/{piece}.json", _json_bytes(receipt))
        return receipt

    def receipt(self, piece: str) -> dict[str, Any] | None:
        """The receipt of a piece published earlier, or None."""
        found = self.storage.find(f"{self.folder}/receipts/{piece}.json")
        return None if found is None else json.loads(found)

    def commit(self, config: Any, statistics: Mapping[str, Any], licences: Mapping[str, str] | None = None) -> Artifact:
        """Write the manifest, last: the files of every receipt. From here on the artifact exists."""
        files: dict[str, Any] = {}
        for receipt in self.storage.read_all(self.storage.keys(f"{self.folder}/receipts")):
            files.update(json.loads(receipt)["files"])
        manifest = {
            "kind": self.folder.split("/")[0],
            "name": self.folder.split("/")[1],
            **self.claim,
            "config": config,
            "statistics": dict(statistics),
            "licences": dict(licences or {}),
            "files": dict(sorted(files.items())),
            "code_version": code_version(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self.storage.write(f"{self.folder}/manifest.json", _json_bytes(manifest))
        self.storage.sweep(self.folder)
        return Artifact(self.storage, self.folder, manifest)


class ArtifactStore:
    """Every artifact under one store URI."""

    def __init__(self, uri: str):
        self.storage = open_storage(uri)
        self.uri = self.storage.uri  # absolute: workers start in other folders

    def find(self, folder: str) -> Artifact | None:
        """The committed artifact `kind/name`, or None."""
        found = self.storage.find(f"{folder}/manifest.json")
        return None if found is None else Artifact(self.storage, folder, json.loads(found))

    def get(self, reference: str) -> Artifact:
        """The committed artifact named by `reference`.

        Raises: ArtifactError when it is missing or unfinished, naming what is there and the command that makes it.
        """
        parsed = Reference.parse(reference)
        if (found := self.find(parsed.folder)) is not None:
            return found
        state = (
            "has begun but is not finished" if self.storage.exists(f"{parsed.folder}/claim.json") else "does not exist"
        )
        raise ArtifactError(
            f"{parsed.folder} {state} in {self.storage.uri}; there is {self._siblings(parsed.kind)}: "
            f"make it with `python -m workflows.{command(parsed.kind)} name={parsed.name}` and the choices it needs"
        )

    def begin(
        self,
        kind: str,
        name: str,
        config: Any,
        inputs: Iterable[Artifact] = (),
        code: Iterable[str] = (),
        on_change: OnChange = "refuse",
    ) -> Artifact | Draft:
        """Claim `kind/name` for this config, or return the finished artifact that it already is.

        Args:
            kind: kind of artifact, the first part of its folder.
            name: the user's name for it.
            config: `identity()` of the config, i.e. what changes the result.
            inputs: artifacts that are read.
            code: dotted names of the modules that make the result.
            on_change: when the name is taken by another fingerprint: "refuse"; "rebuild" deletes it and starts over;
                "keep" goes on with what is there, and records that it did.

        Raises: ArtifactError when the name is taken by another fingerprint, with a diff of what changed.
        """
        folder = Reference.parse(f"{kind}/{name}").folder
        identity = {
            "config": config,
            "inputs": {artifact.folder: artifact.fingerprint for artifact in inputs},
            "code": {module: source_fingerprint(module) for module in code},
        }
        claim: dict[str, Any] = {"fingerprint": fingerprint(identity), "identity": identity}
        key = f"{folder}/claim.json"
        finished = self.find(folder)
        begun = self.storage.find(key) if finished is None else None
        held = finished.manifest if finished is not None else json.loads(begun) if begun is not None else None
        if held is not None:
            if held["fingerprint"] != claim["fingerprint"]:
                changes = difference(held["identity"], identity)
                if on_change == "refuse":
                    raise ArtifactError(
                        f"{folder} in {self.storage.uri} was made by another configuration. What changed:\n  "
                        + "\n  ".join(changes)
                        + "\nUse another name (name=...), or on_change=rebuild to delete it and start over, or on_change=keep to go on with what is there."
                    )
                if on_change == "rebuild":
                    self.storage.delete(f"{folder}/manifest.json")  # first: half a deletion must not look finished
                    self.storage.delete(folder)
                    finished = None
                else:
                    held = {name: held[name] for name in ("fingerprint", "identity", "kept_despite") if name in held}
                    claim = {**held, "kept_despite": [*held.get("kept_despite", []), *changes]}
            elif finished is None:
                claim = held
        if finished is not None:
            return finished
        self.storage.write(key, _json_bytes(claim))
        return Draft(self.storage, folder, claim)

    def claim(self, folder: str) -> dict[str, Any]:
        """The claim of an artifact that has begun: its fingerprint and identity."""
        claim: dict[str, Any] = json.loads(self.storage.read(f"{folder}/claim.json"))
        return claim

    def reopen(self, finished: Artifact) -> Draft:
        """Take a committed artifact back to a draft, so that a trunk goes on where it stopped."""
        self.storage.delete(f"{finished.folder}/manifest.json")
        return Draft(self.storage, finished.folder, self.claim(finished.folder))

    def _siblings(self, kind: str) -> str:
        names = sorted(
            {
                key.split("/")[1]
                for key in self.storage.keys(kind)
                if key.endswith("/manifest.json") and key.count("/") == 2
            }
        )
        return f"{kind}/{{{', '.join(names)}}}" if names else f"no finished {kind}"


def command(kind: str) -> str:
    """The workflow that makes artifacts of this kind."""
    return {"tokens": "tokenize"}.get(kind, kind)


@functools.cache
def source_fingerprint(module: str) -> str:
    """Hash of a module's syntax tree without docstrings: comments and layout may change, behaviour may not."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"cannot find the source of {module}")
    tree = ast.parse(Path(spec.origin).read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = body[1:]  # type: ignore[index]
    return hashlib.sha256(_skeleton(tree).encode()).hexdigest()[:12]


def _skeleton(node: Any) -> str:
    """A syntax tree as text, empty fields left out: later versions of Python add fields, and those are empty."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({','.join(f'{name}={_skeleton(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_skeleton, node))}]"
    return repr(node)


@functools.cache
def code_version() -> str:
    """`0.1.0+1a2b3c4d5e6f` from git, with `.dirty` when files differ; the version alone outside a checkout."""
    try:
        root = Path(__file__).parent.parent
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=.dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return f"{pipelines.__version__}+{said.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return pipelines.__version__


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _some(names: Iterable[str], limit: int = 8) -> str:
    shown = sorted(names)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
