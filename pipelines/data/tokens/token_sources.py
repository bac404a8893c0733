"""The sources of a tokens artifact: shards by number, opened when first read.

Enters: a `tokens` artifact. Leaves: for each source a `TokenSource`, of which loader, prefetcher and evaluation read
shards. Nothing is read or downloaded until a shard is used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.data.tokens import sidecars as sidecars_table
from pipelines.data.tokens.megatron import read_index
from pipelines.data.tokens.sidecars import FOUNDING, SIDECARS, in_batches
from pipelines.data.tokens.token_shards import TokenShard, by_ranges, open_sidecar, suffixes
from pipelines.errors import DataError, StorageError, TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules


@dataclass
class TokenSource:
    """The shards of one source, opened when first read; at most `open_shards` stay mapped.

    Attributes:
        prefixes: shard names inside the artifact, e.g. `train/sotu/00000`.
        shard_tokens: tokens of each shard [shards], known without opening it.
        locate: shard name -> its files on this machine; from a remote store each is downloaded when first asked for.
        shard_bytes: what reading each shard takes in the cache [shards]; zeros when not known.
        sidecars: names of what stands beside the ids of its shards and is read.
        relieve: lets go of what can be opened again, when the cache has no room for a shard.
    """

    name: str
    kind: str
    prefixes: tuple[str, ...]
    shard_tokens: NDArray[np.int64]
    locate: Callable[[str], Mapping[str, Path]]
    shard_bytes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    open_shards: int = 64
    sidecars: tuple[str, ...] = ()
    relieve: Callable[[], None] | None = None
    _open: OrderedDict[int, TokenShard] = field(default_factory=OrderedDict, repr=False)
    # a prefetcher opens and closes shards, too
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if not len(self.shard_bytes):
            self.shard_bytes = np.zeros(len(self.prefixes), np.int64)

    def shard(self, index: int) -> TokenShard:
        """The shard `prefixes[index]`, mapped."""
        with self._lock:
            shard = self._open.get(index)
            if shard is not None:
                self._open.move_to_end(index)
                return shard
        try:
            return self.bring(index)
        except StorageError:
            if self.relieve is None:
                raise
            self.relieve()
            return self.bring(index)

    def bring(self, index: int) -> TokenShard:
        """Open a shard that is not open, which may take a download."""
        paths = self.locate(self.prefixes[index])
        opened = TokenShard.open(paths, getattr(paths, "refuse", None))
        with self._lock:
            shard = self._open.setdefault(index, opened)
            while len(self._open) > self.open_shards:
                self._open.popitem(last=False)
        return shard

    def close(self, index: int) -> None:
        """Forget a mapped shard; who still holds it may go on reading it."""
        with self._lock:
            self._open.pop(index, None)

    def offsets(self, index: int) -> NDArray[np.int64]:
        """Token offset of each document of a shard, and the total [documents + 1]; reads its index alone."""
        offsets: NDArray[np.int64] = np.append(
            0, np.cumsum(read_index(self.locate(self.prefixes[index])["idx"])[0], dtype=np.int64)
        )
        return offsets

    def mask(self, index: int) -> Any | None:
        """The loss mask of a shard, or None where every token counts; reads and compares nothing else."""
        paths = self.locate(self.prefixes[index])
        return open_sidecar("mask", paths, getattr(paths, "refuse", None)) if "mask" in paths else None


class _Files(Mapping[str, Path]):
    """The files of a shard of an artifact, each fetched when it is first asked for."""

    def __init__(self, artifact: Artifact, prefix: str, suffixes: Iterable[str]):
        self._artifact = artifact
        names = {suffix: f"{prefix}.{suffix}" for suffix in suffixes}
        self._names = {suffix: name for suffix, name in names.items() if name in artifact.manifest["files"]}

    def __getitem__(self, suffix: str) -> Path:
        # what has sums is compared block by block when it is read; in a store of an older version, without, whole
        if by_ranges(suffix) and "sums" in self._names:
            return self._artifact.sized_path(self._names[suffix])
        return self._artifact.path(self._names[suffix])

    def refuse(self, suffix: str, problem: str) -> TrunklineError:
        """The error for a damaged file of the shard, with how to make it anew."""
        name = self._names[suffix]
        path = self._artifact.sized_path(name)
        if self._artifact.storage.forget(path):
            return self._artifact.damage(
                name, f"{problem} in its copy {path}, which was removed: run the same command again; else"
            )
        return self._artifact.damage(name, problem)

    def __contains__(self, suffix: object) -> bool:  # Mapping's own would fetch
        return suffix in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def bytes(self) -> int:
        """Size of all of them."""
        return sum(self._artifact.manifest["files"][name]["bytes"] for name in self._names.values())


def open_sources(
    artifact: Artifact,
    split: Literal["train", "heldout"] = "train",
    names: Iterable[str] | None = None,
    sidecars: Iterable[str] | None = None,
) -> dict[str, TokenSource]:
    """The sources of a `tokens` artifact, by name.

    Args:
        names: which sources; all of documents and conversations when not given. Of pairs: `open_preferences`.
        sidecars: which of those that a source has will be read, by name; all when not given.

    Raises: DataError for a source that is absent, or that has a sidecar that this version does not know.
    """
    there = artifact.statistics["sources"]
    wanted = [name for name in there if there[name]["kind"] != "preferences"] if names is None else list(names)
    absent = [name for name in wanted if name not in there]
    if absent:
        raise DataError(f"{artifact.folder} holds no source {', '.join(absent)}; it holds {', '.join(sorted(there))}")
    return {name: _open_source(artifact, split, name, sidecars) for name in wanted}


def _open_source(
    artifact: Artifact, split: Literal["train", "heldout"], name: str, sidecars: Iterable[str] | None
) -> TokenSource:
    source = artifact.statistics["sources"][name]
    # a store made by an older version says nothing of sidecars: then it has no others than the founding ones
    has = source.get("sidecars", FOUNDING)
    if unknown := sorted(set(has) - set(SIDECARS)):
        raise DataError(
            f"source {name} of {artifact.folder} has {', '.join(unknown)} beside its ids; known here are "
            f"{', '.join(SIDECARS)}: add its row to pipelines/data/tokens/sidecars, or encode the corpus anew"
        )
    read = tuple(sidecar for sidecar in has if sidecars is None or sidecar in sidecars)

    def locate(prefix: str) -> _Files:
        return _Files(artifact, prefix, suffixes(read))

    prefixes = source[split]["shards"]
    return TokenSource(
        name,
        source["kind"],
        tuple(prefixes),
        np.asarray(source[split]["shard_tokens"], np.int64),
        locate,
        np.array([locate(prefix).bytes for prefix in prefixes], np.int64),
        sidecars=read,
    )


def code_beside(artifacts: Iterable[Artifact]) -> tuple[str, ...]:
    """The modules that make batches of what stands beside the ids in tokens artifacts: part of a run's fingerprint."""
    sources = [
        source
        for artifact in artifacts
        if artifact.folder.startswith("tokens/")
        for source in artifact.statistics["sources"].values()
    ]
    names = {name for source in sources for name in source.get("sidecars", ())}
    return chosen_modules(sidecars_table.__name__, names & set(in_batches()))
