"""What is known of every trial of a sandbox while it runs, and after it was stopped: results by study, receipts.

Enters: trials, and results as they end. Leaves: a receipt for each, so that the next command does not run it again;
what a study has, in the order of its YAML; further trials that a study asks for.

A trial that diverged is evidence, and so is one that was pruned: they are not run again. One that failed is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.errors import ArtifactError, ConfigError, TrunklineError
from pipelines.identity import fingerprint
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.sealed import PLAIN_RECEIPT, unsealed
from pipelines.train.sandbox.config import StudyConfig
from pipelines.train.sandbox.expand import Expander, Trial
from pipelines.train.sandbox.planned import planned_result, planned_runs
from pipelines.train.sandbox.results import receipt_of, result_from
from pipelines.train.sandbox.space import check_search
from pipelines.train.studies.contract import Study
from pipelines.train.trials.result import StageRun, TrialResult

_RECEIPTS = "trials"


@dataclass
class StudyState:
    """A study with its trials.

    Attributes:
        runs: name of a trial -> its planned runs. results: name of a trial that has ended -> its result.
        asked: whether its second round was asked for. probes: what stands for the proposals of a search, planned.
    """

    name: str
    config: StudyConfig
    row: Study
    expander: Expander
    trials: list[Trial]
    runs: dict[str, tuple[StageRun, ...]] = field(default_factory=dict)
    results: dict[str, TrialResult] = field(default_factory=dict)
    asked: bool = False
    probes: list[tuple[Trial, tuple[StageRun, ...]]] = field(default_factory=list)

    def plan(self, trials: Sequence[Trial], store: ArtifactStore | None) -> None:
        """Plan the runs of trials. Raises: ConfigError for one that cannot work, or for two of one name."""
        for trial in trials:
            if trial.name in self.runs:
                raise ConfigError(
                    f"study {self.name} has two trials called {trial.name}: give its axes labels that tell them apart"
                )
            self.runs[trial.name] = planned_runs(trial, store)

    def foresee(self, store: ArtifactStore | None) -> None:
        """Plan what stands for a search's proposals. Raises: ConfigError for keys, values, rungs that cannot be."""
        self.probes = [(trial, planned_runs(trial, store)) for trial in self.expander.probes()]
        if self.config.search is not None:
            steps = min(runs[-1].steps for _, runs in self.probes)
            check_search(self.config.search, self.config.vary, steps, f"studies.{self.name}.search")

    @property
    def foreseen(self) -> list[tuple[Trial, tuple[StageRun, ...]]]:
        """Trials with their planned runs, and probes: what is checked before any work."""
        return [*((trial, self.runs[trial.name]) for trial in self.trials), *self.probes]

    def check(self) -> None:
        """Let the study refuse trials that could not answer it. Raises: ConfigError."""
        results = [planned_result(trial, self.runs[trial.name]) for trial in self.trials]
        try:
            self.row.check(self.config.study, results)
        except TrunklineError as error:
            raise type(error)(f"study {self.name}: {error}") from error

    def ordered(self, rounds: Sequence[int] = (0, 1)) -> list[TrialResult]:
        """Results so far, in the order of the trials."""
        return [
            self.results[trial.name] for trial in self.trials if trial.name in self.results and trial.round in rounds
        ]

    def ended(self) -> bool:
        """Whether every trial known so far has ended."""
        return all(trial.name in self.results for trial in self.trials)

    def further(self, store: ArtifactStore | None) -> list[Trial]:
        """The trials of the second round, asked for once, when all of the first have ended."""
        if self.asked or self.row.further is None or not self.ended():
            return []
        self.asked = True
        if any(result.status == "failed" for result in self.results.values()):
            return []  # the next command tries those again, and asks then
        asked = self.row.further(self.config.study, self.ordered(rounds=(0,)))
        trials = [self.expander.trial(more.settings, more.seed, round=1) for more in asked]
        self.plan(trials, store)
        self.trials += trials
        return trials


class Ledger:
    """The receipts of a sandbox."""

    def __init__(self, draft: Draft):
        self._draft = draft
        self._receipts: dict[str, dict[str, Any]] = {}
        storage = draft.storage
        keys = storage.keys(f"{draft.folder}/receipts/{_RECEIPTS}")
        for key, text in zip(keys, storage.read_all(keys), strict=True):
            try:
                receipt = unsealed(text, PLAIN_RECEIPT)
            except ValueError as error:
                raise ArtifactError(
                    f"{storage.uri}/{key} {error}: it was changed or damaged after it was written; delete it, and the "
                    "same command looks at the trial's runs again"
                ) from error
            self._receipts[key.rpartition("/")[2].removesuffix(".json")] = receipt["statistics"]

    @property
    def folder(self) -> str:
        """Of the sandbox."""
        return self._draft.folder

    def find(self, state: StudyState, trial: Trial) -> TrialResult | None:
        """The result of a trial that an earlier command ended; None where it is to be run."""
        receipt = self._receipts.get(piece(trial))
        if receipt is None or receipt["status"] == "failed":
            return None
        return result_from(trial, state.runs[trial.name], self._draft.storage, receipt)

    def note(self, trial: Trial, result: TrialResult) -> None:
        """Commit what became of a trial."""
        receipt = {"study": trial.study, "number": trial.number, "loss": result.loss(), **receipt_of(result)}
        self._draft.publish(f"{_RECEIPTS}/{piece(trial)}", {}, receipt)
        self._receipts[piece(trial)] = receipt

    def of_search(self, study: str) -> Iterator[Mapping[str, Any]]:
        """Receipts of a study's proposals."""
        return (
            receipt
            for receipt in self._receipts.values()
            if receipt["study"] == study and receipt.get("number") is not None
        )


def piece(trial: Trial) -> str:
    """The name of a trial's receipt: of what it is, so that a study which has more values now keeps those it had."""
    return f"{trial.study}-{fingerprint([trial.name, trial.round, trial.key])}"


def failed(states: Sequence[StudyState]) -> list[tuple[StudyState, TrialResult]]:
    """Trials that ended by an error that is not their own."""
    return [(state, result) for state in states for result in state.results.values() if result.status == "failed"]
