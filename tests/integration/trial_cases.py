"""What is asked of trials in processes of their own: several of them one after another, and what is left behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from typing import Any

import psutil
import torch

from pipelines.config import parse
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.network.model import Transformer
from pipelines.train.spec import TrainSpec
from pipelines.train.tasks.task import Subject
from pipelines.train.tasks.text import TextSettings, measure_text
from pipelines.train.trials.probe import probe_trial
from pipelines.train.trials.worker import work_trial


def train_one(values: dict[str, Any]) -> None:
    """A trial, as a lane runs it."""
    work_trial(values, print)


def probe_one(values: dict[str, Any]) -> None:
    """A probe, as a lane runs it."""
    probe_trial(values, print)


def train_in_a_row(trials: Iterable[dict[str, Any]]) -> list[tuple[float, int]]:
    """After each trial: MiB that the process holds, and how many tensors live in it."""
    left = []
    for trial in trials:
        work_trial(trial, print)
        gc.collect()
        tensors = sum(1 for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))
        left.append((psutil.Process(os.getpid()).memory_info().rss / 2**20, tensors))
    return left


def bits_per_byte(values: dict[str, Any], weights: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """What an evaluation of a checkpoint's weights says of the documents that a run's measure reads."""
    spec, store = parse(TrainSpec, values), ArtifactStore(values["store"])
    model = Transformer(spec.model)
    model.load_state_dict(weights)
    subject = Subject(
        run=None, architecture=spec.model, tokens=store.get(spec.tokens),  # type: ignore[arg-type]
        sequence_length=spec.batch.sequence_length, seed=0, store=store,
    )  # fmt: skip
    rows = measure_text(model.eval(), subject, TextSettings(max_tokens=max_tokens)).rows
    return {name: row["bits_per_byte"] for name, row in rows.items() if row["kind"] == "documents"}
