"""Keys by the names that other programs give them."""

from __future__ import annotations

import importlib
import typing

import pytest

from pipelines.train.results.evaluate import EvaluateConfig
from pipelines.train.spec import TrainConfig
from workflows.chat import ChatConfig
from workflows.command_line import foreign, places
from workflows.command_line.foreign import KEYS, ours

CLASSES = {
    workflow: typing.get_type_hints(importlib.import_module(f"workflows.{workflow}").run)["config"]
    for workflow in places.workflows()
}


def test_every_key_that_a_row_names_is_one_of_some_workflow() -> None:
    named = {key.format(name) for name, rows in KEYS.items() for row in rows for key in row.keys}
    assert len(named) > 40
    assert {key for key in named if not any(foreign.has(cls, key) for cls in CLASSES.values())} == set()


def test_every_row_says_something() -> None:
    assert all(row.keys or row.said for rows in KEYS.values() for row in rows)
    assert all(name == name.lower() and "-" not in name for name in KEYS)


@pytest.mark.parametrize("name", ["layers", "steps", "seed", "name", "store", "parent", "tracking"])
def test_our_own_names_are_no_foreign_ones(name: str) -> None:
    assert name not in KEYS


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("learning_rate", "0.01", "learning_rate is schedule.peak_lr here: write schedule.peak_lr=0.01"),
        ("lr", "", "write schedule.peak_lr=…"),
        ("optimizer.lr", "0.1", "optimizer.lr is schedule.peak_lr here: write schedule.peak_lr=0.1"),
        ("--learning-rate", "1", "write schedule.peak_lr=1"),
        ("LR", "1", "write schedule.peak_lr=1"),
        ("batch_size", "4", "write batch.global_batch=4 (in windows of batch.sequence_length tokens, over all workers"),
        ("epoch", "3", "write epochs=3"),
        ("max_steps", "3", "write steps=3"),
        ("warmup", "3", "write schedule.warmup_steps=3"),
        ("wd", "0.1", "write optimizer.weight_decay=0.1"),
        ("seq_len", "64", "write batch.sequence_length=64"),
        ("model.n_layer", "2", "write model.layers=2"),
        ("hidden_size", "2", "write model.d_model=2"),
        ("num_attention_heads", "2", "write model.heads=2"),
        ("vocab_size", "2", "write model.vocabulary=2"),
        ("bf16", "true", "write zero.precision=bfloat16"),
        ("fp16", "true", "write zero.precision=bfloat16 (training has no float16"),
        ("num_gpus", "2", "write cluster.workers=2 (one worker for each GPU, with cluster.gpus_per_worker=1)"),
        ("output_dir", "x", "write store=x (an artifact lies at <store>/<kind>/<name>"),
        ("dataset", "x.json", "write data=<kind>/<name> (an artifact: your files become a corpus"),
        ("model_name", "demo", "write model=demo"),
        ("save_steps", "5", "write checkpoint.every_steps=5"),
        ("logging_steps", "5", "write log_every_steps=5"),
        ("gradient_accumulation_steps", "5", "batch.global_batch / (batch.micro_batch × cluster.workers)"),
        ("overwrite", "true", "write on_change=rebuild"),
        ("resume", "true", "resume is no key: run the same command again and it goes on from the last checkpoint"),
        ("batch.resume", "true", "checkpoint.resume=step-N goes back to an earlier one"),
        ("resume_from_checkpoint", "x", "run the same command again"),
        ("eval_steps", "10", "a run is evaluated by a command of its own"),
        ("wandb_project", "x", "write tracking.experiment=x (runs are tracked in MLflow)"),
        ("dropout", "0.1", "the models have no dropout"),
    ],
)  # fmt: skip
def test_a_training_stage_knows_them(key: str, value: str, said: str) -> None:
    assert said in (ours(TrainConfig, key, value) or "")


def test_a_row_names_the_key_that_the_command_at_hand_has() -> None:
    assert ours(EvaluateConfig, "seq_len", "64") == "seq_len is sequence_length here: write sequence_length=64"
    assert ours(EvaluateConfig, "lr", "0.1") is None
    assert (
        ours(ChatConfig, "temperature", "0") == "temperature is sampling.temperature here: write sampling.temperature=0"
    )
    assert ours(ChatConfig, "top_p", "1") == "top_p is sampling.top_p here: write sampling.top_p=1"
    assert "corpus.sources={…}" in (ours(CLASSES["corpus"], "dataset", "x") or "")
    assert ours(CLASSES["cost"], "device", "iphone_15") is None, "it has devices"
    assert "corpus.sources={…}" in (ours(CLASSES["corpus"], "path", "notes/") or "")
    assert ours(TrainConfig, "tracking.run", "x") is None, "a key of a group that has nothing to do with it"
