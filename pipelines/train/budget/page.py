"""A plan as a page: `plan.html`, with pictures drawn into it, and `plan.json` beside it.

Enters: a plan and what is said beside it. Leaves: two files in a folder. The pictures are SVG without a script, a font
or a link, and take their colours from the page, so they fit light and dark; each has a sentence under it that says what
to see.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.display import markup
from pipelines.errors import StorageError
from pipelines.train.budget.layout import limit_of
from pipelines.train.budget.loss import ForeseenLoss
from pipelines.train.budget.plan import COST_HEADER, Plan, cost_rows, memory_cases, overview, plain_plan, traffic_lines
from pipelines.train.budget.search import Offer
from pipelines.train.budget.sources import SourceNeeds
from pipelines.train.plan.memory import GIB, Memory

# parts of the memory, from the left; colours that are told apart by those who see no red or no green (Okabe and Ito)
_PARTS = {
    "state": "#0072b2",
    "gradients": "#56b4e9",
    "activations": "#e69f00",
    "working": "#f0e442",
    "process": "#999999",
}
_DOTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999")
_WIDTH, _LABEL, _BAR, _GAP = 760, 275, 15, 5


def write_page(
    folder: Path, title: str, plan: Plan, needs: Mapping[str, SourceNeeds], offers: Sequence[Offer],
    loss: ForeseenLoss | None,
) -> Path:  # fmt: skip
    """Write both files; returns the page's path. Raises: StorageError where the folder cannot be written."""
    numbers = plain_plan(plan)
    numbers["sources"] = {
        stage: [
            {"name": s.name, "weight": s.weight, "tokens": s.tokens, "available": s.available, "epochs": s.epochs}
            for s in need.sources
        ]
        for stage, need in needs.items()
    }
    if loss is not None:
        numbers["loss"] = {
            "value": loss.estimate.value, "low": loss.estimate.low, "high": loss.estimate.high,
            "unit": loss.unit, "warnings": list(loss.warnings),
        }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / "plan.html"
        page.write_text(markup.page(f"Plan: {title}", _parts(title, plan, needs, offers, loss)), encoding="utf-8")
        (folder / "plan.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"out={folder} cannot be written: {error}; name a folder that can be") from error
    return page


def _parts(
    title: str, plan: Plan, needs: Mapping[str, SourceNeeds], offers: Sequence[Offer], loss: ForeseenLoss | None
) -> list[str]:
    lines = overview(plan)
    tiles = [
        ("parameters", f"{plan.jobs[0].parameters['total'] / 1e9:.3g} B"),
        ("tokens", f"{plan.tokens / 1e9:,.4g} B"),
        ("FLOP", f"{plan.flops:.3g}"),
        ("days", f"{plan.hours / 24:.3g}"),
        ("device hours", f"{plan.hours * plan.workers:,.0f}"),
        ("USD", "not known" if plan.usd is None else f"{plan.usd:,.0f}"),
    ]
    if loss is not None:
        tiles.append(("final loss", f"{loss.estimate.value:.3g} ({loss.estimate.low:.3g}–{loss.estimate.high:.3g})"))
    parts = [
        f"<h1>Plan: {markup.text(title)}</h1>",
        markup.tiles(tiles),
        _listed(lines),
        "<h2>Memory of a worker</h2>",
        memory_picture(plan),
        "<p class='soft'>A bar is one worker at the peak of a step; the dashed line is what it may take. Where a bar "
        "is made shorter by computing again, its label says how many blocks do (input, products). On a GPU the "
        "prediction is an upper bound.</p>",
    ]
    if offers:
        parts += [
            "<h2>Money against time</h2>",
            offers_picture(offers),
            "<p class='soft'>A dot is a number of devices (beside it); the ringed one is proposed. Further left is "
            "sooner, further down cheaper: at a constant MFU more devices cost the same until sending no longer hides "
            "behind computing.</p>",
        ]
    parts += [
        "<h2>Stages</h2>",
        markup.table(COST_HEADER, cost_rows(plan), COST_HEADER[1:]),
        _listed(traffic_lines(plan)),
    ]
    for stage, need in needs.items():
        rows = [
            [s.name, f"{s.weight:.2%}", s.tokens, s.available, s.epochs, s.needed_tokens and round(s.needed_tokens)]
            for s in need.sources
        ]
        header = ("source", "weight", "tokens", "available", "epochs", "must have at least")
        parts += [f"<h2>Sources of {stage}</h2>", markup.table(header, rows, header[1:]) if rows else ""]
        parts += [f"<p>Not known: {markup.text(sentence)}</p>" for sentence in need.unknown]
    if loss is not None:
        parts += [f"<p>Final loss: {markup.text(loss)}</p>", *(f"<p>⚠ {markup.text(w)}</p>" for w in loss.warnings)]
    return parts


def _listed(lines: Mapping[str, Any]) -> str:
    return markup.table(("what", "how much"), [[name, value] for name, value in lines.items()])


def memory_picture(plan: Plan) -> str:
    """Bars of a worker's memory by ZeRO stage and micro-batch of the first stage."""
    job, limit = plan.jobs[0], limit_of(plan.jobs[0], plan.device)
    cases = list(memory_cases(job, plan.workers, plan.device))
    most = max(limit, *(memory.total for _, _, memory in cases)) * 1.04
    most = min(most, 3 * limit)  # a bar far too long is cut, or all others would be specks
    scale = (_WIDTH - _LABEL - 60) / most
    top = 26
    height = top + len(cases) * (_BAR + _GAP) + 24
    at = _LABEL + limit * scale
    drawn = [_legend()]
    for place, (stage, size, memory) in enumerate(cases):
        y = top + place * (_BAR + _GAP)
        label = f"ZeRO-{stage}, micro-batch {size}" + _again(memory)
        drawn.append(f'<text x="{_LABEL - 6}" y="{y + 12}" text-anchor="end">{html.escape(label)}</text>')
        x = float(_LABEL)
        for part, colour in _PARTS.items():
            wide = max(0.0, min(getattr(memory, part) * scale, _LABEL + most * scale - x))
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{_BAR}" fill="{colour}"/>')
            x += wide
        cut = " →" if memory.total > most else ""
        beside = at if x < at < x + 36 else x  # not across the dashed line
        drawn.append(f'<text x="{beside + 4:.1f}" y="{y + 12}">{memory.total / GIB:.3g}{cut}</text>')
    drawn.append(
        f'<line x1="{at:.1f}" y1="{top - 4}" x2="{at:.1f}" y2="{height - 20}" stroke="var(--ink, currentColor)" '
        'stroke-dasharray="5 4"/>'
        f'<text x="{at:.1f}" y="{height - 6}" text-anchor="middle">{limit / GIB:.3g} GiB usable</text>'
    )
    return _svg(height, f"Memory of a worker, in GiB, on {plan.workers} × {plan.device_name}", drawn)


def _again(memory: Memory) -> str:
    policy = memory.policy
    said = [f"{count} {name}" for name, count in (("input", policy.input), ("products", policy.products)) if count]
    return f" ({', '.join(said)})" if said else ""


def _legend() -> str:
    parts, x = [], float(_LABEL)
    for name, colour in _PARTS.items():
        parts.append(f'<rect x="{x}" y="4" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="14">{name}</text>')
        x += 30 + 7.5 * len(name)
    return "".join(parts)


def offers_picture(offers: Sequence[Offer]) -> str:
    """Dots: days to the right, money upwards (device hours where no price is known), both on logarithmic axes."""
    height, left, bottom = 360, 80, 44
    points = [(offer.hours / 24, offer.usd if offer.usd is not None else offer.hours * offer.workers, offer)
              for offer in offers]  # fmt: skip
    across, upwards = _reach([x for x, _, _ in points]), _reach([y for _, y, _ in points])

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(x / across[0]) / math.log(across[1] / across[0])
        high = math.log(y / upwards[0]) / math.log(upwards[1] / upwards[0])
        return left + share * (_WIDTH - left - 130), (height - bottom) - high * (height - bottom - 24)

    drawn = []
    for tick in _ticks(*across):
        x, _ = place(tick, upwards[0])
        drawn.append(f'<line x1="{x:.1f}" y1="20" x2="{x:.1f}" y2="{height - bottom}" stroke="var(--line)"/>')
        drawn.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in _ticks(*upwards):
        _, y = place(across[0], tick)
        drawn.append(f'<line x1="{left}" y1="{y:.1f}" x2="{_WIDTH - 120}" y2="{y:.1f}" stroke="var(--line)"/>')
        drawn.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    names = dict.fromkeys(offer.device for offer in offers)
    colours = dict(zip(names, _DOTS * (1 + len(names) // len(_DOTS)), strict=False))
    for number, (days, money, offer) in enumerate(points):
        x, y = place(days, money)
        ring = ' stroke="currentColor" stroke-width="2.5"' if number == 0 else ""
        drawn.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if number == 0 else 4}" fill="{colours[offer.device]}"{ring}/>'
        )
        drawn.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{offer.workers}</text>')
    for row, (name, colour) in enumerate(colours.items()):
        drawn.append(f'<circle cx="{_WIDTH - 110}" cy="{12 + 16 * row}" r="4" fill="{colour}"/>')
        drawn.append(f'<text x="{_WIDTH - 100}" y="{16 + 16 * row}">{html.escape(name)}</text>')
    unit = "USD" if all(offer.usd is not None for offer in offers) else "device hours"
    drawn.append(f'<text x="{_WIDTH / 2}" y="{height - 6}" text-anchor="middle">days</text>')
    drawn.append(f'<text x="{left - 6}" y="12" text-anchor="end">{unit}</text>')
    return _svg(height, "Money against days, a dot for each number of devices", drawn)


def _reach(values: Sequence[float]) -> tuple[float, float]:
    return min(values) * 0.85, max(values) * 1.2


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within; fewer where there are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]
    if len(every) < 3:
        every = [step * 10.0**power for power in powers for step in range(1, 10) if low <= step * 10.0**power <= high]
    return every if len(every) <= 9 else [tick for tick in every if f"{tick:e}"[0] == "1"]


def _svg(height: float, title: str, drawn: Sequence[str]) -> str:
    label = html.escape(title)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
