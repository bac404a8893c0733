"""What a million tokens cost: of a device that is owned, of one that is hired, of a cloud service.

    owned, a second of answers    price / (life · utilisation) + watts · price of a kWh / 3.6e6
    hired, a second of answers    price of an hour / 3600, whether it answers or not: so it shall answer all the time
    tokens for one unit of money  tokens a second / money a second

Enters: a device (`device.py`), tokens a second, rates of exchange. Leaves: money, or words that say why it cannot be
told. Electricity is counted while a device answers; what it takes while idle is not.

Source of the first line without electricity: the article that announced MiniCPM, which divides the tokens of a phone's
life by its price. conf/device/snapdragon_855.yaml works its figures through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.config import Amount, Positive, config_class
from pipelines.errors import ConfigError
from pipelines.train.cost.device import AnsweringDevice, InferenceConfig

SECONDS_A_YEAR = 365.25 * 86_400  # 31,557,600
_JOULES_A_KWH = 3.6e6


@config_class
class CloudPrice:
    """What a cloud service asks for a million tokens."""

    name: str
    input: Amount  # of the prompt
    output: Amount  # of the answer
    currency: str = "USD"
    date: str = ""  # when it was the price
    source: str


@config_class
class PricesConfig:
    """Prices to compare with, and what one currency is worth in another."""

    exchange: dict[str, Positive] = field(default_factory=lambda: {"USD": 1.0})  # units for one US dollar
    exchange_date: str = ""
    exchange_source: str = ""
    cloud: list[CloudPrice] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises: ConfigError for a dollar that is no dollar, or a price in a currency without a rate."""
        if self.exchange.get("USD") != 1.0:
            raise ConfigError(
                f"price.exchange.USD is {self.exchange.get('USD')}; expected 1: rates are units for one US dollar"
            )
        for price in self.cloud:
            self.rate(price.currency, f"price.cloud: {price.name}")

    def rate(self, currency: str, where: str) -> float:
        """Units for one US dollar. Args: where, whose currency it is, for the message. Raises: ConfigError."""
        if currency not in self.exchange:
            raise ConfigError(
                f"{where} is in {currency}, and price.exchange has {', '.join(self.exchange)}: write one of these, or "
                f"add how many {currency} are one US dollar to conf/price/api.yaml"
            )
        return self.exchange[currency]

    def convert(self, amount: float, of: str, to: str) -> float:
        """An amount in another currency. Raises: ConfigError for one without a rate."""
        return amount * self.rate(to, "the amount") / self.rate(of, "the amount")


@dataclass(frozen=True)
class Bill:
    """What a second of answers costs in one way of having the device, or why that is not known."""

    way: str  # "owned", "hired", "not priced"
    currency: str = ""
    device: float = 0.0  # money a second
    electricity: float = 0.0  # likewise
    words: str = ""  # how it comes about
    unknown: str = ""  # the reason

    @property
    def total(self) -> float:
        return self.device + self.electricity

    def tokens_for_one(self, tokens_per_second: float) -> float:
        """Tokens for one unit of the currency."""
        return tokens_per_second / self.total

    def of_a_million(self, tokens_per_second: float) -> float:
        """Money for a million tokens."""
        return 1e6 * self.total / tokens_per_second


def bills(device: AnsweringDevice, units: int = 1) -> list[Bill]:
    """Every way to have a device, with its price; at least one, which may be unknown.

    Args: units, how many of it answer together: cores of a CPU, whose file prices one.
    """
    told: list[Bill] = []
    if device.inference is not None:
        told.append(owned(device.inference))
    if device.usd_per_hour is not None:
        hour = device.usd_per_hour * units
        of_units = f"${device.usd_per_hour:g} an hour" + (f" · {units} of them" if units > 1 else "")
        told.append(Bill("hired", "USD", hour / 3600, words=of_units))
    if not told:
        reason = "no price: set usd_per_hour (hired) or inference.price (owned) in its file of conf/device"
        return [Bill("not priced", unknown=reason)]
    return told if any(not bill.unknown for bill in told) else told[:1]


def owned(inference: InferenceConfig) -> Bill:
    """A second of answers on a device of one's own."""
    lacking = [key for key in ("price", "life_years") if getattr(inference, key) is None]
    if lacking:
        keys = " and ".join(f"inference.{key}" for key in lacking)
        return Bill("owned", inference.currency, unknown=f"no price: set {keys} in its file of conf/device")
    assert inference.price is not None
    assert inference.life_years is not None
    seconds = inference.life_years * SECONDS_A_YEAR * inference.utilisation
    words = f"{inference.price:,.5g} {inference.currency} over {inference.life_years:g} years"
    if inference.utilisation < 1:
        words += f", answering {inference.utilisation:.0%} of the time"
    power = electricity(inference)
    if power is None:
        words += "; electricity is not counted, as its price or the device's power is not known"
    else:
        words += f"; {inference.watts:g} W at {inference.electricity_per_kwh:g} {inference.currency} a kWh"
    return Bill("owned", inference.currency, inference.price / seconds, power or 0.0, words)


def electricity(inference: InferenceConfig) -> float | None:
    """Money for a second of answers; None where power or price are not known."""
    if inference.watts is None or inference.electricity_per_kwh is None:
        return None
    return inference.watts * inference.electricity_per_kwh / _JOULES_A_KWH


@dataclass(frozen=True)
class WorkedClaim:
    """One way to work a claim of tokens for one unit of money through."""

    speed: float  # tokens a second
    speed_source: str
    tokens: float  # in the device's whole life
    without_electricity: float  # tokens for one unit of money
    with_electricity: float | None


def work_through(inference: InferenceConfig) -> list[WorkedClaim]:
    """A device's published speeds by the division above; none where its price or life is not known."""
    if inference.price is None or inference.life_years is None:
        return []
    power, worked = electricity(inference), []
    seconds = inference.life_years * SECONDS_A_YEAR * inference.utilisation
    for speed in inference.speeds:
        tokens = speed.tokens_per_second * seconds
        full = None if power is None else tokens / (inference.price + power * seconds)
        worked.append(WorkedClaim(speed.tokens_per_second, speed.source, tokens, tokens / inference.price, full))
    return worked


def convert_all(amount: float, currency: str, prices: PricesConfig) -> Mapping[str, float]:
    """An amount in every currency that has a rate."""
    return {other: prices.convert(amount, currency, other) for other in prices.exchange}
