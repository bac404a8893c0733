"""Artifacts: what one workflow leaves for the next, committed by a manifest written last.

An artifact is the folder `<store>/<kind>/<name>/`. Its life:

    begin    `claim.json` records the fingerprint before any work, so an unfinished run is resumed only by the same
    config publish  each finished piece (a shard, a source) gets a receipt naming its files, sizes and checksums
    commit   `manifest.json` is written; from here on the artifact exists

The fingerprint covers the config that changes the result, the inputs' fingerprints and the code that makes it. The same
name with another fingerprint is refused with a diff: nothing stale is served silently and no name is re-addressed.

Every file that is read through an artifact is compared with its checksum first, and claim, receipts and manifest with
their own (`pipelines/store/sealed.py`). Only token shards are read by ranges: their blocks have sums of their own.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipelines.errors import ArtifactError, ConfigError, StorageError
from pipelines.identity import difference, fingerprint, with_defaults
from pipelines.store.code import code_version, source_fingerprint
from pipelines.store.opening import open_storage
from pipelines.store.sealed import sealed, unsealed
from pipelines.store.storage import REQUESTS_AT_ONCE, Storage, disk_errors, remembered_sha256, sha256

OnChange = Literal["refuse", "rebuild", "keep"]
# what claims, receipts and manifests held before they were sealed
_PLAIN_CLAIM = ("fingerprint", "identity", "kept_despite")
_PLAIN_RECEIPT = ("files", "statistics")
_PLAIN_MANIFEST = (
    *_PLAIN_CLAIM,
    "kind",
    "name",
    "config",
    "statistics",
    "licences",
    "files",
    "code_version",
    "created",
)
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

    @property
    def contents(self) -> str | None:
        """Digest of the data that others read of it, by their checksums; None for kinds whose result is no fixed
        data.
        """
        kind = self.folder.split("/")[0]
        if kind not in ("corpus", "tokens", "mixture") or "files" not in self.manifest:
            return None
        read = {
            name: entry["sha256"]
            for name, entry in self.manifest["files"].items()
            if kind != "corpus" or name.startswith(("train/", "heldout/"))  # its card and samples are for people
        }
        return fingerprint(read)

    def path(self, file: str) -> Path:
        """A local path to one of the artifact's files, compared with its size and its checksum.

        A process reads a file once for that, however often it asks; a damaged copy in the cache is downloaded once
        more.

        Raises: ArtifactError when the file is not in the manifest, is missing, or is not what was published.
        """
        while True:
            path = self.sized_path(file)
            with disk_errors("read", path):
                digest = remembered_sha256(path)
            expected = self.manifest["files"][file]["sha256"]
            if digest == expected:
                return path
            if not self.storage.forget(path):
                raise self.damage(
                    file, f"does not match its checksum (SHA-256 {digest[:16]}…, its manifest says {expected[:16]}…)"
                )

    verified = path

    def parts(self, files: int = 16) -> list[Artifact]:
        """The data that others read of it, cut into artifacts of few files each: shards for `compare_files`."""
        kind = self.folder.split("/")[0]
        names = [name for name in self.manifest["files"] if kind != "corpus" or name.startswith(("train/", "heldout/"))]
        told: dict[str, Any] = {key: self.manifest[key] for key in ("created", "command") if key in self.manifest}
        return [
            replace(self, manifest={**told, "files": {name: self.manifest["files"][name] for name in some}})
            for some in (names[i : i + files] for i in range(0, len(names), files))
        ]

    def compare_sizes(self) -> None:
        """Raises: ArtifactError for a file that is missing or of another size; nothing is downloaded."""
        names = list(self.manifest.get("files", ()))
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            sizes = pool.map(lambda name: self.storage.size(f"{self.folder}/{name}"), names)
            for name, size in zip(names, sizes, strict=True):
                if size != (expected := self.manifest["files"][name]["bytes"]):
                    raise self.damage(
                        name, "is missing" if size is None else f"has {size} bytes, its manifest says {expected}"
                    )

    def sized_path(self, file: str) -> Path:
        """A local path to a file of which only ranges will be read, each compared by its reader; its size is compared
        here.
        """
        entry = self.manifest["files"].get(file)
        if entry is None:
            raise ArtifactError(f"{self.folder} holds no file {file}; it holds {_some(self.manifest['files'])}")
        key = f"{self.folder}/{file}"
        try:
            path = self.storage.fetch(key)
        except StorageError as error:
            if self.storage.exists(key):
                raise
            raise self.damage(file, "is missing") from error
        with disk_errors("read", path):
            size = path.stat().st_size
        if size != entry["bytes"]:
            raise self.damage(file, f"has {size} bytes, its manifest says {entry['bytes']}")
        return path

    def damage(self, file: str, problem: str) -> ArtifactError:
        """The error for a file that is not what was published. Args: problem, a clause that follows the file's name."""
        created = self.manifest.get("created")
        return ArtifactError(
            f"{self.storage.uri}/{self.folder}/{file} {problem}: this file of {self.folder}"
            f"{f', made on {created},' if created else ''} was changed or damaged after it was made; "
            + how_anew(self.folder, self.manifest, self.storage.uri)
        )

    def compare(self) -> None:
        """Compare every file with its checksum, for whoever reads them without us. Raises: ArtifactError, as `path`
        does.
        """
        for file in self.manifest["files"]:
            self.path(file)

    def json(self, file: str) -> Any:
        """The parsed content of a JSON file of this artifact."""
        return json.loads(self.path(file).read_bytes())


