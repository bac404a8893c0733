"""A comparison as a page: `cost.html`, every format of a model side by side.

Enters: the content of `cost.json`. Leaves: one HTML file that fetches nothing. Each table and picture has a sentence
that says what to see in it, and each speed says whether it was measured, published, told or estimated.
"""

from __future__ import annotations

from typing import Any

from pipelines.display import markup
from pipelines.display.progress import human
from pipelines.train.cost.drawing import Bar, Point, bars, scatter
from pipelines.train.cost.results import Content
from pipelines.train.cost.table import (
    comparison_lines,
    figure_words,
    lost_words,
    measured_of,
    money,
    thread_counts,
    threads_name,
    unmeasured_lines,
    unpriced_lines,
)

_FLOATS = ("float32", "bfloat16", "float16", "f32", "f16", "bf16")
_GROUPED = {"measured here": "", "as you say": ", as you say", "published": ", published", "estimate": ", estimate"}


def page_of(name: str, content: Content) -> str:
    """The whole page."""
    machine = content["machine"]
    parts = [
        f"<h1>What answers cost: {markup.text(name)}</h1>",
        f'<p class="soft">{markup.text(content["parent"])}, every format side by side. Measured on '
        f"{markup.text(machine['cpu'])}, {machine['cores']} cores, {human(machine['memory_bytes'], 'B')}, on "
        f"{markup.text(content['created'])}.</p>",
        markup.tiles(_tiles(content)),
        *(f'<p class="warn">{markup.text(line)}</p>' for line in content["warnings"]),
        *_formats(content),
        *_loss(content),
        *_speed(content),
        *_prices(content),
        *_claims(content),
        *_cloud(content),
        *_how(content),
    ]
    return markup.page(f"What answers cost: {name}", parts)


def _tiles(content: Content) -> list[tuple[str, str]]:
    rows = content["rows"]
    smallest = min(rows, key=lambda row: row["bytes"])
    tiles = [("models", str(len({row["model"] for row in rows}))), ("smallest file", human(smallest["bytes"], "B"))]
    if content["bits_per_byte"] is not None:
        tiles.append(("bits per byte of the checkpoint", f"{content['bits_per_byte']:.4f}"))
    if smallest["lost"]["lost"] is not None:
        tiles.append(("bits per byte lost by the smallest", f"{smallest['lost']['lost']:+.2g}"))
    priced = [offer for offer in content["offers"] if offer["per_million"] and offer["origin"] == "measured here"]
    if priced:
        least = min(priced, key=lambda offer: float(offer["per_million"]["USD"]))
        tiles.append(("USD a million tokens, this machine", money(least["per_million"]["USD"])))
    return tiles


# ── Formats ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _formats(content: Content) -> list[str]:
    counts = thread_counts(content)
    header = ["", "model", "stored as", "runtime", "file", "bits/byte lost"]
    numbers = ["file", "bits/byte lost"]
    for what in ("prompt", "decode"):
        numbers += [f"{what}, {threads_name(count)}" for count in counts]
    header += [*numbers[2:], "peak memory", "of it the model", "its own record"]
    rows = []
    for number, row in enumerate(content["rows"], 1):
        cells: list[Any] = [
            str(number), row["model"], f"{row['format']} {row['dtype']}", row["runtime"] or None,
            human(row["bytes"], "B"), lost_words(row["lost"]),
        ]  # fmt: skip
        for what in ("prompt", "decode"):
            cells += [figure_words(measured_of(row, count), what) for count in counts]
        most = max((each for each in row["threads"]), key=lambda each: each["peak_bytes"], default=None)
        peak, before = (most["peak_bytes"], most["before_bytes"]) if most else (0, 0)
        cells += [human(peak, "B") if peak else None, human(peak - before, "B") if peak else None]
        rows.append([*cells, _record(row["record"])])
    missing = "".join(f"<li>{markup.text(line)}</li>" for line in unmeasured_lines(content))
    return [
        "<h2>Formats on this machine</h2>",
        '<p class="soft">Speeds in tokens a second: the median of the rounds, and their range. Memory is the most that '
        "the model's own process had, Python and libraries counted; of it the model is what came after loading "
        "began.</p>",
        markup.table(header, rows, [*numbers, "peak memory", "of it the model", "its own record"]),
        f"<ul>{missing}</ul>" if missing else "",
    ]


