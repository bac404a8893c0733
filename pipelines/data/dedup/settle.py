"""Every document's fate, piece by piece.

Enters: a cleaned piece and the verdicts on its documents. Leaves: `fates/<piece>.npy`, (rows,) uint8, one of
`resolve`'s fates or `BEYOND`; and the sums from which the driver cuts output files without seeing a document.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.cleaning.excerpts import SAMPLES
from pipelines.data.dedup.places import Job, Placed, records_of
from pipelines.data.dedup.resolve import HELDOUT, REASONS, TRAIN, VERDICT

BEYOND = 255  # behind its source's cap
SPLITS = {"train": TRAIN, "heldout": HELDOUT}


@dataclass(frozen=True)
class SettleTask:
    """One cleaned piece; `verdicts` are the files of all parts."""

    job: Job
    place: Placed
    verdicts: tuple[str, ...]


def settle_piece(task: SettleTask) -> dict[str, Any]:
    """Publish the fates of one piece.

    Returns: statistics: fates (file); documents and bytes by split; dropped by reason; samples, by reason up to ten of
        [node, node of the one that stays].
    """
    return task.job.once(f"fates/{task.place.key}", lambda: _settle(task))


def _settle(task: SettleTask) -> tuple[dict[str, Path], dict[str, Any]]:
    job, place = task.job, task.place
    facts = np.load(job.work.storage.fetch(place.facts), mmap_mode="r")
    fates = np.full(len(facts), BEYOND, np.uint8)
    is_held_out = job.census().parties[place.party].holds_out(facts["position"][: place.documents])
    fates[: place.documents] = np.where(is_held_out, HELDOUT, TRAIN)
    verdicts = np.sort(records_of(job, place, task.verdicts, VERDICT), order="node")
    fates[verdicts["node"] - place.first] = verdicts["fate"]
    file = job.file(f"fates/{place.key}.npy")
    path = job.work.scratch(file)
    with path.open("wb") as handle:
        np.save(handle, fates)
    counts = np.bincount(fates, minlength=256)
    samples = {}
    for fate, reason in REASONS.items():
        shown = verdicts[verdicts["fate"] == fate][:SAMPLES]
        if len(shown):
            samples[reason] = np.column_stack([shown["node"], shown["survivor"]]).tolist()
    return {file: path}, {
        "fates": file,
        "documents": {split: int(counts[fate]) for split, fate in SPLITS.items()},
        "bytes": {split: int(facts["bytes"][fates == fate].sum()) for split, fate in SPLITS.items()},
        "dropped": {reason: int(counts[fate]) for fate, reason in REASONS.items() if counts[fate]},
        "samples": samples,
    }
