"""A study for tests that are about the sandbox and not about a study: it says which trials there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pipelines.config import config_class, parse
from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.train.sandbox.config import SandboxConfig
from pipelines.train.studies.contract import FurtherTrial, Study, StudySettings
from pipelines.train.studies.outcome import Finding, Outcome, Plot, Proposal, verdict_of
from pipelines.train.trials.result import TrialResult


@config_class
class ToySettings(StudySettings):
    """What the toy asks."""

    kind: Literal["toy"] = "toy"
    again: bool = False  # ask for a second round: the best learning rate with a fresh seed
    fewest: int = 1


def check(settings: ToySettings, trials: Sequence[TrialResult]) -> None:
    if len({trial.peak_lr for trial in trials}) < settings.fewest:
        raise ConfigError(f"it takes {settings.fewest} learning rates")


def analyse(settings: ToySettings, results: Sequence[TrialResult]) -> Outcome:
    losses = {result.peak_lr: loss for result in results if (loss := result.loss()) is not None}
    if not losses:
        return Outcome(notes=("No trial has a loss yet.",))
    best = min(losses, key=lambda rate: losses[rate])
    estimate = Estimate(best, best / 2, best * 2)
    law = FittedLaw(
        law="power", formula="L = a·x^b", parameters={"a": estimate}, level=0.95, ranges={"lr": (0.001, 0.1)},
        points=len(losses), runs=len(results), warnings=("It is a toy.",),
    )  # fmt: skip
    proposal = Proposal(key="schedule.peak_lr", value=best, estimate=estimate, law="", sentence="lowest", runs=())
    seeds = len({result.seed for result in results})
    finding = Finding(
        claim="the best learning rate is <0.01>",
        published="0.01 (§4.2)",
        quantity="learning rate of the lowest loss",
        estimate=estimate,
        verdict=verdict_of(estimate.low <= 0.01 <= estimate.high, seeds),
        reason="the interval holds 0.01",
        seeds=seeds,
        runs=tuple(result.folder for result in results),
    )
    return Outcome(
        laws={"toy": law},
        findings=(finding,),
        plots=(Plot(name="losses", title="Loss & rate", sentence="Lower is better.", draw=lambda: draw(losses)),),
        proposals=(proposal,),
        tables={"Losses": (("rate", "loss"), *((f"{rate:g}", f"{loss:.3f}") for rate, loss in losses.items()))},
        notes=(f"{sum(result.status == 'diverged' for result in results)} diverged.",),
    )


def draw(losses: dict[float, float]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4))
    axes = figure.subplots()
    axes.plot(list(losses), list(losses.values()), marker="o")
    axes.set_xscale("log")
    axes.set_xlabel("peak learning rate")
    axes.set_ylabel("bits per byte")
    return figure


def further(settings: ToySettings, results: Sequence[TrialResult]) -> list[FurtherTrial]:
    if not settings.again:
        return []
    best = min((result for result in results if result.loss() is not None), key=lambda result: result.loss() or 0.0)
    return [FurtherTrial(settings=best.settings, seed=100)]


TOY = Study(
    Settings=ToySettings, title="A toy", question="Which learning rate is <best>?", source="nowhere", check=check,
    analyse=analyse, further=further,
)  # fmt: skip


def sandbox(study: dict[str, Any] | None = None, name: str = "toy", **top: Any) -> SandboxConfig:
    """A sandbox of one toy study over the wind tunnel's smallest model."""
    values: dict[str, Any] = {
        "study": {"kind": "toy"},
        "stages": [{"workflow": "pretrain", "experiment": "wind_tunnel"}],
        "vary": {"schedule.peak_lr": [0.003, 0.01]},
        "seeds": 2,
        **(study or {}),
    }
    return parse(SandboxConfig, {"name": "box", "cluster": {"workers": 1}, "studies": {name: values}, **top})
