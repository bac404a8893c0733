"""`report.html` as text: claims first, then the stage table, the figures, the samples and the data.

Everything is inside the one file (styles, images as data URIs), every text from data is escaped, and wide tables scroll
on their own so that the page fits a phone.
"""

from __future__ import annotations

import base64
import datetime
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipelines.display.report.claims import Claim, claims
from pipelines.display.report.drawing import stage_colours
from pipelines.display.report.figures import captions, figures
from pipelines.display.report.results import (
    StageResult,
    columns_explained,
    runs,
    sets_explained,
    stage_table,
    tasks_measured,
)
from pipelines.display.report.style import STYLE


def write_report(
    path: Path,
    results: Sequence[StageResult],
    corpus_statistics: Mapping[str, Any] | None = None,
    title: str = "Trunkline",
) -> None:
    """Write the report to `path`, one file.

    Args: corpus_statistics, `{"sources": {name: {kind, language, licence, train, heldout, dropped}}}`; keys that are
        absent are left blank.
    """
    images = {name: _data_uri(figure) for name, figure in figures(results).items()}
    path.write_text(page(title, results, images, corpus_statistics), encoding="utf-8")


def page(
    title: str, results: Sequence[StageResult], images: Mapping[str, str], corpus: Mapping[str, Any] | None
) -> str:
    """The whole file. Args: images, figure name -> data URI; corpus, statistics of the corpus artifact."""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    # a trunk evaluated twice trained once
    total = sum(result.seconds or 0.0 for result in runs(results))
    colours, told = stage_colours(results), captions(results)
    figures_shown = "".join(_figure(name, uri, told.get(name, "")) for name, uri in images.items())
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{len(results)} checkpoints, {total:,.0f} seconds of work; written {made} by Trunkline.</p>',
        "<h2>What it should show</h2>",
        *map(_claim, claims(results)),
        "<h2>Stages</h2>",
        f'<p class="soft">{html.escape(columns_explained(results))}</p>',
        f"<p><b>{html.escape(sets_explained(results))}</b></p>" if sets_explained(results) else "",
        _table(*stage_table(results), colours=[colours[result.kind] for result in results]),
        f'<h2>Curves</h2><div class="figures">{figures_shown}</div>',
        *(_samples(results, name, task["title"], colours) for name, task in tasks_measured(results).items()),
        _data(corpus) if corpus else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _claim(claim: Claim) -> str:
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("", "?")}[claim.holds]
    return (
        f'<div class="claim {kind}"><b class="sign">{sign}</b><div>{html.escape(claim.text)}<br>'
        f'<span class="soft">{html.escape(claim.numbers)}</span></div></div>'
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], colours: Sequence[str] = ()) -> str:
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    classes = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{mark}>{html.escape(str(name))}</th>" for name, mark in zip(header, classes, strict=True))
    body = []
    for number, row in enumerate(rows):
        dot = _dot(colours[number]) if colours else ""
        cells = [
            f"<td{mark}>{dot if i == 0 else ''}{_cell(value)}</td>"
            for i, (value, mark) in enumerate(zip(row, classes, strict=True))
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _is_number(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, (int, float))
        or (isinstance(value, str) and value.rstrip("%kMBT").replace(".", "").replace(",", "").isdigit())
    )


def _figure(name: str, uri: str, caption: str) -> str:
    picture = f'<img src="{uri}" alt="{html.escape(name.replace("_", " "))}">'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _samples(results: Sequence[StageResult], task: str, title: str, colours: Mapping[str, str]) -> str:
    """A task's samples: what each checkpoint made of every prompt of the last one."""
    sampled = [(result, result.tasks[task]["samples"]) for result in results if task in result.tasks]
    sampled = [(result, samples) for result, samples in sampled if samples]
    if not sampled:
        return ""
    parts = [f"<h2>{html.escape(title)}</h2>"]
    for number, sample in enumerate(sampled[-1][1]):
        note = f'<span class="soft">({html.escape(sample["note"])})</span>'
        parts.append(f"<h3>{html.escape(sample['prompt'])} {note}</h3>")
        for result, samples in sampled:
            if number < len(samples):
                text = html.escape(samples[number]["text"]) or "<i>nothing: it ended at once</i>"
                label = f'<span class="prompt">{html.escape(result.label)}</span>'
                parts.append(f"<blockquote>{_dot(colours[result.kind])}{label}\n{text}</blockquote>")
    return "\n".join(parts)


def _dot(colour: str) -> str:
    return f'<span class="dot" style="background:{colour}"></span>'


def _data(corpus: Mapping[str, Any]) -> str:
    header = ["source", "kind", "language", "licence", "training documents", "held-out documents", "dropped"]
    rows, reasons, unclear = [], [], []
    for name, source in corpus.get("sources", {}).items():
        dropped = _dropped(source)
        licence = str(source.get("licence") or "not recorded")
        if "unclear" in licence or licence == "not recorded":
            unclear.append(name)
        counts = [source.get(split, {}).get("documents") for split in ("train", "heldout")]
        rows.append([name, source.get("kind"), source.get("language"), licence, *counts, sum(dropped.values())])
        if dropped:
            most_first = sorted(dropped.items(), key=lambda item: -item[1])
            reasons.append([name, ", ".join(f"{reason} {count:,}" for reason, count in most_first)])
    parts = ["<h2>Data</h2>"]
    if unclear:
        parts.append(
            f'<p class="warn"><b>Licence unclear:</b> {html.escape(", ".join(unclear))}. '
            "Leave these sources out with <code>sources=permissive</code>.</p>"
        )
    parts.append(_table(header, rows))
    if reasons:
        drops = _table(["source", "reasons"], reasons)
        parts.append(f"<details><summary>What was dropped, and why</summary>{drops}</details>")
    return "".join(parts)


def _dropped(source: Mapping[str, Any]) -> dict[str, int]:
    """Reason -> documents, over the source and its splits, wherever the statistics keep them."""
    total: dict[str, int] = {}
    for part in (source, source.get("train", {}), source.get("heldout", {})):
        for reason, count in (part.get("dropped") or {}).items():
            total[reason] = total.get(reason, 0) + int(count)
    return total


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return html.escape(
        f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    )
