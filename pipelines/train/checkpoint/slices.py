"""Which slices of weights and optimizer state a rank holds, and filling an engine from a checkpoint.

A slice is a range of one parameter, flattened. What is kept per weight is whatever tensor of the weights' shape the
optimizer keeps (AdamW: `exp_avg`, `exp_avg_sq`; Muon: `momentum_buffer`), so nothing here knows an optimizer by name but
for the update count that Adam-like states need.

It reads private attributes of DeepSpeed's optimizers, hence the exact pin and the round-trip tests.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from pipelines.errors import CheckpointError, StorageError
from pipelines.train.checkpoint.committed import Checkpoint, Index, first_difference
from pipelines.train.update.engine import Engine


@dataclass(frozen=True)
class Slice:
    """A range of one parameter, and where it lies in the tensor that the optimizer updates."""

    name: str
    start: int  # in the flattened parameter
    length: int
    flat: Tensor  # what the optimizer updates: the parameter at stage 0, else a partition of many
    offset: int  # in `flat`

    def tensors(self, engine: Engine) -> dict[str, Tensor]:
        """1-D views [length] of the float32 weight ("fp32") and of what the optimizer keeps for it, by its own names."""
        state = base(engine).state.get(self.flat, {})
        kept = {k: v for k, v in state.items() if torch.is_tensor(v) and v.shape == self.flat.shape}
        whole = {"fp32": self.flat.data, **kept}
        return {key: value.view(-1).narrow(0, self.offset, self.length) for key, value in whole.items()}

    def share(self, rank: int, world: int) -> Slice:
        """An equal share of this slice for each rank: of what all of them hold."""
        first, end = (self.length * r // world for r in (rank, rank + 1))
        return Slice(self.name, self.start + first, end - first, self.flat, self.offset + first)


def snapshot(engine: Engine) -> dict[str, Tensor]:
    """What this rank writes: views of its slices, keyed `parameter@state@offset`, and its random-number states."""
    found = held(engine)
    if engine.deepspeed.zero_optimization_stage() == 0:  # every rank holds all: each writes a share
        found = (piece.share(dist.get_rank(), dist.get_world_size()) for piece in found)
    tensors = {
        f"{piece.name}@{key}@{piece.start}": value.detach()
        for piece in found
        if piece.length
        for key, value in piece.tensors(engine).items()
    }
    return {**tensors, **random_states()}


def load(engine: Engine, checkpoint: Checkpoint, optimizer_state: bool, verified: Collection[str] = ()) -> None:
    """Fill the engine from a checkpoint of any ZeRO stage and world size; all ranks call it together.

    Args: optimizer_state, moments and update count too (resume, branch) or weights alone (initialise); verified, tokens of
        checkpoints whose checksums the driver has compared just now.
    Raises: CheckpointError when a file is damaged, the architecture differs, or the state is of another optimizer.
    """
    if checkpoint.token not in verified:
        _verify_together(checkpoint)
    ours = facts(engine)
    if ours["shapes"] != checkpoint.state["shapes"]:
        raise CheckpointError(
            f"{checkpoint.folder} is of another architecture: {first_difference(checkpoint.state['shapes'], ours['shapes'])}"
        )
    if optimizer_state:
        check_optimizer(checkpoint, ours["optimizer"])
    o, stage = engine.deepspeed.optimizer, engine.deepspeed.zero_optimization_stage()
    if stage == 3:
        o.checkpoint_event_prologue()
    _forget(engine)
    index, updates = Index(checkpoint), checkpoint.state["updates"]
    for piece in held(engine):
        if optimizer_state:
            _make_room(engine, piece.flat, index.states(piece.name), updates)
        for key, value in piece.tensors(engine).items():
            # before the first update an optimizer may keep nothing yet, and zeros are right; after it, missing is damaged
            if key == "fp32" or (optimizer_state and (updates or key in index.states(piece.name))):
                index.fill(piece.name, key, piece.start, value)
    if stage in (1, 2):
        o.update_lp_params()
    elif stage == 3:
        _refresh_partitions(o)
        o.checkpoint_event_epilogue()


def check_optimizer(checkpoint: Checkpoint, ours: str) -> None:
    """Refuse to go on with the state of another optimizer, or of none. Raises: CheckpointError."""
    theirs = checkpoint.state.get("optimizer", "adamw")  # before it was recorded there was no other
    if theirs is None:
        raise CheckpointError(
            f"{checkpoint} holds weights alone, so a run cannot go on with its optimizer state: "
            "start from it with workflows.sft or workflows.dpo, or branch from a checkpoint that training saved"
        )
    if theirs != ours:
        raise CheckpointError(
            f"{checkpoint} holds the state of the optimizer {theirs}, and this run uses {ours}: choose optimizer={theirs} to go on with it"
        )


def facts(engine: Engine) -> dict[str, Any]:
    """What a checkpoint records of an engine: shapes by parameter, optimizer, updates done, ZeRO stage."""
    shapes = {
        _name(name): list(getattr(p, "ds_shape", p.shape)) for name, p in engine.deepspeed.module.named_parameters()
    }
    optimizer = base(engine)
    updates = next((float(state["step"]) for state in optimizer.state.values() if "step" in state), 0.0)
    stage = engine.deepspeed.zero_optimization_stage()
    return {"shapes": shapes, "optimizer": type(optimizer).__name__.lower(), "updates": updates, "zero_stage": stage}


def held(engine: Engine) -> Iterator[Slice]:
    """Every slice that this rank's optimizer updates."""
    o, stage = engine.deepspeed.optimizer, engine.deepspeed.zero_optimization_stage()
    for full_name, p in engine.deepspeed.module.named_parameters():
        name = _name(full_name)
        if stage == 0:
            yield Slice(name, 0, p.numel(), p, 0)
        elif stage in (1, 2):
            mapping = p._hp_mapping
            if mapping is not None:  # None: no part of it here
                inner, place = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
                flat = o.single_partition_of_fp32_groups[mapping.param_group_index]
                yield Slice(name, inner.start, inner.numel, flat, place.start)
        else:
            part = p.ds_tensor.ds_numel  # padded: equal on all ranks
            start = part * o._get_param_partition_rank(p)
            valid = max(0, min(part, p.ds_numel - start))
            group, offset, _ = o.grad_position[o.get_param_id(p)]
            if valid:
                yield Slice(name, start, valid, o.fp32_partitioned_groups_flat[group], offset)


