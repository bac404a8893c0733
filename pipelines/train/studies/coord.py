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

import functools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.config import Positive, config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.train.measures.coordinates import PARTS, check_coordinates
from pipelines.train.studies.bootstrap import Bootstrapped, bootstrap
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.evidence import notes_about
from pipelines.train.studies.outcome import Finding, Outcome, Plot, verdict_of
from pipelines.train.trials.result import TrialResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST_SIZES = 3
_MEASURE = "coordinates"
# beside what is learnt, all logits carry a random part that falls as 1/√m (docs/recipe.md): shown, and no claim is
# made of it
_CLAIMED = {"width": PARTS[:-1], "layers": ("stream", "final_hidden", "target_logit")}
_COLOURS = {"muP": "#0072B2", "one LR": "#E69F00", "off": "#D55E00", "scale_depth/√L": "#0072B2"}  # Okabe and Ito

Along = Literal["width", "layers"]


@config_class
class CoordSettings(StudySettings):
    """What counts as flat."""

    kind: Literal["coord"] = "coord"
    flat: Positive = 0.25  # slopes between minus and plus this: a doubling changes 19 % at most; without muP, 170 %


@dataclass(frozen=True)
class Series:
    """Trials of one way to grow the model along one direction: at least three sizes."""

    along: Along
    arm: str
    peak_lr: float
    trials: tuple[TrialResult, ...]

    @property
    def sizes(self) -> list[int]:
        return sorted({self.size_of(trial) for trial in self.trials})

    def size_of(self, trial: TrialResult) -> int:
        """Its width, or its number of layers."""
        return trial.model.d_model if self.along == "width" else trial.model.layers

    @functools.cached_property
    def steps(self) -> list[int]:
        """Steps at which all trials were measured."""
        measured = [{row.step for row in trial.measured if row.measure == _MEASURE} for trial in self.trials]
        return sorted(set.intersection(*measured)) if measured else []

    def changes(self, step: int) -> dict[int, list[Mapping[str, float]]]:
        """Size -> changes by part, of each seed."""
        by_size: dict[int, list[Mapping[str, float]]] = {size: [] for size in self.sizes}
        for trial in sorted(self.trials, key=lambda trial: trial.seed):
            rows = [row for row in trial.measured if row.measure == _MEASURE and row.step == step]
            by_size[self.size_of(trial)].append(rows[0].values)
        return by_size


def series_of(results: Sequence[TrialResult]) -> list[Series]:
    """Trials put together that differ in one direction alone, and in how the model is grown along it."""
    found: list[Series] = []
    for trials in _alike(results, lambda r: (r.model.layers, _residual_scale(r), r.peak_lr)):
        bases = Counter(trial.model.dim_model_base for trial in trials if trial.model.width_multiplier != 1)
        base = bases.most_common(1)[0][0] if bases else None
        scaled = [trial for trial in trials if trial.model.dim_model_base == base]
        arms = {
            "muP": [trial for trial in scaled if _mup_lr(trial) or trial.model.d_model == base],
            "one LR": [trial for trial in scaled if not _mup_lr(trial) or trial.model.d_model == base],
            "off": [trial for trial in trials if trial.model.width_multiplier == 1],
        }
        found += [Series("width", arm, trials[0].peak_lr, tuple(some)) for arm, some in arms.items()]
    for trials in _alike(results, lambda r: (r.model.d_model, r.model.dim_model_base, _mup_lr(r), r.peak_lr)):
        for arm, key in (("scale_depth/√L", _scale_depth), ("off", _residual_scale)):
            found += [Series("layers", arm, trials[0].peak_lr, tuple(some)) for some in _alike(trials, key)]
    return [series for series in found if len(series.sizes) >= FEWEST_SIZES]


def _alike(results: Sequence[TrialResult], key: Callable[[TrialResult], Hashable]) -> list[list[TrialResult]]:
    groups: dict[Hashable, list[TrialResult]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return list(groups.values())


def _scale_depth(result: TrialResult) -> float:
    return result.model.scale_depth


def _residual_scale(result: TrialResult) -> float:
    return round(result.model.residual_scale, 6)


def _mup_lr(result: TrialResult) -> bool:
    return bool(result.runs[0].config.get("optimizer", {}).get("mup_lr", True))


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
            f"a coord study has widths {widths} and layers {layers}, and no {FEWEST_SIZES} models that differ in one "
            "of them alone: vary model.d_model (with heads and d_ff) at equal layers and peak LR, or model.layers"
        )


def slopes(series: Series, step: int, settings: CoordSettings) -> Bootstrapped:
    """The exponent of each part's change in the size, by least squares of logarithms."""
    import numpy as np

    def numbers(groups: Mapping[int, Sequence[Mapping[str, float]]]) -> dict[str, float]:
        parts = set.intersection(*(set(values) for members in groups.values() for values in members))
        made: dict[str, float] = {}
        for part in sorted(parts):
            changes = [[values[part] for values in members] for members in groups.values()]
            if all(change > 0 and math.isfinite(change) for some in changes for change in some):
                means = [float(np.log(some).mean()) for some in changes]
                made[part] = float(np.polyfit(np.log(list(groups)), means, 1)[0])
        return made

    groups = {size: members for size, members in series.changes(step).items() if members}
    return bootstrap(numbers, groups, level=settings.level, samples=settings.bootstrap)


