"""A plan: jobs, layouts, costs, and the lines and tables in which people read them.

Enters: jobs with a layout each, a device and its speed. Leaves: a `Plan`. Nothing here looks at a store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.display.progress import duration, human
from pipelines.errors import ConfigError
from pipelines.train.budget.device import DeviceConfig
from pipelines.train.budget.job import Job
from pipelines.train.budget.layout import Cost, Layout, Speed, cost_of, limit_of, memory_of, setup_of
from pipelines.train.budget.search import micro_batches
from pipelines.train.budget.storage import storage_of
from pipelines.train.plan import memory
from pipelines.train.plan.memory import GIB

MEMORY_HEADER = ("ZeRO", "micro-batch", "GiB", "of", "fits", "state", "gradients", "activations", "working", "process",
                 "blocks")  # fmt: skip
COST_HEADER = ("stage", "steps", "tokens", "FLOP", "step s", "hours", "GPU-hours", "USD")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Jobs on one number of devices.

    Attributes:
        device_name: its file in conf/device. speed_source: where the speed comes from, for people.
        costs: one for each job. fast, slow: the same at the ends of the MFU's range; equal where it was measured.
    """

    jobs: tuple[Job, ...]
    device_name: str
    device: DeviceConfig
    speed_source: str
    costs: tuple[Cost, ...]
    fast: tuple[Cost, ...]
    slow: tuple[Cost, ...]

    @property
    def workers(self) -> int:
        return self.costs[0].layout.workers

    @property
    def hours(self) -> float:
        return sum(cost.hours for cost in self.costs)

    @property
    def tokens(self) -> int:
        return sum(job.tokens for job in self.jobs)

    @property
    def flops(self) -> float:
        return sum(job.flops for job in self.jobs)

    @property
    def usd(self) -> float | None:
        amounts = [cost.usd for cost in self.costs if cost.usd is not None]
        return sum(amounts) if len(amounts) == len(self.costs) else None


def make_plan(
    jobs: Sequence[Job], layouts: Sequence[Layout], name: str, device: DeviceConfig, speed: Speed, source: str
) -> Plan:
    """Price the jobs. Args: one layout for each job; source, of the speed, for people."""

    def at(pace: Speed) -> tuple[Cost, ...]:
        return tuple(cost_of(job, layout, device, pace) for job, layout in zip(jobs, layouts, strict=True))

    stated = speed.mfu is not None and speed.mfu == device.mfu.value
    return Plan(
        jobs=tuple(jobs),
        device_name=name,
        device=device,
        speed_source=source,
        costs=at(speed),
        fast=at(Speed(device.mfu.high)) if stated else at(speed),
        slow=at(Speed(device.mfu.low)) if stated else at(speed),
    )


def overview(plan: Plan) -> dict[str, str]:
    """The lines of the announcement."""
    first, counts = plan.jobs[0], plan.jobs[0].parameters
    flops, device = first.token_flops, plan.device
    model = first.model
    lines = {
        "model": f"{counts['non_embedding']:,} non-embedding + {counts['embedding']:,} embedding parameters "
        f"({model.layers} layers, width {model.d_model})",
        "FLOP a token": f"{flops.causal / 1e9:.5g} G: blocks {flops.blocks / flops.causal:.1%}, output "
        f"{flops.output / flops.causal:.1%}, causal attention {flops.attention / flops.causal:.1%}; with attention in "
        f"full {flops.full / 1e9:.5g} G; 6·N alone {flops.blocks_only / 1e9:.5g} G",
        "training": f"{human(float(plan.tokens))} tokens = {plan.tokens / counts['non_embedding']:,.0f} a "
        f"non-embedding parameter; {plan.flops:.4g} FLOP",
        "devices": f"{plan.workers} × {plan.device_name}: {device.bf16_tflops:g} TFLOP/s, {device.memory_gib:g} GiB, "
        + (f"${device.usd_per_hour:g} an hour" if device.usd_per_hour else "price not known (device.usd_per_hour=…)"),
        "speed": plan.speed_source,
        "layout": "; ".join(sorted({f"{cost.layout}; {cost.memory.policy}" for cost in plan.costs})),
        "time": _time(plan),
        "money": _money(plan),
    }
    if plan.workers > device.per_machine and plan.workers % device.per_machine:
        idle = -plan.workers % device.per_machine
        lines["note"] = f"machines have {device.per_machine}: {idle} stand idle, and are not in the price"
    return lines


def _range(middle: float, fast: float, slow: float, form: str) -> str:
    if round(fast, 9) == round(slow, 9):
        return format(middle, form)
    return f"{middle:{form}} ({fast:{form}} to {slow:{form}})"


def _sums(plan: Plan) -> tuple[float, float, float]:
    return plan.hours, sum(cost.hours for cost in plan.fast), sum(cost.hours for cost in plan.slow)


def _time(plan: Plan) -> str:
    hours, fast, slow = _sums(plan)
    days = f"{_range(hours / 24, fast / 24, slow / 24, '.3g')} days; " if slow >= 24 else ""
    gpu = _range(hours * plan.workers, fast * plan.workers, slow * plan.workers, ",.5g" if slow < 100 else ",.0f")
    return f"{days}{_range(hours, fast, slow, '.4g')} hours; {gpu} device hours; starts and failures not included"