def compare_files(artifact: Artifact) -> None:
    """A shard function: every file of an artifact, compared with its checksum. Raises: ArtifactError."""
    artifact.compare()


@dataclass(frozen=True)
class Making:
    """What decides an artifact, and who makes it.

    Attributes:
        identity: of the config, i.e. what changes the result (`pipelines/identity.py`).
        inputs: artifacts that are read.
        code: dotted names of the modules that make the result.
        command: as it was typed, for whoever has to make it anew.
        config: what the identity was taken of; it knows the defaults that an identity leaves out.
    """

    identity: Any
    inputs: tuple[Artifact, ...] = ()
    code: tuple[str, ...] = ()
    command: str | None = None
    config: Any = None

    def claim(self) -> dict[str, Any]:
        """What `claim.json` says, and its fingerprint."""
        identity = {
            "config": self.identity,
            "inputs": {artifact.folder: artifact.fingerprint for artifact in self.inputs},
            "code": {module: source_fingerprint(module) for module in self.code},
        }
        claim: dict[str, Any] = {"fingerprint": fingerprint(identity), "identity": identity}
        claim["read"] = {
            artifact.folder: artifact.contents for artifact in self.inputs if artifact.contents is not None
        }
        return claim if self.command is None else {**claim, "command": self.command}

    def changes(self, folder: str, recorded: Mapping[str, Any], claim: Mapping[str, Any]) -> list[str]:
        """What differs from the artifact that is there, a line each. Args: recorded, its claim or manifest; claim, our
        own.
        """
        whole = (
            {**document["identity"], "config": with_defaults(document["identity"].get("config"), self.config)}
            for document in (recorded, claim)
        )
        return [
            *(difference(*whole) if recorded["fingerprint"] != claim["fingerprint"] else ()),
            # made anew under the same fingerprint, with other content: what it read has been edited since
            *(
                f"{name}: its data is not that which {folder} was made from; it was made anew since"
                for name, contents in recorded.get("read", {}).items()
                if claim["read"].get(name, contents) != contents
            ),
        ]


