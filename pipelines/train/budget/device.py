"""What a plan knows of a device: its peak, its memory, its ways to others, its price. A file of conf/device/ each.

Enters: the YAML. Leaves: a `DeviceConfig`. A figure has its source beside it in the YAML; of an MFU the config says it
itself, since a plan prints it: no hour of a plan is better than its MFU.

Every device may say what answering on it costs (`pipelines/train/cost/device.py`). A phone says nothing else: it is a
kind of device that no plan takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pipelines.config import Count, Positive, Range, config_class
from pipelines.errors import ConfigError
from pipelines.train.cost.device import AnsweringDevice, PhoneConfig
from pipelines.train.plan import memory
from pipelines.train.plan.memory import GIB, DeviceKind

Use = Annotated[float, Range(above=0, high=1)]


@config_class
class MfuConfig:
    """The share of the peak that training reaches, attention counted as causal, and the range it may lie in."""

    value: Use
    low: Use
    high: Use

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ConfigError(
                f"device.mfu is {self.value:g} with a range of {self.low:g} to {self.high:g}; expected "
                "low ≤ value ≤ high: edit its file in conf/device"
            )


@config_class
class DeviceConfig(AnsweringDevice):
    """One device that trains; bandwidths are in 10^9 bytes a second, one way."""

    kind: DeviceKind
    bf16_tflops: Positive  # dense; of a CPU float32
    memory_gib: Positive
    memory_gb_s: Positive  # of its own memory
    link_gb_s: Positive  # to the others of its machine
    network_gb_s: Positive  # beyond its machine, this device's share
    per_machine: Count
    mfu: MfuConfig
    mfu_source: str

    @property
    def own_bandwidth_gb_s(self) -> float | None:
        return self.memory_gb_s

    @property
    def peak(self) -> float:
        """FLOP/s."""
        return self.bf16_tflops * 1e12

    @property
    def usable_bytes(self) -> float:
        """Of its memory, what one worker may take."""
        return memory.usable_bytes(self.kind, self.memory_gib * GIB)

    def bandwidth(self, workers: int) -> float:
        """Bytes a second at which a ring over so many workers moves what each of them sends.

        Between machines a ring crosses each border once, over all of a machine's network cards together.
        """
        across = self.per_machine * self.network_gb_s
        return 1e9 * (self.link_gb_s if workers <= self.per_machine else min(self.link_gb_s, across))


@dataclass(frozen=True)
class DeviceRow:
    """One row of `DEVICES`. Attributes: Settings, the config class of a file whose `kind` this is."""

    Settings: type[AnsweringDevice]


DEVICES: Mapping[str, DeviceRow] = {
    "cuda": DeviceRow(DeviceConfig),
    "cpu": DeviceRow(DeviceConfig),
    "phone": DeviceRow(PhoneConfig),
}
