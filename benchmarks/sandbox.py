"""What lies between two trials: in a lane of the trial pool, as commands, and under Ray Tune with the plain trainer.

    python -m benchmarks.sandbox                        # 0.1M parameters, 20 steps, one trial after another
    python -m benchmarks.sandbox --trials 50 --ways pool

All three ways train the same configs on the same tokens, one at a time, each with its own artifact, checkpoint and
MLflow run. The gap is the time from the end of one trial (its manifest is committed and its process is free, or gone)
to the end of the first step of the next. `CPU` is what all of a trial took, its steps included; other work on the
machine moves it less than the gap. The goal is a gap of 0.3 s in the pool.

    pool       `TrialPool` with `work_trial`; the first trial of the lane is left out
    commands   `python -m workflows.pretrain …`, CPU of all its processes
    tune       `ray.tune.Tuner` over `pipelines.train.worker.work`, one process for each trial; CPU of that process
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tokens import VOCABULARY, commit_tokens
from pipelines.cluster.cluster import Cluster
from pipelines.config import ClusterConfig, TrackingConfig, parse, plain
from pipelines.display.progress import table
from pipelines.display.timeline import reached
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking.tracker import open_tracker
from pipelines.train.plan.planning import plan_stage
from pipelines.train.spec import TrainConfig
from pipelines.train.trials.worker import ready, work_trial

ROOT = Path(__file__).parents[1]
_FIRST, _END = "first step", "trial ended"
_MODEL = {
    "layers": 4, "d_model": 48, "d_ff": 120, "heads": 3, "kv_heads": 3, "vocabulary": VOCABULARY,
    "max_positions": 128, "dim_model_base": 32,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="in the pool")
    parser.add_argument("--starts", type=int, default=4, help="trials of the ways that start a process for each")
    parser.add_argument("--steps", type=int, default=20, help="of a trial")
    parser.add_argument("--ways", nargs="+", default=list(_WAYS), choices=list(_WAYS))
    options = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory(prefix="trunkline-sandbox-") as folder:
        store = ArtifactStore(str(Path(folder, "store")))
        commit_tokens(store, {"a": 0.7, "b": 0.3}, 1, 300_000)
        for way in options.ways:
            count = options.trials if way == "pool" else options.starts
            names = [f"{way}-{number}" for number in range(count)]
            trials = _WAYS[way](store, names, options.steps, Path(folder, f"timeline-{way}"))
            gaps = [after.first - before.end for before, after in itertools.pairwise(trials)][1:]
            cpu = [trial.cpu_s for trial in trials[1:]]
            rows.append([
                way, str(count), f"{statistics.median(gaps):.2f}", f"{max(gaps):.2f}", f"{statistics.median(cpu):.2f}",
                f"{(trials[-1].end - trials[1].end) / (len(trials) - 2):.2f}",
            ])  # fmt: skip
            print(f"   {way}: gaps {' '.join(f'{gap:.2f}' for gap in gaps)} s", flush=True)
    print(table(["way", "trials", "gap s, median", "worst", "CPU s a trial", "s a trial"], rows))
    print(
        f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}; the goal is a gap of 0.3 s in the pool"
    )


@dataclasses.dataclass(frozen=True)
class Timed:
    """A trial on the machine's one clock."""

    first: float  # end of its first step
    end: float
    cpu_s: float


def pool(store: ArtifactStore, names: Sequence[str], steps: int, timeline: Path) -> list[Timed]:
    """All trials in one lane."""
    specs = _specs(store, names, steps)
    with Cluster(ClusterConfig(workers=1)) as cluster, cluster.trial_pool(1, ready, in_lane) as lanes:
        left = list(zip(names, specs, strict=True))
        while left or lanes.outstanding:
            while left and lanes.wanted:
                name, spec = left.pop(0)
                lanes.submit(name, {"spec": spec, "threads": 1, "timeline": str(timeline)})
            if (ended := lanes.next(timeout=1.0)) is not None and ended.error is not None:
                raise ended.error
    return _timed(timeline, fresh=False)


def in_lane(values: dict[str, Any], emit: Callable[[str], None]) -> None:
    """A trial that notes its moments."""
    os.environ["TRUNKLINE_TIMELINE"] = values["timeline"]
    work_trial(values, emit)
    reached(f"{_END} {time.process_time()}")


