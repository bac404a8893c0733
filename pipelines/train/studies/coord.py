"""`coord`: does a step change the model alike at every width and every depth?

Enters: runs of a few steps, of models that differ in width alone or in depth alone, with `coordinates` measured
(`measures/coordinates.py`). Leaves: for each part of the model the slope p of change ∝ width^p (or layers^p), with its
interval over seeds. Flat is 0.

Ways to grow the width, told by the configs (at the base width they are one model):

    muP      logits from h/m, hidden matrices N(0, init_std²/m), at a rate of η/m         m = d_model / dim_model_base
    one LR   the same, but η for every parameter (`optimizer.mup_lr=false`)
    off      m = 1 at every width (`model.dim_model_base` = `model.d_model`)

And the depth: `scale_depth/√L` (one scale_depth for all) or `off` (the branches' factor is the same at every depth).

Source: the coordinate check of Yang et al. (arXiv 2203.03466, appendix D.1); the scalings are of MiniCPM, Table 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines.config import Positive, config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.train.measures.coordinates import PARTS, check_coordinates
from pipelines.train.studies.bootstrap import Bootstrapped
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.coord_pictures import draw_changes, draw_slopes
from pipelines.train.studies.coord_reading import FEWEST_SIZES, MEASURE, Along, Series, series_of, slopes, words_of
from pipelines.train.studies.evidence import folders_of, notes_about
from pipelines.train.studies.outcome import Finding, Outcome, Plot, verdict_of
from pipelines.train.studies.panels import styled
from pipelines.train.trials.result import TrialResult

# beside what is learnt, all logits carry a random part that falls as 1/√m (docs/recipe.md): shown, and no claim is
# made of it
_CLAIMED = {"width": PARTS[:-1], "layers": ("stream", "final_hidden", "target_logit")}


@config_class
class CoordSettings(StudySettings):
    """What counts as flat."""

    kind: Literal["coord"] = "coord"
    flat: Positive = 0.25  # slopes between minus and plus this: a doubling changes 19 % at most; without muP, 170 %


def check_coord(settings: CoordSettings, results: Sequence[TrialResult]) -> None:
    """See `Study`. Raises: ConfigError."""
    for result in results:
        run = result.runs[0]
        check_coordinates(
            int(run.config.get("zero", {}).get("stage", 1)), "branch" if run.config.get("parent") else "fresh"
        )
    if not series_of(results):
        widths = sorted({result.model.d_model for result in results})
        layers = sorted({result.model.layers for result in results})
        raise ConfigError(
            f"it has widths {widths} and layers {layers}, and no {FEWEST_SIZES} models that differ in one "
            "of them alone: vary model.d_model (with heads and d_ff) at equal layers and peak LR, or model.layers"
        )


def analyse_coord(settings: CoordSettings, results: Sequence[TrialResult]) -> Outcome:
    """See `Study`."""
    measured = [r for r in results if r.status == "finished" and any(row.measure == MEASURE for row in r.measured)]
    notes = list(notes_about(results, (MEASURE,)))
    findings: list[Finding] = []
    tables: dict[str, tuple[tuple[str, ...], ...]] = {}
    plots: list[Plot] = []
    fitted: list[tuple[Series, int, Bootstrapped]] = []
    for series in series_of(measured):
        if not series.steps:
            notes.append(f"{_name(series)}: its trials were measured at no common step.")
            continue
        last = series.steps[-1]
        fitted.append((series, last, slopes(series, last, settings)))
        findings += _findings(series, last, fitted[-1][2], settings)
        tables[f"Change ∝ {series.along}^p, {_name(series)}"] = _table(series, settings)
    planned = {(series.along, series.arm, series.peak_lr) for series in series_of(results)}
    there = {(series.along, series.arm, series.peak_lr) for series, _, _ in fitted}
    notes += [
        f"{arm} over {along} at peak LR {lr:g}: too few sizes have been measured so far."
        for along, arm, lr in sorted(planned - there)
    ]
    alongs: tuple[Along, ...] = ("width", "layers")
    for along in alongs:
        some = [entry for entry in fitted if entry[0].along == along]
        if some:
            plots += _plots(along, some, settings)
    return Outcome(findings=tuple(findings), plots=tuple(plots), tables=tables, notes=tuple(notes))


def _name(series: Series) -> str:
    return f"{series.arm} over {series.along}, peak LR {series.peak_lr:g}"


# ── findings ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_CLAIMS = {
    ("width", "muP"): (
        "with muP a step changes every part of the model alike at every width",
        "slopes of 0 (arXiv 2203.03466, appendix D.1; the scalings of MiniCPM, Table 7)",
    ),
    ("width", "one LR"): (
        "with one learning rate for all parameters a step changes wide models more",
        "slopes above 0 (arXiv 2203.03466, appendix D.1)",
    ),
    ("width", "off"): (
        "without the scalings a step changes wide models more",
        "slopes above 0 (arXiv 2203.03466, Fig. 5)",
    ),
    ("layers", "scale_depth/√L"): (
        "with branches times scale_depth/√L a step changes the model alike at every depth",
        "slopes of 0 is what the scaling is for (MiniCPM, Table 7); arXiv 2310.02244 divides the rate by √L as well",
    ),
    ("layers", "off"): (
        "with one factor for branches at every depth a step changes deep models more",
        "slopes above 0 (arXiv 2310.02244)",
    ),
}


def _findings(series: Series, step: int, said: Bootstrapped, settings: CoordSettings) -> list[Finding]:
    claimed = {part: said.estimates[part] for part in _CLAIMED[series.along] if part in said.estimates}
    claim, published = _CLAIMS[series.along, series.arm]
    seeds = min(len({t.seed for t in series.trials if series.size_of(t) == size}) for size in series.sizes)
    sizes = ", ".join(map(str, series.sizes))
    if not claimed:
        agrees, steepest, reason = None, None, "no part has a slope with an interval: it takes three seeds"
    elif series.arm in ("muP", "scale_depth/√L"):
        agrees, steepest, reason = is_flat(claimed, settings.flat)
    else:
        agrees, steepest, reason = is_growing(claimed, settings.flat)
    part = f": {words_of(steepest)}" if steepest else ""
    return [
        Finding(
            claim=claim,
            published=published,
            quantity=f"slope of log change over log {series.along} ({sizes}) after {step} steps at peak LR "
            f"{series.peak_lr:g}, the steepest of {len(claimed)} parts{part}",
            estimate=claimed[steepest] if steepest else None,
            verdict=verdict_of(agrees, seeds),
            reason=reason,
            seeds=seeds,
            runs=folders_of(series.trials),
        )
    ]


def is_flat(estimates: Mapping[str, Estimate], flat: float) -> tuple[bool | None, str, str]:
    """Whether all slopes lie within ±`flat`. Returns: the answer, None where an interval crosses the bound; the part
    that decides; a sentence.
    """
    outside = [part for part, slope in estimates.items() if slope.low > flat or slope.high < -flat]
    within = [part for part, slope in estimates.items() if -flat <= slope.low and slope.high <= flat]
    steepest = max(outside or estimates, key=lambda part: abs(estimates[part].value))
    if outside:
        return False, steepest, f"the interval lies outside ±{flat:g}, as do those of {len(outside)} parts in all"
    if len(within) == len(estimates):
        return True, steepest, f"the intervals of all {len(estimates)} parts lie within ±{flat:g}"
    crossing = [part for part in estimates if part not in within]
    widest = max(crossing, key=lambda part: max(abs(estimates[part].low), abs(estimates[part].high)))
    return None, widest, f"the interval crosses ±{flat:g}, as do those of {len(crossing)} parts of {len(estimates)}"


def is_growing(estimates: Mapping[str, Estimate], flat: float) -> tuple[bool | None, str, str]:
    """Whether any slope lies above `flat`. Returns: as `is_flat`."""
    steepest = max(estimates, key=lambda part: estimates[part].value)
    growing = [part for part, slope in estimates.items() if slope.low > flat]
    if growing:
        return True, steepest, f"the intervals of {len(growing)} parts of {len(estimates)} lie above {flat:g}"
    if all(slope.high <= flat for slope in estimates.values()):
        return False, steepest, f"no part grows: all intervals end below {flat:g}"
    return None, steepest, f"no interval lies above {flat:g}, and not all lie below it"


# ── tables and plots ─────────────────────────────────────────────────────────────────────────────────────────────────


def _table(series: Series, settings: CoordSettings) -> tuple[tuple[str, ...], ...]:
    """A row for each part: slopes after the first and the last step, and the change at each size."""
    first, last = series.steps[0], series.steps[-1]
    early, late = slopes(series, first, settings), slopes(series, last, settings)
    changes = series.changes(last)
    head = ("part", f"p after step {first}", f"p after step {last}")
    rows = [(*head, *(f"change at {series.along} {size}" for size in series.sizes))]
    parts = [*PARTS, "weights/embedding", "weights/matrix", "weights/norm"]
    for part in parts:
        if part in late.values:
            means = [sum(values[part] for values in changes[size]) / len(changes[size]) for size in series.sizes]
            rows.append((words_of(part), _slope(early, part), _slope(late, part), *(f"{mean:.3g}" for mean in means)))
    return tuple(rows)


def _slope(said: Bootstrapped, part: str) -> str:
    if part in said.estimates:
        slope = said.estimates[part]
        return f"{slope.value:+.2f} ({slope.low:+.2f} to {slope.high:+.2f})"
    return f"{said.values[part]:+.2f}" if part in said.values else "–"


def _plots(along: Along, fitted: Sequence[tuple[Series, int, Bootstrapped]], settings: CoordSettings) -> list[Plot]:
    unit = "width" if along == "width" else "number of layers"
    steps = fitted[0][1]
    return [
        Plot(
            name=f"coordinates_{along}",
            title=f"How far each part has moved after {steps} steps, over the {unit}",
            sentence="A level line means that the part moves alike in every model, so that one learning rate suits all "
            "of them; each dot is a seed.",
            draw=styled(draw_changes, along, tuple(fitted)),
        ),
        Plot(
            name=f"slopes_{along}",
            title=f"Slopes over the {unit}, with their intervals",
            sentence=f"Within the grey band (±{settings.flat:g}) a part counts as flat. All logits fall a little under "
            "muP, since they carry a random part besides what is learnt.",
            draw=styled(draw_slopes, along, tuple(fitted), settings.flat),
        ),
    ]


COORD = Study(
    Settings=CoordSettings,
    title="Coordinates",
    question="Does a step change each part of the model alike at every width and depth?",
    source="arXiv 2404.06395 Table 7; the check is arXiv 2203.03466 appendix D.1",
    check=check_coord,
    analyse=analyse_coord,
)
