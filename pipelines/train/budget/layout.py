"""What a layout costs: a job on so many devices, at a ZeRO stage and a micro-batch.

Enters: a `Job`, a `Layout` and a `DeviceConfig`. Leaves: memory of a worker, bytes that it sends in a step, seconds of
a step, hours and money.

    compute    FLOPs of a step / (workers · peak · MFU), and in proportion what the backward pass computes again
    sent       bytes of a worker in a step, of a ring: (W - 1)/W of what is shared, with U trained numbers, P weights,
               g bytes of a summed gradient, b of a weight, A micro-batches
                   ZeRO-0   2·U·b                        gradients to everybody
                   ZeRO-1   U·g + P·b                    gradients to their owner, new weights to everybody
                   ZeRO-2   A·U·g + P·b                  gradients after every micro-batch
                   ZeRO-3   A·(2·P·b + U·g)              weights for each forward and each backward pass
    step       Sending hides behind computing. At stages 2 and 3 it goes on all the time: the longer one counts. At 0
               and 1 it follows the last micro-batch, and only that one hides it.

A measured speed (tokens/s of a worker) takes the place of all that. Source of the volumes: ZeRO (arXiv 1910.02054, §7).
Not in it: starts, failures, evaluations, the wait for a checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from pipelines.train.budget.device import DeviceConfig
from pipelines.train.budget.flops import recomputed_share
from pipelines.train.budget.job import Job
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.plan import memory
from pipelines.train.plan.checked import check_division
from pipelines.train.plan.memory import Memory, Setup
from pipelines.train.stages import stage_named
from pipelines.train.update import zero


@dataclass(frozen=True)
class Speed:
    """How fast a worker is: a share of the peak, stated; or tokens a second, measured. One of them is None."""

    mfu: float | None
    tokens_per_s: float | None = None


@dataclass(frozen=True)
class Layout:
    """On how many workers, and how their memory is shared out."""

    workers: int
    zero_stage: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.workers} workers, ZeRO-{self.zero_stage}, micro-batch {self.micro_batch}"


@dataclass(frozen=True)
class Cost:
    """What a layout costs for a job."""

    layout: Layout
    memory: Memory
    recomputed: float  # share of the counted FLOPs
    sent_bytes: float  # of a worker in a step
    compute_seconds: float  # of a step
    sending_seconds: float  # of a step, hidden or not
    step_seconds: float
    hours: float
    usd: float | None
    mfu: float  # over the whole step

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.layout.workers


def setup_of(job: Job, layout: Layout, device: DeviceConfig) -> Setup:
    """What decides the memory of a worker."""
    config = job.config
    return Setup(
        model=job.model,
        rows=layout.micro_batch * job.rows_per_unit,
        sequence_length=config.batch.sequence_length,
        accumulates=config.batch.global_batch > layout.micro_batch * layout.workers,
        zero=dataclasses.replace(config.zero, stage=layout.zero_stage),  # type: ignore[arg-type]
        compute=config.compute,
        workers=layout.workers,
        device=device.kind,
        optimizer=config.optimizer,
        trains=stage_named(job.stage).trains,
    )


@functools.lru_cache(maxsize=4096)
def memory_of(setup: Setup, limit_bytes: float) -> Memory:
    """The prediction with the least computed again that fits, or with what needs least."""
    return memory.predict(setup, memory.plan_keep(setup, limit_bytes))


def limit_of(job: Job, device: DeviceConfig) -> float:
    """Bytes that a worker may take."""
    own = job.config.compute.memory_gib
    return device.usable_bytes if own is None else own * memory.GIB


def fits(job: Job, layout: Layout, device: DeviceConfig) -> bool:
    limit = limit_of(job, device)
    return memory_of(setup_of(job, layout, device), limit).total <= limit


def layout_of(job: Job, workers: int) -> Layout:
    """The layout that the config asks for. Raises: ConfigError where its batch does not divide."""
    check_division(job.config.batch, workers)
    zero.check(job.config.zero)
    return Layout(workers, job.config.zero.stage, job.config.batch.micro_batch)


def sent_bytes(setup: Setup, accumulation: int) -> float:
    """Bytes that a worker sends in a step; see the module."""
    W, U, b = setup.workers, setup.updated_numbers, setup.number_bytes
    P = parameter_counts(setup.model)["total"]
    g = 4 if b == 4 or setup.zero.gradients == "float32" else b
    shared = {
        0: 2 * U * b,
        1: U * g + P * b,
        2: accumulation * U * g + P * b,
        3: accumulation * (2 * P * b + U * g),
    }[setup.zero.stage]
    return shared * (W - 1) / W


def cost_of(job: Job, layout: Layout, device: DeviceConfig, speed: Speed) -> Cost:
    """What the layout costs."""
    setup, batch = setup_of(job, layout, device), job.config.batch
    predicted = memory_of(setup, limit_of(job, device))
    accumulation = math.ceil(batch.global_batch / (layout.micro_batch * layout.workers))
    again = recomputed_share(setup, predicted.policy)
    sent = sent_bytes(setup, accumulation)
    flops = job.flops / job.steps
    sending = sent / device.bandwidth(layout.workers)
    if speed.tokens_per_s is not None:
        compute = step = job.tokens_per_step / (speed.tokens_per_s * layout.workers)
    else:
        assert speed.mfu is not None
        compute = flops / (layout.workers * device.peak * speed.mfu) * (1 + again)
        hiding = compute if layout.zero_stage >= 2 else compute / accumulation
        step = compute + max(0.0, sending - hiding)
    hours = step * job.steps / 3600
    usd = None if device.usd_per_hour is None else hours * layout.workers * device.usd_per_hour
    return Cost(
        layout=layout,
        memory=predicted,
        recomputed=again,
        sent_bytes=sent,
        compute_seconds=compute,
        sending_seconds=sending,
        step_seconds=step,
        hours=hours,
        usd=usd,
        mfu=flops / (step * layout.workers * device.peak),
    )
