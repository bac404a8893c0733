"""Parts of a checkpoint that need no engine: random states, reading ranges, setting commits aside."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipelines.errors import CheckpointError, ConfigError
from pipelines.store.storage import FolderStorage, sha256
from pipelines.train.checkpoint import (
    Checkpoint,
    Rule,
    committed_steps,
    open_checkpoint,
    read_weights,
    recorded_steps,
    set_aside_after,
    slices,
    write_weights,
)
from pipelines.train.checkpoint.committed import check_optimizer, commit
from pipelines.train.checkpoint.retention import delete, prune, readers_of
from pipelines.train.checkpoint.snapshot import Layout
from workflows.checkpoints import CheckpointsConfig, run
from workflows.running.session import Session


def saved(root: Path, files: dict[str, dict[str, torch.Tensor]], step: int = 4, run: str = "pretrain/x") -> Checkpoint:
    storage, folder = FolderStorage(root), f"{run}/checkpoints/step-{step:06d}"
    entries = {}
    for name, tensors in files.items():
        layout = Layout(tensors)
        layout.copy(tensors)
        path = storage.scratch(f"{folder}/{name}")
        entries[name] = layout.write(path)
        storage.put(path, f"{folder}/{name}")
    commit(
        storage, folder, entries, {"step": step, "shapes": {"w": [3, 4]}, "learning_rate": 0.01, "tokens": 100 * step}
    )
    return open_checkpoint(storage, run, f"step-{step}")


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_weights_are_assembled_from_slices_wherever_they_were_cut(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    whole = saved(
        tmp_path,
        {
            "rank-00000.safetensors": {"w@fp32@0": flat[:5].clone()},
            "rank-00001.safetensors": {"w@fp32@5": flat[5:].clone()},
        },
    )
    assert torch.equal(read_weights(whole)["w"], flat.view(3, 4))
    gap = saved(tmp_path, {"rank-00000.safetensors": {"w@fp32@0": flat[:5].clone(), "w@fp32@6": flat[6:].clone()}}, 8)
    with pytest.raises(CheckpointError, match=r"holds 11 of 12 values of w"):
        read_weights(gap)
    with pytest.raises(CheckpointError, match=r"w is \[3, 4\] there and \[4, 3\] here"):
        read_weights(whole, {"w": torch.Size([4, 3])})


def test_every_generator_of_this_rank_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices.dist, "get_rank", lambda: 0)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    random.random(), np.random.rand(3), torch.rand(3)
    states = {name: value.clone() for name, value in slices.random_states().items()}
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    held = saved(tmp_path, {"rank-00000.safetensors": states})
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    slices.load_random_states(held)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn


def test_later_checkpoints_are_set_aside_not_lost(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        saved(tmp_path, {"rank-00000.safetensors": {"w@fp32@0": torch.zeros(12)}}, step)
    storage = FolderStorage(tmp_path)
    assert set_aside_after(storage, "pretrain/x", 4) == [8, 12]
    assert committed_steps(storage, "pretrain/x") == [4]
    assert storage.exists("pretrain/x/checkpoints/step-000012/manifest.superseded.json")
    with pytest.raises(CheckpointError, match=r"step-8 does not exist; committed steps: 4"):
        set_aside_after(storage, "pretrain/x", 8)


def test_a_snapshot_is_a_safetensors_file_and_knows_its_checksum(tmp_path: Path) -> None:
    tensors = {
        "small@fp32@0": torch.arange(3.0),
        "rng@torch@0": torch.arange(5, dtype=torch.uint8),
        "half@momentum_buffer@7": torch.arange(4, dtype=torch.bfloat16),
        "rng@python@0": torch.arange(2, dtype=torch.int64),
    }
    layout = Layout(tensors)
    layout.copy(tensors)
    path = tmp_path / "x.safetensors"
    entry = layout.write(path)
    assert entry == {"bytes": path.stat().st_size, "sha256": sha256(path)}
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(read[name], value.float() if value.is_floating_point() else value), name
    layout.copy({name: value + 1 for name, value in tensors.items()})  # the buffer serves the next save too
    layout.write(path)
    assert load_file(path)["small@fp32@0"].tolist() == [1, 2, 3]
    assert layout.fits(tensors)
    assert not layout.fits({**tensors, "more@fp32@0": torch.zeros(1)})


def test_a_flipped_bit_in_any_file_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    parts = {f"rank-0000{r}.safetensors": {f"w@fp32@{6 * r}": flat[6 * r : 6 * r + 6].clone()} for r in (0, 1)}
    held = saved(tmp_path, parts, 4)
    saved(tmp_path, parts, 8)
    folder = tmp_path / held.folder.replace("000004", "000008")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.json", *parts]
    for name in names:
        whole = (folder / name).read_bytes()
        bits = 8 * len(whole)
        for bit in {*range(0, bits, 37), *range(bits - 680, bits, 7)}:  # all over; and in a manifest's own checksum
            flip(folder / name, bit)
            with pytest.raises(
                CheckpointError,
                match=r"step-8: .*it is damaged and was not loaded; the one before it "
                r"is pretrain/x@step-4",
            ) as caught:
                read_weights(open_checkpoint(held.storage, "pretrain/x"))
            assert name in str(caught.value)
            (folder / name).write_bytes(whole)
    (folder / "rank-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rank-00001.safetensors is missing"):
        read_weights(open_checkpoint(held.storage, "pretrain/x"))


def test_whole_weights_are_a_checkpoint_without_optimizer_state(tmp_path: Path) -> None:
    parent = saved(tmp_path, {"rank-00000.safetensors": {"w@fp32@0": torch.zeros(12)}})
    weights = {"w": torch.randn(3, 4)}
    made = write_weights(parent.storage, "average/a", 7, parent.state, parent.state["shapes"], weights.items())
    assert str(made) == "average/a@step-7"
    assert torch.equal(read_weights(made)["w"], weights["w"])
    assert made.state["learning_rate"] == 0.01
    with pytest.raises(CheckpointError, match=r"average/a@step-7 holds weights alone"):
        check_optimizer(made, "adamw")
    check_optimizer(parent, "adamw")
    with pytest.raises(CheckpointError, match=r"holds the state of the optimizer adamw, and this run uses muon"):
        check_optimizer(parent, "muon")


STEPS = list(range(10, 110, 10))


def trunk(root: Path) -> FolderStorage:
    """Ten checkpoints of pretrain/x; an anneal, an evaluation and an average name some of them."""
    for step in STEPS:
        saved(root, {"rank-00000.safetensors": {"w@fp32@0": torch.zeros(12)}}, step)
    storage = FolderStorage(root)
    for reader, claim in (
        ("anneal/branch", '{"identity": {"config": {"parent": "pretrain/x@step-20"}}}'),
        ("evaluate/e", '{"identity": {"config": {"parent": "pretrain/x@step-50"}}}'),
        (
            "average/a",
            '{"identity": {"averaged": [{"checkpoint": "pretrain/x@step-10"}, {"checkpoint": "pretrain/x@step-20"}]}}',
        ),
        ("anneal/other", '{"identity": {"config": {"parent": "pretrain/xy@step-60"}}}'),
        ("corpus/c", '{"identity": {"config": {"name": "c"}}}'),
    ):
        storage.write(f"{reader}/claim.json", claim.encode())
    return storage


def test_the_rule_keeps_the_last_every_nth_and_what_is_named(tmp_path: Path) -> None:
    storage = trunk(tmp_path)
    assert readers_of(storage, "pretrain/x") == {
        20: ["anneal/branch", "average/a"],
        50: ["evaluate/e"],
        10: ["average/a"],
    }
    # a kind that nobody has heard of names one too
    storage.write("quantize/q/claim.json", b'{"identity": {"config": {"parent": "pretrain/x@step-50"}}}')
    assert readers_of(storage, "pretrain/x")[50] == ["evaluate/e", "quantize/q"]
    assert prune(storage, "pretrain/x", Rule()) == []
    assert committed_steps(storage, "pretrain/x") == STEPS
    assert prune(storage, "pretrain/x", Rule(keep_last=2, keep_every_steps=40)) == [30, 60, 70]
    assert committed_steps(storage, "pretrain/x") == [10, 20, 40, 50, 80, 90, 100]
    assert recorded_steps(storage, "pretrain/x") == STEPS  # their rows stay part of the curve
    assert not list(tmp_path.glob("pretrain/x/checkpoints/step-000030/*.safetensors"))
    with pytest.raises(CheckpointError, match=r"step-30 was deleted by a rule of retention; committed steps: 10, 20"):
        open_checkpoint(storage, "pretrain/x", "step-30")
    assert set_aside_after(storage, "pretrain/x", 50) == [80, 90, 100]
    assert recorded_steps(storage, "pretrain/x") == [10, 20, 30, 40, 50]


def test_half_a_deletion_is_never_readable_and_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = trunk(tmp_path)
    true_delete, calls = FolderStorage.delete, []

    def dies(self: FolderStorage, prefix: str) -> None:
        calls.append(prefix)
        if len(calls) == 2:
            raise KeyboardInterrupt
        true_delete(self, prefix)

    monkeypatch.setattr(FolderStorage, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        delete(storage, "pretrain/x", 30)
    monkeypatch.undo()
    assert list(tmp_path.glob("pretrain/x/checkpoints/step-000030/*.safetensors"))
    assert 30 not in committed_steps(storage, "pretrain/x")
    assert prune(storage, "pretrain/x", Rule(keep_last=10)) == []
    assert not list(tmp_path.glob("pretrain/x/checkpoints/step-000030/*.safetensors"))


def test_rules_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"keep_last is 0; expected a positive number"):
        Rule(keep_last=0)
    with pytest.raises(ConfigError, match=r"keep_every_steps is 40 and keep_last is null, which keeps everything"):
        Rule(keep_every_steps=40)


def test_the_command_lists_verifies_and_prunes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = trunk(tmp_path)

    def do(**keys: Any) -> str:
        config = CheckpointsConfig(name="checkpoints", store=str(tmp_path), **keys)
        with Session(config) as session:
            run(config, session)
        return capsys.readouterr().out

    assert "pretrain/x           10          10        100" in do()
    listed = do(run="pretrain/x", keep_last=1)
    assert "named by anneal/branch; named by average/a" in listed
    assert "goes with `prune`" in listed
    assert "10 checkpoints" in listed
    assert ("dry run: nothing was deleted; 6 of 10 checkpoints would go") in do(
        action="prune", run="pretrain/x", keep_last=1, dry_run=True
    )
    assert committed_steps(storage, "pretrain/x") == STEPS
    do(action="prune", run="pretrain/x", keep_last=1)
    assert committed_steps(storage, "pretrain/x") == [10, 20, 50, 100]
    assert "deleted by a rule: 6, of steps 30 to 90" in do(run="pretrain/x")
    assert do(action="verify", run="pretrain/x").count("as it was written") == 4
    flip(tmp_path / "pretrain/x/checkpoints/step-000020/rank-00000.safetensors", 900)
    flip(tmp_path / "pretrain/x/checkpoints/step-000100/manifest.json", 1000)
    with pytest.raises(CheckpointError, match=r"damaged at step 20, 100; .*whole: 10, 50 \(checkpoint.resume=step-50"):
        do(action="verify", run="pretrain/x")
    assert "rank-00000.safetensors does not match its checksum" in capsys.readouterr().out
    assert "step 10: 120 B read" in do(action="verify", run="pretrain/x@step-10")
    assert "step 50: 120 B read" in do(action="verify", run="pretrain/x@step-000050")
    with pytest.raises(CheckpointError, match=r"damaged at step 100; .*whole: 10, 20?,? ?50"):
        do(action="verify", run="pretrain/x@latest")
    with pytest.raises(
        CheckpointError, match=r"no committed checkpoint of step 30; it has 10, 20, 50, 100: run=pretrain/x@step-100 or"
    ):
        do(action="verify", run="pretrain/x@step-30")
    for at in ("30", "step-", "step-x", "last"):
        with pytest.raises(ConfigError, match=r"expected kind/name, kind/name@step-200 or kind/name@latest"):
            do(action="verify", run=f"pretrain/x@{at}")
    for action in ("list", "prune"):
        with pytest.raises(ConfigError, match=r"names one checkpoint; .* takes a run: run=pretrain/x"):
            do(action=action, run="pretrain/x@latest", keep_last=1)
    with pytest.raises(ConfigError, match=r"`verify` takes them not: leave them out"):
        do(action="verify", run="pretrain/x", keep_last=1)
    with pytest.raises(ConfigError, match=r"`list` takes them with run=pretrain/demo"):
        do(keep_last=1)
    with pytest.raises(ConfigError, match=r"prune needs a run"):
        do(action="prune")
    with pytest.raises(ConfigError, match=r"everything stays: name one, e.g. keep_last=3"):
        do(action="prune", run="pretrain/x")
    with pytest.raises(CheckpointError, match=r"pretrain/none has no committed checkpoint"):
        do(run="pretrain/none")
