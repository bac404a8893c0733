"""What a device is to whoever answers on it: its price, its life, its power, and the speeds that were published of it.

Enters: the YAML of a device (conf/device, a file each). Leaves: an `AnsweringDevice`. A device that trains as well has
its training figures in `pipelines/train/budget/device.py`; a phone trains nothing and has none.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pipelines.config import Amount, Positive, Range, config_class

Utilisation = Annotated[float, Range(above=0, high=1)]


@config_class
class PublishedSpeed:
    """How fast somebody says that one model answers on this device."""

    model: str  # a file of conf/model: the figure is taken for models of its shape alone
    tokens_per_second: Positive  # of decoding, one conversation
    format: str = ""  # in which the model was, in words: 4 bits
    read_gb: Positive | None = None  # 10^9 bytes of weights that one token reads, for estimates of other models
    source: str


@config_class
class Claim:
    """What somebody says that one unit of money buys on this device; it is shown beside the arithmetic."""

    tokens: Positive  # for one unit of `inference.currency`
    source: str


@config_class
class InferenceConfig:
    """What answering on a device of one's own costs. Null is not known; a price is then not given, and that is said."""

    price: Positive | None = None  # of the device, once
    currency: str = "USD"  # one that the exchange rates have
    life_years: Positive | None = None
    watts: Amount | None = None  # while it answers; what it takes while idle is not counted
    utilisation: Utilisation = 1.0  # the share of its life in which it answers
    electricity_per_kwh: Amount | None = None  # in the same currency
    speeds: list[PublishedSpeed] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    source: str = ""  # of price, life and power


@config_class
class AnsweringDevice:
    """What every file of conf/device may say of answers."""

    title: str | None = None  # as people call it; null: the file's name
    usd_per_hour: Positive | None = None  # hired; null: not known
    inference: InferenceConfig | None = None  # owned; null: nobody has said

    @property
    def own_bandwidth_gb_s(self) -> float | None:
        """10^9 bytes a second that it reads from its own memory; None: not known."""
        raise NotImplementedError


@config_class
class PhoneConfig(AnsweringDevice):
    """A device that answers and trains nothing."""

    kind: Literal["phone"] = "phone"
    memory_gib: Positive | None = None
    memory_gb_s: Positive | None = None  # of its own memory, as its maker says

    @property
    def own_bandwidth_gb_s(self) -> float | None:
        return self.memory_gb_s
