"""A trial's run in a process that lives on for the next one.

    pool = TrialPool(config, lanes, ready, work_trial)      # pipelines/cluster/trial_pool.py
    pool.submit("lr-d64-s0", {"spec": plain(spec), "measures": {"heldout": {"max_tokens": 8000}}, "threads": 1})

Enters: a plain `TrainSpec`, what is measured, and how many threads torch may use. Leaves: the run's checkpoints,
metrics, measured rows and manifest, as the loop commits them: bit by bit those of the same run in a process of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.config import parse
from pipelines.train.run.garbage import keep_for_good

if TYPE_CHECKING:
    from pipelines.train.spec import TrainSpec

_RUNS_THAT_IMPORT = 2  # of a process; a run's trackers and writers import in threads, some after its end
_PASSED_ON = ("WARNING", "ALARM")  # of a trial's lines; a thousand trials say too much else

_runs = 0  # of this process


def ready() -> None:
    """Import what trials need, once for all of them."""
    from pipelines.train.update.engine import import_deepspeed

    import_deepspeed()
    import pipelines.train.run.loop
    import pipelines.train.trials.rows  # noqa: F401

    keep_for_good()


def work_trial(values: dict[str, Any], emit: Callable[[str], None]) -> None:
    """Train the run of `values["spec"]` on this rank, and measure what `values["measures"]` names.

    Args: values, `spec`, a plain `TrainSpec`; `measures`, settings by name (`MEASURES`); `threads`, of torch on a CPU;
        `tell_every_seconds`, at most so often a line of the run's steps is passed on, None: never; emit, takes those
        and the run's warnings, with its name.
    Raises: as of `train`.
    """
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(int(values.get("threads", 1)))
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.run.loop import train
    from pipelines.train.spec import TrainSpec
    from pipelines.train.trials.rows import Rows, parse_measures
    from pipelines.train.update.engine import start_distributed

    start_distributed()
    _settle()
    spec = parse(TrainSpec, values["spec"])
    measures = parse_measures(values.get("measures") or {})
    rows = Rows(spec, ArtifactStore(spec.store), measures) if measures else None
    train(spec, _with_name(spec, emit, values.get("tell_every_seconds")), looks=rows)


def _settle() -> None:
    """Keep what the first runs have imported besides, MLflow among it. Later ones import nothing."""
    global _runs
    _runs += 1
    if 1 < _runs <= _RUNS_THAT_IMPORT + 1:
        keep_for_good()


def _with_name(
    spec: TrainSpec, emit: Callable[[str], None], every_seconds: float | None = None
) -> Callable[[str], None]:
    latest = time.monotonic()

    def say(line: str) -> None:
        nonlocal latest
        first, now = (line.split(maxsplit=1) or [""])[0], time.monotonic()
        due = every_seconds is not None and first == spec.kind and now - latest >= every_seconds
        if first in _PASSED_ON or due:
            emit(f"   {spec.run}: {line.strip().removeprefix(f'{spec.kind} ')}")
            latest = now if due else latest

    return say
