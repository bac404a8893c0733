"""All numbers of a comparison as plain data: the content of `cost.json`. Terminal, page and MLflow are drawn from it.

Enters: the models, what was measured of them here, the devices and the prices. Leaves: a dictionary of JSON values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import plain
from pipelines.train.cost.device import AnsweringDevice
from pipelines.train.cost.loss import Lost
from pipelines.train.cost.measuring import Figure, Measured, compared
from pipelines.train.cost.money import Bill, PricesConfig, bills, convert_all, work_through
from pipelines.train.cost.speeds import NOT_MEASURED, Reading, Speed, speeds_on
from pipelines.train.cost.subjects import Subject

Content = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One model in one runtime."""

    subject: Subject
    runtime: str  # a row of RUNTIMES; "": none loads it
    reads: int  # bytes of weights that one token reads
    lost: Lost
    measured: tuple[Measured, ...]  # one for each number of threads
    unmeasured: str = ""  # why no process ran it

    @property
    def key(self) -> str:
        """Its name on the page: export/demo-gguf, llama_cpp."""
        return f"{self.subject.name}, {self.runtime}" if self.runtime else self.subject.name


def plain_row(row: Row) -> Content:
    """One line of the table of formats."""
    return {
        "key": row.key, "model": row.subject.name, "format": row.subject.format_name, "dtype": row.subject.dtype,
        "runtime": row.runtime, "bytes": row.subject.weight_bytes, "read_bytes": row.reads,
        "lost": {**plain(row.lost), "told": row.lost.told}, "record": row.subject.own_record(),
        "unmeasured": row.unmeasured, "threads": [plain_measured(measured) for measured in row.measured],
    }  # fmt: skip


def plain_measured(measured: Measured) -> Content:
    """What one process took, each figure with its rounds."""
    told = {field.name: getattr(measured, field.name) for field in dataclasses.fields(measured)}
    return {**told, "prompt": plain_figure(measured.prompt), "decode": plain_figure(measured.decode)}


def plain_figure(figure: Figure | None) -> Content | None:
    """Tokens a second."""
    if figure is None:
        return None
    return {"median": figure.median, "low": figure.low, "high": figure.high, "rounds": list(figure.rounds)}


# ── Which is faster ───────────────────────────────────────────────────────────────────────────────────────────────────


def comparisons(rows: Sequence[Row]) -> list[Content]:
    """Each row against the first that was measured, and all threads against one, round by round."""
    told: list[Content] = []
    flat = {(row.key, each.threads): each for row in rows for each in row.measured if not each.unmeasured}
    counts = sorted({threads for _, threads in flat})
    keys = list(dict.fromkeys(key for key, _ in flat))
    for what in ("prompt", "decode"):
        for threads in counts:
            base = next((key for key in keys if (key, threads) in flat), None)
            for key in keys:
                if base is not None and key != base and (key, threads) in flat:
                    names = (f"{key}, {_threads(threads)}", f"{base}, {_threads(threads)}")
                    told += _compared(what, names, flat[key, threads], flat[base, threads])
        for key in keys:
            if len(counts) > 1 and all((key, threads) in flat for threads in (counts[0], counts[-1])):
                names = (f"{key}, {_threads(counts[-1])}", f"{key}, {_threads(counts[0])}")
                told += _compared(what, names, flat[key, counts[-1]], flat[key, counts[0]])
    return told


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _compared(what: str, names: tuple[str, str], one: Measured, other: Measured) -> list[Content]:
    mine, its = getattr(one, what), getattr(other, what)
    ratio = None if mine is None or its is None else compared(mine, its)
    if ratio is None:
        return []
    return [{"what": what, "one": names[0], "other": names[1], **plain(ratio), "told": ratio.told}]


# ── Money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Market:
    """Devices and prices."""

    devices: Mapping[str, AnsweringDevice]  # by their files in conf/device
    here: str | None  # the one that this machine is
    prices: PricesConfig
    told: Mapping[str, float]  # tokens a second by device, as the user says
    models: Collection[str]  # files of conf/model whose shape the models have


def offers(rows: Sequence[Row], market: Market) -> list[Content]:
    """What a million decoded tokens of each model cost on each device, or why that cannot be told."""
    told: list[Content] = []
    for subject in dict.fromkeys(row.subject.name for row in rows):
        own = [row for row in rows if row.subject.name == subject]
        for name, device in market.devices.items():
            for units, reading in readings(own, name, device, market):
                for bill in bills(device, units):
                    for speed in speeds_on(name, device, reading, market.here, market.told):
                        told.append(_offer(subject, name, device, units, bill, speed, market))
    return told + published_offers(market)


