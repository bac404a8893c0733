"""Training through real Ray and DeepSpeed: crashes, branches, damaged checkpoints."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.cluster.cluster import Cluster
from pipelines.errors import CheckpointError, ConfigError
from pipelines.train.checkpoint import committed_steps, open_checkpoint, read_weights, set_aside_after
from pipelines.train.run.loop import read_metrics
from pipelines.train.worker import ready, work
from tests.integration.conftest import claimed_spec, run_stage, train_config
from tests.integration.test_torchrun import losses
from tests.processes import below, send
from tests.waits import wait_until


def kill_a_worker_when(ready: Any) -> threading.Thread:
    """SIGKILL one training process of ours once `ready()` holds."""

    def wait_and_kill() -> None:
        wait_until(ready, "the moment at which a worker is to be killed")
        # of the Ray that these tests started, not of a neighbour's
        send(below(word="TrainWorker")[:1], signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def test_a_killed_worker_costs_nothing_but_time(
    cluster: Cluster, store: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    run_stage(cluster, "pretrain", train_config(name="straight", steps=32), store)
    killer = kill_a_worker_when(lambda: committed_steps(store.storage, "pretrain/killed"))
    run_stage(cluster, "pretrain", train_config(name="killed", steps=32), store)
    killer.join()
    assert "restarts from the last checkpoint" in capfd.readouterr().out
    assert losses(store, "pretrain/killed") == losses(store, "pretrain/straight")
    ends = [read_weights(open_checkpoint(store.storage, f"pretrain/{name}")) for name in ("straight", "killed")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert losses(store, "pretrain/straight")[-1] < 0.6 * losses(store, "pretrain/straight")[0]


def work_with_a_gate(values: dict[str, Any], emit: Any) -> None:
    """The worker, whose checkpoints after the first are committed once the file `go` is there."""
    from pipelines.train.checkpoint.saver import Saver

    commit, gate = Saver._commit, Path(values["store"]) / "go"

    def commit_later(saver: Saver, folder: str, recorded: dict[str, Any]) -> None:
        if recorded["step"] > 4:
            (gate.parent / "waiting").touch()
            wait_until(gate.exists, "the gate to open")
        commit(saver, folder, recorded)

    Saver._commit = commit_later  # type: ignore[method-assign]
    work(values, emit)


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_waits_for_the_checkpoint_that_is_being_written_and_a_second_does_not(
    cluster: Cluster, store: Any, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    root, lines = store.storage.root, []
    spec = claimed_spec("pretrain", train_config(name="stopped", steps=4000), store)

    def hear(line: str) -> None:
        lines.append(line.strip())
        if line.strip().startswith("finishing the checkpoint of step 8 "):
            if times == 1:
                (root / "go").touch()
            else:
                signal.raise_signal(signal.SIGINT)

    def interrupt() -> None:
        wait_until((root / "waiting").exists, "a checkpoint to be written")
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("pipelines.cluster.train_group_lines.say", hear)
    cluster.map_shards(len, ["a"], "no group of an earlier test")
    # tests that were started in the background have inherited an ignored SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            cluster.train(work_with_a_gate, spec, ready)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert (8 in committed_steps(store.storage, "pretrain/stopped")) == (times == 1)
    assert ("the checkpoint of step 8 is committed" in lines) == (times == 1)


def test_stages_inherit_what_the_table_says(cluster: Cluster, store: Any) -> None:
    run_stage(cluster, "pretrain", train_config(name="t", steps=16), store)
    anneal = train_config(
        name="a", parent="pretrain/t@step-8", data="mixture/tiny_decay", model=None, steps=8,
        schedule={"decay": "linear", "decay_fraction": 1.0},
    )  # fmt: skip
    run_stage(cluster, "anneal", anneal, store)
    trunk, branch = read_metrics(store.storage, "pretrain/t"), read_metrics(store.storage, "anneal/a")
    assert branch[0]["learning_rate"] == pytest.approx(0.01 * (0.1 + 0.9 * 7 / 8))
    assert branch[-1]["learning_rate"] == pytest.approx(0.001)
    # the branch reads on where the trunk stood, in samples and in tokens
    assert branch[0]["samples"] == trunk[8]["samples"] == 72
    assert branch[0]["tokens"] == trunk[8]["tokens"]
    state = open_checkpoint(store.storage, "anneal/a").state
    assert state["updates"] == 16  # the parent's eight, with their moments, and its own eight
    assert [segment["from_sample"] for segment in state["segments"]] == [0, 64]
    delivered = store.get("anneal/a").statistics["delivered"]
    assert sum(delivered.values()) == 64
    assert delivered["chat"] == pytest.approx(0.4 * 64, abs=1)
    # delivered against asked, as logged while it ran: the branch's own tokens, each source within one window of its
    # weight
    asked = {source["name"]: source["weight"] for source in state["segments"][-1]["plan"]["sources"]}
    given = branch[-1]["tokens_by_source"]
    assert given == {name: 32 * samples for name, samples in delivered.items()}
    assert all(abs(given[name] - weight * 64 * 32) < 32 for name, weight in asked.items())

    sft = train_config(name="s", parent="anneal/a", data="tokens/tiny", model=None, steps=4, schedule={})
    run_stage(cluster, "sft", sft, store)
    state = open_checkpoint(store.storage, "sft/s").state
    assert state["updates"] == 4  # fresh optimizer
    assert read_metrics(store.storage, "sft/s")[0]["learning_rate"] == pytest.approx(0.001)  # the anneal's final LR

    dpo = train_config(
        name="d", parent="sft/s", data="tokens/tiny", model=None, steps=None, epochs=1.0,
        schedule={"kind": "cosine", "peak_lr": 0.002, "final_ratio": 0.0}, **{"optimizer.mup_lr": False},
    )  # fmt: skip
    run_stage(cluster, "dpo", dpo, store)
    rows = read_metrics(store.storage, "dpo/d")
    assert rows[0]["loss"] == pytest.approx(np.log(2), rel=1e-4)  # policy equals reference before the first update
    assert rows[-1]["loss"] < 0.6
    own = store.get("dpo/d").statistics["stage_tokens"]
    assert sum(rows[-1]["tokens_by_source"].values()) == own > 0
    reference = np.load(store.storage.fetch("dpo/d/reference/logps.npy"))
    assert reference.shape == (120, 2)
    assert (reference < 0).all()


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_named(cluster: Cluster, store: Any) -> None:
    run_stage(cluster, "pretrain", train_config(name="c", steps=8), store)
    (path,) = (store.storage.root / "pretrain/c/checkpoints/step-000008").glob("rank-00001-*.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (store.storage.root / "pretrain/c/manifest.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        run_stage(cluster, "pretrain", train_config(name="c", steps=12), store)
    assert f"{path.name} does not match its checksum" in str(caught.value)
    assert "the one before it is pretrain/c@step-4" in str(caught.value)
    assert set_aside_after(store.storage, "pretrain/c", 4) == [8]  # what checkpoint.resume=step-4 does
    run_stage(cluster, "pretrain", train_config(name="c", steps=12), store)
    assert len(losses(store, "pretrain/c")) == 12


def test_more_workers_than_the_cluster_has_is_refused(cluster: Cluster, store: Any) -> None:
    crowded = Cluster(train_config(**{"cluster.workers": 64, "batch.global_batch": 128}).cluster)
    with pytest.raises(ConfigError, match="cluster.workers=64 × 1 CPU needs 64 CPU; this Ray cluster has"):
        crowded.train(lambda spec, emit: None, {"kind": "pretrain", "name": "x"})
