"""The search of a study: proposals of `search.py` as trials, one for each seed, and what becomes of them.

Enters: a study with `search`, its receipts. Leaves: trials to run; which to end early. Where keys vary beside the
search, each combination of them is searched by itself, with a journal of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.display.progress import say
from pipelines.identity import fingerprint
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.sandbox.expand import Trial
from pipelines.train.sandbox.ledger import StudyState
from pipelines.train.sandbox.search import Search, Told, curve_value
from pipelines.train.sandbox.space import check_search
from pipelines.train.trials.result import Status, TrialResult


class StudySearch:
    """Proposes trials of one study until its number of them is reached."""

    def __init__(self, state: StudyState, store: ArtifactStore, folder: str, receipts: Sequence[Mapping[str, Any]]):
        """Args: folder, of the sandbox. receipts, of proposals of earlier commands. Raises: ConfigError."""
        settings = state.config.search
        assert settings is not None
        self._state, self._store, self._settings = state, store, settings
        self._searches: dict[str, tuple[Mapping[str, Any], Search]] = {}
        for combination in state.expander.combinations():
            own = fingerprint(combination)[:6] if combination else "all"
            past = list(_told(receipts, combination, set(settings.space)))
            search = Search(
                settings, store.storage, f"{folder}/search/{state.name}-{own}", seeds=state.config.seed_list, past=past
            )
            if search.warning:
                say(f"   {search.warning}")
            self._searches[own] = (combination, search)
        self._of: dict[str, tuple[Search, int]] = {}  # trial's name -> its search, its number
        for receipt in receipts:
            if receipt["status"] != "failed":
                self._add(receipt["settings"], receipt["seed"], receipt["number"])

    @property
    def left(self) -> int:
        """Proposals that are still to be asked for."""
        return sum(search.left for _, search in self._searches.values())

    def ask(self) -> list[Trial]:
        """The trials of the next proposal, one for each seed; none where all were given out.

        Of a proposal that an earlier command left open, some seeds may have ended: `ended` tells them too.
        """
        open_searches = [pair for pair in self._searches.values() if pair[1].left]
        if not open_searches:
            return []
        combination, search = max(open_searches, key=lambda pair: pair[1].left)
        asked = search.ask()
        if asked is None:
            return []
        settings = {**combination, **asked.values}
        trials = [self._add(settings, seed, asked.number) for seed in self._state.config.seed_list]
        for trial in trials:
            self._of[trial.name] = (search, asked.number)
        return trials

    def _add(self, settings: Mapping[str, Any], seed: int, number: int) -> Trial:
        """A proposal as a trial of the study; one that is there already, of an earlier command, as it is."""
        trial = self._state.expander.trial(settings, seed, number=number)
        if trial.name not in self._state.runs:
            self._state.plan([trial], self._store)
            self._state.trials.append(trial)
        return trial

    def rungs(self) -> tuple[int, ...]:
        """Steps of a trial's last run at which it is compared."""
        return () if self._settings.prune is None else tuple(self._settings.prune.rungs)

    def reached(self, trial: Trial, step: int, curve: Sequence[Mapping[str, Any]]) -> list[Trial]:
        """Compare a trial at a rung. Returns: the trials to end, of all its seeds; mostly none."""
        if trial.name not in self._of:  # of the second round, which shares steps with the first
            return []
        search, number = self._of[trial.name]
        if not search.report(number, step, curve_value(curve, step), seed=trial.seed_place):
            return []
        return [other for other in self._state.trials if self._of.get(other.name) == (search, number)]

    def ended(self, trial: Trial, result: TrialResult) -> None:
        """Tell what became of a trial."""
        if trial.name in self._of:
            search, number = self._of[trial.name]
            search.tell(number, result.loss(), result.status, seed=trial.seed_place)

    def check(self, steps: int) -> None:
        """Refuse rungs that no trial reaches. Raises: ConfigError."""
        check_search(self._settings, steps=steps, where=f"studies.{self._state.name}.search")


def _told(receipts: Sequence[Mapping[str, Any]], combination: Mapping[str, Any], space: set[str]) -> Iterator[Told]:
    """Receipts of one combination's proposals, a proposal once."""
    by_number: dict[int, list[Mapping[str, Any]]] = {}
    for receipt in receipts:
        if all(receipt["settings"].get(key) == value for key, value in combination.items()):
            by_number.setdefault(receipt["number"], []).append(receipt)
    for number, seeds in by_number.items():
        statuses: list[Status] = [receipt["status"] for receipt in seeds]
        worst: tuple[Status, ...] = ("failed", "diverged", "pruned")
        status: Status = next((status for status in worst if status in statuses), "finished")
        losses = [receipt["loss"] for receipt in seeds if receipt.get("loss") is not None]
        value = sum(losses) / len(losses) if losses and status == "finished" else None
        values = {key: seeds[0]["settings"][key] for key in space if key in seeds[0]["settings"]}
        yield Told(number=number, values=values, status=status, value=value)
