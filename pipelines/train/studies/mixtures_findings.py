"""What study `mixtures` says of its laws and of the mixture that it proposed: findings, tables, pictures, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipelines.config import Amount, Count, Share, config_class
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.laws.mixing import losses_of
from pipelines.train.studies.bootstrap import mean_of
from pipelines.train.studies.contract import StudySettings
from pipelines.train.studies.evidence import end_losses, folders_of, seeds_of
from pipelines.train.studies.mixtures_points import per_mixture
from pipelines.train.studies.outcome import Finding, Plot, Proposal, verdict_of
from pipelines.train.studies.panels import colour, marker, panels, styled
from pipelines.train.trials.result import TrialResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN = "mixing"  # the law of the mean over all sets; that of a set is `mixing <set>`
_SOURCE = "arXiv 2403.16952"


@config_class
class MixturesSettings(StudySettings):
    """Where the search begins and what it makes least."""

    kind: Literal["mixtures"] = "mixtures"
    start: dict[str, Share]  # the weights that the proposed ones are compared with
    measures: tuple[str, ...] = ("heldout", "answers")  # whose held-out sets are looked at
    importance: dict[str, Amount] = field(default_factory=dict)  # held-out set -> its part in the mean; {}: all alike
    seeds: Count = 3  # of the second round


@dataclass(frozen=True)
class Proposed:
    """The best weights. Attributes: spread, source -> where they lie in the bootstrap samples."""

    weights: dict[str, float]
    spread: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Reading:
    """What there is to say something about.

    Attributes: laws, MEAN and `MEAN <set>` -> law; importance, held-out set -> its part in the mean; first, the
        sampled trials; compared, `start` and `proposed` -> seed -> trial.
    """

    settings: MixturesSettings
    laws: Mapping[str, FittedLaw]
    importance: Mapping[str, float]
    proposed: Proposed
    first: Sequence[TrialResult]
    compared: Mapping[str, Mapping[int, TrialResult]]

    @property
    def seeds(self) -> list[int]:
        """Those of both sides."""
        return sorted(set(self.compared["start"]) & set(self.compared["proposed"]))

    @property
    def runs(self) -> tuple[str, ...]:
        """Of the comparison."""
        return folders_of([self.compared[side][seed] for side in ("start", "proposed") for seed in self.seeds])

    def measured(self, heldout_set: str | None = None) -> Estimate | None:
        """Proposed less starting mixture, seed by seed, of a set or the mean; None for fewer than two seeds."""
        values = []
        for seed in self.seeds:
            one, other = (
                end_losses(self.compared[side][seed], self.settings.measures) for side in ("proposed", "start")
            )
            parts = self.importance if heldout_set is None else {heldout_set: 1.0}
            values.append(sum(part * (one[name] - other[name]) for name, part in parts.items()))
        return mean_of(values, level=self.settings.level, samples=self.settings.bootstrap)

    def predicted(self, heldout_set: str | None = None) -> Estimate:
        """The same by the laws alone."""
        parts = self.importance if heldout_set is None else {heldout_set: 1.0}
        value, draws = 0.0, np.zeros(0)
        for name, part in parts.items():
            law = self.laws[f"{MEAN} {name}"]
            one, other = losses_of(law, self.proposed.weights), losses_of(law, self.settings.start)
            value += part * (one.value - other.value)
            change = part * (one.samples - other.samples)
            draws = change if not len(draws) else draws + change
        level = self.settings.level
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]) if len(draws) else (-np.inf, np.inf)
        return Estimate(value, min(value, float(low)), max(value, float(high)))


def findings(reading: Reading) -> tuple[Finding, ...]:
    """Whether the laws foresee, and whether the proposed mixture is better; none before it is trained."""
    measured, predicted, seeds = reading.measured(), reading.predicted(), len(reading.seeds)
    if not seeds:
        return ()
    better = None if measured is None or measured.low <= 0 <= measured.high else bool(measured.high < 0)
    return (
        Finding(
            claim="Weights by a mixing law of small runs are better than those that one began with",
            published=f"as good as the default weights with 48 % more steps, 1B model, 100B tokens ({_SOURCE})",
            quantity="proposed less starting mixture, mean over held-out sets (bits per byte; below 0: better)",
            estimate=measured,
            verdict=verdict_of(better, seeds),
            reason="no interval: fewer than two seeds"
            if measured is None
            else "the interval holds 0"
            if better is None
            else f"it lies {'below' if better else 'above'} 0, seed by seed",
            seeds=seeds,
            runs=reading.runs,
        ),
        _foreseen(reading, measured, predicted, seeds),
    )


def _foreseen(reading: Reading, measured: Estimate | None, predicted: Estimate, seeds: int) -> Finding:
    meet = measured is not None and predicted.low <= measured.high and measured.low <= predicted.high
    vague = predicted.low <= 0 <= predicted.high
    agrees = None if measured is None or (meet and vague) else meet
    return Finding(
        claim="An exponential law of the weights foresees the loss of a mixture that it has not seen",
        published=f"held-out losses of unseen mixtures are predicted by L = c + k·exp(Σ t_j·w_j) ({_SOURCE})",
        quantity="what the laws foresee of that difference (bits per byte)",
        estimate=predicted,
        verdict=verdict_of(agrees, seeds),
        reason="no interval of what was measured"
        if measured is None
        else f"measured {measured}: the intervals {'meet' if meet else 'do not meet'}"
        + (", but what is foreseen may be 0" if meet and vague else ""),
        seeds=seeds,
        runs=reading.runs,
    )


def proposals(reading: Reading) -> tuple[Proposal, ...]:
    """The weights, if training them has not shown that they are worse, or has not shown anything yet."""
    measured, predicted = reading.measured(), reading.predicted()
    trained = measured is not None
    estimate = measured if measured is not None else predicted
    if estimate.high >= 0:
        return ()
    law = reading.laws[MEAN]
    return (
        Proposal(
            key="mixture.weights",
            value=dict(reading.proposed.weights),
            estimate=estimate,
            law=MEAN,
            sentence=f"{'measured' if trained else 'foreseen, not trained yet'}: {estimate} bits per byte against the "
            f"starting weights; laws of {law.points} mixtures, {seeds_of(reading.first)} seeds each",
            runs=reading.runs if trained else folders_of(reading.first),
        ),
    )


def tables(reading: Reading) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Weights, and the change of each held-out set."""
    start, proposed = reading.settings.start, reading.proposed
    ranges = reading.laws[MEAN].ranges
    weights = (
        (
            source,
            f"{start.get(source, 0.0):.3f}",
            f"{proposed.weights.get(source, 0.0):.3f}",
            "{:.3f} to {:.3f}".format(*proposed.spread[source]),
            "{:.3f} to {:.3f}".format(*ranges[source]),
        )
        for source in proposed.weights
    )
    changes = (
        (name or "mean", str(reading.predicted(name)), str(reading.measured(name) or ""))
        for name in (*reading.importance, None)
    )
    return {
        "Weights of the sources": (
            ("source", "start", "proposed", "proposed by bootstrap samples", "sampled"),
            *weights,
        ),
        "Proposed less starting mixture, bits per byte": (("held-out set", "foreseen", "measured"), *changes),
    }


