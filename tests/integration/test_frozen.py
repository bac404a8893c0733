"""Frozen parameters on two real ranks at every ZeRO stage: no gradient, no moments, no slices beside a parent's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from pipelines.errors import CheckpointError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint import Checkpoint, committed_steps, open_checkpoint, set_aside_after
from pipelines.train.checkpoint.committed import check_optimizer
from pipelines.train.checkpoint.retention import readers_of
from pipelines.train.checkpoint.weights import read_weights, write_weights
from pipelines.train.network.roles import roles
from pipelines.train.run.loop import read_metrics
from pipelines.train.stages import STAGES
from tests import tiny
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks, train

EMBEDDING = "embed_tokens.weight"
ZERO = [(0, "float32"), *((stage, precision) for stage in (1, 2, 3) for precision in ("float32", "bfloat16"))]


def frozen_run(name: str, parent: str, monkeypatch: pytest.MonkeyPatch, store: Any, **changes: Any) -> dict[str, Any]:
    """The spec of an anneal in which everything but the embedding trains, claimed in the store."""
    trains = changes.pop("trains", ("matrix", "norm"))
    monkeypatch.setitem(STAGES, "anneal", dataclasses.replace(STAGES["anneal"], trains=trains))
    config = train_config(
        **{
            "name": name, "parent": parent, "data": "mixture/tiny_decay", "model": None, "steps": 8,
            "schedule": {"decay": "linear", "decay_fraction": 1.0}, "monitor_every_steps": 2, **changes,
        }
    )  # fmt: skip
    return claimed_spec("anneal", config, store)


def keys_of(checkpoint: Checkpoint) -> set[tuple[str, str]]:
    """Every (parameter, state) that has a slice in the files of a checkpoint."""
    found = set()
    for name in checkpoint.files:
        with safe_open(checkpoint.storage.fetch(f"{checkpoint.folder}/{name}"), "pt") as file:
            found |= {tuple(key.split("@")[:2]) for key in file.keys() if not key.startswith("rng@")}  # noqa: SIM118
    return found


def stored(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint's files but the random states, by its key."""
    tensors = {}
    for name in checkpoint.files:
        with safe_open(checkpoint.storage.fetch(f"{checkpoint.folder}/{name}"), "pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys() if not key.startswith("rng@")}  # noqa: SIM118
    return tensors


@pytest.fixture(scope="module")
def trunk(two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    """A store with a trunk of eight steps."""
    store = tiny.build(str(tmp_path_factory.mktemp("trunk") / "store"))
    done = two_ranks.call(train, claimed_spec("pretrain", train_config(name="t", steps=8), store))
    assert done.error == ""
    return store


@pytest.fixture
def store(trunk: ArtifactStore, tmp_path: Path) -> ArtifactStore:
    """A copy of it."""
    shutil.copytree(trunk.storage.root, tmp_path / "store")  # type: ignore[attr-defined]
    return ArtifactStore(str(tmp_path / "store"))


@pytest.mark.parametrize(("stage", "precision"), ZERO)
def test_a_frozen_embedding_stays_the_parents_and_is_stored_nowhere_else(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch, stage: int, precision: str
) -> None:
    zero = {"stage": stage, "precision": precision}
    spec = frozen_run("f", "pretrain/t@step-4", monkeypatch, store, zero=zero)
    assert two_ranks.call(train, spec).error == ""
    parent, last = open_checkpoint(store.storage, "pretrain/t", "step-4"), open_checkpoint(store.storage, "anneal/f")
    assert last.state["frozen"] == {EMBEDDING: parent.token}
    assert last.state["trains"] == ["matrix", "norm"]
    names = {name for name in last.state["shapes"] if name != EMBEDDING}
    moments = {(name, key) for name in names for key in ("fp32", "exp_avg", "exp_avg_sq")}
    assert keys_of(last) == moments  # neither a weight nor a moment of the embedding
    before, after = read_weights(parent), read_weights(last)
    assert torch.equal(before[EMBEDDING], after[EMBEDDING])
    assert all(not torch.equal(before[name], after[name]) for name in names)
    last.verify()
    monitored = read_metrics(store.storage, "anneal/f")[1]  # no hook fails on what has no gradient
    assert set(monitored["update_ratio"]) == {"layer_00", "layer_01", "final_norm"}
    assert monitored["gradient_trace"] > 0
    # resumed from its own checkpoint, it comes to the same bits
    kept = stored(last)
    assert set_aside_after(store.storage, "anneal/f", 4) == [8]
    done = two_ranks.call(train, spec)
    assert done.error == ""
    assert "resumed from anneal/f@step-4" in done.out
    again = open_checkpoint(store.storage, "anneal/f")
    assert again.state["frozen"] == last.state["frozen"]
    assert stored(again).keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in stored(again).items())


def test_what_trains_is_updated_as_if_all_did_and_any_stage_reads_any_others(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step without clipping: the gradients of the others do not depend on whether the embedding has one."""
    one_step = {"steps": 1, "optimizer.gradient_clip": 0.0, "checkpoint.every_steps": 1}
    weights = {}
    for name, trains, stage in (("all", None, 2), ("f0", ("matrix", "norm"), 0), ("f3", ("matrix", "norm"), 3)):
        zero = {"stage": stage, "precision": "float32"}
        spec = frozen_run(name, "pretrain/t@step-4", monkeypatch, store, trains=trains, zero=zero, **one_step)
        assert two_ranks.call(train, spec).error == ""
        weights[name] = read_weights(open_checkpoint(store.storage, f"anneal/{name}"))
    for name, value in weights["all"].items():
        for run in ("f0", "f3"):
            if name != EMBEDDING:
                assert (value - weights[run][name]).abs().max() < 1e-6, (run, name)
    assert not torch.equal(weights["all"][EMBEDDING], weights["f0"][EMBEDDING])
    # a child at stage 1 of a parent at stage 3, that at stage 3 of one at stage 2: the embedding is the trunk's
    trunk = open_checkpoint(store.storage, "pretrain/t", "step-4")
    child = frozen_run("child", "anneal/f3@step-1", monkeypatch, store, zero={"stage": 1, "precision": "bfloat16"})
    assert two_ranks.call(train, child).error == ""
    grandchild = open_checkpoint(store.storage, "anneal/child")
    assert grandchild.state["frozen"] == {EMBEDDING: trunk.token}
    assert torch.equal(read_weights(grandchild)[EMBEDDING], read_weights(trunk)[EMBEDDING])
    assert readers_of(store.storage, "pretrain/t")[4] == ["anneal/all", "anneal/child", "anneal/f0", "anneal/f3"]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("trains", [("norm",), ("embedding",), ("matrix",)])
def test_one_kind_alone_may_train(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch, trains: tuple[str, ...], kind: str
) -> None:
    pretrain = {"optimizer.kind": kind, "steps": 4, "name": "p"}
    assert two_ranks.call(train, claimed_spec("pretrain", train_config(**pretrain), store)).error == ""
    zero, muon = {"stage": 2, "precision": "float32"}, {"optimizer.kind": kind}
    spec = frozen_run("one", "pretrain/p@step-4", monkeypatch, store, trains=trains, zero=zero, **muon)
    assert two_ranks.call(train, spec).error == ""
    last = open_checkpoint(store.storage, "anneal/one")
    before, after = read_weights(open_checkpoint(store.storage, "pretrain/p")), read_weights(last)
    for name, role in roles(_model(last)).items():
        assert torch.equal(before[name], after[name]) == (role.kind not in trains), name
    assert {name for name, _ in keys_of(last)} == set(before) - set(last.state["frozen"])


def test_a_fresh_run_stores_its_frozen_parameters_itself_in_float32(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STAGES, "pretrain", dataclasses.replace(STAGES["pretrain"], trains=("matrix", "norm")))
    zero = {"stage": 1, "precision": "bfloat16"}
    spec = claimed_spec("pretrain", train_config(name="fresh", steps=8, zero=zero), store)
    assert two_ranks.call(train, spec).error == ""
    last = open_checkpoint(store.storage, "pretrain/fresh")
    assert last.state["frozen"] == {}
    assert (EMBEDDING, "fp32") in keys_of(last)
    assert (EMBEDDING, "exp_avg") not in keys_of(last)
    from pipelines.train.network.model import Transformer

    drawn = dict(Transformer(_model(last)).initialise(spec["seed"]).named_parameters())
    assert torch.equal(read_weights(last)[EMBEDDING], drawn[EMBEDDING])  # no rounding to bfloat16
    kept = stored(last)
    set_aside_after(store.storage, "pretrain/fresh", 4)
    assert two_ranks.call(train, spec).error == ""
    again = stored(open_checkpoint(store.storage, "pretrain/fresh"))
    assert again.keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in again.items())


def test_a_parent_that_is_gone_or_was_made_anew_is_refused_by_name(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_ranks.call(train, frozen_run("f", "pretrain/t@step-4", monkeypatch, store)).error == ""
    last = open_checkpoint(store.storage, "anneal/f")
    average = write_weights(
        store.storage, "average/w", 8, {**last.state}, last.state["shapes"], iter(read_weights(last).items())
    )
    whole, folder = read_weights(average), store.storage.root / "pretrain/t/checkpoints/step-000004"
    manifest = (folder / "manifest.json").read_bytes()
    shutil.move(folder, folder.with_name("elsewhere"))
    for read in (read_weights, Checkpoint.verify, Checkpoint.glance):
        with pytest.raises(
            CheckpointError,
            match=r"anneal/f@step-8 keeps its frozen parameters "
            r"\(embed_tokens.weight\) in pretrain/t@step-4, and "
            r"pretrain/t@step-4 does not exist.*bring pretrain/t@step-4 back",
        ):
            read(last)
    shutil.move(folder.with_name("elsewhere"), folder)
    read_weights(last)
    # an average holds every weight itself
    assert torch.equal(read_weights(average)[EMBEDDING], whole[EMBEDDING])
    assert average.frozen == {}
    # another trunk under the same name
    shutil.rmtree(store.storage.root / "pretrain/t")
    assert two_ranks.call(train, claimed_spec("pretrain", train_config(name="t", steps=8, seed=2), store)).error == ""
    assert (folder / "manifest.json").read_bytes() != manifest
    with pytest.raises(CheckpointError, match="in pretrain/t@step-4, which was made anew since with other weights"):
        read_weights(last)
    done = two_ranks.call(train, frozen_run("g", "anneal/f@step-8", monkeypatch, store))
    assert "which was made anew since with other weights" in done.error
    assert committed_steps(store.storage, "anneal/g") == []


def test_a_damaged_parent_is_found_when_the_child_is_verified(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_ranks.call(train, frozen_run("f", "pretrain/t@step-4", monkeypatch, store)).error == ""
    last, parent = open_checkpoint(store.storage, "anneal/f"), open_checkpoint(store.storage, "pretrain/t", "step-4")
    path = store.storage.root / parent.folder / sorted(parent.files)[0]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pretrain/t@step-4: .*does not match its checksum"):
        last.verify()
    (problem,) = last.damaged()
    assert problem.startswith("pretrain/t@step-4, where frozen parameters lie: rank-00000")


def test_moments_that_were_never_kept_are_not_gone_on_with(
    two_ranks: Ranks, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_ranks.call(train, frozen_run("f", "pretrain/t@step-4", monkeypatch, store)).error == ""
    last = open_checkpoint(store.storage, "anneal/f")
    check_optimizer(last, "adamw", ("norm",))
    for trains in (None, ("embedding", "norm")):
        with pytest.raises(CheckpointError, match="trained parameters of the kinds matrix, norm alone"):
            check_optimizer(last, "adamw", trains)


def _model(checkpoint: Checkpoint) -> Any:
    from pipelines.train.network.architecture import ModelConfig

    return ModelConfig(**checkpoint.state["model"])