@dataclass(frozen=True)
class Draft:
    """An artifact being made. Picklable: shard functions on other machines publish into it."""

    storage: Storage
    folder: str
    claim: dict[str, Any]
    replaces: bool = False  # `start` sets aside what lies under this name first

    def start(self) -> None:
        """Take the name just before the work: set aside what a rebuild replaces, then write the claim.

        What is set aside goes with the commit, or comes back (`ArtifactStore.restore`). A store that cannot rename
        folders deletes it now; a deletion that is interrupted is known by its claim, and finished by whichever command
        comes next.
        """
        claim = f"{self.folder}/claim.json"
        named = dict(zip(("kind", "name"), self.folder.split("/"), strict=True))
        if self.replaces and not self._set_aside():
            self.forget_rebuild()
            self.storage.delete(f"{self.folder}/manifest.json")  # first: half a deletion must not look finished
            self.storage.write(claim, sealed({**named, **self.claim, "deleting": True}))
            for entry in sorted({key.split("/")[2] for key in self.storage.keys(self.folder)} - {"claim.json"}):
                self.storage.delete(f"{self.folder}/{entry}")
            self.storage.sweep(self.folder)
        self.storage.write(claim, sealed({**named, **self.claim}))

    def _set_aside(self) -> bool:
        """Move what lies under this name; False where it is to be deleted: half of an artifact, or of less worth than
        what is there.
        """
        place = aside(self.folder)
        if not self.storage.moves or b'"deleting"' in (self.storage.find(f"{self.folder}/claim.json") or b""):
            return False
        if not self.storage.exists(f"{self.folder}/manifest.json") and self._worth(place) > self._worth(self.folder):
            return False
        self.storage.delete(place)
        return self.storage.move(self.folder, place)

    def forget_rebuild(self) -> None:
        """Have the claim of a finished artifact not say that a rebuild made it, before its manifest goes.

        A rebuild that comes then would take what is left for its own work, and go on with it.
        """
        key = f"{self.folder}/claim.json"
        with contextlib.suppress(ValueError):  # a damaged claim is nobody's
            held = unsealed(self.storage.find(key) or b"{}", _PLAIN_CLAIM)
            if held.pop("rebuild", None):
                self.storage.write(key, sealed(held))

    def _worth(self, folder: str) -> tuple[bool, int]:
        """Whether it is finished, and how many checkpoints it has."""
        manifests = [key for key in self.storage.keys(folder) if key.endswith("/manifest.json")]
        return f"{folder}/manifest.json" in manifests, len(manifests)

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
        self.storage.write(f"{self.folder}/receipts/{piece}.json", sealed(receipt))
        return receipt

    def receipt(self, piece: str) -> dict[str, Any] | None:
        """The receipt of a piece published earlier, or None. Raises: ArtifactError when it is damaged."""
        found = self.storage.find(f"{self.folder}/receipts/{piece}.json")
        return None if found is None else self._opened(found, f"receipts/{piece}.json")

    def read(self, piece: str, file: str) -> bytes:
        """A small file of a published piece, compared with its checksum.

        Raises: ArtifactError when the piece is not published or the file is not what was published.
        """
        receipt = self.receipt(piece)
        if receipt is None or file not in receipt["files"]:
            raise self._damage(file, f"is in no receipt {piece}")
        found = self.storage.find(f"{self.folder}/{file}")
        if found is None:
            raise self._damage(file, "is missing")
        if hashlib.sha256(found).hexdigest() != receipt["files"][file]["sha256"]:
            raise self._damage(file, "does not match its checksum in its receipt")
        return found

    def _opened(self, text: bytes, file: str) -> dict[str, Any]:
        try:
            return unsealed(text, _PLAIN_RECEIPT)
        except ValueError as error:
            raise self._damage(file, str(error)) from error

    def _damage(self, file: str, problem: str) -> ArtifactError:
        return ArtifactError(
            f"{self.storage.uri}/{self.folder}/{file} {problem}: it was changed or damaged after it was written, and "
            f"{self.folder} is not finished; {how_anew(self.folder, self.claim, self.storage.uri, unfinished=True)}"
        )

    def commit(self, config: Any, statistics: Mapping[str, Any], licences: Mapping[str, str] | None = None) -> Artifact:
        """Write the manifest, last: the files of every receipt. From here on the artifact exists."""
        files: dict[str, Any] = {}
        keys = self.storage.keys(f"{self.folder}/receipts")
        for key, receipt in zip(keys, self.storage.read_all(keys), strict=True):
            files.update(self._opened(receipt, key.removeprefix(f"{self.folder}/"))["files"])
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
        self.storage.write(f"{self.folder}/manifest.json", sealed(manifest))
        self.storage.sweep(self.folder)
        if self.storage.moves:
            self.storage.delete(aside(self.folder))
        return Artifact(self.storage, self.folder, manifest)


