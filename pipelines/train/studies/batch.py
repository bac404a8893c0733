"""The batch that reaches a loss with the fewest tokens, as a law of that loss; the gradient noise scale beside it.

Enters: trials over batch sizes, a few model sizes and seeds, measured along their way. Leaves: batch = a / L^b with
intervals over seeds, and what the published law and the noise scale have to do with it. How the numbers are read is in
`batch_reading.py`.

The objective is tokens, as published: on a fixed number of GPUs tokens are time, while Kaplan et al. weigh tokens
against steps. a is in the unit of the loss (here bits per byte, published nats per token on C4); b is the same in both,
since one is a multiple of the other. The learning rate is the same at every batch size, as published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np

from pipelines.config import Positive, Range, config_class
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.train.studies.batch_pictures import draw_law, draw_tokens
from pipelines.train.studies.batch_reading import FEWEST_BATCHES, Cells, Levels, cells_of, levels_of, numbers
from pipelines.train.studies.bootstrap import WHERE, Bootstrapped, bootstrap, transformed, within
from pipelines.train.studies.contract import Study, StudySettings
from pipelines.train.studies.evidence import folders_of, notes_about
from pipelines.train.studies.outcome import Finding, Outcome, Plot, Proposal, verdict_of
from pipelines.train.studies.panels import styled
from pipelines.train.trials.result import TrialResult

PUBLISHED_EXPONENT = 6.24
PUBLISHED = "batch = 1.21e9 / L^6.24 in tokens, L the loss on C4 in nats per token (arXiv 2404.06395 §3.2, Fig. 2)"
_LARGEST_LOGARITHM = 700.0  # of a float


@config_class
class BatchSettings(StudySettings):
    """How the best batch is read."""

    kind: Literal["batch"] = "batch"
    measure: str = "heldout"
    levels: Annotated[int, Range(3)] = 5  # losses of each model size at which the best batch is read
    reach_octaves: Positive = 3.0  # batch sizes so far from the best one tried take part in the parabola
    like_octaves: Positive = 2.0  # a noise scale within ± this of the best batch is like it


def check(settings: BatchSettings, trials: Sequence[TrialResult]) -> None:
    """Raises: ConfigError where no best batch could be told."""
    batches: dict[int, set[int]] = {}
    for trial in trials:
        batches.setdefault(trial.parameters, set()).add(trial.batch_tokens)
    for size, own in batches.items():
        if len(own) < FEWEST_BATCHES:
            raise ConfigError(
                f"it has {len(own)} batch sizes at {size:,} parameters; a parabola with its minimum inside "
                f"takes {FEWEST_BATCHES}: give batch.global_batch (or batch_tokens) more values"
            )
    lengths = {trial.peak_lr for trial in trials}
    if len(lengths) > 1:
        raise ConfigError(
            f"it has the learning rates {', '.join(f'{rate:g}' for rate in sorted(lengths))}; batch sizes are "
            "compared at one: set schedule.peak_lr to one value"
        )


def analyse(settings: BatchSettings, results: Sequence[TrialResult]) -> Outcome:
    """The best batch at each loss, and the law through them; see the module."""
    trials = [trial for trial in results if trial.status == "finished" and len(trial.losses(settings.measure)) > 1]
    cells = cells_of(trials, settings.measure)
    levels = levels_of(cells, settings.levels)
    said = bootstrap(
        lambda sample: numbers(sample, levels, settings.reach_octaves),
        cells,
        level=settings.level,
        samples=settings.bootstrap,
        behind=lambda name: [size for size in cells if f" {size} " in name] or list(cells),
    )
    law = _law(settings, cells, levels, said)
    laws = {} if law is None else {"batch": law}
    return Outcome(
        laws=laws,
        findings=_findings(settings, trials, cells, said),
        plots=_plots(settings, cells, levels, said) if levels else (),
        proposals=_proposals(trials, levels, said, law),
        tables={"The batch that reaches a loss with the fewest tokens": _table(levels, said)} if levels else {},
        notes=(*notes_about(results, (settings.measure,)), *_notes(settings, results, cells, levels, said)),
    )


def _seeds(cells: Cells) -> int:
    return min((len(seeds) for seeds in cells.values()), default=0)


def _notes(
    settings: BatchSettings, results: Sequence[TrialResult], cells: Cells, levels: Levels, said: Bootstrapped
) -> list[str]:
    notes = []
    ended = [trial for trial in results if trial.status == "finished"]
    once = [trial.name for trial in ended if len(trial.losses(settings.measure)) == 1]
    if once:
        notes.append(
            f"{len(once)} trials were measured at their end alone, so when they reached a loss is not known: set "
            f"measures.{settings.measure}.every_steps."
        )
    for size in cells:
        if size not in levels:
            notes.append(
                f"{size:,} parameters: no loss was passed by {FEWEST_BATCHES} batch sizes of every seed so far, so no "
                "best batch is told."
            )
    outside = [
        f"{loss:.3g} ({size:,} parameters)"
        for size, losses in levels.items()
        for number, loss in enumerate(losses)
        if f"batch {size} {number}" not in said.values
    ]
    if outside:
        notes.append(
            f"At the losses {', '.join(outside)} the fewest tokens lie at an end of the batch sizes that were tried, "
            "or the parabola opens downwards: no best batch is told there."
        )
    if "exponent" not in said.estimates:
        notes.append("The best batch is known at fewer than three losses, or by one seed: no law is told.")
    if cells and not any(name.startswith("noise") for name in said.values):
        notes.append(
            "The runs have no gradient noise scale: it takes monitor_every_steps above 0 and a micro-batch smaller "
            "than the batch."
        )
    return notes


def _law(settings: BatchSettings, cells: Cells, levels: Levels, said: Bootstrapped) -> FittedLaw | None:
    if "exponent" not in said.estimates or "factor" not in said.estimates:
        return None
    points = [
        (loss, said.values[name])
        for size, losses in levels.items()
        for number, loss in enumerate(losses)
        if (name := f"batch {size} {number}") in said.values
    ]
    exponent, factor = said.values["exponent"], said.values["factor"]
    residuals = [octaves * math.log(2) - factor + exponent * math.log(loss) for loss, octaves in points]
    wide = said.estimates["exponent"].width > PUBLISHED_EXPONENT
    return FittedLaw(
        law="batch",
        formula="batch = a/L^b",
        parameters={"a": transformed(said.estimates["factor"], _exponential), "b": said.estimates["exponent"]},
        level=settings.level,
        ranges={"loss": (min(loss for loss, _ in points), max(loss for loss, _ in points))},
        points=len(points),
        runs=sum(len(seed.losses) for seeds in cells.values() for seed in seeds),
        samples={"a": [_exponential(value) for value in said.samples["factor"]], "b": list(said.samples["exponent"])},
        residual_spread=float(np.std(residuals)),
        warnings=("the exponent's interval is wider than the published exponent",) if wide else (),
        unit="tokens",
    )


def _exponential(value: float) -> float:
    return math.exp(min(max(value, -_LARGEST_LOGARITHM), _LARGEST_LOGARITHM))


def _findings(
    settings: BatchSettings, trials: Sequence[TrialResult], cells: Cells, said: Bootstrapped
) -> tuple[Finding, ...]:
    seeds, runs = _seeds(cells), folders_of(trials)

    def finding(
        claim: str, published: str, quantity: str, estimate: Estimate, agrees: bool | None, reason: str
    ) -> Finding:
        return Finding(
            claim=claim,
            published=published,
            quantity=quantity,
            estimate=estimate,
            verdict=verdict_of(agrees, seeds),
            reason=reason,
            seeds=seeds,
            runs=runs,
        )

    findings = []
    if (exponent := said.estimates.get("exponent")) is not None:
        grows = True if exponent.low > 0 else False if exponent.high < 0 else None
        sides = {True: "lies above 0", False: "lies below 0", None: "holds 0"}
        findings.append(
            finding("the best batch grows as the loss falls", PUBLISHED, "exponent b of batch = a / L^b", exponent,
                    grows, f"the interval {sides[grows]}")
        )  # fmt: skip
        holds = exponent.low <= PUBLISHED_EXPONENT <= exponent.high
        near = None if holds and exponent.width > PUBLISHED_EXPONENT else holds
        words = {True: "holds 6.24", False: "does not hold 6.24", None: "holds 6.24, and much else"}
        findings.append(
            finding("the exponent is 6.24", PUBLISHED, "exponent b of batch = a / L^b, the same in nats per token",
                    exponent, near, f"the interval {words[near]}")
        )  # fmt: skip
    if (ratio := said.estimates.get("ratio")) is not None:
        like = within(ratio, -settings.like_octaves, settings.like_octaves)
        findings.append(
            finding(
                "the best batch is about the gradient noise scale",
                "the critical batch is predicted by tr Σ / |G|² (McCandlish et al., arXiv 1812.06162)",
                "best batch / noise scale at equal loss, in powers of two",
                ratio,
                like,
                f"the interval {WHERE[like]} ±{settings.like_octaves:g}",
            )
        )
    if (noise := said.estimates.get("noise exponent")) is not None:
        grows = True if noise.low > 0 else False if noise.high < 0 else None
        sides = {True: "lies above 0", False: "lies below 0", None: "holds 0"}
        findings.append(
            finding(
                "the gradient noise scale grows as the loss falls",
                "it grows by an order of magnitude or more over a training (McCandlish et al., arXiv 1812.06162)",
                "exponent b of noise scale = a / L^b",
                noise,
                grows,
                f"the interval {sides[grows]}",
            )
        )
    return tuple(findings)


def _proposals(
    trials: Sequence[TrialResult], levels: Levels, said: Bootstrapped, law: FittedLaw | None
) -> tuple[Proposal, ...]:
    if law is None:
        return ()
    lowest, name = min(
        (loss, name)
        for size, losses in levels.items()
        for number, loss in enumerate(losses)
        if (name := f"batch {size} {number}") in said.estimates
    )
    best = transformed(said.estimates[name], lambda value: 2.0**value)
    return (
        Proposal(
            key="batch_tokens",
            value=None,
            estimate=best,
            law="batch",
            sentence=f"a/L^b with b {law.parameters['b']}; {_tokens(best)} tokens at loss {lowest:.3g}",
            runs=folders_of(trials),
        ),
    )


def _table(levels: Levels, said: Bootstrapped) -> tuple[tuple[str, ...], ...]:
    rows: list[tuple[str, ...]] = [
        ("parameters", "loss, bits per byte", "best batch, tokens", "gradient noise scale, tokens")
    ]
    for size, losses in levels.items():
        for number, loss in enumerate(losses):
            texts = [
                _tokens(transformed(said.estimates[name], lambda value: 2.0**value))
                if (name := f"{kind} {size} {number}") in said.estimates
                else "cannot be told"
                for kind in ("batch", "noise")
            ]
            rows.append((f"{size:,}", f"{loss:.4g}", *texts))
    return tuple(rows)


def _tokens(estimate: Estimate) -> str:
    return f"{estimate.value:,.0f} ({estimate.low:,.0f} to {estimate.high:,.0f})"


def _plots(settings: BatchSettings, cells: Cells, levels: Levels, said: Bootstrapped) -> tuple[Plot, ...]:
    law = f"; the line is batch = a / L^b with b {said.estimates['exponent']}" if "exponent" in said.estimates else ""
    return (
        Plot(
            name="batch-tokens",
            title="Tokens until a loss, over the batch",
            sentence="Each curve is one loss, the lower the darker; its minimum (cross) is the batch that reaches that "
            "loss with the fewest tokens, and it should move to the right as the loss falls.",
            draw=styled(draw_tokens, cells, levels, settings.reach_octaves),
        ),
        Plot(
            name="batch-law",
            title="The best batch over the loss",
            sentence=f"The axis of losses runs from high to low, as training does{law}; hollow: the gradient noise "
            "scale of the same runs.",
            draw=styled(draw_law, cells, levels, said),
        ),
    )


BATCH = Study(
    Settings=BatchSettings,
    title="The best batch against the loss",
    question="Which batch reaches a loss with the fewest tokens, and how does it grow as the loss falls?",
    source="arXiv 2404.06395 §3.2, appendix A.2",
    check=check,
    analyse=analyse,
)
