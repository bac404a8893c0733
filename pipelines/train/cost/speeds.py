"""How fast a model decodes on a device: measured, told, published, or estimated; and which of these it is.

Enters: what is known of the model (bytes that one token reads, speeds measured here) and of the device. Leaves: one or
more `Speed`s, each with its origin. An estimate says that it is one, and by which arithmetic.

    scaled       published tokens/s of another model · bytes that its token reads / bytes that this one's reads
    bandwidth    bytes a second of the device's memory / bytes that a token reads: no runtime reaches that

Both estimates suppose that reading weights decides, one conversation at a time. Of a model of a few million parameters
it does not: calls and copies do. So below 50 MB nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pipelines.train.cost.device import AnsweringDevice, PublishedSpeed

Origin = Literal["measured here", "as you say", "published", "estimate", "not known"]
_LEAST_BYTES = 50e6  # that a token reads: 3 ms of a phone, 15 µs of an H100, where a call takes about as long
TOO_SMALL = "not estimated: a token reads less than 50 MB, too little to decide a speed; give your own with speed.…"
NOT_MEASURED = "not measured here"
_SAME_SIZE = 0.15  # published of 4 bits: a file of that model whose size differs by less is the same for a reader


@dataclass(frozen=True)
class Speed:
    """Tokens a second of decoding, and where that is from."""

    tokens_per_second: float | None  # None: not known
    origin: Origin
    words: str
    basis: str = ""  # of several published speeds, which one


@dataclass(frozen=True)
class Reading:
    """What decides the speed of a model elsewhere."""

    read_bytes: float  # of weights, for one token
    models: Collection[str] = ()  # files of conf/model whose shape it has
    here: float | None = None  # tokens a second on this machine; None: not measured


def speeds_on(
    name: str, device: AnsweringDevice, model: Reading, here: str | None, told: Mapping[str, float]
) -> list[Speed]:
    """The best that is known: what you say, what was measured, what was published, what can be estimated.

    Args: here, the device that this machine is; told, tokens a second by device.
    """
    if name in told:
        return [Speed(told[name], "as you say", f"speed.{name}={told[name]:g}")]
    if name == here:
        if model.here is None:
            return [Speed(None, "not known", NOT_MEASURED)]
        return [Speed(model.here, "measured here", "the faster of the measured thread counts")]
    published = device.inference.speeds if device.inference is not None else []
    if exact := [speed for speed in published if _same(speed, model)]:
        return [Speed(speed.tokens_per_second, "published", speed.source, speed.source) for speed in exact]
    if model.read_bytes < _LEAST_BYTES:
        return [Speed(None, "not known", TOO_SMALL)]
    if scaled := [_scaled(speed, model) for speed in published if speed.read_gb is not None]:
        return scaled
    if device.own_bandwidth_gb_s is not None:
        most = device.own_bandwidth_gb_s * 1e9 / model.read_bytes
        words = f"at most: {device.own_bandwidth_gb_s:g} GB/s of its memory / {model.read_bytes / 1e9:.3g} GB a token"
        return [Speed(most, "estimate", words)]
    return [Speed(None, "not known", "no speed: set speed.… or memory_gb_s in its file of conf/device")]


def _same(speed: PublishedSpeed, model: Reading) -> bool:
    if speed.model not in model.models:
        return False
    return speed.read_gb is None or abs(model.read_bytes / (speed.read_gb * 1e9) - 1) < _SAME_SIZE


def _scaled(speed: PublishedSpeed, model: Reading) -> Speed:
    assert speed.read_gb is not None
    estimate = speed.tokens_per_second * speed.read_gb * 1e9 / model.read_bytes
    words = (
        f"{speed.tokens_per_second:g} tokens/s of {speed.model}, which reads {speed.read_gb:g} GB a token "
        f"({speed.source}), by bytes"
    )
    return Speed(estimate, "estimate", words, speed.source)
