"""The memory of training as `workflows.plan` predicts it, against the peak of real training processes on this machine.

    python -m benchmarks.memory                       every case, a few minutes on two cores
    python -m benchmarks.memory demo-zero1 9m-zero1   these
    python -m benchmarks.memory --json points.json    also as a file

Enters: nothing; a token store of random ids is made in a temporary folder. Each case is a run of `pretrain` as any
other: planned by `plan_stage`, trained by `pipelines.train.worker` in one process a rank, with two checkpoints.
Measured is each process's largest resident memory as the kernel counted it (`wait4`, ru_maxrss), the worst rank. That
holds Python, torch and the pages of their libraries, as the prediction does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import plain
from pipelines.data.stream.mixture import MixtureRecipe, plan_mixture
from pipelines.data.tokens.token_shards import TokenShardWriter
from pipelines.display.progress import table
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.plan import devices, memory
from pipelines.train.plan.memory import GIB
from pipelines.train.plan.planning import plan_stage
from pipelines.train.spec import TrainConfig, TrainSpec
from tests.ports import free_port
from workflows.command_line.composing import compose_config

_STEPS = 4


@dataclass(frozen=True)
class Case:
    """One run: the overrides of `pretrain`, and how many processes train."""

    name: str
    workers: int
    overrides: tuple[str, ...]
    vocabulary: int


@dataclass(frozen=True)
class Point:
    """What a case was predicted to take and took."""

    case: str
    parameters: int
    workers: int
    predicted_gib: float
    measured_gib: float
    parts: str
    seconds: float
    tokens_per_s: float

    @property
    def off(self) -> float:
        """Prediction / measurement - 1."""
        return self.predicted_gib / self.measured_gib - 1


def _case(
    name: str, model: str, vocabulary: int, workers: int, zero: int, precision: str, rows: int, length: int,
    accumulation: int = 2, keep: str = "all", **model_keys: int,
) -> Case:  # fmt: skip
    return Case(
        name,
        workers,
        (
            f"model={model}", f"model.vocabulary={vocabulary}", f"zero=zero{zero}", f"zero.precision={precision}",
            f"batch.sequence_length={length}", f"batch.micro_batch={rows}",
            f"batch.global_batch={rows * accumulation * workers}", f"compute.keep={keep}",
            *(f"model.{key}={value}" for key, value in model_keys.items()),
        ),
        vocabulary,
    )  # fmt: skip


CASES = {
    case.name: case
    for case in (
        _case("demo-zero0", "demo", 4096, 1, 0, "float32", 16, 256),
        _case("demo-zero1-bf16", "demo", 4096, 1, 1, "bfloat16", 16, 256),
        _case("9m-zero1", "wind_tunnel_9m", 32768, 1, 1, "float32", 8, 512),
        _case("9m-zero2-bf16-2", "wind_tunnel_9m", 32768, 2, 2, "bfloat16", 8, 512),
        _case("9m-vocabulary-zero1", "wind_tunnel_9m", 122753, 1, 1, "float32", 2, 512),
        _case("30m-zero0", "wind_tunnel_30m", 16384, 1, 0, "float32", 4, 512),
        _case("30m-zero1-2", "wind_tunnel_30m", 16384, 2, 1, "float32", 4, 512),
        _case("30m-zero2-2", "wind_tunnel_30m", 16384, 2, 2, "float32", 4, 512),
        _case("30m-zero3-2", "wind_tunnel_30m", 16384, 2, 3, "float32", 4, 512),
        _case("30m-zero1-bf16", "wind_tunnel_30m", 16384, 1, 1, "bfloat16", 4, 512),
        _case("30m-zero3-bf16-2", "wind_tunnel_30m", 16384, 2, 3, "bfloat16", 4, 512),
        _case("30m-input", "wind_tunnel_30m", 16384, 1, 1, "float32", 16, 512, keep="input"),
        _case("30m-products", "wind_tunnel_30m", 16384, 1, 1, "float32", 8, 512, keep="products"),
        _case("70m-zero1", "wind_tunnel_70m", 16384, 1, 1, "float32", 4, 1024, accumulation=1),
        _case("0.1b-zero1-bf16", "wind_tunnel_0.1b", 16384, 1, 1, "bfloat16", 2, 1024),
    )
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all of them")
    parser.add_argument("--json", type=Path, help="a file that the points are written to")
    options = parser.parse_args()
    points = []
    for name in options.cases or CASES:
        points.append(point := measure(CASES[name]))
        print(
            f"   {point.case:<22} predicted {point.predicted_gib:6.3f} GiB, measured {point.measured_gib:6.3f}, "
            f"off {point.off:+6.1%}   {point.parts}",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps([dataclasses.asdict(one) for one in points], indent=1), encoding="utf-8")
    print("\n" + table(*summary(points)))


def summary(points: list[Point]) -> tuple[list[str], list[list[Any]]]:
    """The table."""
    rows = [
        [p.case, p.parameters, p.workers, round(p.predicted_gib, 3), round(p.measured_gib, 3), f"{p.off:+.1%}"]
        for p in points
    ]
    return ["case", "parameters", "workers", "predicted GiB", "measured GiB", "off"], rows


def measure(case: Case, steps: int = _STEPS) -> Point:
    """Train a case in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        length = int(next(text for text in case.overrides if "sequence_length" in text).partition("=")[2])
        store = make_store(f"{folder}/store", case.vocabulary, length)
        overrides = [
            *case.overrides, f"cluster.workers={case.workers}", f"steps={steps}", f"store={folder}/store",
            "name=measured", "data=mixture/random", f"checkpoint.every_steps={steps // 2}", "log_every_steps=1",
            "monitor_every_steps=0", "schedule.warmup_fraction=null", "schedule.warmup_steps=0",
        ]  # fmt: skip
        config = compose_config("pretrain", TrainConfig, overrides)
        planned = plan_stage("pretrain", config, store, None, case.workers)
        draft = store.begin("pretrain", "measured", planned.identity, planned.inputs)
        assert isinstance(draft, Draft)
        spec = dataclasses.replace(planned.spec, claim=draft.claim)
        path = Path(folder) / "spec.json"
        path.write_text(json.dumps(plain(spec)), encoding="utf-8")
        began = time.monotonic()
        peaks = run_ranks(path, case.workers)
        seconds = time.monotonic() - began
        trained = store.get("pretrain/measured").statistics
    predicted = predict(spec, case.workers)
    return Point(
        case.name, parameter_counts(spec.model)["total"], case.workers, predicted.total / GIB, max(peaks) / GIB,
        str(predicted), seconds, trained["stage_tokens"] / trained["train_seconds"],
    )  # fmt: skip


