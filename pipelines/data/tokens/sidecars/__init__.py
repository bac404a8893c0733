"""What may stand beside the ids of a token shard: one row for each sidecar.

A row's name is the suffix of its file, `train/prose/00000.mask`, and the key of its array in a batch. Shards, their
writer, loader and stream go over this table, so a new sidecar is a module in this folder and a row here. The two
founding ones are written for every source that has them, any other where `workflows.tokenize sidecars=[name]` asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pipelines.data.tokens.sidecars import document_bytes, loss_mask
from pipelines.data.tokens.sidecars.layouts import Sidecar
from pipelines.errors import ConfigError

SIDECARS: dict[str, Sidecar] = {
    "mask": loss_mask.SIDECAR,
    "bytes": document_bytes.SIDECAR,
}
FOUNDING = ("mask", "bytes")


def known(names: Iterable[str], where: str) -> tuple[str, ...]:
    """The names in the order of the table, with the founding ones. Raises: ConfigError for a name without a row."""
    asked = {*names, *FOUNDING}
    if unknown := sorted(asked - set(SIDECARS)):
        raise ConfigError(f"{where} names {', '.join(unknown)}; expected some of {', '.join(SIDECARS)}")
    return tuple(name for name in SIDECARS if name in asked)


def written(asked: Iterable[str], kind: str, columns: Collection[str]) -> tuple[str, ...]:
    """Those of the sidecars asked for that a file of the corpus has, by its source's kind and its columns."""
    return tuple(name for name in asked if kind in SIDECARS[name].kinds and set(SIDECARS[name].columns) <= set(columns))


def in_batches() -> tuple[str, ...]:
    """The sidecars that become part of a batch: all that a training stage reads of them."""
    return tuple(name for name, sidecar in SIDECARS.items() if sidecar.in_batch)
