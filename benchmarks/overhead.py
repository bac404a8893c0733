"""What everything around the engine costs: Ray, Hydra, MLflow, loader, log and monitor against the bare loop.

    python -m benchmarks.overhead                 # the demo's model and batch, two processes
    python -m benchmarks.overhead --startup       # only the time from the command to the first step, warm

Ours is `python -m workflows.pretrain` as a user runs it, with tracking, the monitor at its default, and a line every 10
steps. The bare loop is the same model, engine and number of processes under `torchrun`: batches that lie in memory, a
`for` loop, nothing printed. The two run one after the other, `--rounds` times; of each run the steps after the first
ten count. Two ratios are printed: of the median step's wall time, and of the CPU time that the ranks took for a step,
which other work on the machine moves less; and what
Ray, driver and tracking took beside the ranks, in CPU time as a share of that. The goal is 1.02 on cores that nothing
else uses: on shared ones the spread between rounds says how little a single figure means.

Start-up is timed from outside: from starting `python` until the line of step 1 is printed, which is when step 2 is
done, with the moments that the command's processes note on the way. The first run of a machine (cold file cache) is
left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.tokens import VOCABULARY, commit_tokens
from pipelines.display.progress import table
from pipelines.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[1]
_MOMENTS = {
    "plan": "planned: Python, Hydra, torch imported",
    "Ray": "Ray started or joined",
    "run": "MLflow's run made, beside Ray and the group",
    "processes": "workers' processes are there",
    "workers": "workers joined; torch, DeepSpeed imported",
    "weights": "engine made, weights there",
    "first step": "first step done",
    "line": "line of step 1 printed",
}
_WARM_STEPS = 10  # allocators, caches, and the thread that reads ahead


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, alternating")
    parser.add_argument(
        "--steps", type=int, default=50, help=f"of a run, of which the first {_WARM_STEPS} do not count"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="demo", help="a name in conf/model")
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--global-batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--startup", action="store_true", help="time only the start, --rounds times")
    parser.add_argument(
        "--attach", metavar="ADDRESS", help="start within this running Ray, e.g. auto, instead of a private one"
    )
    parser.add_argument("--bare", metavar="SPEC", help=argparse.SUPPRESS)  # what torchrun starts
    options = parser.parse_args(arguments)
    if options.bare:
        _bare(json.loads(Path(options.bare).read_text(encoding="utf-8")))
        return
    if options.steps < 2 * _WARM_STEPS:
        parser.error(
            f"--steps {options.steps}: expected at least {2 * _WARM_STEPS}, since the first {_WARM_STEPS} do not count"
        )
    with tempfile.TemporaryDirectory(prefix="trunkline-overhead-") as folder:
        store = Path(folder, "store")
        commit_tokens(ArtifactStore(str(store)), {"a": 0.7, "b": 0.3}, 2, 500_000)
        if options.startup:
            _startup(options, store)
        else:
            _overhead(options, store)


def _overhead(options: argparse.Namespace, store: Path) -> None:
    rounds = []
    for number in range(1, options.rounds + 1):
        print(f"round {number} of {options.rounds}", flush=True)
        ours = _ours(options, store, f"ours{number}", options.steps)
        rounds.append((ours, _torchrun(options, store, f"ours{number}")))
    wall = [_median(ours.steps) / _median(bare.steps) for ours, bare in rounds]
    cpu = [ours.ranks_cpu_s / bare.ranks_cpu_s for ours, bare in rounds]
    beside = [ours.others_cpu_s / ours.ranks_cpu_s for ours, _ in rounds]
    print(table(
        ["round", "step ms", "bare ms", "ratio", "rank CPU ms", "bare CPU ms", "ratio", "CPU beside"],
        [[
            i + 1, f"{1e3 * _median(ours.steps):.1f}", f"{1e3 * _median(bare.steps):.1f}", f"{wall[i]:.3f}",
            f"{1e3 * ours.ranks_cpu_s:.1f}", f"{1e3 * bare.ranks_cpu_s:.1f}", f"{cpu[i]:.3f}", f"{beside[i]:.1%}",
        ] for i, (ours, bare) in enumerate(rounds)],
    ))  # fmt: skip
    for what, ratios in (("wall time", wall), ("CPU time of the ranks", cpu)):
        print(
            f"{what}: median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}; the "
            "goal is 1.02"
        )


def _startup(options: argparse.Namespace, store: Path) -> None:
    runs = [_ours(options, store, f"start{i}", 2) for i in range(options.rounds + 1)][1:]
    moments = list(dict.fromkeys(moment for run in runs for moment in run.moments))
    print(
        table(
            ["seconds from the command", *(f"round {i + 1}" for i in range(len(runs))), "median"],
            [
                [
                    _MOMENTS.get(moment, moment),
                    *(f"{run.moments[moment]:.1f}" for run in runs),
                    f"{statistics.median(run.moments[moment] for run in runs):.1f}",
                ]
                for moment in moments
            ]
            + [
                [f"CPU seconds of {what}", *(f"{value:.1f}" for value in values), f"{statistics.median(values):.1f}"]
                for what, values in (
                    ("the ranks", [run.ranks_cpu_s for run in runs]),
                    ("everything else", [run.others_cpu_s for run in runs]),
                )
            ],
        )
    )
    times = [run.first_s for run in runs]
    goal = 6 if options.attach else 10
    print(f"command to first line, warm: median {statistics.median(times):.1f} s; the goal is {goal} s")


@dataclasses.dataclass
class Run:
    """What one run took; CPU time is per step, of all ranks together, between the first and the last line."""

    steps: list[float]  # seconds of each
    first_s: float = 0.0  # from the command to the line of step 1
    moments: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds from the command, in their order
    ranks_cpu_s: float = 0.0
    others_cpu_s: float = 0.0


def _cpu(root: int) -> tuple[float, float]:
    """CPU seconds so far of the ranks below a process, and of it and everything else below it."""
    ranks = others = 0.0
    for process in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
        try:
            times, line = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "TrainWorker" in line or ("--bare" in line and "torch.distributed.run" not in line):
            ranks += times.user + times.system
        else:
            others += times.user + times.system
    return ranks, others


def _ours(options: argparse.Namespace, store: Path, name: str, steps: int) -> Run:
    """The command as a user gives it."""
    command = [
        sys.executable,
        "-m",
        "workflows.pretrain",
        f"name={name}",
        f"store={store}",
        "data=mixture/bench",
        f"model={options.model}",
        f"model.vocabulary={VOCABULARY}",
        "zero=zero2",
        "zero.precision=float32",
        f"steps={steps}",
        "schedule.warmup_steps=1",
        f"batch.sequence_length={options.sequence_length}",
        f"batch.global_batch={options.global_batch}",
        f"batch.micro_batch={options.micro_batch}",
        f"cluster.workers={options.workers}",
        "checkpoint.every_steps=1000000",
        f"log_every_steps={1 if steps == 2 else 10}",
    ]
    began, first, looks = time.monotonic(), 0.0, []
    timeline = store.parent / f"timeline-{name}"
    environment = {**os.environ, "TRUNKLINE_TIMELINE": str(timeline)}
    if options.attach:
        environment["RAY_ADDRESS"] = options.attach
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.lstrip().startswith("pretrain ") and " loss " in line:
                first = first or time.monotonic() - began
                looks.append(_cpu(process.pid))
    if process.returncode:
        sys.exit(f"the run failed:\n{''.join(lines[-30:])}")
    metrics = (
        (store / "pretrain" / name / "metrics" / f"step-{steps:06d}.jsonl").read_text(encoding="utf-8").splitlines()
    )
    if steps == 2:  # only the start counts: CPU time from the command on
        moments = {
            moment: float(at) - began
            for at, moment in sorted(line.split(" ", 1) for line in timeline.read_text(encoding="utf-8").splitlines())
        }
        return Run([], first, {**moments, "line": first}, *looks[0])
    return _result([json.loads(row)["step_duration_s"] for row in metrics], first, looks, 10 * (len(looks) - 1))


def _result(seconds: list[float], first: float, looks: list[tuple[float, float]], steps: int) -> Run:
    """A run from its steps' times and from looks at its CPU time, `steps` apart."""
    ranks, others = (end - start for start, end in zip(looks[0], looks[-1], strict=True))
    return Run(seconds, first, {}, ranks / max(1, steps), others / max(1, steps))


