"""On what held-out text, and how, an evaluation was measured: only numbers of one set may be ranked in one list.

Enters: an evaluation, planned or made. Leaves: the name of its set, `tokens/demo 1a2b3c4d`: the tokens whose held-out
documents were read, and a digest of all that decides which of them count and with how much before them. Other ids of
the same documents are another set: the budget is in tokens, so that others of them are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from pipelines.store.artifact import Artifact
from pipelines.tracking.ablation import BITS, Measure
from pipelines.train.stages import STAGES


def heldout_set(config: Mapping[str, Any], fingerprints: Mapping[str, str]) -> str:
    """The name of the set that an evaluation is measured on.

    Args: config, what decides it (`EvaluationPlan.identity`); fingerprints, of the artifacts read, by folder.
    """
    tokens, tasks = config["tokens"], config.get("tasks") or {}
    how = {
        "tokens": fingerprints.get(tokens, tokens),
        "sequence_length": config["sequence_length"],
        "seed": config.get("seed", 0),
        "text": tasks.get("text"),
        # as many pairs as usual, or none: the name is that of the text alone
        **({"preferences": tasks["preferences"]} if tasks.get("preferences") else {}),
    }
    return f"{tokens} {sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:8]}"


def measures() -> dict[str, Measure]:
    """By which number of an evaluation the runs of a stage are ranked, by the stage's name."""
    from pipelines.train.tasks import TASKS  # with torch, which most who ask for a set's name do without

    numbers = {name: number for task in TASKS.values() for name, number in task.numbers.items()}
    return {
        name: Measure(stage.ranked_by, ascending=numbers[stage.ranked_by].better == "lower")
        for name, stage in STAGES.items()
    }


def measure_of(kinds: Iterable[str]) -> Measure:
    """By which number runs of these kinds are ranked: that of their stage; of several stages, bits per byte."""
    by_stage = measures()
    every = {by_stage.get(kind, BITS) for kind in kinds}
    return every.pop() if len(every) == 1 else BITS


def heldout_of(evaluation: Artifact) -> str:
    """The name of the set that a finished evaluation was measured on."""
    identity = evaluation.manifest["identity"]
    return heldout_set(identity["config"], identity["inputs"])


def mixed_sets(sets: Mapping[str, str]) -> str:
    """A sentence for a table whose numbers are not of one set; "" where they are. Args: sets, by what was evaluated."""
    if len(set(sets.values())) < 2:
        return ""
    told = "; ".join(
        f"{name}: {', '.join(one for one, own in sets.items() if own == name)}" for name in dict.fromkeys(sets.values())
    )
    return f"Not measured on one held-out set, in one way, so not to be ranked together ({told})"