class ArtifactStore:
    """Every artifact under one store URI."""

    def __init__(self, uri: str):
        self.storage = open_storage(uri)
        self.uri = self.storage.uri  # absolute: workers start in other folders

    def find(self, folder: str) -> Artifact | None:
        """The committed artifact `kind/name`, or None. Raises: ArtifactError for a damaged manifest, or that of another
        artifact.
        """
        text = self.storage.find(f"{folder}/manifest.json")
        return None if text is None else Artifact(self.storage, folder, self._opened(folder, "manifest.json", text))

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
            + kept(self.storage, parsed.folder)
        )

    def get_kind(self, key: str, kind: str, reference: str) -> Artifact:
        """`get` for a config key that takes artifacts of one kind. Raises: ConfigError for another kind, besides."""
        named = Reference.parse(reference).kind
        if named != kind:
            raise ConfigError(f"{key}={reference} is of kind {named}; expected {kind}/<name>")
        return self.get(reference)

    def begin(
        self,
        kind: str,
        name: str,
        config: Any,
        inputs: Iterable[Artifact] = (),
        code: Iterable[str] = (),
        on_change: OnChange = "refuse",
        made_with: str | None = None,
    ) -> Artifact | Draft:
        """Claim `kind/name` for this config, or return the finished artifact that it already is.

        Args:
            kind: kind of artifact, the first part of its folder.
            name: the user's name for it.
            config: `identity()` of the config, i.e. what changes the result.
            inputs, code, made_with: as `Making` says.
            on_change: when the name is taken by another fingerprint: "refuse", or "keep", which goes on with what is
                there and records that it did. "rebuild" replaces what is there, whatever its fingerprint, and starts
                over; one that was interrupted goes on.

        Raises: ArtifactError when the name is taken by another fingerprint, with a diff of what changed.
        """
        draft = self.prepare(kind, name, Making(config, tuple(inputs), tuple(code), made_with), on_change)
        if isinstance(draft, Draft):
            draft.start()
        return draft

    def prepare(self, kind: str, name: str, making: Making, on_change: OnChange = "refuse") -> Artifact | Draft:
        """`begin`, which leaves everything as it is until `Draft.start`; the caller calls that just before the work."""
        folder = Reference.parse(f"{kind}/{name}").folder
        return self._rebuilt(folder, making) if on_change == "rebuild" else self._continued(folder, making, on_change)

    def restore(self, folder: str, refused: bool = False) -> bool:
        """Put back what a rebuild set aside; whether that was done.

        It is not where the rebuild can go on from something: a checkpoint, or any piece that it has published.
        Args: refused, the rebuild ended with an error that the same command would meet again: pieces then do not count.
        """
        place = aside(folder)
        if not self.storage.moves or not self.storage.keys(place):
            return False
        held = self.storage.keys(folder)
        if any(key.endswith("/manifest.json") or ("/receipts/" in key and not refused) for key in held):
            return False
        self.storage.delete(folder)
        return self.storage.move(place, folder)

    def _rebuilt(self, folder: str, making: Making) -> Draft:
        """A draft that replaces what is there; one that goes on, where this very rebuild was interrupted."""
        claim = {**making.claim(), "rebuild": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        if not self.storage.exists(f"{folder}/manifest.json"):
            try:
                begun = self.find_claim(folder)
            except ArtifactError:  # damaged: it goes with the rest
                return Draft(self.storage, folder, claim, replaces=True)
            same = begun is not None and all(begun.get(fact) == claim[fact] for fact in ("fingerprint", "read"))
            if begun is not None and same and "rebuild" in begun and "deleting" not in begun:
                return Draft(self.storage, folder, begun)
        return Draft(self.storage, folder, claim, replaces=bool(self.storage.keys(folder)))

    def _continued(self, folder: str, making: Making, on_change: OnChange) -> Artifact | Draft:
        """What is there under this name, or a new draft. Raises: ArtifactError when it is another's."""
        claim, finished = making.claim(), self.find(folder)
        recorded = finished.manifest if finished is not None else self.find_claim(folder)
        if recorded is None:
            return Draft(self.storage, folder, claim)
        if finished is None and "deleting" in recorded:  # somebody's rebuild ended amid its deletion
            return Draft(self.storage, folder, claim, replaces=True)
        # a fingerprint that differs while nothing else does was written by a version that listed other defaults
        if changes := making.changes(folder, recorded, claim):
            if on_change != "keep":
                raise ArtifactError(
                    f"{folder} in {self.storage.uri} was made by another configuration. What changed:\n  "
                    + "\n  ".join(changes)
                    + "\nUse another name (name=...), or on_change=rebuild to replace it and start over, or "
                    "on_change=keep to go on with what is there" + (kept(self.storage, folder) or ".")
                )
            recorded = {**recorded, "kept_despite": [*recorded.get("kept_despite", []), *changes]}
        return finished or Draft(self.storage, folder, recorded)

    def find_claim(self, folder: str) -> dict[str, Any] | None:
        """The claim of an artifact that has begun (its fingerprint and identity), or None.

        Raises: ArtifactError for a damaged claim, or that of another artifact.
        """
        text = self.storage.find(f"{folder}/claim.json")
        if text is None:
            return None
        claim = self._opened(folder, "claim.json", text)
        return {key: value for key, value in claim.items() if key not in ("kind", "name")}

    def claim(self, folder: str) -> dict[str, Any]:
        """`find_claim` of one that is known to be there."""
        claim = self.find_claim(folder)
        if claim is None:
            raise ArtifactError(f"{folder} has not begun in {self.storage.uri}")
        return claim

    def reopen(self, finished: Artifact) -> Draft:
        """A draft over a committed artifact, so that a trunk goes on where it stopped.

        The manifest stays as it is until the next commit replaces it: whatever happens before, the artifact is
        finished.
        """
        return Draft(self.storage, finished.folder, self.claim(finished.folder))

    def _opened(self, folder: str, file: str, text: bytes) -> dict[str, Any]:
        """A claim or manifest that is whole and lies where it was written."""
        place = f"{self.storage.uri}/{folder}/{file}"
        try:
            document = unsealed(text, _PLAIN_MANIFEST if file == "manifest.json" else _PLAIN_CLAIM)
        except ValueError as error:
            raise ArtifactError(
                f"{place} {error}: it was changed or damaged after it was written; "
                f"{way_out(self.storage, folder, file)}"
            ) from error
        own = f"{document['kind']}/{document['name']}" if "kind" in document else folder
        if own != folder:
            raise ArtifactError(
                f"{place} is that of {own}: its folder was copied or renamed; expected {folder}: move the folder back "
                f"to {own}, or delete it and make {folder} by its own command"
            )
        return document

    def _siblings(self, kind: str) -> str:
        names = sorted(
            {
                key.split("/")[1]
                for key in self.storage.keys(kind)
                if key.endswith("/manifest.json") and key.count("/") == 2
            }
        )
        return f"{kind}/{{{', '.join(names)}}}" if names else f"no finished {kind}"


def aside(folder: str) -> str:
    """Where a rebuild keeps what it replaces until it is committed."""
    return f".replaced/{folder}"


def kept(storage: Storage, folder: str) -> str:
    """A clause that names what a rebuild of `folder` has set aside and not replaced yet; "" where there is nothing."""
    place = aside(folder)
    if not storage.moves or not storage.keys(place):
        return ""
    finished = "finished " if storage.exists(f"{place}/manifest.json") else ""
    return (
        f"; the {finished}{folder} that its rebuild replaces is kept as {storage.uri}/{place}: to have it again, move "
        f"that folder to {storage.uri}/{folder}"
    )


def command(kind: str) -> str:
    """The workflow that makes artifacts of this kind."""
    return {"tokens": "tokenize"}.get(kind, kind)


def how_anew(folder: str, made: Mapping[str, Any], store: str, unfinished: bool = False) -> str:
    """Advice: the command that makes an artifact anew, in the store where it is damaged.

    Args: made, its claim or manifest; store, that store's URI: the one of the recorded command may be another, of which
        this is a copy.
    """
    typed = typed_again(folder, made, store)
    # the same command again would go on with a rebuild; and a recipe's would make every stage anew, where only its
    # report is damaged
    if folder.startswith("recipe/") or (unfinished and "rebuild" in made):
        return f"delete {store}/{folder} and make it anew: {typed}"
    choices = "" if "command" in made else ", with the choices that it was made with (`config` in its manifest.json)"
    return f"make it anew: {typed} on_change=rebuild{choices}"


def way_out(storage: Storage, folder: str, file: str) -> str:
    """Advice for a damaged claim or manifest: checkpoints have manifests of their own, and need not go with that of
    their run.
    """
    made = recorded(storage, folder)
    if made and file == "manifest.json" and storage.keys(f"{folder}/checkpoints"):
        again = typed_again(folder, made, storage.uri)
        return f"its checkpoints do not depend on it: delete this file, and it is written anew by {again}"
    return how_anew(folder, made, storage.uri)


def typed_again(folder: str, made: Mapping[str, Any], store: str) -> str:
    """The command that made an artifact. Args: as of `how_anew`."""
    kind, name = folder.split("/")
    return _with_store(made.get("command") or f"python -m workflows.{command(kind)} name={name}", store)


def recorded(storage: Storage, folder: str) -> dict[str, Any]:
    """The manifest of an artifact, or its claim, whichever is whole and names its command; nothing where neither
    does.
    """
    for file in ("manifest.json", "claim.json"):
        try:
            document = unsealed(storage.find(f"{folder}/{file}") or b"{}", _PLAIN_MANIFEST)
        except (ValueError, StorageError):
            continue
        if document:
            return document
    return {}


def _with_store(typed: str, store: str) -> str:
    """A command for another store than the one that it was typed for."""
    words = shlex.split(typed)
    kept = [word for word in words if not word.lstrip("+").startswith("store=")]
    if f"store={store}" in words:
        return typed
    plain = re.fullmatch(r"[\w./:@%~-]+", store)
    escaped = store.replace("\\", "\\\\").replace("'", "\\'")
    return shlex.join([*kept, f"store={store}" if plain else f"store='{escaped}'"])


def _some(names: Iterable[str], limit: int = 8) -> str:
    shown = sorted(names)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
