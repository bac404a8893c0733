"""Training under torchrun, without Ray: layouts, windows, and a disk that is full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.train.checkpoint import committed_steps, open_checkpoint
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.run.loop import read_metrics
from tests.integration.conftest import TINY_MODEL, claimed_spec, train_config
from tests.integration.ranks import Ranks, train
from tests.untrained import commit_run
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def losses(store: Any, run: str) -> list[float]:
    return [row["loss"] for row in read_metrics(store.storage, run)]


def torchrun(
    spec: dict[str, Any], ranks: int, tmp_path: Path, limit_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a spec with torchrun, as a user does; `limit_bytes` caps the size of any file it writes, as a full disk
    would.
    """
    path = tmp_path / f"spec-{spec['name']}-{ranks}.json"
    path.write_text(json.dumps(spec))

    def limit() -> None:
        import resource

        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={ranks}",
        "--standalone",
        "-m",
        "pipelines.train.worker",
        str(path),
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_accumulation_layouts_give_the_same_curve(store: Any, one_rank: Ranks, tmp_path: Path) -> None:
    curves = []
    for name, ranks, micro in (("m8", 1, 8), ("m1", 1, 1), ("m2", 2, 2)):
        spec = claimed_spec(
            "pretrain",
            train_config(name=name, data="mixture/tiny_decay", steps=6, **{"batch.micro_batch": micro}),
            store,
            ranks,
        )
        if ranks == 1:
            called = one_rank.call(train, spec)
            assert not called.error, called.error
        else:  # workers of their own, as a user starts them
            done = torchrun(spec, ranks, tmp_path)
            assert done.returncode == 0, done.stderr[-3000:]
        curves.append(losses(store, f"pretrain/{name}"))
    # the decay mixture has masked rows, so micro-batches count unequal numbers of tokens
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    assert curves[2] == pytest.approx(curves[0], rel=1e-6)


def test_a_branch_reads_longer_windows_and_its_child_takes_them(store: Any, one_rank: Ranks) -> None:
    """Windows of 32 in the trunk, of 96 in the anneal: slower positions, the trunk's moments, sft at the new length."""

    def stage(kind: Any, config: Any) -> dict[str, Any]:
        done = one_rank.call(train, claimed_spec(kind, config, store, 1))
        assert not done.error, done.error
        assert "(this machine of" in done.out  # the worker's own look at its memory
        return open_checkpoint(store.storage, f"{kind}/{config.name}").state

    stage("pretrain", train_config(name="t", steps=4))
    anneal = train_config(
        name="long", parent="pretrain/t@step-4", data="mixture/tiny_decay", model=None, steps=4, rope_base="ntk",
        schedule={"decay": "linear", "decay_fraction": 1.0},
        batch={"sequence_length": 96, "global_batch": 4, "micro_batch": 2},
    )  # fmt: skip
    state = stage("anneal", anneal)
    assert state["model"]["max_positions"] == 96
    assert state["model"]["rope_base"] == pytest.approx(10_000 * 3 ** (8 / 6))
    assert state["updates"] == 8  # the trunk's four and its own
    assert state["tokens"] == 4 * 8 * 32 + 4 * 4 * 96
    delivered = store.get("anneal/long").statistics["delivered"]
    assert sum(delivered.values()) == 16  # its own windows, whatever was left out before them
    sft = train_config(
        name="s", parent="anneal/long", data="tokens/tiny", model=None, steps=2, schedule={},
        batch={"sequence_length": 96, "global_batch": 4, "micro_batch": 2},
    )  # fmt: skip
    assert stage("sft", sft)["model"] == state["model"]


def test_a_full_disk_while_saving_commits_nothing(store: Any, one_rank: Ranks, tmp_path: Path) -> None:
    spec = claimed_spec("pretrain", train_config(name="full", steps=8), store, 1)
    spec["batch"]["micro_batch"] = 8
    done = torchrun(spec, 1, tmp_path, limit_bytes=100_000)  # a worker of its own, as a user starts it
    assert done.returncode != 0, done.stdout
    assert "WARNING checkpoint at step 4 failed; training goes on" in done.stdout
    assert "ALARM checkpoint at step 8 failed (2 in a row)" in done.stdout
    assert "the last checkpoint of pretrain/full (step 8) could not be saved" in done.stderr
    assert committed_steps(store.storage, "pretrain/full") == []
    assert not store.storage.exists("pretrain/full/manifest.json")
    assert not list((store.storage.root / "pretrain/full").rglob("*.safetensors"))
    again = one_rank.call(train, spec)
    assert not again.error, again.error
    assert committed_steps(store.storage, "pretrain/full") == [4, 8]


def train_until(values: dict[str, Any], last: int) -> None:
    """Train a spec, and stop before the step after `last`."""
    from pipelines.config import parse
    from pipelines.errors import TrainingError
    from pipelines.train.run.loop import train
    from pipelines.train.spec import TrainSpec

    def watch(step: int, rate: float, engine: Any, batches: Any) -> None:
        if step > last:
            raise TrainingError(f"stopped before step {step}")

    train(parse(TrainSpec, values), print, watch)


def test_a_restart_reads_back_what_was_prepared_before_the_first_step(store: Any, one_rank: Ranks) -> None:
    commit_run(store, "sft/begun", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"), sequence_length=32)
    specs = [
        claimed_spec(
            "dpo",
            train_config(
                name=name, parent="sft/begun", data="tokens/tiny", model=None, steps=6, schedule={"peak_lr": 0.01}
            ),
            store,
            1,
        )
        for name in ("whole", "stopped")
    ]
    assert one_rank.call(train, specs[0]).error == ""
    stopped = one_rank.call(train_until, specs[1], 5)
    assert "stopped before step 6. The checkpoint at step 4 is kept" in stopped.error
    assert one_rank.call(train, specs[1]).error == ""
    assert losses(store, "dpo/stopped") == losses(store, "dpo/whole")
