"""Saving the slices that an engine holds, and filling an engine from a checkpoint.

A slice is a range of one parameter, flattened (`optimizers/pieces.py`). What is kept per weight is whatever tensor of
the weights' shape the optimizer keeps (AdamW: `exp_avg`, `exp_avg_sq`; Muon: `momentum_buffer`); what a state needs
beside those its optimizer's row says. So nothing here knows an optimizer, nor how DeepSpeed lays its tensors out.

A frozen parameter has no slice where a parent's checkpoint holds it: the state says which one does, under `frozen`
(`committed.py` follows it). A run without a parent stores its frozen parameters itself.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from pipelines.errors import CheckpointError, StorageError
from pipelines.train.checkpoint.committed import Checkpoint, Index, check_optimizer, first_difference
from pipelines.train.network.roles import roles
from pipelines.train.optimizers import pieces, row_of
from pipelines.train.update.engine import Engine


def snapshot(engine: Engine) -> dict[str, Tensor]:
    """What this rank writes: views of its slices, keyed `parameter@state@offset`, and its random-number states."""
    tensors = {
        f"{piece.name}@{key}@{piece.start}": value.detach()
        for piece in (*engine.shares(), *engine.frozen_slices)
        if piece.length
        for key, value in piece.tensors(engine.optimizer).items()
    }
    return {**tensors, **random_states()}


def load(
    engine: Engine,
    checkpoint: Checkpoint,
    optimizer_state: bool,
    verified: Collection[str] = (),
    own: bool = False,
) -> None:
    """Fill the engine from a checkpoint of any ZeRO stage and world size; all ranks call it together.

    Args: optimizer_state, moments and update count too (resume, branch) or weights alone (initialise); verified, tokens
        of checkpoints whose checksums the driver has compared just now; own, whether the engine goes on with the run
        that saved it, so that frozen parameters stay where that run has them; else this checkpoint holds them from now
        on.
    Raises: CheckpointError when a file is damaged, the architecture differs, or the state is of another optimizer.
    """
    if checkpoint.token not in verified:
        _verify_together(checkpoint)
    ours = engine_state(engine)
    if ours["shapes"] != checkpoint.state["shapes"]:
        difference = first_difference(checkpoint.state["shapes"], ours["shapes"])
        raise CheckpointError(f"{checkpoint.folder} is of another architecture: {difference}")
    if optimizer_state:
        check_optimizer(checkpoint, ours["optimizer"], ours.get("trains"))
    index = Index(checkpoint)
    pieces.begin_loading(engine.deepspeed)
    _forget_moments(engine)
    engine.updates = int(checkpoint.state["updates"]) if optimizer_state else 0
    for piece in engine.slices():
        stored = index.states(piece.name)
        if optimizer_state:
            _make_room(engine, piece.flat, stored)
        for key, value in piece.tensors(engine.optimizer).items():
            # before the first update an optimizer may keep nothing yet, and zeros are right; after it, that is damage
            if key == "fp32" or (optimizer_state and (engine.updates or key in stored)):
                index.fill(piece.name, key, piece.start, value)
    for piece in pieces.frozen(engine.deepspeed):
        index.fill(piece.name, "fp32", piece.start, piece.flat.data.view(-1).narrow(0, piece.offset, piece.length))
    pieces.end_loading(engine.deepspeed)
    _take_over_frozen(engine, checkpoint, index, own)


def _take_over_frozen(engine: Engine, checkpoint: Checkpoint, index: Index, own: bool) -> None:
    """Say which checkpoint holds the frozen parameters; what only the run's own ones hold goes into the next, too."""
    engine.frozen_in = {
        piece.name: checkpoint.frozen.get(piece.name, checkpoint.token)
        for piece in engine.frozen_slices
        if not own or piece.name in checkpoint.frozen
    }
    engine.frozen_slices = [piece for piece in engine.frozen_slices if piece.name not in engine.frozen_in]
    for piece in engine.frozen_slices:
        index.fill(piece.name, "fp32", piece.start, piece.flat)


def engine_state(engine: Engine) -> dict[str, Any]:
    """What a checkpoint records of an engine.

    Returns: shapes by parameter, the optimizer's name, updates done and ZeRO stage; where some parameters are frozen
        also the role kinds that train, and which checkpoint holds each frozen parameter that has no slices here.
    """
    parameters = dict(pieces.parameters(engine.deepspeed))
    state = {
        "shapes": {name: list(getattr(p, "ds_shape", p.shape)) for name, p in parameters.items()},
        "optimizer": engine.settings.kind,
        "updates": float(engine.updates),
        "zero_stage": engine.deepspeed.zero_optimization_stage(),
    }
    if not all(p.requires_grad for p in parameters.values()):
        kinds = {role.kind for name, role in roles(engine.model_config).items() if parameters[name].requires_grad}
        state |= {"trains": sorted(kinds), "frozen": engine.frozen_in}
    return state


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
        raise CheckpointError(next(told for told in problems if told))


def _forget_moments(engine: Engine) -> None:
    """Zero moments after zero updates, in place: what an optimizer makes for itself at its first step."""
    for state in engine.optimizer.state.values():
        for value in state.values():
            value.zero_()


def _make_room(engine: Engine, flat: Tensor, stored: list[str]) -> None:
    """The optimizer's state of `flat` after so many updates, with zeros where the checkpoint's tensors go."""
    state = engine.optimizer.state[flat]
    for key in stored:
        if key != "fp32" and key not in state:
            state[key] = torch.zeros_like(flat.data, dtype=torch.float32)
    state.update(row_of(engine.settings).scalars(stored, engine.updates, flat.device))


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
    """Restore this rank's generators, where the checkpoint has this rank; `load` comes first: it verifies."""
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
