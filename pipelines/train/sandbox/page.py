"""`sandbox.html`: the findings on top, then each study with its pictures, laws and trials; one file, no network.

Enters: the studies' outcomes, their trials, what sharing saved. Leaves: HTML, also of a sandbox that is half done, and
the pictures as files. Every text from data is escaped; a picture is inside the page, as SVG where that is small.
"""

from __future__ import annotations

import base64
import datetime
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.display.markup import page, table, text, tiles, unfold
from pipelines.display.progress import duration, human
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.train.sandbox.costs import Costs
from pipelines.train.studies.contract import Study
from pipelines.train.studies.outcome import Finding, Outcome, Plot, Proposal, Verdict
from pipelines.train.trials.result import TrialResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST_SVG = 250_000  # bytes; a picture of many points is smaller as PNG
_PNG_DPI = 150
_WIDE = 1.7  # times as wide as high: several panels
_NUMBER_LENGTH = 24  # of a cell that is set to the right as a number
_SHOWN_LABELS = 8
_SIGNS: Mapping[Verdict, tuple[str, str]] = {
    "reproduced": ("✓", "yes"),
    "contradicted": ("✗", "no"),
    "cannot be told at this size": ("?", "open"),
}
_STYLE = """<style>
main{max-width:1240px}
.verdict{display:inline-block;padding:.05rem .5rem;border-radius:1rem;font-weight:600;white-space:nowrap}
.yes{background:var(--new)}.no{background:var(--gone)}.open{background:var(--wash);border:1px solid var(--line)}
.findings td{max-width:24rem}
.findings td:nth-child(n+2){min-width:10.5rem}
.findings td:nth-child(5){min-width:0}
.findings b{font-variant-numeric:tabular-nums}
.question{font-size:1.05rem;font-style:italic}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:1.4rem;margin:1rem 0}
.plots figure{max-width:680px}
.plots figure.broad{grid-column:1/-1;max-width:none}
.plots img{width:100%;height:auto;display:block;background:#fff;border-radius:6px;padding:.3rem}
.plots figcaption b{display:block;color:var(--ink)}
progress{width:100%;height:.6rem;accent-color:var(--one)}
ul{padding-left:1.2rem;margin:.4rem 0}
</style>"""


@dataclass(frozen=True)
class Picture:
    """A drawn plot: its file, and its place in the page."""

    plot: Plot
    file: str  # below the artifact's folder
    content: bytes
    kind: str  # svg+xml or png
    wide: bool = False  # of several panels side by side: it takes the whole width

    @property
    def uri(self) -> str:
        return f"data:image/{self.kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class StudyPage:
    """What the page shows of a study.

    Attributes:
        varied: axis -> its labels. trials: how many there will be. costs: of what it asks for, by itself.
        problem: why its analysis could not be done yet.
    """

    name: str
    study: Study
    outcome: Outcome
    results: Sequence[TrialResult]
    trials: int
    varied: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    pictures: Sequence[Picture] = ()
    problem: str = ""


def draw(study: str, plots: Sequence[Plot]) -> list[Picture]:
    """Draw a study's plots."""
    import matplotlib

    from pipelines.display.report.drawing import STYLE

    pictures = []
    with matplotlib.rc_context(STYLE):
        for plot in plots:
            figure = plot.draw()
            content, kind = _saved(figure, "svg"), "svg+xml"
            if len(content) > _LARGEST_SVG:
                content, kind = _saved(figure, "png"), "png"
            width, height = figure.get_size_inches()
            file = f"plots/{study}-{plot.name}.{kind[:3]}"
            pictures.append(Picture(plot, file, content, kind, wide=width > _WIDE * height))
    return pictures


