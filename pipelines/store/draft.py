"""An artifact being made: what decides it, and the pieces that are published into it.

Enters: what decides the result (`Making`), then finished local files. Leaves: a claim before the work, a receipt for
each piece, and the manifest, written last: from then on the artifact exists.

A piece is named by its input, so a killed command that is typed again finds what is done, with any number of workers.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ArtifactError
from pipelines.identity import difference, fingerprint, with_defaults
from pipelines.store.artifact import Artifact
from pipelines.store.code import code_version, source_fingerprint
from pipelines.store.sealed import PLAIN_CLAIM, PLAIN_RECEIPT, sealed, unsealed
from pipelines.store.storage import Storage, sha256
from pipelines.store.ways_out import aside_folder, how_anew


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
        place = aside_folder(self.folder)
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
            claim = unsealed(self.storage.find(key) or b"{}", PLAIN_CLAIM)
            if claim.pop("rebuild", None):
                self.storage.write(key, sealed(claim))

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
        text = self.storage.find(f"{self.folder}/receipts/{piece}.json")
        return None if text is None else self._opened(text, f"receipts/{piece}.json")

    def read(self, piece: str, file: str) -> bytes:
        """A small file of a published piece, compared with its checksum.

        Raises: ArtifactError when the piece is not published or the file is not what was published.
        """
        receipt = self.receipt(piece)
        if receipt is None or file not in receipt["files"]:
            raise self._damage(file, f"is in no receipt {piece}")
        content = self.storage.find(f"{self.folder}/{file}")
        if content is None:
            raise self._damage(file, "is missing")
        if hashlib.sha256(content).hexdigest() != receipt["files"][file]["sha256"]:
            raise self._damage(file, "does not match its checksum in its receipt")
        return content

    def _opened(self, text: bytes, file: str) -> dict[str, Any]:
        try:
            return unsealed(text, PLAIN_RECEIPT)
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
            self.storage.delete(aside_folder(self.folder))
        return Artifact(self.storage, self.folder, manifest)
