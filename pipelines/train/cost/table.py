"""A comparison on the terminal: formats, what can be told of them, devices, cloud services.

Enters: the content of `cost.json`. Leaves: headers and rows of tables, and sentences.
"""

from __future__ import annotations

from typing import Any

from pipelines.display.progress import human, say, table
from pipelines.train.cost.results import Content

_FEW = 8  # devices that the terminal shows; the page shows all


def formats_table(content: Content) -> tuple[list[str], list[list[Any]]]:
    """A line for each model in each runtime."""
    counts = thread_counts(content)
    header = ["model", "format", "runtime", "file", "bits/byte lost"]
    header += [f"{what} tok/s, {threads_name(count)}" for what in ("prompt", "decode") for count in counts]
    rows = []
    for row in content["rows"]:
        cells = [row["model"], f"{row['format']} {row['dtype']}", row["runtime"] or None, human(row["bytes"], "B")]
        cells.append(lost_words(row["lost"]))
        for what in ("prompt", "decode"):
            cells += [figure_words(measured_of(row, count), what) for count in counts]
        peak = max((each["peak_bytes"] for each in row["threads"]), default=0)
        rows.append([*cells, human(peak, "B") if peak else None])
    return [*header, "peak memory"], rows


def thread_counts(content: Content) -> list[int]:
    """The numbers of threads that were asked for."""
    return sorted({each["threads"] for row in content["rows"] for each in row["threads"]})


def threads_name(count: int) -> str:
    """1 thread, 2 threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def measured_of(row: Content, threads: int) -> Content | None:
    """What was measured with so many threads."""
    return next((each for each in row["threads"] if each["threads"] == threads), None)


def figure_words(measured: Content | None, what: str) -> str | None:
    """112 (98–118): the median and the range of the rounds."""
    if measured is None or measured[what] is None:
        return None
    figure = measured[what]
    return f"{_short(figure['median'])} ({_short(figure['low'])}–{_short(figure['high'])})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lost_words(lost: Content) -> str | None:
    """+0.0123 ± 0.0008, or that it cannot be told."""
    if lost["lost"] is None:
        return None
    if lost["error"] is None:
        return f"{lost['lost']:+.3g}"
    words = f"{lost['lost']:+.3g} ± {lost['error']:.2g}"
    return words if lost["told"] or lost["lost"] == 0 else f"{words}, cannot be told"


def unmeasured_lines(content: Content) -> list[str]:
    """Every model or figure that is missing, with its reason."""
    lines = []
    for row in content["rows"]:
        if row["unmeasured"]:
            lines.append(f"{row['key']}: speed was not measured: {row['unmeasured']}")
        lines += [
            f"{row['key']}, {threads_name(each['threads'])}: speed was not measured: {each['unmeasured']}"
            for each in row["threads"]
            if each["unmeasured"]
        ]
        if row["lost"]["unmeasured"]:
            lines.append(f"{row['key']}: bits per byte were not measured: {row['lost']['unmeasured']}")
    return list(dict.fromkeys(lines))


def comparison_lines(content: Content) -> list[str]:
    """Which is faster, round by round, and of which that cannot be told."""
    lines = []
    for each in content["comparisons"]:
        doing = "reading a prompt" if each["what"] == "prompt" else "decoding"
        one, other, ratios = each["one"], each["other"], (each["median"], each["low"], each["high"])
        if each["high"] < 1:
            one, other, ratios = other, one, (1 / each["median"], 1 / each["high"], 1 / each["low"])
        span = f"{ratios[1]:.3g} to {ratios[2]:.3g} in {each['rounds']} rounds"
        if each["told"]:
            lines.append(f"{doing}: {one} is {ratios[0]:.3g} times as fast as {other} ({span})")
        else:
            lines.append(f"{doing}: {one} against {other}: cannot be told ({span})")
    return lines


def offers_table(content: Content) -> tuple[list[str], list[list[Any]]]:
    """The cheapest format on each device, the cheapest device first; those without a price at the end."""
    currencies = list(content["exchange"])
    header = ["device", "way", "model", "tok/s", "speed is"]
    header += [f"{currency} a million" for currency in currencies]
    header += [f"tokens for 1 {currency}" for currency in currencies]
    priced = sorted((offer for offer in content["offers"] if offer["per_million"]), key=_dollars)
    cheapest: dict[tuple[str, str, str], Content] = {}
    for offer in priced:
        cheapest.setdefault((offer["title"], offer["way"], offer["basis"]), offer)
    rows = [
        [
            offer["title"], offer["way"], offer["model"], round(offer["tokens_per_second"], 2), offer["origin"],
            *(money(offer["per_million"][currency]) for currency in currencies),
            *(human(offer["for_one"][currency]) for currency in currencies),
        ]
        for offer in cheapest.values()
    ]  # fmt: skip
    return header, rows


def _dollars(offer: Content) -> float:
    return float(offer["per_million"]["USD"])


def unpriced_lines(content: Content) -> list[str]:
    """Devices without a price or without a speed, and why: one line for each reason."""
    devices: dict[str, list[str]] = {}
    for offer in content["offers"]:
        if offer["unknown"] and offer["device"] not in devices.setdefault(offer["unknown"], []):
            devices[offer["unknown"]].append(offer["device"])
    return [f"{', '.join(names)}: {reason}" for reason, names in devices.items()]


def money(amount: float) -> str:
    """An amount with three digits that say something."""
    return f"{amount:,.2f}" if amount >= 100 else f"{amount:.3g}"


def claim_lines(content: Content) -> list[str]:
    """Published claims of tokens for one unit of money, worked through."""
    lines = []
    for device in content["worked"]:
        unit = device["currency"]
        for claim in device["claims"]:
            lines.append(
                f"{device['title']}: {claim['tokens'] / 1e6:.3g} M tokens for 1 {unit}, says {claim['source']}"
            )
        for worked in device["worked"]:
            line = (
                f"{worked['speed']:g} tokens/s · {device['life_years']:g} years / {device['price']:g} {unit} = "
                f"{worked['without_electricity'] / 1e6:.3g} M"
            )
            if worked["with_electricity"] is not None:
                line += f"; with {device['watts']:g} W of electricity {worked['with_electricity'] / 1e6:.3g} M"
            lines.append(f"   {line} ({worked['speed_source']})")
    return lines


def print_content(content: Content) -> None:
    """All of it, but for what only the page shows."""
    say("\n   Formats on this machine: median of the rounds, and their range\n")
    say(table(*formats_table(content)) + "\n")
    for line in [*content["warnings"], *unmeasured_lines(content)]:
        say(f"   ⚠ {line}")
    for line in comparison_lines(content):
        say(f"   {line}")
    header, rows = offers_table(content)
    if rows:
        say(f"\n   A million decoded tokens, the cheapest first ({content['exchange_words']})\n")
        say(table(header, rows[:_FEW]))
        if len(rows) > _FEW:
            say(f"   and {len(rows) - _FEW} more on the page")
    for line in unpriced_lines(content):
        say(f"   {line}")
    for line in claim_lines(content):
        say(f"   {line}")
