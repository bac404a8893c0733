"""An average of a real trunk as the parent of a real stage: weights alone, a fresh optimizer."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.cluster.cluster import Cluster
from pipelines.config import TrackingConfig
from pipelines.train.checkpoint import open_checkpoint, read_weights
from pipelines.train.checkpoint.average import AverageConfig
from tests.integration.conftest import run_stage, train_config
from workflows import average
from workflows.running.session import Session


def test_a_stage_is_initialised_from_an_average(cluster: Cluster, store: Any) -> None:
    run_stage(cluster, "pretrain", train_config(name="t", steps=12), store)
    config = AverageConfig(
        name="a", parent="pretrain/t", last=2, store=store.uri, tracking=TrackingConfig(enabled=False)
    )
    with Session(config) as session:
        average.run(config, session)
    checkpoint = open_checkpoint(store.storage, "average/a")
    averaged = read_weights(checkpoint)
    trunk = [read_weights(open_checkpoint(store.storage, "pretrain/t", f"step-{step}")) for step in (8, 12)]
    for name, value in averaged.items():
        torch.testing.assert_close(value, (trunk[0][name] + trunk[1][name]) / 2)
    # one step too small to move anything: what the stage began with is what it ends with
    sft = train_config(
        name="s", parent="average/a", data="tokens/tiny", model=None, steps=1, schedule={"peak_lr": 1e-12}
    )
    run_stage(cluster, "sft", sft, store)
    state = open_checkpoint(store.storage, "sft/s").state
    assert state["updates"] == 1  # fresh optimizer
    assert state["tokens"] > checkpoint.state["tokens"] == open_checkpoint(store.storage, "pretrain/t").state["tokens"]
    for name, value in read_weights(open_checkpoint(store.storage, "sft/s")).items():
        torch.testing.assert_close(value, averaged[name])
