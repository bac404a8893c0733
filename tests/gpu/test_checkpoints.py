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
    "general": {"general": True},
    "zero=3": {"zero": {"stage": 3}},
    "offload": {"zero": {"offload": "cpu"}},
    "muon": MUON,
}


def _fresh(one: dict[str, Any]) -> dict[str, Any]:
    """The same with other initial weights, so that all have to come from the checkpoint."""
    return {**one, "seed": 1}


@pytest.mark.parametrize("name", [name for name in WAYS if CUDA or name != "compiled"])
def test_a_resumed_run_ends_in_the_same_bits(name: str, tmp_path: Path, note: Callable[..., None]) -> None:
    """Three steps, a checkpoint, three more; and these three in another engine, from the checkpoint: losses, norms,
    weights and moments.
    """
    one = case(**WAYS[name])
    with running(one) as engine:
        train(engine, one, range(3))
        save(engine, 3, tmp_path, "pretrain/x")
        wanted = train(engine, one, range(3, 6))
        state_wanted = state(engine)
    found, state_found = _resumed(one, tmp_path)
    differing = [key for key in state_wanted if not torch.equal(state_found[key], state_wanted[key])]
    note(differing=len(differing), of=len(state_wanted), off=off(found["loss"], wanted["loss"]))
    if found != wanted or differing:
        again, state_again = _resumed(one, tmp_path)
        alike = again == found and all(torch.equal(state_again[key], state_found[key]) for key in state_found)
        note(resumed_twice_alike=alike)
        assert alike, "no two runs from this checkpoint end in the same bits, so a resumed run cannot either"
    assert found == wanted
    assert state_found.keys() == state_wanted.keys()
    assert not differing, differing[:3]


def _resumed(one: dict[str, Any], folder: Path) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """Steps 4 to 6 from the checkpoint of step 3, in an engine of its own."""
    checkpoint = open_checkpoint(FolderStorage(folder), "pretrain/x")
    with running(_fresh(one)) as engine:
        load(engine, checkpoint, optimizer_state=True)
        load_random_states(checkpoint)
        return train(engine, one, range(3, 6)), state(engine)


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
