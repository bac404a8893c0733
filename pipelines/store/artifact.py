"""An artifact that is finished, read-only.

Enters: the manifest, and a file's name in it. Leaves: a local path whose bytes are those that were published.

Every file that is read through an artifact is compared with its checksum first: a bit that flipped in a store would
otherwise become part of a result. Only token shards are read by ranges: their blocks have sums of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.errors import ArtifactError, StorageError
from pipelines.identity import fingerprint
from pipelines.store.storage import REQUESTS_AT_ONCE, Storage, disk_errors, remembered_sha256
from pipelines.store.ways_out import how_anew


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


def _some(names: Iterable[str], limit: int = 8) -> str:
    shown = sorted(names)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
