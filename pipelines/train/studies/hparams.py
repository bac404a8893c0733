"""`hparams`: the best scale_depth, scale_emb, init_std and peak LR of the smallest model, and how flat the optimum is.

Enters: the trials of a search, each point trained with every seed. Leaves: for each hyper-parameter the floor of the
valley with its interval, the range in which the loss differs by no more than two seeds do, and the range of what was
tried. When the search has ended, the best point and the published one are trained again with seeds that the search has
not seen (`further`): the best of many noisy losses looks better than it is, and fresh seeds do not flatter it.

Published: a Bayesian search of some 400 trials on the 9M model at 10 tokens for each parameter gave scale_depth 1.4,
scale_emb 12, init_std 0.1 and a peak LR of 0.01 (arXiv 2404.06395 §3.1 and A.1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pipelines.config import Count, Positive, config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.train.studies.bootstrap import WHERE, Bootstrapped, bootstrap, mean_of, transformed, within
from pipelines.train.studies.contract import FurtherTrial, Study, StudySettings
from pipelines.train.studies.evidence import folders_of, notes_about, seeds_of
from pipelines.train.studies.hparams_pictures import draw_comparison, draw_valleys
from pipelines.train.studies.hparams_reading import Point, flat_range, noise_of, points_of, same
from pipelines.train.studies.outcome import Finding, Outcome, Plot, Proposal, verdict_of
from pipelines.train.studies.panels import styled
from pipelines.train.studies.surface import Valley, fewest_points, valleys
from pipelines.train.trials.result import TrialResult

PUBLISHED = {
    "model.scale_depth": 1.4,
    "model.scale_emb": 12.0,
    "model.init_std": 0.1,
    "schedule.peak_lr": 0.01,
}


@config_class
class HparamsSettings(StudySettings):
    """What the best is compared with, and what counts as alike."""

    kind: Literal["hparams"] = "hparams"
    published: dict[str, Positive] = dataclasses.field(default_factory=lambda: dict(PUBLISHED))
    fresh_seeds: Count = 3  # for the comparison of the best with the published
    near: Positive = 2.0  # a floor within this factor of the published value agrees with it
    alike: Positive = 0.01  # bits per byte: a smaller difference is none


def check_hparams(settings: HparamsSettings, results: Sequence[TrialResult]) -> None:
    """See `Study`. A search has no trials yet: then there is nothing to refuse here. Raises: ConfigError."""
    if not results:
        return
    keys = _keys(results)
    if not keys:
        raise ConfigError(
            f"an hparams study varies none of {', '.join(settings.published)}: search or vary some of these, or name "
            "the keys that it varies, with the value to compare with, in study.published"
        )
    for key in keys:
        if any(not _is_positive(result.settings[key]) for result in results):
            raise ConfigError(f"{key} takes values that are no numbers above 0; an hparams study fits its logarithm")


def further_hparams(settings: HparamsSettings, results: Sequence[TrialResult]) -> list[FurtherTrial]:
    """The best point of the search and the published one, with seeds of their own."""
    points = points_of(results, _keys(results))
    if not points:
        return []
    first = max(result.seed for result in results) + 1
    compared = [min(points, key=lambda point: point.loss).values]
    published = _published(settings, compared[0])
    if not same(published, compared[0]):
        compared.append(published)
    alike = {key: value for key, value in results[0].settings.items() if key not in compared[0]}
    return [
        FurtherTrial(settings={**alike, **values}, seed=first + number)
        for values in compared
        for number in range(settings.fresh_seeds)
    ]


def analyse_hparams(settings: HparamsSettings, results: Sequence[TrialResult]) -> Outcome:
    """See `Study`."""
    keys = _keys(results)
    searched = [result for result in results if result.round == 0]
    points = points_of(searched, keys)
    notes = list(notes_about(results))
    if not points:
        return Outcome(notes=(*notes, *(["no trial has been measured at its end so far"] if results else [])))
    said = _floors(points, settings)
    floors = valleys([point.values for point in points], [point.loss for point in points])
    noise = noise_of(points)
    if not floors:
        notes.append(
            f"{len(points)} points have a loss so far; the valley of {len(keys)} hyper-parameters takes "
            f"{fewest_points(len(keys))}."
        )
    for key in keys:
        if key in floors and floors[key].at is None:
            notes.append(f"{key}: the loss has no lowest point among the values that were tried.")
    best = min(points, key=lambda point: point.loss)
    gain = _gain(settings, results, best)
    if same(_published(settings, best.values), best.values):
        notes.append("The published values are themselves the best point, so there is nothing to compare them with.")
    findings = [_floor_finding(key, said.estimates[key], settings, searched) for key in keys if key in said.estimates]
    findings += _gain_finding(settings, results, best, gain)
    return Outcome(
        findings=tuple(findings),
        plots=_plots(settings, points, searched, floors, noise, gain),
        proposals=_proposals(settings, results, points, said, gain),
        tables={"The valley of each hyper-parameter": _table(settings, points, floors, said, noise)},
        notes=tuple(notes),
    )


def _keys(results: Sequence[TrialResult]) -> list[str]:
    """Keys that vary and are numbers, in the order of the first trial."""
    varied = list(results[0].settings) if results else []
    return [key for key in varied if len({str(result.settings.get(key)) for result in results}) > 1]


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _published(settings: HparamsSettings, best: Mapping[str, float]) -> dict[str, float]:
    """The published values; of a key without one the best's, so that it does not count in the comparison."""
    return {key: settings.published.get(key, value) for key, value in best.items()}