def _torchrun(options: argparse.Namespace, store: Path, name: str) -> Run:
    """The bare loop over the spec of the run that Ray has made."""
    results = store.parent / "bare.json"
    spec = store.parent / "spec.json"
    manifest = json.loads((store / "pretrain" / name / "manifest.json").read_text(encoding="utf-8"))
    spec.write_text(
        json.dumps({"config": manifest["config"], "steps": options.steps, "results": str(results)}), encoding="utf-8"
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.workers}",
        "-m", "benchmarks.overhead", "--bare", str(spec),
    ]  # fmt: skip
    looks = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("look"):
                looks.append(_cpu(process.pid))
    if process.returncode:
        sys.exit(f"the bare loop failed: {' '.join(command)}")
    return _result(json.loads(results.read_text(encoding="utf-8")), 0.0, looks, options.steps - _WARM_STEPS)


def _bare(spec: dict[str, Any]) -> None:
    """One process of the bare loop: ten steps' batches made beforehand, then nothing but steps."""
    import torch
    import torch.distributed as dist

    from pipelines.config import parse
    from pipelines.train.network.batch import Batch
    from pipelines.train.network.model import Transformer
    from pipelines.train.objectives.next_token import NextToken
    from pipelines.train.spec import TrainConfig
    from pipelines.train.update.engine import Engine, device, start_distributed
    from pipelines.train.update.step import Moment

    world = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
    start_distributed()
    config = parse(TrainConfig, spec["config"])
    assert config.model is not None
    batch, place = config.batch, device()
    model = Transformer(config.model).initialise(0).prepare(config.compute, device=place)
    accumulation = batch.global_batch // (batch.micro_batch * world)
    engine = Engine(model, NextToken(), config.zero, config.optimizer, batch.micro_batch, accumulation, 1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    shape = (batch.micro_batch, batch.sequence_length)
    steps = []
    for _ in range(10):
        # documents of 50 to 2,000 tokens, as in the store: attention sees the same lengths
        starts = torch.rand(shape, generator=generator) < 1 / 1000
        place_in_row = torch.arange(shape[1]).expand(shape)
        last = torch.where(starts, place_in_row, 0).cummax(dim=1).values
        positions = (place_in_row - last).to(place)
        tokens = torch.randint(0, config.model.vocabulary, (shape[0], shape[1] + 1), generator=generator).to(place)
        mask, sources = torch.ones(shape, device=place), torch.zeros(shape[0], dtype=torch.int64, device=place)
        steps.append(
            [Batch.shifted(tokens, positions, mask, sources, documents=model.locate(positions))] * accumulation
        )
    ends = [Moment()]
    for step in range(spec["steps"]):
        ends.append(engine.step(steps[step % 10], 1e-3).ended)
        if dist.get_rank() == 0 and step + 1 in (_WARM_STEPS, spec["steps"]):
            print("look", flush=True)  # at this process's CPU time
    seconds = [after.seconds_since(before) for before, after in itertools.pairwise(ends)]
    if dist.get_rank() == 0:
        Path(spec["results"]).write_text(json.dumps(seconds), encoding="utf-8")
    time.sleep(1)  # until the look was taken
    dist.barrier()
    os._exit(0)


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds[_WARM_STEPS:])


if __name__ == "__main__":
    main()
