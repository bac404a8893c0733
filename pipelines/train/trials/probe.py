"""A few steps of a trial on made-up tokens: how fast it trains here, before any trial is run.

Enters: a plain `TrainSpec` and a number of steps. Leaves: nothing but the time it took; no store is read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.config import parse


def probe_trial(values: dict[str, Any], emit: Callable[[str], None]) -> None:
    """Take `values["steps"]` steps of the run of `values["spec"]`: its model, optimizer, ZeRO stage and batch.

    Args: values, as of `work_trial`, and `steps`; emit, unused: a `Worker` has it.
    """
    import torch
    import torch.distributed as dist

    from pipelines.train.network.batch import Batch
    from pipelines.train.network.compute import for_shapes
    from pipelines.train.network.model import Transformer
    from pipelines.train.objectives import objective_of
    from pipelines.train.optimizers.groups import freeze
    from pipelines.train.plan import devices
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import Engine, device, start_distributed

    if not torch.cuda.is_available():
        torch.set_num_threads(int(values.get("threads", 1)))
    start_distributed()
    spec = parse(TrainSpec, values["spec"])
    memory, _ = devices.agree(spec)
    model = Transformer(spec.model).initialise(spec.seed)
    freeze(model, spec.model, spec.trains)
    objective = objective_of(spec.objective)
    compute = for_shapes(spec.compute, alike=objective.batches.alike)
    model.prepare(compute, memory.policy, device(), whole_weights=spec.zero.stage < 3)
    rows, length = spec.batch.micro_batch, spec.batch.sequence_length
    accumulation = spec.batch.global_batch // (rows * dist.get_world_size())
    engine = Engine(model, objective, spec.zero, spec.optimizer, rows, accumulation, 1)
    try:
        place = device()
        batch = Batch.shifted(
            tokens=torch.randint(spec.model.vocabulary, (rows, length + 1), device=place),
            positions=torch.arange(length, device=place).expand(rows, length),
            loss_mask=torch.ones(rows, length, device=place),
            sources=torch.zeros(rows, dtype=torch.int64, device=place),
        )
        for _ in range(int(values["steps"])):
            result = engine.step([batch] * accumulation, 1e-4)
        _ = result.loss  # waits for the device
    finally:
        engine.close()
