"""A search proposes trials: Optuna's TPE, asked and told, with pruning by the curve so far.

Enters: a space of config keys, then what became of each trial. Leaves: values for the next trials, and a journal in the
store from which the next driver goes on: a trial that was proposed and never told is proposed again, as it was.

TPE (Bergstra et al., 2011; multivariate as in Falkner et al., arXiv 1807.01774) is what the author's search did in
spirit (Bayesian, some 400 trials on the 9M model). A proposal depends on the seed, its number and the trials told
before it, so that nothing but the order in which trials end is left to chance. Pruning is asynchronous successive
halving without promotion (Li et al., arXiv 1810.05934): at each rung a trial is compared with all trials that have
reached that very step, those that were pruned there included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.config import plain
from pipelines.identity import fingerprint
from pipelines.store.storage import Storage
from pipelines.train.sandbox.journal import DamagedJournal, Journal
from pipelines.train.sandbox.space import SearchSettings, check_search, ends_of, lies_in
from pipelines.train.trials.result import Status

if TYPE_CHECKING:
    import optuna

_DIGITS = 4  # of a proposed number: the rest only makes names long


@dataclass(frozen=True)
class Asked:
    """A proposed trial: its number, and a value for each key of the space."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What a receipt says of an earlier trial, for a search whose journal is lost.

    Attributes:
        value: the mean over its seeds; None where it did not finish.
        rungs: step -> mean value there.
    """

    number: int
    values: Mapping[str, Any]
    status: Status
    value: float | None
    rungs: Mapping[int, float] = field(default_factory=dict)


@dataclass
class _Open:
    """A trial that is being run: what each seed ended with."""

    trial: optuna.trial.Trial
    ended: dict[int, tuple[Status, float | None]] = field(default_factory=dict)
    pruned: bool = False


class Search:
    """Proposes trials of a space, and says which to end early."""

    def __init__(
        self,
        settings: SearchSettings,
        storage: Storage,
        folder: str,
        seed: int = 0,
        seeds: Sequence[int] = (0,),
        past: Sequence[Told] = (),
    ):
        """Args:
        folder: of the store, for the journal. Another space has another journal in it.
        seed: of the sampler. seeds: with which each proposal is trained.
        past: trials of the receipts; looked at where there is no journal that can be read.
        Raises: ConfigError.
        """
        check_search(settings)
        self.settings, self.seed, self.seeds = settings, seed, tuple(seeds)
        self.warning = ""  # for people, where the journal had to be made anew
        space = {key: plain(span) for key, span in settings.space.items()}
        key = f"{folder}/search-{fingerprint(space)[:8]}.journal"
        try:
            self._open(storage, key)
        except (DamagedJournal, KeyError, TypeError, ValueError) as error:
            aside = f"{key}-damaged-{time.time_ns()}"
            storage.write(aside, storage.read(key))
            storage.delete(key)
            self._open(storage, key)
            self.warning = (
                f"{storage.uri}/{key} {error}: kept as {aside.rsplit('/', 1)[1]}, and the search goes on from the "
                f"receipts of {len(past)} trials"
            )
        if not self._trials():
            self._fill(past)
        self._journal.save()
        trials = self._trials()
        # of a driver that ended: they go on
        self._again = [trial.number for trial in trials if trial.state.name == "RUNNING"]
        self._running: dict[int, _Open] = {}

    def _open(self, storage: Storage, key: str) -> None:
        import optuna
        from optuna.storages.journal import JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._journal = Journal(storage, key)
        self._study = optuna.create_study(
            storage=JournalStorage(self._journal),  # type: ignore[arg-type]
            study_name="search",
            load_if_exists=True,
        )

    def _fill(self, past: Sequence[Told]) -> None:
        """Take in earlier trials under their own numbers, then what is proposed first."""
        import optuna

        spans, inside = self.settings.space, {}
        for told in past:
            if set(told.values) == set(spans) and all(lies_in(spans[key], told.values[key]) for key in spans):
                inside[told.number] = told
        for number in range(max(inside, default=-1) + 1):
            told_or_gap = inside.get(number)
            if told_or_gap is None or told_or_gap.status == "failed":
                filler = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
            else:
                filler = self._frozen(told_or_gap)
            self._study.add_trial(filler)
        if not inside:
            for values in self.settings.start:
                self._study.enqueue_trial(dict(values))

    def _frozen(self, told: Told) -> optuna.trial.FrozenTrial:
        import optuna

        states = optuna.trial.TrialState
        finished = told.status == "finished" and told.value is not None and math.isfinite(told.value)
        lost = told.status in ("finished", "diverged") and not finished
        return optuna.trial.create_trial(
            state=states.COMPLETE if finished or lost else states.PRUNED,
            value=told.value if finished else math.inf if lost else None,
            params=dict(told.values),
            distributions=self._distributions(),
            intermediate_values=dict(told.rungs),
            user_attrs={
                _rung(step, seed): value for step, value in told.rungs.items() for seed in range(len(self.seeds))
            },
        )

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        """All of them, to be read only: copies of hundreds take tenths of a second."""
        return self._study.get_trials(deepcopy=False)

    # ── ask ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def left(self) -> int:
        """How many times `ask` still answers."""
        fresh = [trial for trial in self._trials() if trial.params or trial.state.name == "RUNNING"]
        return len(self._again) + max(0, self.settings.trials - len(fresh))

    def ask(self) -> Asked | None:
        """The next trial; None when all were given out. Those that an earlier driver left open come first."""
        import optuna

        if not self.left:
            return None
        if self._again:
            number = self._again.pop(0)
            trial = optuna.trial.Trial(self._study, self._trials()[number]._trial_id)
        else:
            self._study.sampler = self._sampler(len(self._trials()))
            trial = self._study.ask(fixed_distributions=self._distributions())
        self._running[trial.number] = _Open(trial)
        self._journal.save()
        return Asked(trial.number, {key: _rounded(value) for key, value in trial.params.items()})

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        made: dict[str, Any] = {}
        for key, span in self.settings.space.items():
            if span.choices is not None:
                made[key] = CategoricalDistribution(span.choices)
            elif span.whole is not None:
                made[key] = IntDistribution(*span.whole)
            else:
                made[key] = FloatDistribution(*ends_of(span), log=span.log is not None)
        return made

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """One for this proposal alone: a driver that begins again would otherwise draw the same numbers again."""
        import optuna

        seed = int(fingerprint([self.seed, number])[:8], 16)
        if self.settings.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.settings.startup_trials)

    # ── tell ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def report(self, number: int, step: int, value: float, seed: int = 0) -> bool:
        """Note a value at a step. Returns: whether to end the trial, all its seeds.

        Args: number, of `Asked`; step, of the last stage; value, the lower the better, comparable between trials at
            equal step, such as the training loss by `curve_value`; seed, its place among the study's seeds: trials are
            compared seed by seed, so that no seed waits for another.
        """
        prune = self.settings.prune
        running = self._running.get(number)
        if running is None:
            return False
        if prune is None or step not in prune.rungs or running.pruned:
            return running.pruned
        others = [
            trial.user_attrs[_rung(step, seed)]
            for trial in self._trials()
            if trial.number != number and _rung(step, seed) in trial.user_attrs
        ]
        running.trial.set_user_attr(_rung(step, seed), float(value))
        at_rung = [
            running.trial.user_attrs[_rung(step, place)]
            for place in range(len(self.seeds))
            if _rung(step, place) in running.trial.user_attrs
        ]
        running.pruned = is_pruned(value, others, prune.keep, prune.after_trials)
        # a trial that goes on after a killed driver may have been here before
        known = step in self._trials()[number].intermediate_values
        if not known and (running.pruned or len(at_rung) == len(self.seeds)):
            running.trial.report(sum(at_rung) / len(at_rung), step)
        self._journal.save()
        return running.pruned

    def tell(self, number: int, value: float | None, status: Status, seed: int = 0) -> None:
        """Say what became of a trial with one of its seeds; it is over when all seeds are told, or it was pruned.

        A trial that diverged with any seed counts as worse than all others. One that failed by an error not its own
        stays open: the next driver gets it again.
        """
        import optuna

        running = self._running.get(number)
        if running is None:
            return
        running.ended[seed] = (status, value)
        statuses = [status for status, _ in running.ended.values()]
        running.pruned = running.pruned or "pruned" in statuses
        if len(running.ended) < len(self.seeds) and not running.pruned:
            return
        del self._running[number]
        if "failed" in statuses and not running.pruned:
            return
        values = [value for _, value in running.ended.values()]
        if "diverged" in statuses or (not running.pruned and not all(_is_number(value) for value in values)):
            self._study.tell(running.trial, math.inf)
        elif running.pruned:
            self._study.tell(running.trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(running.trial, sum(value for value in values if value is not None) / len(values))
        self._journal.save()

    def best(self) -> tuple[Asked, float] | None:
        """The trial of the lowest value so far, and that value; None where none has finished."""
        finished = [(trial.value, trial) for trial in self._trials() if trial.state.name == "COMPLETE"]
        numbers = [(value, trial.number, trial.params) for value, trial in finished if value is not None]
        value, number, values = min(numbers, default=(math.inf, 0, {}), key=lambda trial: trial[:2])
        if not _is_number(value):
            return None
        return Asked(number, {key: _rounded(value) for key, value in values.items()}), value


def is_pruned(value: float, others: Sequence[float], keep: float, after_trials: int) -> bool:
    """Whether a value is not among the best share of all that were measured at the same step.

    Args: others, values of other trials there; keep, the share that stays; after_trials, how many others it takes.
    """
    if not _is_number(value):
        return True
    if len(others) < after_trials:
        return False
    better = sum(other < value for other in others)
    return better >= keep * (len(others) + 1)


def curve_value(curve: Sequence[Mapping[str, Any]], step: int, share: float = 0.1) -> float:
    """The mean training loss over the last steps up to `step`: what trials of equal step are compared by.

    With one seed all trials read the same batches, so that much of the noise of single steps is common to them.

    Args: curve, rows with `step` and `loss`; share, of the steps so far that are averaged.
    Returns: NaN where the curve has no such rows.
    """
    losses = [row["loss"] for row in curve if step - max(1, round(share * step)) < row["step"] <= step]
    return float(sum(losses) / len(losses)) if losses else math.nan


def _rung(step: int, seed: int) -> str:
    return f"rung-{step}-{seed}"


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
