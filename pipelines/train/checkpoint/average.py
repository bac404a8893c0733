"""One model out of several checkpoints of a run: the mean of their weights.

Enters: committed checkpoints of one run, of any ZeRO stage and world size, and a weight for each. Leaves: a checkpoint
of weights alone, `average/<name>@step-N`, N being the last step averaged.

    uniform   1 / n
    ema       decay^(n-k) for the k-th of n, divided by their sum: an exponential moving average over the checkpoints,
              corrected for its beginning, since begun at the first checkpoint it would give that one decay^(n-1), the
              most

Why: along a trunk at constant LR, checkpoint k is the first one plus all updates up to k, so the uniform mean of n
holds the updates between the j-th checkpoint and the next by the part (n - j) / n: what a linear decay over the same
steps would leave of them, had it met the same gradients. It costs no training step.

Sources: stochastic weight averaging, Izmailov et al. (arXiv 1803.05407); checkpoints along a run at a high constant LR,
Sanyal et al. (arXiv 2306.03241); beside cooldowns, Hägele et al. (arXiv 2405.18392); merging in the stable phase
instead of annealing, Li et al. (arXiv 2505.12082) and WSM (arXiv 2507.17634).

Memory: some 32 bytes for each value of the largest parameter, however many checkpoints there are: sums are float64, one
parameter at a time, rounded to float32 once and written as they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor

from pipelines.config import Count, Range, Whole, WorkflowConfig, config_class
from pipelines.display.progress import Progress, human
from pipelines.errors import CheckpointError, ConfigError
from pipelines.identity import identity
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.checkpoint import Checkpoint, committed_steps, write_weights
from pipelines.train.checkpoint.committed import first_difference
from pipelines.train.checkpoint.lineage import Run, open_run
from pipelines.train.checkpoint.weights import weighted_mean
from pipelines.train.stages import AVERAGE, STAGES

AVERAGED = tuple(name for name, stage in STAGES.items() if stage.averaged)
LAST = 5  # checkpoints, when none are chosen


@config_class
class AverageConfig(WorkflowConfig):
    """Which checkpoints, and how much of each. `steps` names them; the four below it narrow down the committed ones."""

    parent: str  # the run, e.g. pretrain/demo
    steps: tuple[Count, ...] | None = None
    from_step: Whole | None = None
    to_step: Whole | None = None
    every_steps: Count | None = None  # those whose step is a multiple of it
    last: Count | None = None  # of what the three above leave; null: all of it, or the last five when nothing is chosen
    kind: Literal["uniform", "ema"] = "uniform"
    decay: Annotated[float, Range(above=0, below=1)] = 0.9  # ema: weight of a checkpoint as a part of the next one's

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay < 1:
            raise ConfigError(f"decay is {self.decay}; expected a number above 0 and below 1, e.g. 0.9")
        for name in ("every_steps", "last"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ConfigError(f"{name} is {value}; expected a positive whole number or null")


@dataclass(frozen=True)
class PlannedAverage:
    """An average before any weight is read.

    Attributes:
        runs: the same run at each of its averaged checkpoints, ascending. weights: theirs, which sum to 1.
        identity: what decides the result. announcement: label -> text.
    """

    runs: tuple[Run, ...]
    weights: tuple[float, ...]
    identity: dict[str, Any]
    announcement: dict[str, str]


def plan_average(config: AverageConfig, store: ArtifactStore, parent: str) -> PlannedAverage:
    """Choose the checkpoints and their weights, refusing what cannot be averaged.

    Args: parent, the resolved reference.
    Raises: ConfigError, ArtifactError or CheckpointError, each saying what exists or what to change.
    """
    run = Reference.parse(parent)
    if run.kind not in AVERAGED:
        raise ConfigError(f"parent={parent} is of kind {run.kind}; averaged are runs of {', '.join(AVERAGED)}")
    if run.at is not None:
        raise ConfigError(
            f"parent={parent} names one checkpoint; name the run, parent={run.folder}, and choose its checkpoints with "
            "steps=[…], or with from_step, to_step, every_steps and last"
        )
    committed = committed_steps(store.storage, run.folder)
    if not committed:
        open_run(store, parent)  # raises, and says what there is
    steps = _begun_with(config, store, run.folder) or chosen_steps(config, committed)
    runs = tuple(open_run(store, f"{run.folder}@step-{step}") for step in steps)
    _check_shapes(runs)
    weights = means(config, len(steps))
    weighted = list(zip(runs, weights, strict=True))
    averaged = [{"checkpoint": str(run), "weight": weight, "files": _digests(run)} for run, weight in weighted]
    announcement = {
        "checkpoints": f"{len(steps)} of the {len(committed)} of {run.folder}",
        **_announce(config, weighted),
    }
    return PlannedAverage(runs, weights, {**identity(config), "parent": run.folder, "averaged": averaged}, announcement)


def _check_shapes(runs: Sequence[Run]) -> None:
    """Raises: CheckpointError for checkpoints of different architectures."""
    first = runs[0].state["shapes"]
    for run in runs:
        if run.state["shapes"] != first:
            raise CheckpointError(
                f"{run} is of another architecture than {runs[0]}: {first_difference(run.state['shapes'], first)}"
            )


def _announce(config: AverageConfig, weighted: Sequence[tuple[Run, float]]) -> dict[str, str]:
    """The weights, the LR at which the checkpoints were saved, and what the average leaves."""
    last, _ = weighted[-1]
    rates = sorted({run.state["learning_rate"] for run, _ in weighted})
    weights_bytes = 4 * sum(math.prod(shape) for shape in last.state["shapes"].values())
    shares = ", ".join(f"step-{run.checkpoint.step} × {weight:.4g}" for run, weight in weighted)
    return {
        "weights": f"{config.kind}: {shares}",
        "LR at them": " to ".join(f"{rate:g}" for rate in dict.fromkeys((rates[0], rates[-1]))),
        "leaves": f"{AVERAGE}/{config.name}@step-{last.checkpoint.step}: weights alone, {human(weights_bytes, 'B')}, "
        "no optimizer state",
    }


def chosen_steps(config: AverageConfig, committed: Sequence[int]) -> tuple[int, ...]:
    """The steps to average, ascending. Raises: ConfigError naming the committed ones."""
    there = f"committed steps of {config.parent}: {', '.join(map(str, committed))}"
    narrowing = {name: getattr(config, name) for name in ("from_step", "to_step", "every_steps", "last")}
    if config.steps is not None:
        if any(value is not None for value in narrowing.values()):
            also = ", ".join(f"{name}={value}" for name, value in narrowing.items() if value is not None)
            raise ConfigError(f"steps={list(config.steps)} and {also} are both set: keep one of the two ways to choose")
        if absent := sorted(set(config.steps) - set(committed)):
            raise ConfigError(f"steps {', '.join(map(str, absent))} are not there; {there}")
        chosen = sorted(set(config.steps))
    else:
        low, high = config.from_step or 0, math.inf if config.to_step is None else config.to_step
        chosen = [step for step in committed if low <= step <= high and step % (config.every_steps or 1) == 0]
        last = LAST if all(value is None for value in narrowing.values()) else config.last
        chosen = chosen[-last:] if last else chosen
    if len(chosen) < 2:
        raise ConfigError(
            f"{len(chosen)} checkpoint{'' if len(chosen) == 1 else 's'} chosen "
            f"({', '.join(map(str, chosen)) or 'none'}); an average takes at least two; {there}: choose more, or train "
            "with a smaller checkpoint.every_steps"
        )
    return tuple(chosen)


def means(config: AverageConfig, count: int) -> tuple[float, ...]:
    """The weight of each of `count` checkpoints, ascending; they sum to 1."""
    parts = [1.0 if config.kind == "uniform" else config.decay ** (count - k) for k in range(1, count + 1)]
    return tuple(part / sum(parts) for part in parts)


def average(store: ArtifactStore, name: str, fingerprint: str, planned: PlannedAverage) -> tuple[Checkpoint, float]:
    """Read, average, and commit the checkpoint; every file's checksum is compared first.

    Returns: the checkpoint, and how far it lies from the last one averaged: ‖mean - last‖ / ‖last‖ over all weights.
    Raises: CheckpointError for a damaged checkpoint; StorageError.
    """
    checkpoints = [run.checkpoint for run in planned.runs]
    verifying = Progress("compare checksums", len(checkpoints), "checkpoints")
    for checkpoint in checkpoints:
        checkpoint.verify()
        verifying.update()
    moved = total = 0.0

    def parameters() -> Iterator[tuple[str, Tensor]]:
        nonlocal moved, total
        averaging = Progress("average", len(checkpoints[-1].state["shapes"]), "parameters")
        for key, mean, last in weighted_mean(checkpoints, planned.weights):
            moved += float((mean - last).square().sum())
            total += float(last.square().sum())
            yield key, mean
            averaging.update()

    state = {key: value for key, value in checkpoints[-1].state.items() if key != "attempt"}
    shares = {str(run): weight for run, weight in zip(planned.runs, planned.weights, strict=True)}
    state.update(kind=AVERAGE, name=name, fingerprint=fingerprint, averaged=shares)
    shapes = state["shapes"]
    written = write_weights(store.storage, f"{AVERAGE}/{name}", checkpoints[-1].step, state, shapes, parameters())
    return written, math.sqrt(moved / total) if total else 0.0


def _digests(run: Run) -> dict[str, str]:
    """What a checkpoint holds, whatever its run is called: each file's checksum, and where each frozen parameter
    lies.
    """
    files = {name: entry["sha256"] for name, entry in sorted(run.checkpoint.files.items())}
    return {**files, **run.checkpoint.frozen}


def _begun_with(config: AverageConfig, store: ArtifactStore, run: str) -> tuple[int, ...] | None:
    """The steps that this average was begun with, so that "the last five" stay those when its trunk goes on."""
    folder = f"{AVERAGE}/{config.name}"
    if config.on_change == "rebuild" or not store.storage.exists(f"{folder}/claim.json"):
        return None
    begun = store.claim(folder)["identity"]["config"]
    if {**begun, "averaged": None} != {**identity(config), "parent": run, "averaged": None}:
        return None
    return tuple(int(part["checkpoint"].rsplit("-", 1)[1]) for part in begun["averaged"])
