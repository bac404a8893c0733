"""What a study is: settings in, a refusal of trials that could not answer it, an analysis of those that ran.

A study is a file in `pipelines/train/studies/`, a row of `STUDIES`, and a YAML in `conf/sandbox/` that says
what varies. It never trains: it gets results, also of a study that is half done, and says what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pipelines.config import Count, Range, config_class
from pipelines.train.studies.outcome import Outcome
from pipelines.train.trials.result import TrialResult


@config_class
class StudySettings:
    """What all studies take. Each row's own class extends it, with `kind: Literal["lr"] = "lr"`."""

    level: Annotated[float, Range(above=0, below=1)] = 0.95  # of the intervals
    bootstrap: Count = 400  # samples


@dataclass(frozen=True, kw_only=True)
class FurtherTrial:
    """A trial that a study asks for after it has seen those of its YAML, e.g. of the mixture that it proposes.

    Attributes:
        settings: keys as in `vary` -> values; a key that is not named stays as the stages say.
    """

    settings: Mapping[str, Any]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A row of `STUDIES`.

    Attributes:
        Settings: its config class.
        title: of its part of the page. question: what it asks, one sentence.
        source: where MiniCPM says it, e.g. `arXiv 2404.06395 §4.2`.
        check: refuses trials that could not answer the question, before any is run. It gets results with status
            `finished`, no measurement and the planned runs. Raises: ConfigError.
        analyse: what the results say; also called while trials are still missing, so it says what it cannot say yet.
        further: which trials to add; asked once, when every trial of the YAML has ended, with the results of those
            alone (`round` 0). Equal results give equal trials, so that a command that goes on finds them again. They
            come back to `analyse` as results of `round` 1. None: the study has one round.
    """

    Settings: type[StudySettings]
    title: str
    question: str
    source: str
    check: Callable[..., None]
    analyse: Callable[..., Outcome]
    further: Callable[..., Sequence[FurtherTrial]] | None = None


Check = Callable[[StudySettings, Sequence[TrialResult]], None]
Analyse = Callable[[StudySettings, Sequence[TrialResult]], Outcome]
Further = Callable[[StudySettings, Sequence[TrialResult]], Sequence[FurtherTrial]]
