"""The cheapest layout that meets a deadline: every sensible number of devices, ZeRO stage and micro-batch is priced.

Enters: the jobs of a plan, devices with their speeds, the hours there are. Leaves: `Offer`s, the cheapest first. For
each number of devices each job takes the layout with the fastest step that fits into memory; among equals the lower
ZeRO stage, then the smaller micro-batch. Money decides, then the number of devices, fewer first. At a constant MFU a
larger number costs the same until sending no longer hides behind computing, so a deadline mostly decides how many there
are.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigError
from pipelines.train.budget.device import DeviceConfig
from pipelines.train.budget.job import Job
from pipelines.train.budget.layout import Cost, Layout, Speed, cost_of, fits

MOST_WORKERS = 4096


@dataclass(frozen=True)
class Offer:
    """All jobs on one number of devices of one kind; one cost for each job."""

    device: str
    workers: int
    costs: tuple[Cost, ...]

    @property
    def hours(self) -> float:
        return sum(cost.hours for cost in self.costs)

    @property
    def usd(self) -> float | None:
        """None where the device has no price."""
        amounts = [cost.usd for cost in self.costs if cost.usd is not None]
        return sum(amounts) if len(amounts) == len(self.costs) else None

    @property
    def rank(self) -> tuple[float, float]:
        """The cheaper first, by device hours where a price is not known; of those alike to 1 %, the fewest devices."""
        amount = self.usd if self.usd is not None else self.hours * self.workers
        return (round(math.log(amount) / math.log(1.01)), self.workers)


def offers(jobs: Sequence[Job], devices: Mapping[str, DeviceConfig], speeds: Mapping[str, Speed]) -> list[Offer]:
    """Every number of devices on which all jobs fit, the cheapest first.

    Raises: ConfigError where nothing fits on any device.
    """
    made = [
        Offer(name, workers, tuple(cost for cost in costs if cost is not None))
        for name, device in devices.items()
        for workers in worker_counts(jobs, device)
        if all(costs := [best_layout(job, workers, device, speeds[name]) for job in jobs])
    ]
    if not made:
        raise ConfigError(
            f"not even batch.micro_batch=1 at zero.stage=3 fits into {', '.join(devices)}: choose a device with more "
            "memory, zero.offload=cpu, a shorter batch.sequence_length or a smaller model"
        )
    return sorted(made, key=lambda offer: offer.rank)


def within(made: Sequence[Offer], deadline_hours: float) -> list[Offer]:
    """Those that end in time. Raises: ConfigError, with the fastest there is, where none does."""
    in_time = [offer for offer in made if offer.hours <= deadline_hours]
    if in_time:
        return in_time
    fastest = min(made, key=lambda offer: offer.hours)
    raise ConfigError(
        f"nothing ends within {deadline_hours / 24:.3g} days: the fastest is {fastest.workers} × {fastest.device} in "
        f"{fastest.hours / 24:.3g} days, since a step has no more micro-batches to share out: set a later deadline, "
        "another gpu, fewer steps, or a larger batch.global_batch (which changes the run)"
    )


def worker_counts(jobs: Sequence[Job], device: DeviceConfig) -> Iterator[int]:
    """Parts of a machine and whole machines over which the batch of every job divides."""
    batches = [job.config.batch.global_batch for job in jobs]
    most = min(*batches, MOST_WORKERS) if len(batches) > 1 else min(batches[0], MOST_WORKERS)
    for workers in range(1, most + 1):
        machine = workers % device.per_machine == 0 or device.per_machine % workers == 0
        if machine and all(batch % workers == 0 for batch in batches):
            yield workers


def best_layout(job: Job, workers: int, device: DeviceConfig, speed: Speed) -> Cost | None:
    """The fastest that fits on so many workers; None where none does."""
    stages_of_many = [1, 2] if job.config.zero.precision == "fp8" else [1, 2, 3]
    split = [job.config.zero.stage] if workers == 1 else stages_of_many
    stages = [0, *split] if job.config.zero.precision == "float32" and job.config.zero.offload == "none" else split
    sizes = micro_batches(job.config.batch.global_batch // workers)
    layouts = [Layout(workers, stage, size) for stage, size in itertools.product(dict.fromkeys(stages), sizes)]
    priced = [cost_of(job, layout, device, speed) for layout in layouts if fits(job, layout, device)]
    return min(
        priced,
        key=lambda cost: (round(cost.step_seconds, 6), cost.layout.zero_stage, cost.layout.micro_batch),
        default=None,
    )


def micro_batches(units: int, most: int = 32) -> list[int]:
    """Micro-batches that divide what a worker takes in a step. Args: units, rows or pairs of that."""
    return [size for size in range(1, min(units, most) + 1) if units % size == 0]


def with_layout(job: Job, layout: Layout) -> Job:
    """The job with its config as the layout has it."""
    config = job.config
    return dataclasses.replace(
        job,
        config=dataclasses.replace(
            config,
            batch=dataclasses.replace(config.batch, micro_batch=layout.micro_batch),
            zero=dataclasses.replace(config.zero, stage=layout.zero_stage),  # type: ignore[arg-type]
            cluster=dataclasses.replace(config.cluster, workers=layout.workers),
        ),
    )
