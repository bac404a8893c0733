"""`report.html` as text: claims first, then the stage table, the figures, completions and the data.

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

from pipelines.display.report.figures import COLOURS, figures
from pipelines.display.report.results import Claim, StageResult, claims, runs, stage_table

_CAPTIONS = {
    "loss": "Faint: each step. Bold: smoothed. A dot marks where a branch leaves its parent; the trunk goes on at its stable rate. Losses of different mixtures are not comparable: held-out bits per byte are.",
    "learning_rate": "Warmup, stable, then each branch from the rate it inherits. The schedule is a pure function of the step.",
    "bits_per_byte": "The same held-out documents for every checkpoint.",
    "preference_accuracy": "Share of held-out pairs whose chosen answer has the higher mean log-probability per token.",
    "preference_training": "",
    "mixture": "What the plan asked for and what the loader counted as delivered.",
    "mixture_over_tokens": "Above: each source's share of the tokens between two logged steps, against the share asked. Below: how many windows each source is ahead or behind since the stage began; the grey band is one window.",
}
_STYLE = """
:root{--ink:#22272b;--soft:#6b747c;--line:#e3e6e8;--wash:#f6f7f8;--yes:#2d8a4e;--no:#c0392b}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans SC","PingFang SC","Microsoft YaHei",sans-serif;color:var(--ink);margin:0;background:#fff}
main{max-width:1200px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;margin:.2rem 0}h2{font-size:1.2rem;margin:2.4rem 0 .7rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}.soft{color:var(--soft);font-size:.9rem}
.claim{display:flex;gap:.8rem;padding:.7rem .9rem;margin:.5rem 0;background:var(--wash);border-left:4px solid var(--soft);border-radius:4px}
.claim.yes{border-color:var(--yes)}.claim.no{border-color:var(--no)}
.claim b.sign{font-size:1.3rem;line-height:1.2;width:1.2rem;flex:none;text-align:center}.yes b.sign{color:var(--yes)}.no b.sign{color:var(--no)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.84rem;white-space:nowrap}
th,td{padding:.35rem .55rem;border-bottom:1px solid var(--line);text-align:left}th{color:var(--soft);font-weight:600}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
.dot{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.45em}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:1.2rem}
figure{margin:0}figure img{width:100%;height:auto;display:block}figcaption{color:var(--soft);font-size:.85rem;padding:0 .4rem}
blockquote{margin:.4rem 0;padding:.5rem .8rem;background:var(--wash);border-radius:4px;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.92rem}
blockquote .prompt{color:var(--soft)}.warn{background:#fff6e5;border-left:4px solid #e0a52f;padding:.6rem .9rem;border-radius:4px}
details>summary{cursor:pointer}code{font-size:.9em}
"""


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
    path.write_text(
        page(title, results, claims(results), stage_table(results), images, corpus_statistics), encoding="utf-8"
    )


def page(
    title: str, results: Sequence[StageResult], claims: Sequence[Claim], table: tuple[Sequence[str], Sequence[Sequence[Any]]],
    images: Mapping[str, str], corpus: Mapping[str, Any] | None,
) -> str:  # fmt: skip
    """The whole file. Args: images, figure name -> data URI; corpus, statistics of the corpus artifact."""
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    total = sum(result.seconds or 0.0 for result in runs(results))  # a trunk evaluated twice trained once
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{len(results)} checkpoints, {total:,.0f} seconds of work; written {made} by Trunkline.</p>',
        "<h2>What it should show</h2>",
        *map(_claim, claims),
        "<h2>Stages</h2>",
        '<p class="soft">Columns between LR and mean: held-out bits per byte by source; lower is better.</p>',
        _table(*table, colours=[COLOURS.get(result.kind) for result in results]),
        f'<h2>Curves</h2><div class="figures">{"".join(_figure(name, uri) for name, uri in images.items())}</div>',
        _completions(results),
        _data(corpus) if corpus else "",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _claim(claim: Claim) -> str:
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("", "?")}[claim.holds]
    return (
        f'<div class="claim {kind}"><b class="sign">{sign}</b><div>{html.escape(claim.text)}<br>'
        f'<span class="soft">{html.escape(claim.numbers)}</span></div></div>'
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], colours: Sequence[str | None] = ()) -> str:
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    classes = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{mark}>{html.escape(str(name))}</th>" for name, mark in zip(header, classes, strict=True))
    body = []
    for number, row in enumerate(rows):
        dot = f'<span class="dot" style="background:{colours[number]}"></span>' if colours and colours[number] else ""
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


def _figure(name: str, uri: str) -> str:
    return f'<figure><img src="{uri}" alt="{html.escape(name.replace("_", " "))}"><figcaption>{_CAPTIONS.get(name, "")}</figcaption></figure>'


def _completions(results: Sequence[StageResult]) -> str:
    told = [(result, (result.evaluation or {}).get("completions") or []) for result in results]
    told = [(result, samples) for result, samples in told if samples]
    if not told:
        return ""
    parts = ["<h2>Sample completions</h2>"]
    for number, sample in enumerate(told[-1][1]):
        kind = "question in the chat format" if sample["chat"] else "text to go on with"
        parts.append(f'<h3>{html.escape(sample["prompt"])} <span class="soft">({kind})</span></h3>')
        for result, samples in told:
            if number < len(samples):
                text = html.escape(samples[number]["text"]) or "<i>nothing: it ended at once</i>"
                dot = f'<span class="dot" style="background:{COLOURS.get(result.kind, "#666")}"></span>'
                parts.append(
                    f'<blockquote>{dot}<span class="prompt">{html.escape(result.label)}</span>\n{text}</blockquote>'
                )
    return "\n".join(parts)


def _data(corpus: Mapping[str, Any]) -> str:
    header = ["source", "kind", "language", "licence", "training documents", "held-out documents", "dropped"]
    rows, reasons, unclear = [], [], []
    for name, facts in corpus.get("sources", {}).items():
        dropped = _dropped(facts)
        licence = str(facts.get("licence") or "not recorded")
        if "unclear" in licence or licence == "not recorded":
            unclear.append(name)
        counts = [facts.get(split, {}).get("documents") for split in ("train", "heldout")]
        rows.append([name, facts.get("kind"), facts.get("language"), licence, *counts, sum(dropped.values())])
        if dropped:
            reasons.append(
                [
                    name,
                    ", ".join(
                        f"{reason} {count:,}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1])
                    ),
                ]
            )
    warning = (
        f'<p class="warn"><b>Licence unclear:</b> {html.escape(", ".join(unclear))}. Leave these sources out with <code>sources=permissive</code>.</p>'
        if unclear
        else ""
    )
    drops = (
        f"<details><summary>What was dropped, and why</summary>{_table(['source', 'reasons'], reasons)}</details>"
        if reasons
        else ""
    )
    return f"<h2>Data</h2>{warning}{_table(header, rows)}{drops}"


def _dropped(facts: Mapping[str, Any]) -> dict[str, int]:
    """Reason -> documents, over the source and its splits, wherever the statistics keep them."""
    total: dict[str, int] = {}
    for part in (facts, facts.get("train", {}), facts.get("heldout", {})):
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