def commands(store: ArtifactStore, names: Sequence[str], steps: int, timeline: Path) -> list[Timed]:
    """Each trial by a command of its own, with one worker."""
    for name in names:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        model = [f"model.{key}={value}" for key, value in _MODEL.items()]
        done = subprocess.run(
            [
                sys.executable, "-m", "workflows.pretrain", f"name={name}", f"store={store.uri}", "data=mixture/bench",
                "model=demo", *model, "zero=zero0", f"steps={steps}", "schedule.warmup_steps=1",
                "batch.sequence_length=128", "batch.global_batch=8", "batch.micro_batch=8", "cluster.workers=1",
                "checkpoint.every_steps=1000", f"log_every_steps={steps}",
            ],
            cwd=ROOT, env={**os.environ, "TRUNKLINE_TIMELINE": str(timeline)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"the command failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with timeline.open("a", encoding="utf-8") as notes:
            notes.write(f"{time.monotonic():.4f} {_END} {spent}\n")
    return _timed(timeline, fresh=True)


def tune(store: ArtifactStore, names: Sequence[str], steps: int, timeline: Path) -> list[Timed]:
    """Ray Tune: a trial is a process that runs the plain trainer."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    from ray import tune as ray_tune

    specs = _specs(store, names, steps)
    with Cluster(ClusterConfig(workers=1)):
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(in_tune, {"cpu": 1}),
            param_space={"spec": ray_tune.grid_search(specs), "timeline": str(timeline)},
            tune_config=ray_tune.TuneConfig(max_concurrent_trials=1),
            run_config=ray_tune.RunConfig(storage_path=str(timeline.parent / "tune"), verbose=0),
        )
        if (failed := tuner.fit().errors) and failed:
            raise failed[0]
    return _timed(timeline, fresh=True)


def in_tune(values: dict[str, Any]) -> None:
    """A trial of Ray Tune that notes its moments."""
    from pipelines.train.worker import work

    os.environ["TRUNKLINE_TIMELINE"] = values["timeline"]
    work(values["spec"], lambda line: None)
    reached(f"{_END} {time.process_time()}")


def _specs(store: ArtifactStore, names: Sequence[str], steps: int) -> list[dict[str, Any]]:
    """Claimed specs, with their MLflow runs."""
    specs = []
    for seed, name in enumerate(names):
        config = parse(TrainConfig, {
            "name": name, "store": store.uri, "data": "mixture/bench", "model": dict(_MODEL), "steps": steps,
            "seed": seed, "schedule": {"peak_lr": 0.01, "warmup_steps": 1},
            "zero": {"stage": 0, "precision": "float32"},
            "batch": {"sequence_length": 128, "global_batch": 8, "micro_batch": 8},
            "checkpoint": {"every_steps": 1000}, "log_every_steps": steps,
        })  # fmt: skip
        planned = plan_stage("pretrain", config, store, None, 1)
        claim = store.begin("pretrain", name, planned.identity, planned.inputs).claim  # type: ignore[union-attr]
        tracker = open_tracker(TrackingConfig(), store, f"pretrain/{name}", plain(config), {})
        tracker.close()
        specs.append(plain(dataclasses.replace(planned.spec, claim=claim, tracking=tracker.run or {})))
    return specs


def _timed(timeline: Path, fresh: bool) -> list[Timed]:
    """The trials of a file of moments. Args: fresh, whether each had a process of its own."""
    trials: list[Timed] = []
    first, before = 0.0, 0.0
    for line in timeline.read_text(encoding="utf-8").splitlines():
        at, moment = line.split(" ", 1)
        if moment == _FIRST:
            first = float(at)
        elif moment.startswith(_END):
            cpu = float(moment.removeprefix(_END))
            trials.append(Timed(first, float(at), cpu - before))
            before = 0.0 if fresh else cpu
    return trials


_WAYS: dict[str, Callable[[ArtifactStore, Sequence[str], int, Path], list[Timed]]] = {
    "pool": pool, "commands": commands, "tune": tune,
}  # fmt: skip


if __name__ == "__main__":
    main()