def predict(spec: TrainSpec, workers: int) -> memory.Memory:
    """What `workflows.plan` says of one process of this run."""
    setup = devices.setup_of(spec, workers, "cpu")
    return memory.predict(setup, memory.plan_keep(setup, float("inf")))


def run_ranks(spec: Path, workers: int) -> list[float]:
    """The largest resident memory of each rank, in bytes. Raises: RuntimeError with what a rank that failed wrote."""
    port, processes = free_port(), []
    for rank in range(workers):
        surroundings = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers),
            "LOCAL_WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        command = [sys.executable, "-m", "pipelines.train.worker", str(spec)]
        log = (spec.parent / f"rank-{rank}.log").open("w", encoding="utf-8")
        processes.append(subprocess.Popen(command, env=surroundings, stdout=log, stderr=subprocess.STDOUT))
    peaks = []
    for rank, process in enumerate(processes):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError((spec.parent / f"rank-{rank}.log").read_text(encoding="utf-8"))
        peaks.append(usage.ru_maxrss * 1024.0)
    return peaks


def make_store(uri: str, vocabulary: int, length: int) -> ArtifactStore:
    """`tokens/random` and `mixture/random`: documents of some 700 random ids."""
    store, rng = ArtifactStore(uri), np.random.default_rng(0)
    draft = store.begin("tokens", "random", {"seed": 0})
    assert isinstance(draft, Draft)
    paths = {suffix: draft.scratch(f"train/random/00000.{suffix}") for suffix in ("bin", "idx", "bytes", "sums")}
    writer, documents = TokenShardWriter(paths, vocabulary), max(400, 64 * length // 700)
    for _ in range(documents):
        ids = rng.integers(3, vocabulary, int(rng.integers(200, 1200))).astype(writer.dtype)
        writer.add(ids, np.array([len(ids)]), bytes=np.array([2 * len(ids)]))
    writer.close()
    draft.publish("random", {f"train/random/00000.{suffix}": path for suffix, path in paths.items()})
    train = {
        "shards": ["train/random/00000"], "shard_tokens": [writer.tokens], "tokens": writer.tokens,
        "loss_tokens": writer.loss_tokens, "documents": documents, "bytes": 2 * writer.tokens,
        "loss_bytes": 2 * writer.tokens,
    }  # fmt: skip
    source = {"kind": "documents", "language": "none", "licence": "none", "train": train}
    tokens = draft.commit({}, {"sources": {"random": source}, "vocabulary_size": vocabulary})
    recipe = MixtureRecipe(weights={"random": 1.0}, budget_tokens=10**7, max_epochs=1000)
    mixture = store.begin("mixture", "random", {"weights": recipe.weights}, [tokens])
    assert isinstance(mixture, Draft)
    plan = plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics)
    path = mixture.scratch("mixture.json")
    path.write_text(json.dumps(plan.to_json()), encoding="utf-8")
    mixture.publish("mixture", {"mixture.json": path})
    mixture.commit({}, {})
    return store


if __name__ == "__main__":
    main()