def plots(reading: Reading) -> tuple[Plot, ...]:
    """Predictions against measurements, weights, and changes by held-out set."""
    return (
        Plot(
            name="mixtures_law",
            title="Loss of the sampled mixtures, and what the law says",
            sentence="Each dot is a sampled mixture, mean over seeds. On the diagonal, the law fitted to all of them "
            "gives the loss that was measured; how far dots lie from it is the noise and what the law does not know.",
            draw=styled(_draw_law, reading),
        ),
        Plot(
            name="mixtures_weights",
            title="Starting and proposed weights",
            sentence="Bars are the proposed weights, lines where they lie when trials are drawn anew: a long line "
            "means that this weight hardly matters, or that the trials do not tell. Squares are the starting weights.",
            draw=styled(_draw_weights, reading),
        ),
        Plot(
            name="mixtures_change",
            title="Proposed less starting mixture, by held-out set",
            sentence="Left of the line, the proposed mixture is better. Dots are foreseen by the laws, squares were "
            "measured over seeds.",
            draw=styled(_draw_change, reading),
        ),
    )


def _draw_law(reading: Reading) -> Figure:
    figure, (axes,) = panels([""], "foreseen, bits per byte", "measured, bits per byte")
    rows = [end_losses(trial, reading.settings.measures) for trial in reading.first]
    means = [sum(part * row[name] for name, part in reading.importance.items()) for row in rows]
    mixtures, measured = per_mixture(reading.first, means)
    foreseen = [losses_of(reading.laws[MEAN], weights).value for weights in mixtures]
    axes.plot(foreseen, measured, color=colour(0), marker=marker(0), linestyle="none", alpha=0.7)
    ends = [min(*foreseen, *measured), max(*foreseen, *measured)]
    axes.plot(ends, ends, color="#666666", linestyle=":", linewidth=1.4)
    return figure


def _draw_weights(reading: Reading) -> Figure:
    from pipelines.display.report.drawing import as_ascii

    figure, (axes,) = panels([""], "share of the mixture", "")
    proposed = reading.proposed
    names = sorted(proposed.weights, key=lambda source: proposed.weights[source])
    places = list(range(len(names)))
    axes.barh(places, [proposed.weights[name] for name in names], color=colour(0), alpha=0.55, label="proposed")
    for place, name in enumerate(names):
        axes.plot(proposed.spread[name], [place, place], color=colour(0), linewidth=2)
    starts = [reading.settings.start.get(name, 0.0) for name in names]
    axes.plot(starts, places, color=colour(1), marker=marker(1), linestyle="none", label="start")
    axes.set_yticks(places, [as_ascii(name) for name in names])
    axes.legend(loc="lower right")
    return figure


def _draw_change(reading: Reading) -> Figure:
    from pipelines.display.report.drawing import as_ascii

    figure, (axes,) = panels([""], "difference in bits per byte", "")
    names: list[str | None] = [None, *reversed(list(reading.importance))]
    for number, (label, read) in enumerate((("foreseen", reading.predicted), ("measured", reading.measured))):
        for place, name in enumerate(names):
            estimate = read(name)
            if estimate is not None:
                axes.errorbar(
                    [estimate.value], [place + 0.16 * (1 - 2 * number)],
                    xerr=[[estimate.value - estimate.low], [estimate.high - estimate.value]],
                    color=colour(number), marker=marker(number), capsize=3, linewidth=1.6,
                    label=label if place == 0 else None,
                )  # fmt: skip
    axes.axvline(0, color="#666666", linewidth=1.2)
    axes.set_yticks(range(len(names)), ["mean" if name is None else as_ascii(name) for name in names])
    axes.grid(axis="x", color="#e6e6e6")
    axes.legend()
    return figure
