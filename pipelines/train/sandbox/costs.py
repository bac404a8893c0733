"""What a sandbox takes: tokens with and without sharing, hours of lanes here, hours and money on GPUs elsewhere.

Enters: planned runs, the tokens that the tree of common steps trains, seconds of finished runs. Leaves: `Costs`, by
arithmetic. Speed is measured where runs of the store have finished, and stated by the config where none has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.display.progress import duration, human
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.budget.device import DeviceConfig
from pipelines.train.sandbox.config import PriceConfig
from pipelines.train.trials.result import StageRun

# between the end of an edge and the first step of the next one, at most
BETWEEN_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What it takes.

    Attributes:
        runs, edges: how many, each trained once.
        tokens_naive: of every trial by itself. tokens_shared: with common steps trained once.
        flops_naive, flops_shared: likewise.
        flops_per_second: of one lane. measured: whether runs told it, or the config.
        lanes: side by side.
        gpus, gpu, gpu_flops_per_second, money_per_gpu_hour: of the machine that a price is said for; FLOP/s as reached,
            dollars, None where conf/device has no price.
    """

    trials: int
    runs: int
    edges: int
    tokens_naive: int
    tokens_shared: int
    flops_naive: float
    flops_shared: float
    flops_per_second: float
    measured: bool
    lanes: int
    gpus: int
    gpu: str
    gpu_flops_per_second: float
    money_per_gpu_hour: float | None

    @property
    def saved_share(self) -> float:
        """Of the tokens of a naive sweep, those that nobody trains."""
        return 1 - self.tokens_shared / self.tokens_naive if self.tokens_naive else 0.0

    @property
    def seconds(self) -> float:
        """Of one lane that trains all of it."""
        return self.flops_shared / self.flops_per_second + BETWEEN_SECONDS * self.edges

    @property
    def saved_seconds(self) -> float:
        """Of one lane, that sharing saves."""
        return max(0.0, (self.flops_naive - self.flops_shared) / self.flops_per_second)

    @property
    def gpu_seconds(self) -> float:
        """Until all is trained on the GPUs, one lane each."""
        return (self.flops_shared / self.gpu_flops_per_second + BETWEEN_SECONDS * self.edges) / self.gpus

    @property
    def money(self) -> float | None:
        """On the GPUs, in dollars."""
        hours = self.gpu_seconds / 3600 * self.gpus
        return None if self.money_per_gpu_hour is None else hours * self.money_per_gpu_hour

    def on_gpus(self) -> str:
        """The price, with what it stands on."""
        price = "" if self.money is None else f" and ${self.money:.2f} at ${self.money_per_gpu_hour:g} a GPU hour"
        return (
            f"On {self.gpus} {self.gpu}: about {duration(self.gpu_seconds)}{price}, with "
            f"{human(self.gpu_flops_per_second)} FLOP/s reached by each, and {BETWEEN_SECONDS:g} s between pieces. "
            "Stated (conf/device), not measured: a model that does not fill a GPU reaches less, and several trials "
            "then share one."
        )

    def announcement(self) -> dict[str, str]:
        """Label -> text, for the plan."""
        how = "measured by finished runs" if self.measured else "stated"
        return {
            "trials": f"{self.trials:,}, {self.runs:,} runs, {self.edges:,} pieces between branching points",
            "tokens": f"{human(self.tokens_shared)}; {human(self.tokens_naive)} without sharing, "
            f"{self.saved_share:.0%} saved",
            "hours": f"{duration(self.seconds / self.lanes)} on {self.lanes} lanes "
            f"({human(self.flops_per_second)} FLOP/s each, {how}); {duration(self.saved_seconds / self.lanes)} saved",
            "elsewhere": self.on_gpus(),
        }


def flops_of(run: StageRun, tokens: int) -> float:
    """FLOPs of some tokens of a run."""
    return run.flops * tokens / run.tokens if run.tokens else 0.0


def measured_speed(store: ArtifactStore, runs: Iterable[StageRun]) -> float | None:
    """FLOP/s of a lane, of those runs that are finished in the store; None where none is."""
    flops = seconds = 0.0
    for folder, run in {run.folder: run for run in runs}.items():
        artifact = store.find(folder)
        if artifact is not None and artifact.statistics.get("train_seconds"):
            flops += run.flops
            seconds += artifact.statistics["train_seconds"]
    return flops / seconds if seconds else None


def priced(price: PriceConfig, device: DeviceConfig) -> dict[str, Any]:
    """The fields of `Costs` that say what GPUs cost. Args: device, as conf/device has it."""
    return {
        "gpus": price.gpus,
        "gpu": price.gpu,
        "gpu_flops_per_second": device.peak * device.mfu.value,
        "money_per_gpu_hour": device.usd_per_hour,
    }
