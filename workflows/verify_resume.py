"""Does a killed run end where an uninterrupted one does? Asked of an experiment's own pretraining, with real kills.

    python -m workflows.verify_resume +experiment=demo        about 10 minutes on 2 CPU cores
    python -m workflows.verify_resume +experiment=demo steps=20 worlds=[1,2] stages=[1,3]

For each ZeRO stage: 2k steps straight, against k steps, SIGKILL, and the rest in new processes. Compared are the loss,
the LR, the samples, every token of them and the random-number generators of every step, and every parameter and moment
at the end.
Then every checkpoint (each stage, on each number of workers) is loaded into every stage on every number of workers: the
state has to be equal to the last bit, the samples the same, and the first loss within 1e-6. Needs the experiment's
tokens and mixture, and changes nothing of its runs: what it trains goes to a folder of its own, and is deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch

from pipelines.config import Count, Range, WorkflowConfig, config_class, plain
from pipelines.display.progress import duration, say, table
from pipelines.errors import ArtifactError, ConfigError, TrunklineError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint.committed import Index, committed_steps, open_checkpoint
from pipelines.train.plan.planning import plan_stage
from pipelines.train.run.loop import read_metrics
from pipelines.train.spec import TrainConfig, TrainSpec
from workflows.command_line.composing import compose_config
from workflows.entry import entry
from workflows.running import training
from workflows.running.session import Session

CODE = (
    *training.CODE,
    *(f"pipelines.train.checkpoint.{module}" for module in ("committed", "snapshot", "saver")),
    "pipelines.train.verification",
)
_LOSS_TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-4}  # relative, of the first step after a load elsewhere
_JOB_SECONDS = 1800


@config_class
class VerifyResumeConfig(WorkflowConfig):
    """Whose pretraining, and how much of it."""

    experiment: str  # its overlay of pretrain is composed: model, data, batch, schedule, optimizer
    overrides: list[str] = dataclasses.field(default_factory=list)  # of that config, e.g. data=mixture/mine
    steps: Count = 5  # k: before the kill, and after it
    stages: list[Annotated[int, Range(0, 3)]] = dataclasses.field(default_factory=lambda: [0, 1, 2, 3])
    worlds: list[Count] = dataclasses.field(default_factory=lambda: [1, 2, 4])  # numbers of workers
    killed_world: Count = 2  # workers of the runs that are killed

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2:
            raise ConfigError(f"steps is {self.steps}; expected 2 or more: the kill comes during the step after k + 1")
        if not self.stages or set(self.stages) - {0, 1, 2, 3}:
            raise ConfigError(f"stages is {self.stages}; expected some of 0, 1, 2, 3")
        if not self.worlds or min(self.worlds) < 1 or self.killed_world not in self.worlds:
            raise ConfigError(
                f"worlds is {self.worlds} and killed_world {self.killed_world}; expected numbers of workers, with "
                "killed_world among them"
            )


def run(config: VerifyResumeConfig, session: Session) -> Artifact:
    """Verify, print the tables and commit `verify_resume/<name>`. Ends with exit code 1 when something differs."""
    pretrain = compose_config(
        "pretrain", TrainConfig, [f"+experiment={config.experiment}", f"store={config.store}", *config.overrides]
    )
    stages, worlds, notes = _possible(config, pretrain)
    checkpoint = dataclasses.replace(
        pretrain.checkpoint, every_steps=config.steps, keep_last=None, keep_every_steps=None, resume="latest"
    )
    pretrain = dataclasses.replace(
        pretrain, steps=2 * config.steps, epochs=None, log_every_steps=1, checkpoint=checkpoint
    )
    try:
        planned = plan_stage("pretrain", pretrain, session.store, None, config.killed_world)
    except ArtifactError as error:
        raise ArtifactError(
            f"verify_resume trains on what pretrain of {config.experiment} trains on, and that is not there: {error}"
        ) from error
    whole = {**identity(config), "pretrain": planned.identity, "stages": stages, "worlds": worlds}
    announcement = {
        "experiment": f"{config.experiment}: {planned.announcement['model']}",
        "killed and resumed": f"{2 * config.steps} steps, killed in step {config.steps + 2}, ZeRO {_words(stages)} on "
        f"{config.killed_world} workers",
        "loaded elsewhere": f"each of {len(stages) * len(worlds)} checkpoints (ZeRO {_words(stages)} × "
        f"{_words(worlds)} workers) into each of these",
        **{f"note {i + 1}": note for i, note in enumerate(notes)},
    }
    code = (*CODE, *training.code_of(planned.spec.objective.name, planned.spec.optimizer.kind))
    draft = session.begin("verify_resume", config, announcement, planned.inputs, code, identity=whole)
    if isinstance(draft, Artifact):
        results = draft.json("results.json")
        _show(results)
        return _end(draft, results)
    with (
        session.track(draft, config, planned.inputs, model=planned.spec.model) as tracker,
        _scratch(session.store, config.name, planned.inputs) as (store, prefix),
    ):
        checks = _Checks(config, pretrain, planned.spec, store, prefix, stages, worlds)
        results = {"killed": checks.killed(), "loaded": checks.loaded()}
        _show(results)
        path = draft.scratch("results.json")
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        draft.publish("results", {"results.json": path})
        statistics = {
            "differences": len(_differences(results)),
            "checks": len(results["killed"]) + len(results["loaded"]),
        }
        tracker.metrics(statistics, 2 * config.steps)
        artifact = draft.commit(plain(config), statistics)
    return _end(session.done(artifact), results)


def _possible(config: VerifyResumeConfig, pretrain: TrainConfig) -> tuple[list[int], list[int], list[str]]:
    """The stages and worlds that can run here, and why others cannot."""
    stages, worlds, notes = sorted(set(config.stages)), sorted(set(config.worlds)), []
    if 0 in stages and (pretrain.zero.precision != "float32" or pretrain.zero.offload != "none"):
        stages.remove(0)
        notes.append(
            "ZeRO-0 is left out: it takes zero.precision=float32 and zero.offload=none, not "
            f"{pretrain.zero.precision} and {pretrain.zero.offload}"
        )
    gpus = torch.cuda.device_count()
    indivisible = [world for world in worlds if pretrain.batch.global_batch % world or 0 < gpus < world]
    if indivisible:
        worlds = [world for world in worlds if world not in indivisible]
        notes.append(
            f"{_words(indivisible)} workers are left out: batch.global_batch is {pretrain.batch.global_batch}"
            + (f", and there are {gpus} GPUs" if gpus else "")
        )
    if not stages or config.killed_world not in worlds:
        raise ConfigError(
            f"nothing can be verified: {'; '.join(notes)}: choose others with stages=[…] worlds=[…] killed_world=…"
        )
    return stages, worlds, notes


@contextlib.contextmanager
def _scratch(store: ArtifactStore, name: str, inputs: tuple[Artifact, ...]) -> Iterator[tuple[ArtifactStore, str]]:
    """A store with the inputs, to train in, and what its runs' names begin with; all of it goes at the end.

    Beside a folder that is a temporary one with links to the inputs; on S3 it is the store itself, and the runs go.
    """
    prefix = f"verify-{name}-"
    if isinstance(store.storage, FolderStorage):
        with tempfile.TemporaryDirectory(prefix="trunkline-verify-") as folder:
            for artifact in inputs:
                link = Path(folder) / artifact.folder
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(store.storage.root / artifact.folder)
            yield ArtifactStore(folder), prefix
        return
    try:
        yield store, prefix
    finally:
        for folder in {"/".join(key.split("/")[:2]) for key in store.storage.keys("pretrain")}:
            if folder.startswith(f"pretrain/{prefix}"):
                store.storage.delete(folder)


class _Checks:
    """The runs of one verification, and what is compared of them."""

    def __init__(
        self, config: VerifyResumeConfig, pretrain: TrainConfig, spec: TrainSpec, store: ArtifactStore, prefix: str,
        stages: list[int], worlds: list[int],
    ):  # fmt: skip
        self.config, self.pretrain, self.planned, self.store, self.prefix = config, pretrain, spec, store, prefix
        self.stages, self.worlds, self.k = stages, worlds, config.steps
        self.began = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-verify-")
        self.folder = Path(self._folder.name)

    def killed(self) -> list[dict[str, Any]]:
        """Train straight on every number of workers; kill and resume on one; compare."""
        world, killed = self.config.killed_world, []
        for workers in self.worlds:
            self._say(f"{2 * self.k} steps straight on {workers} workers, ZeRO {_words(self.stages)}")
            self._job(workers, runs=[self._claimed(f"zero{stage}-w{workers}", stage, workers) for stage in self.stages])
        for stage in self.stages:
            self._say(f"ZeRO-{stage} on {world} workers: {self.k} steps and a kill")
            spec = self._claimed(f"zero{stage}-killed", stage, world)
            self._job(world, runs=[spec], die_after=self.k)
            steps = committed_steps(self.store.storage, f"pretrain/{spec['name']}")
            if steps != [self.k]:
                raise TrunklineError(f"the killed run of ZeRO-{stage} left checkpoints at {steps}; expected [{self.k}]")
            killed.append(spec)
        self._say(f"the killed runs, resumed on {world} workers")
        self._job(world, runs=killed)
        return [self._compare(stage) for stage in self.stages]

    def loaded(self) -> list[dict[str, Any]]:
        """Load every straight run's checkpoint at step k everywhere, and compare."""
        sources = [f"{self.prefix}zero{stage}-w{world}" for world in self.worlds for stage in self.stages]
        rows = []
        for world in self.worlds:
            self._say(f"{len(sources)} checkpoints into ZeRO {_words(self.stages)} on {world} workers")
            loads = [self._spec(f"zero{stage}-w{world}", stage, world) for stage in self.stages]
            path = self._job(world, loads=loads, sources=sources)
            rows += [
                self._judge(load) for load in json.loads(path.with_suffix(".loads.json").read_text(encoding="utf-8"))
            ]
        return rows

    def _spec(self, name: str, stage: int, world: int) -> dict[str, Any]:
        """A run of the experiment at another stage and world."""
        share = self.pretrain.batch.global_batch // world
        micro = max(size for size in range(1, min(share, self.pretrain.batch.micro_batch) + 1) if share % size == 0)
        spec = dataclasses.replace(
            self.planned,
            name=f"{self.prefix}{name}",
            store=self.store.uri,
            zero=dataclasses.replace(self.planned.zero, stage=stage),  # type: ignore[arg-type]
            batch=dataclasses.replace(self.planned.batch, micro_batch=micro),
        )
        values: dict[str, Any] = plain(spec)
        return values

    def _claimed(self, name: str, stage: int, world: int) -> dict[str, Any]:
        """The same, claimed in the scratch store: to be trained."""
        spec = self._spec(name, stage, world)
        draft = self.store.begin("pretrain", spec["name"], {"verify_resume": self.config.name}, on_change="rebuild")
        assert isinstance(draft, Draft)
        return {**spec, "claim": draft.claim}

    def _job(
        self, world: int, runs: list[Any] | None = None, die_after: int | None = None, loads: list[Any] | None = None,
        sources: list[str] | None = None,
    ) -> Path:  # fmt: skip
        """Run a job of `pipelines.train.verification` to its end, or to its death where it is to die."""
        path = self.folder / f"job-{len(list(self.folder.glob('job-*.log')))}.json"
        path.write_text(
            json.dumps(
                {
                    "runs": runs or [],
                    "die_after": die_after,
                    "loads": loads or [],
                    "sources": sources or [],
                    "step": self.k,
                }
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        with path.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-m", "pipelines.train.verification", str(path)], stdout=log, stderr=subprocess.STDOUT,
                cwd=Path(__file__).parent.parent, env={"OMP_NUM_THREADS": "1", **os.environ},
            )  # fmt: skip
            try:
                code = process.wait(_JOB_SECONDS)
            finally:
                if process.poll() is None:
                    # not killed at once: the workers are sessions of their own, which only torchrun ends
                    process.terminate()
                    process.wait()
        said = path.with_suffix(".log").read_text(errors="replace", encoding="utf-8")
        if die_after is None and code:
            raise TrunklineError(f"the workers ended with code {code}; the end of what they said:\n{said[-3000:]}")
        if die_after is not None and "Signal 9 (SIGKILL)" not in said and "exitcode  : -9" not in said:
            raise TrunklineError(f"the worker that was to be killed ended otherwise:\n{said[-3000:]}")
        return path

    def _records(self, name: str, world: int) -> dict[tuple[int, int], dict[str, Any]]:
        """What each step of each rank was given, of the attempt that counts: the last one."""
        records = {}
        for path in sorted(
            self.folder.glob(f"{self.prefix}{name}-from*-rank*.jsonl"),
            key=lambda p: int(p.stem.split("-from")[1].split("-")[0]),
        ):
            rank = int(path.stem.rpartition("rank")[2])
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                records[record["step"], rank] = record
        assert len(records) == 2 * self.k * world, f"{name}: {len(records)} records"
        return records

    def _compare(self, stage: int) -> dict[str, Any]:
        """Everything of a killed and resumed run against the straight one; "" where it is bit-exact."""
        world = self.config.killed_world
        names = (f"zero{stage}-w{world}", f"zero{stage}-killed")
        curves = [read_metrics(self.store.storage, f"pretrain/{self.prefix}{name}") for name in names]
        straight, resumed = (self._records(name, world) for name in names)
        row: dict[str, Any] = {"stage": stage, "world": world}
        losses = [[step["loss"] for step in curve] for curve in curves]
        row["loss"] = _first_difference(*losses)
        for key, field in (("LR", "learning_rate"), ("samples and tokens", "rows"), ("random numbers", "random")):
            differing = [place for place in sorted(straight) if straight[place][field] != resumed[place][field]]
            row[key] = f"step {differing[0][0]}, rank {differing[0][1]}" if differing else ""
        ends = [open_checkpoint(self.store.storage, f"pretrain/{self.prefix}{name}") for name in names]
        indices = [Index(end) for end in ends]
        row["parameters"] = row["moments"] = ""
        if [end.state["updates"] for end in ends] != [2 * self.k] * 2 or any(
            len(curve) != 2 * self.k for curve in curves
        ):
            row["moments"] = (
                f"updates counted: {[end.state['updates'] for end in ends]}, steps: {[len(curve) for curve in curves]}"
            )
        for name, shape in ends[0].state["shapes"].items():
            for key in indices[0].states(name):
                one, other = (torch.empty(math.prod(shape)) for _ in ends)
                indices[0].fill(name, key, 0, one)
                indices[1].fill(name, key, 0, other)
                kind = "parameters" if key == "fp32" else "moments"
                if not torch.equal(one, other) and not row[kind]:
                    row[kind] = f"{name} ({key}): up to {float((one - other).abs().max()):.1e}"
        return row

    def _judge(self, load: dict[str, Any]) -> dict[str, Any]:
        """A load against the run that saved the checkpoint; `problems` is empty when all is as promised."""
        source = load["source"].removeprefix(self.prefix)
        world = int(source.rpartition("w")[2])
        straight = self._records(source, world)
        rows = {int(k): v for rank in range(world) for k, v in straight[self.k + 1, rank]["rows"].items()}
        loss = read_metrics(self.store.storage, f"pretrain/{load['source']}")[self.k]["loss"]
        off = abs(load["loss"] - loss) / abs(loss)
        problems = [f"{load['unequal'][0]} differs, and {len(load['unequal']) - 1} more"] if load["unequal"] else []
        if rows != {int(k): v for k, v in load["rows"].items()}:
            problems.append("other samples")
        if not off <= _LOSS_TOLERANCE[self.planned.zero.precision]:
            problems.append(f"first loss off by {off:.1e}")
        return {"source": source, "stage": load["stage"], "world": load["world"], "loss_off": off, "problems": problems}

    def _say(self, message: str) -> None:
        say(f"   {duration(time.monotonic() - self.began):>6}  {message}")


_COMPARED = ("loss", "LR", "samples and tokens", "random numbers", "parameters", "moments")


def _show(results: dict[str, Any]) -> None:
    say("\n   killed and resumed, against straight:")
    rows = [
        [f"ZeRO-{row['stage']} × {row['world']}", *(row[key] or "bit-exact" for key in _COMPARED)]
        for row in results["killed"]
    ]
    say(table(("", *_COMPARED), rows))
    say("\n   loaded elsewhere, each target from all checkpoints:")
    targets: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in results["loaded"]:
        targets.setdefault((row["stage"], row["world"]), []).append(row)
    rows = []
    for (stage, world), loads in targets.items():
        problems = [f"from {row['source']}: {problem}" for row in loads for problem in row["problems"]]
        worst = max(row["loss_off"] for row in loads)
        verdict = "state bit-equal, same samples" if not problems else "; ".join(problems[:2])
        rows.append([f"ZeRO-{stage} × {world}", len(loads), f"{worst:.1e}", verdict])
    say(table(("into", "checkpoints", "first loss off by at most", ""), rows))
    say()


def _differences(results: dict[str, Any]) -> list[str]:
    killed = [f"ZeRO-{row['stage']} {key}: {row[key]}" for row in results["killed"] for key in _COMPARED if row[key]]
    loaded = [
        f"{row['source']} into ZeRO-{row['stage']} × {row['world']}: {problem}"
        for row in results["loaded"]
        for problem in row["problems"]
    ]
    return [*killed, *loaded]


def _end(artifact: Artifact, results: dict[str, Any]) -> Artifact:
    """Say how it ended. Raises: SystemExit with code 1 when something differs."""
    if differences := _differences(results):
        say(f"   NOT as promised, {len(differences)} differences; the first: {differences[0]}")
        raise SystemExit(1)
    loads = len(results["loaded"])
    say(
        f"   as promised: a killed run ends bit-exactly where a straight one does, and all {loads} loads elsewhere go "
        "on equally"
    )
    return artifact


def _first_difference(one: list[float], other: list[float]) -> str:
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"from step {i + 1}: {abs(a - b) / abs(a):.1e}"
    return "" if len(one) == len(other) else f"{len(one)} steps and {len(other)}"


def _words(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


main = entry(VerifyResumeConfig, run, "verify_resume")

if __name__ == "__main__":
    main()
