"""What cleaning needs that no piece holds: made once, before the pieces, from the sources and sets that the config names.

Enters: the config. Leaves, committed in the work folder, files that every task of the cleaning opens: the n-grams of the
evaluation sets (see `decontaminate`).
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.artifacts import Draft
from pipelines.data import decontaminate
from pipelines.data.corpus import CorpusConfig
from pipelines.data.decontaminate import Lookup

_GRAMS = "aids/evaluation-sets.npz"


@dataclass(frozen=True)
class Aids:
    """Where the files lie, in the work folder of `work`; none when there is no such file."""

    work: Draft
    grams: bool = False

    def lookup(self) -> Lookup | None:
        """The n-grams of the evaluation sets."""
        return decontaminate.load(self.work.storage.fetch(f"{self.work.folder}/{_GRAMS}")) if self.grams else None


def prepare(config: CorpusConfig, work: Draft) -> Aids:
    """Make what is not there yet.

    Raises: DataError for an evaluation set that cannot be read or holds nothing to look for.
    """
    sets = config.corpus.decontaminate
    if sets.sets and work.receipt("evaluation-sets") is None:
        path = work.scratch(_GRAMS)
        decontaminate.save(decontaminate.gather(sets), path)
        work.publish("evaluation-sets", {_GRAMS: path})
    return Aids(work, bool(sets.sets))