def published_offers(market: Market) -> list[Content]:
    """The same of the models whose speed was published, of their size: what a model to be made may come to."""
    published = [speed for device in market.devices.values() if device.inference for speed in device.inference.speeds]
    sizes = {speed.model: speed.read_gb for speed in published if speed.read_gb is not None}
    return [
        _offer(f"{model}, as published", name, device, 1, bill, speed, market)
        for model, size in sizes.items()
        for name, device in market.devices.items()
        if name != market.here
        for bill in bills(device)
        for speed in speeds_on(name, device, Reading(size * 1e9, [model]), None, {})
    ]


def readings(
    rows: Sequence[Row], name: str, device: AnsweringDevice, market: Market
) -> Iterable[tuple[int, Reading]]:  # fmt: skip
    """How a model is read on a device: of this machine once for each number of threads that was measured."""
    reads = rows[0].reads
    if name != market.here or name in market.told:
        return [(1, Reading(reads, market.models))]
    best: dict[int, float] = {}
    for measured in (each for row in rows for each in row.measured if each.decode is not None):
        assert measured.decode is not None
        best[measured.threads] = max(best.get(measured.threads, 0.0), measured.decode.median)
    if not best:
        return [(1, Reading(reads, market.models))]
    one_core = getattr(device, "kind", "") == "cpu"  # such a file prices one core
    return [(threads if one_core else 1, Reading(reads, market.models, speed)) for threads, speed in best.items()]


def _offer(
    model: str, name: str, device: AnsweringDevice, units: int, bill: Bill, speed: Speed, market: Market
) -> Content:
    title = f"this machine ({name})" if name == market.here else device.title or name
    told: Content = {
        "model": model, "device": name, "title": f"{title}, {units} cores" if units > 1 else title, "way": bill.way,
        "tokens_per_second": speed.tokens_per_second, "origin": speed.origin, "speed_words": speed.words,
        "basis": speed.basis,
        "price_words": bill.words, "per_million": None, "for_one": None, "electricity_share": None, "unknown": "",
    }  # fmt: skip
    own = f"{model} was {NOT_MEASURED}" if speed.words == NOT_MEASURED else speed.words
    if reason := bill.unknown or ("" if speed.tokens_per_second else own):
        return {**told, "unknown": reason}
    assert speed.tokens_per_second is not None
    per_million = convert_all(bill.of_a_million(speed.tokens_per_second), bill.currency, market.prices)
    return {
        **told,
        "per_million": dict(per_million),
        "for_one": {currency: 1e6 / money for currency, money in per_million.items()},
        "electricity_share": bill.electricity / bill.total,
    }


def prompt_prices(rows: Sequence[Row], market: Market) -> list[Content]:
    """What a million tokens of prompts cost on this machine; elsewhere nobody measured it."""
    if market.here is None:
        return []
    device, told = market.devices[market.here], []
    for row in rows:
        for measured in row.measured:
            units = measured.threads if getattr(device, "kind", "") == "cpu" else 1
            bill = next((bill for bill in bills(device, units) if not bill.unknown), None)
            if measured.prompt is not None and bill is not None:
                amount = bill.of_a_million(measured.prompt.median)
                money = dict(convert_all(amount, bill.currency, market.prices))
                told.append({"key": row.key, "threads": measured.threads, "per_million": money})
    return told


def worked_through(market: Market) -> list[Content]:
    """Devices with a claim of tokens for one unit of money: its arithmetic from each published speed."""
    told = []
    for name, device in market.devices.items():
        inference = device.inference
        if inference is None or not inference.claims:
            continue
        told.append(
            {
                "device": name, "title": device.title or name, "currency": inference.currency,
                "price": inference.price, "life_years": inference.life_years, "utilisation": inference.utilisation,
                "watts": inference.watts, "electricity_per_kwh": inference.electricity_per_kwh,
                "source": inference.source, "claims": plain(inference.claims),
                "worked": [plain(worked) for worked in work_through(inference)],
            }
        )  # fmt: skip
    return told


def cloud_prices(prices: PricesConfig) -> list[Content]:
    """Each cloud service's prices, in every currency that has a rate."""
    return [
        {
            **plain(price),
            "input_in": dict(convert_all(price.input, price.currency, prices)),
            "output_in": dict(convert_all(price.output, price.currency, prices)),
        }
        for price in prices.cloud
    ]


def metrics(content: Content) -> dict[str, float]:
    """What MLflow shows: bytes, speed, memory and loss of each model in each runtime."""
    told: dict[str, float] = {}
    for row in content["rows"]:
        name = "-".join(filter(None, (row["model"].replace("/", "-"), row["runtime"])))
        told[f"file_bytes/{name}"] = row["bytes"]
        if row["lost"]["lost"] is not None:
            told[f"bits_per_byte_lost/{name}"] = row["lost"]["lost"]
        for each in row["threads"]:
            if not each["unmeasured"]:
                told[f"prompt_tokens_per_second/{name}/{each['threads']}"] = each["prompt"]["median"]
                told[f"decode_tokens_per_second/{name}/{each['threads']}"] = each["decode"]["median"]
                told[f"peak_bytes/{name}/{each['threads']}"] = each["peak_bytes"]
    return told