def analyse_coord(settings: CoordSettings, results: Sequence[TrialResult]) -> Outcome:
    """See `Study`."""
    measured = [r for r in results if r.status == "finished" and any(row.measure == _MEASURE for row in r.measured)]
    notes = list(notes_about(results, (_MEASURE,)))
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
    return [
        Finding(
            claim=claim,
            published=published,
            quantity=f"slope of log change over log {series.along} ({sizes}) after {step} steps at peak LR "
            f"{series.peak_lr:g}, the steepest of {len(claimed)} parts" + (f": {_words(steepest)}" if steepest else ""),
            estimate=claimed[steepest] if steepest else None,
            verdict=verdict_of(agrees, seeds),
            reason=reason,
            seeds=seeds,
            runs=tuple(dict.fromkeys(trial.folder for trial in series.trials)),
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


def _words(part: str) -> str:
    if part == "target_logit":
        return "logit of the target"
    return part.replace("weights/", "weights, ").replace("layer_", "layer ").replace("/", " ").replace("_", " ")


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
            rows.append((_words(part), _slope(early, part), _slope(late, part), *(f"{mean:.3g}" for mean in means)))
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
            draw=functools.partial(_draw_changes, along, tuple(fitted)),
        ),
        Plot(
            name=f"slopes_{along}",
            title=f"Slopes over the {unit}, with their intervals",
            sentence=f"Within the grey band (±{settings.flat:g}) a part counts as flat. All logits fall a little under "
            "muP, since they carry a random part besides what is learnt.",
            draw=functools.partial(_draw_slopes, along, tuple(fitted), settings.flat),
        ),
    ]


def _draw_changes(along: Along, fitted: Sequence[tuple[Series, int, Bootstrapped]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained")
    for axes, part in zip(figure.subplots(2, 4).flat, (*PARTS, "weights/matrix"), strict=True):
        for series, step, _ in fitted:
            changes = series.changes(step)
            dots = [(size, values[part]) for size, some in changes.items() for values in some if values[part] > 0]
            if not dots:
                continue
            means = [math.exp(sum(math.log(v) for s, v in dots if s == size) / max(1, sum(s == size for s, _ in dots)))
                     for size in series.sizes]  # fmt: skip
            axes.plot(series.sizes, means, "-", color=_COLOURS[series.arm], label=series.arm)
            axes.plot(*zip(*dots, strict=True), "o", ms=3, color=_COLOURS[series.arm], alpha=0.6)
        axes.set(xscale="log", yscale="log", title=_words(part), xlabel=along)
        _ticks(axes, sorted({size for series, _, _ in fitted for size in series.sizes}))
    figure.axes[0].set_ylabel("change since initialisation\n(root mean square)")
    figure.axes[4].set_ylabel("change since initialisation\n(root mean square)")
    figure.axes[0].legend(fontsize=8)
    return figure


def _ticks(axes: Axes, sizes: Sequence[int]) -> None:
    """Sizes along x; at least two decades along y, so that flat looks flat."""
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    middle, reach = math.sqrt(low * high), max(math.sqrt(high / low), 10)
    axes.set_ylim(middle / reach, middle * reach)


def _draw_slopes(along: Along, fitted: Sequence[tuple[Series, int, Bootstrapped]], flat: float) -> Figure:
    from matplotlib.figure import Figure

    parts = [*PARTS]
    if along == "width":  # the layers are the same at every width
        layered = {part for _, _, said in fitted for part in said.values if part.startswith("layer_")}
        parts = [*parts, *sorted(layered)]
    figure = Figure(figsize=(max(7, 0.62 * len(parts)), 4), layout="constrained")
    axes = figure.subplots()
    axes.axhspan(-flat, flat, color="0.9", zorder=0)
    axes.axhline(0, color="0.5", lw=0.8)
    for place, (series, _, said) in enumerate(fitted):
        shift = 0.18 * (place - (len(fitted) - 1) / 2)
        drawn = [(number, said.estimates[part]) for number, part in enumerate(parts) if part in said.estimates]
        if drawn:
            errors = [[e.value - e.low for _, e in drawn], [e.high - e.value for _, e in drawn]]
            axes.errorbar(
                [number + shift for number, _ in drawn], [e.value for _, e in drawn], errors, fmt="o", ms=4,
                color=_COLOURS[series.arm], label=series.arm,
            )  # fmt: skip
    axes.set_xticks(range(len(parts)), [_words(part) for part in parts], rotation=40, ha="right", fontsize=8)
    axes.set_ylabel(f"p of change ∝ {along}^p")
    axes.legend(fontsize=8)
    return figure


COORD = Study(
    Settings=CoordSettings,
    title="Coordinates",
    question="Does a step change each part of the model alike at every width and depth?",
    source="arXiv 2404.06395 Table 7; the check is arXiv 2203.03466 appendix D.1",
    check=check_coord,
    analyse=analyse_coord,
)