def base(engine: Engine) -> Any:
    """The torch optimizer under DeepSpeed's wrapper (stage 0 in float32 has none)."""
    o = engine.deepspeed.optimizer
    return o if isinstance(o, torch.optim.Optimizer) else o.optimizer


def _verify_together(checkpoint: Checkpoint) -> None:
    """Each rank reads its share of the files; all of them raise what one finds."""
    rank, world = dist.get_rank(), dist.get_world_size()
    problem = ""
    try:
        checkpoint.verify(slice(rank, None, world))
    except (CheckpointError, StorageError) as error:
        problem = str(error)
    problems: list[Any] = [None] * world
    dist.all_gather_object(problems, problem)
    if any(problems):
        raise CheckpointError(next(found for found in problems if found))


def _forget(engine: Engine) -> None:
    """Zero moments after zero updates, in place: what an optimizer makes for itself at its first step."""
    for state in base(engine).state.values():
        for value in state.values():
            value.zero_()


def _make_room(engine: Engine, flat: Tensor, keys: list[str], updates: float) -> None:
    """The optimizer's state of `flat`, as it will be once `updates` are done, with zeros where the checkpoint goes."""
    state = base(engine).state[flat]
    for key in keys:
        if key != "fp32" and key not in state:
            state[key] = torch.zeros_like(flat.data, dtype=torch.float32)
    if "exp_avg" in keys:  # Adam corrects its moments' bias by the number of updates, a tensor to its fused kernel
        state["step"] = torch.tensor(float(updates), device=flat.device)


def _refresh_partitions(o: Any) -> None:
    """Stage 3: the partitions that the model computes with, from the float32 ones."""
    for fp32, low, parts in zip(
        o.fp32_partitioned_groups_flat, o.fp16_partitioned_groups_flat, o.fp16_partitioned_groups, strict=True
    ):
        if fp32.numel():
            low.data.copy_(fp32.data)
            for part, piece in zip(parts, o.unflatten(low, parts), strict=True):
                part.data = piece.data


def _name(full_name: str) -> str:
    return full_name.removeprefix("model.")


# ── Random numbers ────────────────────────────────────────────────────────────────────────────────────────────────────


def random_states() -> dict[str, Tensor]:
    """The states of this process's torch, NumPy, Python and CUDA generators."""
    numpy_state: Any = np.random.get_state()
    states = {
        "rng@torch@0": torch.get_rng_state(),
        "rng@numpy@0": torch.from_numpy(np.append(numpy_state[1].astype(np.int64), numpy_state[2])),
        "rng@python@0": torch.tensor(random.getstate()[1], dtype=torch.int64),
    }
    if torch.cuda.is_available():
        states["rng@cuda@0"] = torch.cuda.get_rng_state()
    return states


def load_random_states(checkpoint: Checkpoint) -> None:
    """Restore this rank's generators, where the checkpoint has this rank; call `load` first, which verifies the files."""
    name = next((name for name in checkpoint.files if name.startswith(f"rank-{dist.get_rank():05d}")), None)
    if name is None:
        return
    with safe_open(checkpoint.storage.fetch(f"{checkpoint.folder}/{name}"), "pt") as file:
        torch.set_rng_state(file.get_tensor("rng@torch@0"))
        numpy_state = file.get_tensor("rng@numpy@0").numpy()
        np.random.set_state(("MT19937", numpy_state[:624].astype(np.uint32), int(numpy_state[624]), 0, 0.0))
        python_state = tuple(int(word) for word in file.get_tensor("rng@python@0"))
        random.setstate((3, python_state, None))
        if torch.cuda.is_available() and "rng@cuda@0" in file.keys():  # noqa: SIM118
            torch.cuda.set_rng_state(file.get_tensor("rng@cuda@0"))