def _record(record: Content) -> str | None:
    """What the export or the quantization measured of itself."""
    told = [f"{record['kl']:.3g} nats of KL"] if "kl" in record else []
    told += [f"{record['top1']:.1%} likeliest ids alike"] if "top1" in record else []
    told += [f"{record['lost_bits_per_byte']:+.3g} bits/byte"] if "lost_bits_per_byte" in record else []
    return ", ".join(told) or None


def _loss(content: Content) -> list[str]:
    points, legend, seen = [], [], set()
    for number, row in enumerate(content["rows"], 1):
        lost = row["lost"]
        if lost["lost"] is None or row["model"] in seen:
            continue
        seen.add(row["model"])
        room = 2 * (lost["error"] or 0.0)
        is_float = row["dtype"] in _FLOATS
        points.append(
            Point(number, row["bytes"] / 1e6, lost["lost"], lost["lost"] - room, lost["lost"] + room, is_float)
        )
        legend.append(f"{number} {row['model']} ({row['format']} {row['dtype']})")
    if not points:
        return []
    drawing = scatter(points, "Bits per byte lost against bytes", "MB of weights", "bits per byte lost")
    caption = (
        "Lower and further left is better. Each line is two standard errors either way, by paired windows of held-out "
        "text; a line that crosses 0 cannot be told from the full model. "
    )
    return [
        "<h2>What each format costs in bits per byte</h2>",
        f'<figure class="wide">{drawing}<figcaption>{caption}{markup.text("; ".join(legend))}</figcaption></figure>',
    ]


def _speed(content: Content) -> list[str]:
    parts = ["<h2>Speed</h2>"]
    counts = thread_counts(content)
    for what, title in (("decode", "Decoding"), ("prompt", "Reading a prompt")):
        rows = []
        for row in content["rows"]:
            for place, count in enumerate(counts):
                measured = measured_of(row, count)
                if measured is None or measured[what] is None:
                    continue
                figure = measured[what]
                label = f"{row['model']} {row['dtype']}, {threads_name(count)}"
                colour = "one" if place == 0 else "two"
                rows.append(Bar(label, figure["median"], figure["low"], figure["high"], colour))
        if rows:
            drawing = bars(rows, title, "tok/s")
            caption = "Tokens a second; the dark line is the range of the rounds."
            parts.append(f"<h3>{title}</h3><figure>{drawing}<figcaption>{caption}</figcaption></figure>")
    lines = "".join(f"<li>{markup.text(line)}</li>" for line in comparison_lines(content))
    if lines:
        parts.append(
            "<h3>What can be told</h3>"
            f'<p class="soft">Round against round, as they were taken in turn. A difference is told where all '
            f"rounds agree and there are at least five.</p><ul>{lines}</ul>"
        )
    return parts if len(parts) > 1 else []


# ── Money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _prices(content: Content) -> list[str]:
    offers = content["offers"]
    models = list(dict.fromkeys(offer["model"] for offer in offers))
    lines: dict[tuple[str, str, str], dict[str, Content]] = {}
    for offer in offers:
        lines.setdefault((offer["title"], offer["way"], offer["basis"]), {})[offer["model"]] = offer
    lines = {line: own for line, own in lines.items() if any(offer["per_million"] for offer in own.values())}
    ordered = sorted(lines, key=lambda line: min(_dollars(offer) for offer in lines[line].values()))
    parts = ["<h2>Price of a million decoded tokens, by device</h2>", _price_note(content)]
    for currency in content["exchange"]:
        rows = []
        for line in ordered:
            own = lines[line]
            told = next(offer for offer in own.values() if offer["per_million"])
            rows.append([line[0], line[1], *(_cell(own.get(model), currency) for model in models), _how_priced(told)])
        header = ["device", "way", *models, "how"]
        parts += [f"<h3>In {markup.text(currency)}</h3>", markup.table(header, rows, models)]
    if unknown := unpriced_lines(content):
        parts.append(f"<ul>{''.join(f'<li>{markup.text(line)}</li>' for line in unknown)}</ul>")
    words = dict.fromkeys(
        f"{offer['title']}, {offer['model']}: {offer['tokens_per_second']:,.3g} tokens/s, {offer['origin']}: "
        f"{offer['speed_words']}"
        for offer in offers
        if offer["tokens_per_second"]
    )
    inside = "".join(f"<li>{markup.text(line)}</li>" for line in words)
    parts.append(markup.unfold("where each speed is from", f"{len(words)} speeds", f"<ul>{inside}</ul>"))
    if content["prompts"]:
        currencies = list(content["exchange"])
        rows = [
            [each["key"], threads_name(each["threads"]), *(money(each["per_million"][unit]) for unit in currencies)]
            for each in content["prompts"]
        ]
        parts.append("<h3>A million tokens of prompts, on this machine</h3>")
        parts.append(markup.table(["model", "threads", *currencies], rows, currencies))
    return parts