def _money(plan: Plan) -> str:
    if plan.usd is None or not plan.device.usd_per_hour:
        return f"not known: conf/device/{plan.device_name}.yaml states no price: device.usd_per_hour=…"
    price = plan.workers * plan.device.usd_per_hour
    usd, fast, slow = (hours * price for hours in _sums(plan))
    form = ",.0f" if slow >= 100 else ",.2f"
    return f"${_range(usd, fast, slow, form)} at ${plan.device.usd_per_hour:g} a device hour"


def cost_rows(plan: Plan) -> list[list[Any]]:
    """A row for each stage, under `COST_HEADER`."""
    return [
        [
            job.stage, job.steps, job.tokens, f"{job.flops:.3e}", round(cost.step_seconds, 3), round(cost.hours, 2),
            round(cost.gpu_hours, 1), None if cost.usd is None else round(cost.usd, 2),
        ]
        for job, cost in zip(plan.jobs, plan.costs, strict=True)
    ]  # fmt: skip


def traffic_lines(plan: Plan) -> dict[str, str]:
    """What goes over the network and to the store, of each stage."""
    lines: dict[str, str] = {}
    for job, cost in zip(plan.jobs, plan.costs, strict=True):
        need = storage_of(job, cost)
        hidden = "hidden behind computing" if cost.step_seconds <= cost.compute_seconds * 1.0001 else (
            f"of which {cost.step_seconds - cost.compute_seconds:.3g} s are waited for"
        )  # fmt: skip
        lines[f"{job.stage}: network"] = (
            f"{human(cost.sent_bytes, 'B')} a worker and step, {cost.sending_seconds:.3g} s of a step of "
            f"{cost.step_seconds:.3g} s, {hidden}"
            if cost.layout.workers > 1
            else "none: one worker"
        )
        lines[f"{job.stage}: checkpoints"] = (
            f"{human(need.checkpoint, 'B')} each ({human(need.shard_of_rank, 'B')} a worker), every "
            f"{duration(need.checkpoint_seconds)}; {need.checkpoints_kept} stay = {human(need.kept, 'B')}; "
            f"{human(need.written_per_s, 'B')}/s to the store"
        )
        lines[f"{job.stage}: tokens"] = (
            f"{human(need.tokens_read, 'B')} of ids read ({human(need.read_per_s, 'B')}/s), each token once an epoch"
        )
    return lines


def memory_rows(job: Job, workers: int, device: DeviceConfig, most: int = 6) -> list[list[Any]]:
    """Memory of a worker by ZeRO stage and micro-batch, under `MEMORY_HEADER`."""
    limit = limit_of(job, device)
    return [
        [
            stage, size, round(needed.total / GIB, 2), round(limit / GIB, 1), "yes" if needed.total <= limit else "no",
            *(round(getattr(needed, part) / GIB, 2) for part in MEMORY_HEADER[5:10]), str(needed.policy),
        ]
        for stage, size, needed in memory_cases(job, workers, device, most)
    ]  # fmt: skip


def memory_cases(
    job: Job, workers: int, device: DeviceConfig, most: int = 6
) -> Iterator[tuple[int, int, memory.Memory]]:
    """ZeRO stage, micro-batch, and what a worker needs there. Args: most, micro-batches for each stage."""
    batch, zero = job.config.batch, job.config.zero
    sizes = micro_batches(max(1, batch.global_batch // workers))
    if batch.micro_batch not in sizes:
        sizes = sorted([*sizes, batch.micro_batch])
    sizes = sizes[:most] if batch.micro_batch in sizes[:most] else [*sizes[: most - 1], batch.micro_batch]
    stages = [0, 1] if workers == 1 else [0, 1, 2, 3]
    for stage in stages:
        if stage == 0 and (zero.precision != "float32" or zero.offload != "none"):
            continue
        if stage == 3 and zero.precision == "fp8":
            continue
        for size in sizes:
            yield stage, size, memory_of(setup_of(job, Layout(workers, stage, size), device), limit_of(job, device))


def refused_memory(job: Job, layout: Layout, device: DeviceConfig, name: str) -> str | None:
    """Why the layout's micro-batch does not fit, with what to do; None where it does."""
    try:
        memory.check(
            setup_of(job, layout, device), limit_of(job, device), name, job.rows_per_unit,
            job.config.batch.global_batch // layout.workers,
        )  # fmt: skip
    except ConfigError as error:
        return str(error)
    return None


def plain_plan(plan: Plan) -> dict[str, Any]:
    """JSON-able, for `plan.json`."""
    hours, fast, slow = _sums(plan)
    return {
        "device": plan.device_name,
        "workers": plan.workers,
        "hours": {"value": hours, "low": fast, "high": slow},
        "device_hours": hours * plan.workers,
        "usd": plan.usd,
        "tokens": plan.tokens,
        "flops": plan.flops,
        "parameters": plan.jobs[0].parameters,
        "flops_per_token": dataclasses.asdict(plan.jobs[0].token_flops),
        "stages": [
            {
                "stage": job.stage,
                "steps": job.steps,
                "tokens": job.tokens,
                "flops": job.flops,
                "step_seconds": cost.step_seconds,
                "hours": cost.hours,
                "usd": cost.usd,
                "layout": dataclasses.asdict(cost.layout),
                "memory_bytes": {
                    part: getattr(cost.memory, part)
                    for part in ("total", "state", "gradients", "activations", "working", "process")
                },
                "sent_bytes_per_step": cost.sent_bytes,
                "checkpoint_bytes": job.checkpoint_bytes,
            }
            for job, cost in zip(plan.jobs, plan.costs, strict=True)
        ],
    }
