"""The devices of conf/device, by name: what a plan, a sandbox, a table of costs or a sweep computes hours with.

Enters: a name. Leaves: the device as its YAML has it, or a ConfigError with those that there are.
"""

from __future__ import annotations

import functools
from typing import Annotated

import yaml

from pipelines.config import Chosen, config_class, parse
from pipelines.errors import ConfigError
from pipelines.train.budget.device import DEVICES, DeviceConfig
from pipelines.train.cost.device import AnsweringDevice
from workflows.command_line import places
from workflows.command_line.composing import composed_values

Device = Annotated[AnsweringDevice | None, Chosen("kind", lambda: DEVICES)]


@config_class
class _Choice:
    """What of a plan's YAML names the device."""

    device: Device = None


def device_names() -> list[str]:
    """The devices of conf/device that train."""
    return [name for name in all_devices() if _kind(name) != "phone"]


def all_devices() -> list[str]:
    """What conf/device holds, devices that only answer among them."""
    return places.choices("device")


@functools.cache
def _kind(name: str) -> str:
    path = places.find(f"device/{name}.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    return str(content.get("kind")) if isinstance(content, dict) else ""


def read_any_device(name: str) -> AnsweringDevice:
    """A device of conf/device, also one that trains nothing. Raises: ConfigError with those that there are."""
    if name not in all_devices():
        raise ConfigError(f"there is no device {name}; conf/device has {', '.join(all_devices())}")
    values = composed_values("plan", _Choice, [f"device={name}"])
    device = parse(_Choice, {"device": values["device"]}).device
    assert device is not None
    return device


def read_device(name: str) -> DeviceConfig:
    """A device of conf/device that trains. Raises: ConfigError with those that there are."""
    if name not in all_devices():
        raise ConfigError(f"there is no device {name}; conf/device has {', '.join(device_names())}")
    return training_device(name, read_any_device(name))


def training_device(name: str, device: AnsweringDevice) -> DeviceConfig:
    """The device, where it trains. Raises: ConfigError for a phone."""
    if not isinstance(device, DeviceConfig):
        raise ConfigError(
            f"{name} is a phone, which answers and trains nothing: conf/device/{name}.yaml has no training figures; "
            f"expected one of {', '.join(device_names())} (`python -m workflows.cost` says what its answers cost)"
        )
    return device
