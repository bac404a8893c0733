"""Study `data`: SFT data in the decay, or only after it, at equal SFT tokens.

Enters: trials of the chain pretrain → anneal → sft in two arms or three, each with the same seeds:

    in_decay      conversations are part of the decay's mixture; then SFT
    after         a decay without them; then SFT, longer by the conversations that the other arm's decay read
    after_short   (if there) a decay without them; then SFT as long as in_decay's

Leaves: the difference of the arms, seed by seed, in bits per byte of held-out answers and of held-out documents.

Source: MiniCPM, arXiv 2404.06395 §6.3, Table 1. Its B-3 is `in_decay`, B-2 `after`, B-1 `after_short`; the means over
its seven tasks are 37.9, 35.2 and 35.3. Its decay also had unlabelled data of high quality, which no arm here has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipelines.config import Share, config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate
from pipelines.train.studies.bootstrap import mean_of
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.evidence import end_losses, folders_of, measured_trials, notes_about
from pipelines.train.studies.outcome import Finding, Outcome, Plot, Proposal, verdict_of
from pipelines.train.studies.panels import colour, marker, panels, styled
from pipelines.train.trials.result import TrialResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IN_DECAY, AFTER, AFTER_SHORT = "in_decay", "after", "after_short"
DOCUMENTS, ANSWERS = "heldout", "answers"  # measures: of documents, of the assistant's words in conversations
_MOST_UNEQUAL = 0.05  # of the SFT tokens of an arm
_SOURCE = "arXiv 2404.06395 §6.3, Table 1"
# difference of the arms, seed by seed
Differences = Mapping[str, Estimate]


@config_class
class DataSettings(StudySettings):
    """Where the arms are told apart, and what the decay of one holds."""

    kind: Literal["data"] = "data"
    arm: str = "arm"  # the key that varies; its values are in_decay, after, after_short
    conversations: Share  # of the decay's mixture in the arm in_decay


@dataclass(frozen=True)
class _Arms:
    """Losses at the end of each chain: arm -> seed -> measure -> held-out set -> bits per byte."""

    losses: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]]
    settings: DataSettings

    def difference(self, one: str, other: str, measure: str, heldout_set: str | None = None) -> Estimate | None:
        """Of the arms, seed by seed, of a set or the mean over all of a measure; below 0 where `one` is better."""
        values = [
            _mean(self.losses[one][seed][measure], heldout_set) - _mean(self.losses[other][seed][measure], heldout_set)
            for seed in self.seeds(one, other)
            if self.losses[one][seed][measure] and self.losses[other][seed][measure]
        ]
        return mean_of(values, level=self.settings.level, samples=self.settings.bootstrap)

    def seeds(self, one: str, other: str) -> list[int]:
        """Seeds that both arms have."""
        return sorted(set(self.losses.get(one, {})) & set(self.losses.get(other, {})))

    def sets(self, measure: str) -> list[str]:
        """Held-out sets of a measure."""
        rows = (row[measure] for by_seed in self.losses.values() for row in by_seed.values())
        return list(dict.fromkeys(name for row in rows for name in row))


def check(settings: DataSettings, results: Sequence[TrialResult]) -> None:
    """Refuse arms that are not there, or that differ in their SFT tokens. Raises: ConfigError."""
    arms: dict[str, TrialResult] = {}
    for result in results:
        arms.setdefault(str(result.settings.get(settings.arm)), result)
    if missing := [arm for arm in (IN_DECAY, AFTER) if arm not in arms]:
        raise ConfigError(
            f"a study of data has no arm {' and no arm '.join(missing)}; it has {', '.join(arms) or 'none'}: under "
            f"vary, give {settings.arm} the bundles {IN_DECAY} and {AFTER} (and {AFTER_SHORT})"
        )
    for result in arms.values():
        if [run.stage for run in result.runs] != ["pretrain", "anneal", "sft"]:
            raise ConfigError(
                f"{result.name} trains {' -> '.join(run.stage for run in result.runs)}; a study of data compares "
                "chains of pretrain -> anneal -> sft"
            )
    in_decay, after = (_sft_tokens(settings, arms[arm], arm) for arm in (IN_DECAY, AFTER))
    if abs(in_decay - after) > _MOST_UNEQUAL * max(in_decay, after):
        step = arms[AFTER].runs[-1].batch_tokens
        fitting = arms[AFTER].runs[-1].steps + round((in_decay - after) / step)
        raise ConfigError(
            f"the arms differ in their SFT tokens: {in_decay:,.0f} in {IN_DECAY} (of them {settings.conversations:.0%} "
            f"of its decay), {after:,.0f} in {AFTER}; the comparison is at equal tokens: set sft.steps of {AFTER} to "
            f"{fitting}"
        )


def analyse(settings: DataSettings, results: Sequence[TrialResult]) -> Outcome:
    """The differences between the arms, with intervals over seeds."""
    trials = measured_trials(results, (ANSWERS,))
    notes = notes_about(results, (ANSWERS,))
    losses: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for trial in trials:
        row = {measure: end_losses(trial, (measure,)) for measure in (DOCUMENTS, ANSWERS)}
        losses.setdefault(str(trial.settings.get(settings.arm)), {})[trial.seed] = row
    arms = _Arms(losses, settings)
    if not (seeds := arms.seeds(IN_DECAY, AFTER)):
        return Outcome(notes=(*notes, f"No seed has ended in both arms, {IN_DECAY} and {AFTER}, yet."))
    runs = folders_of([trial for trial in trials if trial.seed in seeds])
    by_set: dict[str, Estimate] = {}
    for measure in (ANSWERS, DOCUMENTS):
        for name in arms.sets(measure):
            if (estimate := arms.difference(IN_DECAY, AFTER, measure, name)) is not None:
                by_set[name] = estimate
    return Outcome(
        findings=tuple(_findings(arms, runs)),
        plots=(_plot(by_set, arms),) if by_set else (),
        proposals=_proposals(arms, runs),
        tables={"Bits per byte at the end of the chain, mean over seeds": _table(arms)},
        notes=notes if len(seeds) > 1 else (*notes, "One seed has ended in both arms: no interval yet."),
    )


def _sft_tokens(settings: DataSettings, result: TrialResult, arm: str) -> float:
    anneal, sft = result.runs[1], result.runs[2]
    return sft.tokens + (settings.conversations * anneal.tokens if arm == IN_DECAY else 0)


def _mean(losses: Mapping[str, float], heldout_set: str | None) -> float:
    return losses[heldout_set] if heldout_set else sum(losses.values()) / len(losses)


def _lower(estimate: Estimate | None) -> bool | None:
    """Whether a difference is below 0; None where its interval holds 0."""
    if estimate is None or estimate.low <= 0 <= estimate.high:
        return None
    return estimate.high < 0


def _reason(estimate: Estimate | None) -> str:
    below = _lower(estimate)
    if estimate is None:
        return "no interval: fewer than two seeds have ended in both arms"
    return "the interval holds 0" if below is None else f"it lies {'below' if below else 'above'} 0, seed by seed"


def _findings(arms: _Arms, runs: tuple[str, ...]) -> list[Finding]:
    seeds = len(arms.seeds(IN_DECAY, AFTER))
    answers, documents = (arms.difference(IN_DECAY, AFTER, measure) for measure in (ANSWERS, DOCUMENTS))
    findings = [
        Finding(
            claim="SFT data in the decay is worth more than the same data only after it",
            published=f"mean of seven tasks 37.9 (B-3) against 35.2 (B-2, twice the SFT) ({_SOURCE})",
            quantity="held-out answers, in_decay less after, at equal SFT tokens (bits per byte; below 0: better)",
            estimate=answers,
            verdict=verdict_of(_lower(answers), seeds),
            reason=_reason(answers),
            seeds=seeds,
            runs=runs,
        ),
        Finding(
            claim="It does not cost what documents taught",
            published=f"C-Eval +7.9, MMLU +1.7, but GSM8K 31.8 after 34.4 (B-3 less B-2) ({_SOURCE})",
            quantity="held-out documents, in_decay less after (bits per byte; below 0: better)",
            estimate=documents,
            verdict=verdict_of(_lower(documents), seeds),
            reason=_reason(documents),
            seeds=seeds,
            runs=runs,
        ),
    ]
    if arms.seeds(AFTER, AFTER_SHORT):
        findings.append(_longer(arms, answers, runs))
    return findings


def _longer(arms: _Arms, answers: Estimate | None, runs: tuple[str, ...]) -> Finding:
    """Whether more SFT after a plain decay does nothing, as published."""
    seeds, gain = len(arms.seeds(AFTER, AFTER_SHORT)), arms.difference(AFTER, AFTER_SHORT, ANSWERS)
    clear = gain is not None and answers is not None and gain.width < abs(answers.value)
    helps = _lower(gain) is True
    return Finding(
        claim="More SFT after a plain decay gains nothing",
        published=f"mean of seven tasks 35.2 with 12B SFT tokens (B-2), 35.3 with 6B (B-1) ({_SOURCE})",
        quantity="held-out answers, after less after_short (bits per byte; below 0: the longer SFT is better)",
        estimate=gain,
        verdict=verdict_of(False if helps else True if clear else None, seeds),
        reason=_reason(gain) + ("" if helps or clear else ", and is as wide as the effect that is asked about"),
        seeds=seeds,
        runs=runs,
    )


def _proposals(arms: _Arms, runs: tuple[str, ...]) -> tuple[Proposal, ...]:
    """Only where the interval decides."""
    answers = arms.difference(IN_DECAY, AFTER, ANSWERS)
    better = _lower(answers)
    if answers is None or better is None:
        return ()
    documents = arms.difference(IN_DECAY, AFTER, DOCUMENTS)
    sentence = f"held-out answers change by {answers} bits per byte with SFT data in the decay, at equal SFT tokens"
    sentence += f"; documents by {documents}" if documents is not None else ""
    return (Proposal(key="sft_in_decay", value=better, estimate=answers, law="", sentence=sentence, runs=runs),)


def _table(arms: _Arms) -> tuple[tuple[str, ...], ...]:
    named = [arm for arm in (IN_DECAY, AFTER, AFTER_SHORT) if arm in arms.losses]
    rows = []
    for measure, words in ((ANSWERS, "answers"), (DOCUMENTS, "documents")):
        for name in (*arms.sets(measure), None):
            means = []
            for arm in named:
                values = [_mean(row[measure], name) for row in arms.losses[arm].values() if row[measure]]
                means.append(f"{sum(values) / len(values):.4f}" if values else "")
            difference = arms.difference(IN_DECAY, AFTER, measure, name)
            rows.append((name or f"mean of {words}", *means, str(difference or "")))
    return (("held-out set", *named, "in_decay less after"), *rows)


def _plot(by_set: Differences, arms: _Arms) -> Plot:
    return Plot(
        name="data_arms",
        title="SFT data in the decay, less the same data only after it",
        sentence="Left of the line, the arm with SFT data in its decay is better. Squares are answers of held-out "
        "conversations, dots are held-out documents, with intervals over seeds.",
        draw=styled(_draw, by_set, frozenset(arms.sets(ANSWERS))),
    )


def _draw(by_set: Differences, answers: frozenset[str]) -> Figure:
    from pipelines.display.report.drawing import as_ascii

    figure, (axes,) = panels([""], "difference in bits per byte", "")
    names = list(reversed(list(by_set)))
    for place, name in enumerate(names):
        estimate, number = by_set[name], int(name in answers)
        axes.errorbar(
            [estimate.value], [place], xerr=[[estimate.value - estimate.low], [estimate.high - estimate.value]],
            color=colour(number), marker=marker(number), capsize=3, linewidth=1.6,
        )  # fmt: skip
    axes.axvline(0, color="#666666", linewidth=1.2)
    axes.set_yticks(range(len(names)), [as_ascii(name) for name in names])
    axes.grid(axis="x", color="#e6e6e6")
    return figure


DATA = Study(
    Settings=DataSettings,
    title="Data: SFT data in the decay, or only after it",
    question="At equal SFT tokens, does SFT data belong into the decay already?",
    source="arXiv 2404.06395 §6.3",
    check=check,
    analyse=analyse,
)
