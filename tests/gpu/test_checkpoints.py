"""Checkpoints: a run that is resumed on the device, and one that goes from it to a CPU and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.record import CUDA
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint import load, load_random_states, open_checkpoint
from tests.gpu.cases import case, off, running, state, train
from tests.gpu.references import MUON
from tests.gpu.saving import save

WAYS: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "compiled": {"compute": {"compile": "on"}},
    "zero=2": {"zero": {"stage": 2}},
    "zero=3": {"zero": {"stage": 3}},
    "offload": {"zero": {"offload": "cpu"}},
    "muon": MUON,
}


def _fresh(one: dict[str, Any]) -> dict[str, Any]:
    """The same with other initial weights, so that all have to come from the checkpoint."""
    return {**one, "seed": 1}


@pytest.mark.parametrize("name", [name for name in WAYS if CUDA or name != "compiled"])
def test_a_resumed_run_ends_in_the_same_bits(name: str, tmp_path: Path, note: Callable[..., None]) -> None:
    """Six steps at once; three, a checkpoint, and three in another engine: losses, norms, weights and moments."""
    one = case(**WAYS[name])
    with running(one) as engine:
        whole = train(engine, one, range(6))
        wanted = state(engine)
    with running(one) as engine:
        first = train(engine, one, range(3))
        save(engine, 3, tmp_path, "pretrain/x")
    checkpoint = open_checkpoint(FolderStorage(tmp_path), "pretrain/x")
    with running(_fresh(one)) as engine:
        load(engine, checkpoint, optimizer_state=True)
        load_random_states(checkpoint)
        second = train(engine, one, range(3, 6))
        found = state(engine)
    before = first["loss"] == whole["loss"][:3]
    differing = [key for key in wanted if not torch.equal(found[key], wanted[key])]
    note(same_before=before, differing=len(differing), of=len(wanted), off=off(second["loss"], whole["loss"][3:]))
    assert before, f"the same run gives other losses without any checkpoint: {first['loss']} and {whole['loss'][:3]}"
    assert second["loss"] == whole["loss"][3:]
    assert second["norm"] == whole["norm"][3:]
    assert found.keys() == wanted.keys()
    assert not differing, differing[:3]


def test_a_checkpoint_goes_to_a_cpu_and_back(other: Any, tmp_path: Path, note: Callable[..., None]) -> None:
    """Written here at stage 1, read and written there at stage 2, read here at stage 3: weights and moments to the bit.

    The step after it gives there what it gives here, but for rounding.
    """
    one = case()
    with running(one) as engine:
        train(engine, one, range(3))
        save(engine, 3, tmp_path, "pretrain/x")
        wanted = state(engine)
        here = train(engine, one, [3])
    there = other.answer(
        other.ask(
            do="go_on", case=_fresh(case(zero={"stage": 2})), folder=str(tmp_path), run="pretrain/x", back="pretrain/y"
        )
    )
    back = open_checkpoint(FolderStorage(tmp_path), "pretrain/y")
    assert (there["zero_stage"], back.state["zero_stage"]) == (1, 2)
    third = _fresh(case(zero={"stage": 3}))
    with running(third) as engine:
        load(engine, back, optimizer_state=True)
        load_random_states(back)
        found = state(engine)
        again = train(engine, third, [3])
    distances = {"cpu": off(there["curve"]["loss"], here["loss"]), "back": off(again["loss"], here["loss"])}
    note(**distances)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert distances["cpu"] < 2e-3, f"{there['curve']['loss']} and here {here['loss']}"
    assert distances["back"] < 1e-4, f"{again['loss']} and before {here['loss']}"