def _floors(points: Sequence[Point], settings: HparamsSettings) -> Bootstrapped:
    """The floor of each valley as a binary logarithm. Points are drawn, each with all its seeds."""

    def numbers(groups: Mapping[str, Sequence[Point]]) -> dict[str, float]:
        drawn = groups["points"]
        fitted = valleys([point.values for point in drawn], [point.loss for point in drawn])
        return {key: math.log2(valley.at) for key, valley in fitted.items() if valley.at is not None}

    return bootstrap(numbers, {"points": points}, level=settings.level, samples=settings.bootstrap)


def _gain(settings: HparamsSettings, results: Sequence[TrialResult], best: Point) -> list[tuple[int, float]]:
    """Seed -> loss of the published values minus that of the best point, of the fresh seeds that have both.

    Empty where the published values are the best point.
    """
    fresh = points_of([result for result in results if result.round == 1], list(best.values))
    published = _published(settings, best.values)
    if same(published, best.values):
        return []
    losses = [next((point.by_seed for point in fresh if same(point.values, v)), {}) for v in (published, best.values)]
    return [(seed, losses[0][seed] - losses[1][seed]) for seed in sorted(losses[0]) if seed in losses[1]]


# ── findings and proposals ───────────────────────────────────────────────────────────────────────────────────────────


def _floor_finding(key: str, floor: Estimate, settings: HparamsSettings, searched: Sequence[TrialResult]) -> Finding:
    best = transformed(floor, lambda value: 2.0**value)
    published = settings.published.get(key)
    near = math.log2(settings.near)
    agrees = None if published is None else within(floor, math.log2(published) - near, math.log2(published) + near)
    bounds = "" if published is None else f" a factor of {settings.near:g} around {published:g}"
    name = key.rpartition(".")[2]
    return Finding(
        claim=f"the best {name} is {published:g}" if published is not None else f"there is a best {name}",
        published=f"{published:g} at 9M parameters (arXiv 2404.06395 §3.1)" if published is not None else "none",
        quantity=f"floor of the valley of {key}",
        estimate=best,
        verdict=verdict_of(agrees, seeds_of(searched)),
        reason=f"the interval {WHERE[agrees]}{bounds}" if published is not None else "no value was published",
        seeds=seeds_of(searched),
        runs=folders_of(searched),
    )


def _gain_finding(
    settings: HparamsSettings, results: Sequence[TrialResult], best: Point, gain: Sequence[tuple[int, float]]
) -> list[Finding]:
    difference = mean_of([value for _, value in gain], level=settings.level, samples=settings.bootstrap)
    if difference is None:
        return []
    agrees = True if difference.high <= settings.alike else False if difference.low > settings.alike else None
    told = {True: "ends below", False: "lies above", None: "holds"}[agrees]
    values = ", ".join(f"{key.rpartition('.')[2]} {value:.3g}" for key, value in best.values.items())
    return [
        Finding(
            claim="the published values are as good as the best that a search finds here",
            published="the values of the search at 9M parameters were used at every size (arXiv 2404.06395 §3.1)",
            quantity=f"loss of the published values minus that of the best point ({values}), in bits per byte",
            estimate=difference,
            verdict=verdict_of(agrees, len(gain)),
            reason=f"the interval {told} {settings.alike:g}, which counts as no difference",
            seeds=len(gain),
            runs=folders_of([result for result in results if result.round == 1]),
        )
    ]