def _saved(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {}
    figure.savefig(buffer, format=form, metadata=metadata, dpi=_PNG_DPI)
    return buffer.getvalue()


def sandbox_page(name: str, studies: Sequence[StudyPage], costs: Costs, command: str, finished: bool) -> str:
    """The whole file. Args: command, that makes or goes on with it; finished, whether every trial has ended."""
    ended, trials = sum(len(study.results) for study in studies), sum(study.trials for study in studies)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    state = (
        f"finished {now}"
        if finished
        else f"{ended:,} of {trials:,} trials have ended; drawn {now}, and again as more end"
    )
    parts = [
        _STYLE,
        f"<h1>Wind tunnel: {html.escape(name)}</h1>",
        f'<p class="soft">{html.escape(state)}. Made by <code>{html.escape(command)}</code></p>',
        "" if finished else f'<progress max="{max(1, trials)}" value="{ended}"></progress>',
        tiles(_tiles(ended, trials, costs)),
        "<h2>What was found</h2>",
        findings_table(studies),
        '<nav aria-label="studies">' + "".join(_link(study) for study in studies) + "</nav>"
        if len(studies) > 1
        else "",
        *(_study(study) for study in studies),
        _costs(costs),
    ]
    return page(f"Wind tunnel: {name}", parts)


def _tiles(ended: int, trials: int, costs: Costs) -> list[tuple[str, str]]:
    return [
        ("trials", f"{ended:,}" if ended == trials else f"{ended:,} of {trials:,}"),
        ("tokens trained", human(costs.tokens_shared)),
        ("tokens without sharing", human(costs.tokens_naive)),
        ("saved by sharing", f"{costs.saved_share:.0%}, {duration(costs.saved_seconds)} of a lane"),
        (
            f"on {costs.gpus} {costs.gpu}",
            duration(costs.gpu_seconds) + ("" if costs.money is None else f", ${costs.money:.2f}"),
        ),
    ]


def _link(study: StudyPage) -> str:
    return f'<a href="#{html.escape(study.name)}">{html.escape(study.name)}: {html.escape(study.study.title)}</a>'


# ── findings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def findings_table(studies: Sequence[StudyPage]) -> str:
    """Claims with what was published, what came out here, and the verdict."""
    rows = [_finding_row(study.name, finding) for study in studies for finding in study.outcome.findings]
    if not rows:
        return '<p class="soft">Nothing yet: a finding needs trials that have ended.</p>'
    header = ("study", "claim", "published", "here", "verdict", "why")
    head = "".join(f"<th>{name}</th>" for name in header)
    body = "".join(rows)
    return f'<div class="scroll findings"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _finding_row(study: str, finding: Finding) -> str:
    sign, kind = _SIGNS[finding.verdict]
    here = f"<b>{text(str(finding.estimate))}</b>" if finding.estimate else "–"
    behind = f"{finding.seeds} {'seed' if finding.seeds == 1 else 'seeds'}, {len(finding.runs)} runs"
    cells = (
        f'<a href="#{html.escape(study)}">{html.escape(study)}</a>',
        text(finding.claim),
        text(finding.published),
        f'{here}<br><span class="soft">{text(finding.quantity)}</span>',
        f'<span class="verdict {kind}">{sign} {text(_short(finding.verdict))}</span>',
        f'{text(finding.reason)} <span class="soft">({behind})</span>',
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _short(verdict: Verdict) -> str:
    return "cannot be told" if verdict == "cannot be told at this size" else verdict


# ── one study ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _study(study: StudyPage) -> str:
    outcome, ended = study.outcome, len(study.results)
    varied = "; ".join(f"{axis}: {_labels(labels)}" for axis, labels in study.varied.items() if len(labels) > 1)
    seeds = f"{len(study.seeds)} {'seed' if len(study.seeds) == 1 else 'seeds'}"
    progress = f"{ended:,} trials" if ended == study.trials else f"{ended:,} of {study.trials:,} trials have ended"
    parts = [
        f'<h2 id="{html.escape(study.name)}">{html.escape(study.study.title)} '
        f'<span class="soft">{html.escape(study.name)}</span></h2>',
        f'<p class="question">{text(study.study.question)} <span class="soft">({text(study.study.source)})</span></p>',
        f'<p class="soft">{text(progress)}{_not_finished(study.results)}; {text(seeds)}. '
        f"{f'Varied: {text(varied)}.' if varied else ''}</p>",
        f'<p class="warn">{text(study.problem)}</p>' if study.problem else "",
        f'<div class="plots">{"".join(map(_figure, study.pictures))}</div>' if study.pictures else "",
        *(_table(heading, rows) for heading, rows in outcome.tables.items()),
        *(_law(name, law) for name, law in outcome.laws.items()),
        _proposals(outcome.proposals),
        _notes(outcome.notes),
        _trials(study.results),
    ]
    return "\n".join(part for part in parts if part)


def _labels(labels: Sequence[str]) -> str:
    shown = labels if len(labels) <= _SHOWN_LABELS else [*labels[:3], "…", labels[-1]]
    return ", ".join(shown)


def _not_finished(results: Sequence[TrialResult]) -> str:
    counts = {status: sum(result.status == status for result in results) for status in ("diverged", "pruned", "failed")}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f" ({html.escape(said)})" if said else ""


def _figure(picture: Picture) -> str:
    plot = picture.plot
    width = "broad" if picture.wide else "narrow"
    drawing = f'<img src="{picture.uri}" alt="{text(plot.title)}">'
    caption = f"<figcaption><b>{text(plot.title)}</b> {text(plot.sentence)}</figcaption>"
    return f'<figure class="{width}">{drawing}{caption}</figure>'


def _table(heading: str, rows: Sequence[Sequence[str]]) -> str:
    """A study's own table; its first row is the header."""
    if not rows:
        return ""
    header, *body = rows
    return f"<h3>{text(heading)}</h3>{table(header, body, _numbers(header, body))}"


def _numbers(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Columns of numbers."""
    return [name for place, name in enumerate(header) if rows and all(_is_number(str(row[place])) for row in rows)]


def _is_number(cell: str) -> bool:
    return cell in ("", "–") or (cell[0] in "+-−~0123456789" and len(cell) <= _NUMBER_LENGTH)


def _law(name: str, law: FittedLaw) -> str:
    rows = [[parameter, _three(estimate)] for parameter, estimate in law.parameters.items()]
    ranges = ", ".join(f"{column} {human(low)} to {human(high)}" for column, (low, high) in law.ranges.items())
    warnings = "".join(f'<p class="warn">{text(warning)}</p>' for warning in law.warnings)
    return (
        f"<h3>Law: {text(name)}</h3><p><code>{text(law.formula)}</code> "
        f'<span class="soft">{law.points} points of {law.runs} runs; {text(ranges)}</span></p>'
        f"{table(['parameter', f'value ({law.level:.0%} interval)'], rows)}{warnings}"
    )


def _three(estimate: Estimate | None) -> str:
    return str(estimate) if estimate else ""


def _proposals(proposals: Sequence[Proposal]) -> str:
    if not proposals:
        return ""
    rows = [
        [
            proposal.key,
            "by the law, for each size" if proposal.value is None else _said(proposal.value),
            proposal.law,
            proposal.sentence,
        ]
        for proposal in proposals
    ]
    return f"<h3>For the big run</h3>{table(['key', 'value', 'law', 'because'], rows)}"


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _notes(notes: Sequence[str]) -> str:
    return f"<h3>Notes</h3><ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>" if notes else ""


def _trials(results: Sequence[TrialResult]) -> str:
    if not results:
        return ""
    rows = [
        [result.name, result.status, result.loss(), result.parameters, result.tokens, result.folder, result.reason]
        for result in results
    ]
    header = ["trial", "status", "bits per byte", "N", "tokens", "run", "reason"]
    return unfold("all trials", f"{len(rows):,}", table(header, rows, ["bits per byte", "N", "tokens"]))


def _costs(costs: Costs) -> str:
    lines = [
        f"{costs.runs:,} runs in {costs.edges:,} pieces: a step that several runs have in common is trained once.",
        f"{human(costs.tokens_shared)} tokens are trained; by itself each trial would train all of its own, "
        f"{human(costs.tokens_naive)} together: sharing saves {costs.saved_share:.0%}.",
        f"Training takes {duration(costs.seconds)} of one lane ({human(costs.flops_per_second)} FLOP/s).",
        costs.on_gpus(),
    ]
    return "<h2>What it took</h2>" + _list([line for line in lines if line])


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>"