def _price_note(content: Content) -> str:
    return (
        '<p class="soft">One conversation at a time, all day; a device that serves many at once costs less for each. '
        "“Estimate” is arithmetic over bytes read and no measurement: from a memory's bandwidth it is the least price "
        "that there can be. Nothing is estimated below 50 MB a token. "
        f"{markup.text(content['exchange_words'])} ({markup.text(content['exchange_source'])}).</p>"
    )


def _how_priced(offer: Content) -> str:
    """The device's price in words, with the speed where several were published."""
    if not offer["basis"]:
        return str(offer["price_words"])
    return f"{offer['tokens_per_second']:,.3g} tokens/s of {offer['basis']}; {offer['price_words']}"


def _dollars(offer: Content) -> float:
    return float(offer["per_million"]["USD"]) if offer["per_million"] else float("inf")


def _cell(offer: Content | None, currency: str) -> str | None:
    if offer is None or offer["per_million"] is None:
        return None
    return f"{money(offer['per_million'][currency])}{_GROUPED.get(offer['origin'], '')}"


def _claims(content: Content) -> list[str]:
    if not content["worked"]:
        return []
    parts = ["<h2>Published claims, worked through</h2>"]
    for device in content["worked"]:
        unit = device["currency"]
        rows = [[f"{each['tokens'] / 1e6:.3g} M", None, f"as {each['source']} says"] for each in device["claims"]]
        for each in device["worked"]:
            full = None if each["with_electricity"] is None else f"{each['with_electricity'] / 1e6:.3g} M"
            how = (
                f"{each['speed']:g} tokens/s · {device['life_years']:g} years = {each['tokens'] / 1e9:.3g} G tokens; "
                f"/ {device['price']:g} {unit} ({each['speed_source']})"
            )
            rows.append([f"{each['without_electricity'] / 1e6:.3g} M", full, how])
        power = "" if device["watts"] is None else f", {device['watts']:g} W"
        header = [f"tokens for 1 {unit}", f"with electricity{power}", "how"]
        parts += [f"<h3>{markup.text(device['title'])}</h3>", markup.table(header, rows, header[:2])]
        parts.append(f'<p class="soft">{markup.text(device["source"])}</p>')
    return parts


def _cloud(content: Content) -> list[str]:
    if not content["cloud"]:
        return []
    currencies = list(content["exchange"])
    header = ["service", *(f"{part}, {unit}" for part in ("input", "output") for unit in currencies), "of", "source"]
    rows = [
        [
            price["name"], *(money(price["input_in"][unit]) for unit in currencies),
            *(money(price["output_in"][unit]) for unit in currencies), price["date"], price["source"],
        ]
        for price in content["cloud"]
    ]  # fmt: skip
    return [
        "<h2>Cloud services, a million tokens</h2>",
        '<p class="soft">From conf/price/api.yaml, which you edit. Another model with other abilities: a price is no '
        "comparison of answers.</p>",
        markup.table(header, rows, header[1:-2]),
    ]


def _how(content: Content) -> list[str]:
    machine = content["machine"]
    return [
        "<h2>How it was measured</h2>",
        f"<p>Each model ran in a process of its own for each number of threads. {content['rounds']} rounds were taken "
        "in turn, so that another program that takes a core slows all models alike; a round before them was not "
        "counted. A prompt's speed is its tokens over the time to the first token. Load average was "
        f"{machine['load_average_before']:.1f} before and {machine['load_average_after']:.1f} after, on "
        f"{machine['cores']} cores.</p>",
    ]