def _proposals(
    settings: HparamsSettings, results: Sequence[TrialResult], points: Sequence[Point], said: Bootstrapped,
    gain: Sequence[tuple[int, float]],
) -> tuple[Proposal, ...]:  # fmt: skip
    """The best point where fresh seeds have shown that it is better; else the published values stay."""
    difference = mean_of([value for _, value in gain], level=settings.level, samples=settings.bootstrap)
    if difference is None:
        return ()
    best = min(points, key=lambda point: point.loss).values
    better = difference.low > 0
    words = f"better than the published values by {difference} bits per byte with fresh seeds"
    kept = f"published; the best of the search is better by {difference} bits per byte with fresh seeds, so no better"
    made = []
    for key, value in best.items():
        if key in settings.published:
            floor = said.estimates.get(key)
            made.append(
                Proposal(
                    key=key,
                    value=value if better else settings.published[key],
                    estimate=None if floor is None else transformed(floor, lambda log: 2.0**log),
                    law="",
                    sentence=words if better else kept,
                    runs=folders_of([result for result in results if result.round == 1]),
                )
            )
    return tuple(made)


# ── tables and plots ─────────────────────────────────────────────────────────────────────────────────────────────────


def _table(
    settings: HparamsSettings, points: Sequence[Point], floors: Mapping[str, Valley], said: Bootstrapped, noise: float
) -> tuple[tuple[str, ...], ...]:
    best = min(points, key=lambda point: point.loss)
    rows = [("", "published", "best point", "floor of the valley", "alike within the noise of seeds", "tried")]
    for key, value in best.values.items():
        floor = said.estimates.get(key)
        told = "cannot be told" if floor is None else str(transformed(floor, lambda log: 2.0**log))
        tried = [point.values[key] for point in points]
        alike = flat_range(floors.get(key), noise, (min(tried), max(tried)))
        published = settings.published.get(key)
        rows.append(
            (
                key,
                "" if published is None else f"{published:g}",
                f"{value:.3g}",
                told,
                "cannot be told" if alike is None else f"{alike[0]:.3g} to {alike[1]:.3g}",
                f"{min(tried):.3g} to {max(tried):.3g}",
            )
        )
    rows.append(("noise of a seed", "", f"{noise:.4f} bits per byte" if np.isfinite(noise) else "one seed", "", "", ""))
    return tuple(rows)


def _plots(
    settings: HparamsSettings, points: Sequence[Point], searched: Sequence[TrialResult],
    floors: Mapping[str, Valley], noise: float, gain: Sequence[tuple[int, float]],
) -> tuple[Plot, ...]:  # fmt: skip
    lost = [dict(result.settings) for result in searched if result.status in ("diverged", "pruned")]
    plots = [
        Plot(
            name="hparams_valleys",
            title="Loss over each hyper-parameter",
            sentence="Each dot is a point of the search, mean of its seeds, so other hyper-parameters differ as well; "
            "the dashed line is the published value, the grey band what differs by no more than two seeds do; crosses "
            "at the top diverged or were ended early.",
            draw=styled(draw_valleys, tuple(points), tuple(lost), dict(floors), noise, dict(settings.published)),
        )
    ]
    if gain:
        plots.append(
            Plot(
                name="hparams_gain",
                title="What the search has gained over the published values",
                sentence="Each dot is a seed that the search had not seen; above 0 the point that the search found is "
                "better than the published one.",
                draw=styled(draw_comparison, tuple(gain), settings.alike),
            )
        )
    return tuple(plots)


HPARAMS = Study(
    Settings=HparamsSettings,
    title="Hyper-parameters of the smallest model",
    question="Which scale_depth, scale_emb, init_std and peak LR are best, and how much do they matter?",
    source="arXiv 2404.06395 §3.1, A.1",
    check=check_hparams,
    analyse=analyse_hparams,
    further=further_hparams,
)
