"""The runs that are to be compared, and the view that compares them.

Enters: a server, and a run or a group of a sweep. Leaves: a saved view (`view.py`) whose columns and charts are of what
differs among the arms, zoomed to where they differ.

    arms      the runs of a sweep's group (tag `trunkline.group`); else those of one kind that begin from one parent
    ranked    by the measure of their stage (bits per byte, assistant loss, preference accuracy) where all that are
              finished were measured on one held-out set; else by the last training loss where they read the same data
              and minimise the same; else not at all, and the newest stands first

The filter names the held-out set, so that an arm that is measured on another never comes into the list. An artifact
that was made anew has several runs; the one that the store names is its arm, and the others are none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.tracking.account import GROUP
from pipelines.tracking.view import (
    BY_START,
    View,
    bars,
    column,
    difference,
    end_of,
    line,
    parallel,
    saved,
    scatter,
)

HELDOUT, KIND, PARENT, REPLACED = (f"trunkline.{name}" for name in ("heldout", "kind", "parent_run", "replaced_by"))
_ARTIFACT, _STORE, _SUBJECT = (f"trunkline.{name}" for name in ("artifact", "store", "parent"))
TRAINING = "metrics.learning_rate >= 0"  # runs that train, whatever their stage is called
_BITS, _LOSS, _CURVE = "bits_per_byte", "loss", "loss_by_tokens"
_NUMBERS = (_BITS, "assistant_loss", "preference_accuracy")  # of an evaluation, as columns
_LINES = ("accuracy", "margin")  # of training on preferences, beside the loss
_MOST_ARMS = 100  # that are looked at
_MOST_KNOWN = 1000  # runs that are looked through for the names there are
_MOST_CURVES = 20  # that are read to zoom: those that MLflow draws
_MOST_COLUMNS = 8
_NAMED = 2  # in a title
_OWN = {"name"}  # parameters that differ by themselves
# of which MLflow gives each run one by its id: two arms are then often alike
_COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
)  # fmt: skip
_COLOUR = "mlflow.runColor"


@dataclass(frozen=True)
class Measure:
    """The metric that says which of two runs is better. Attributes: ascending, whether less of it is."""

    metric: str
    ascending: bool

    @property
    def words(self) -> str:
        """As a sentence has it."""
        return self.metric.replace("_", " ")


BITS = Measure(_BITS, ascending=True)


@dataclass(frozen=True)
class Ablation:
    """Runs beside each other.

    Attributes: title, of the view. runs, MLflow's filter that says what is compared. search, the filter of the arms
    among those. arms, MLflow's runs. measure, by which they are ranked where they were evaluated.
    """

    title: str
    runs: str
    search: str
    arms: Sequence[Any]
    measure: Measure = BITS


class Finder:
    """Finds at a server what is to be compared."""

    def __init__(self, client: Any, named: Callable[[str], str | None], measures: Mapping[str, Measure]):
        """Args: named, gives the id of the run that the store has for an artifact (`kind/name`); measures, by which
        runs of a kind are ranked, where that is not bits per byte."""
        self._client, self._named, self._measures = client, named, measures

    def of_run(self, run: Any) -> Ablation | None:
        """The ablation that a run is an arm of; None where nothing stands beside it. An evaluation is of its
        subject's.
        """
        tags = run.data.tags
        if tags.get(KIND) == "evaluate" and PARENT in tags:
            run = self._client.get_run(tags[PARENT])
            tags = run.data.tags
        if GROUP in tags:
            return self.of_group(run.info.experiment_id, tags[GROUP])
        if PARENT not in tags or KIND not in tags:
            return None
        parent = self._client.get_run(tags[PARENT]).data.tags.get(_ARTIFACT, tags[PARENT])
        search = f"{_is(PARENT, tags[PARENT])} AND {_is(KIND, tags[KIND])}"
        return self._found(run.info.experiment_id, f"{tags[KIND]} of {parent}", search)

    def of_group(self, experiment_id: str, group: str) -> Ablation | None:
        """The arms of a sweep."""
        return self._found(experiment_id, group, _is(GROUP, group))

    def of_evaluations(self, experiment_id: str, run_ids: Sequence[str]) -> Ablation | None:
        """The runs that were evaluated; the evaluations themselves, where one run was at several of its
        checkpoints.
        """
        evaluations = [self._client.get_run(run_id) for run_id in run_ids]
        subjects = dict.fromkeys(run.data.tags.get(PARENT) for run in evaluations)
        compared = list(run_ids) if len(subjects) < len(evaluations) or None in subjects else list(subjects)
        if len(compared) < 2:
            return None
        names = sorted(str(run.data.tags.get(_SUBJECT, run.info.run_id)) for run in evaluations)
        more = f", {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return self._found(experiment_id, f"evaluated: {', '.join(names[:_NAMED])}{more}", _among(compared))

    def _found(self, experiment_id: str, title: str, search: str) -> Ablation | None:
        runs = list(self._client.search_runs([experiment_id], search, max_results=_MOST_ARMS))
        arms = self._one_each([run for run in runs if REPLACED not in run.data.tags])
        if len(arms) < 2:
            return None
        kept = {run.info.run_id for run in arms}
        own = search + _but_for(run.info.run_id for run in runs if run.info.run_id not in kept)
        every = {self._measures.get(_trained_as(run), BITS) for run in arms}
        return Ablation(title, search, own, arms, every.pop() if len(every) == 1 else BITS)

    def _one_each(self, runs: Sequence[Any]) -> list[Any]:
        """One run of each artifact. A rebuild that was ended leaves two: the run that the store names is kept, and
        the newest where it names neither.
        """
        made: dict[Any, list[Any]] = {}
        for run in runs:
            made.setdefault((run.data.tags.get(_STORE), run.data.tags.get(_ARTIFACT, run.info.run_id)), []).append(run)
        kept = set()
        for (_, folder), several in made.items():
            newest = max(several, key=lambda run: run.info.start_time).info.run_id
            named = self._named(folder) if len(several) > 1 else None
            kept.add(named if named in {run.info.run_id for run in several} else newest)
        return [run for run in runs if run.info.run_id in kept]


def known(client: Any, experiment_id: str, tag: str) -> list[str]:
    """The values that a tag has in an experiment's runs, the newest first."""
    runs = client.search_runs([experiment_id], max_results=_MOST_KNOWN, order_by=["attributes.start_time DESC"])
    return list(dict.fromkeys(run.data.tags[tag] for run in runs if tag in run.data.tags))


def view_of(ablation: Ablation, curves: Sequence[Sequence[tuple[float, float]]]) -> View:
    """The view that compares the arms. Args: curves, of each its loss over tokens."""
    arms, measure = ablation.arms, ablation.measure
    varied = varied_parameters([run.data.params for run in arms])
    heldout = one_set(ablation)
    measured = {name for run in arms for name in run.data.metrics}
    search, order, ascending = ablation.search, BY_START, False
    if heldout is not None:
        search, ascending = f"{search} AND {_is(HELDOUT, heldout)}", measure.ascending
        order = column("metrics", measure.metric)
    elif _same_loss(arms) and _LOSS in measured:
        order, ascending = column("metrics", _LOSS), True
    number = measure.metric if heldout is not None else _LOSS
    told = [name for name in dict.fromkeys((measure.metric, *_NUMBERS)) if name in measured and heldout]
    charts = [line(_CURVE, end_of(curves))] if _CURVE in measured else []
    if number in measured and (heldout is not None or order != BY_START):
        # a point needs a value on both axes; what an arm begins from says less than what was set
        known = [name for name in varied if all(name in run.data.params for run in arms) and name != "parent"]
        charts += [scatter(known[0], number)] if known else [bars(number)]
        charts += [parallel(known[:4], [number])] if len(known) > 1 else []
    charts += [line(name) for name in (*_LINES, "learning_rate") if name in measured]
    charts += [difference()] if varied else []
    return View(
        name=ablation.title,
        runs=ablation.runs,
        search=search,
        order=order,
        ascending=ascending,
        columns=[
            *(column("metrics", name) for name in (*told, _LOSS, *_LINES, "tokens") if name in measured),
            *(column("params", name) for name in varied[:_MOST_COLUMNS]),
        ],
        charts=charts,
        folded=sorted({name.rpartition("/")[0] for name in measured if "/" in name} - {"system"}),
    )


def varied_parameters(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The parameters that are not the same in all runs, those first that tell most of them apart."""
    names = dict.fromkeys(name for own in settings for name in own)
    values = {name: {own.get(name) for own in settings} for name in names if name not in _OWN}
    return sorted((name for name, own in values.items() if len(own) > 1), key=lambda name: -len(values[name]))


def one_set(ablation: Ablation) -> str | None:
    """The held-out set that all finished arms were measured on; None where one was not, or there are several."""
    metric = ablation.measure.metric
    # an arm that diverged has nothing to measure, and keeps nobody from ranking the others
    measurable = [run for run in ablation.arms if run.info.status != "FAILED" or metric in run.data.metrics]
    sets = {run.data.tags.get(HELDOUT) if metric in run.data.metrics else None for run in measurable}
    return sets.pop() if len(sets) == 1 and len(measurable) > 1 else None


def told_apart(ablation: Ablation) -> str:
    """Why the arms stand in the order in which they do, for a line."""
    arms, words = ablation.arms, ablation.measure.words
    sets = sorted({run.data.tags[HELDOUT] for run in arms if HELDOUT in run.data.tags})
    if len(sets) > 1:
        return f"not ranked by {words}: the arms were measured on {len(sets)} held-out sets, {', '.join(sets)}"
    if one_set(ablation) is not None:
        without = sum(1 for run in arms if HELDOUT not in run.data.tags)
        return f"ranked by {words} on {sets[0]}" + (f", without {without} that failed" if without else "")
    if not any(_LOSS in run.data.metrics for run in arms):
        return "not ranked: they have no training loss, and are not evaluated"
    if not _same_loss(arms):
        return "not ranked: not all arms are evaluated, and their losses are of different data or objectives"
    return "ranked by the last training loss: not all arms are evaluated"


def _same_loss(arms: Sequence[Any]) -> bool:
    """Whether the training losses are means over the same text, of the same objective."""
    read = {tuple(sorted((key, value) for key, value in run.data.tags.items() if _is_data(key))) for run in arms}
    decided = {
        tuple(sorted((key, value) for key, value in run.data.params.items() if _decides_loss(key))) for run in arms
    }
    return len(read) == 1 and len(decided) == 1


def _decides_loss(parameter: str) -> bool:
    return parameter == "batch.sequence_length" or parameter.partition(".")[0] == "objective"


def _trained_as(run: Any) -> str:
    """The kind of run; of an evaluation, what was evaluated."""
    tags = run.data.tags
    return str(tags.get(_SUBJECT, "") if tags.get(KIND) == "evaluate" else tags.get(KIND, "")).partition("/")[0]


def _is_data(tag: str) -> bool:
    return tag in ("trunkline.input.mixture", "trunkline.input.tokens", KIND)


def curves_of(client: Any, arms: Sequence[Any]) -> list[list[tuple[float, float]]]:
    """Of each arm its loss over the tokens it has seen."""
    curves = []
    for run in arms[:_MOST_CURVES]:
        if _CURVE in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, _CURVE)
            curves.append([(float(point.step), float(point.value)) for point in points])
    return curves


def colour(client: Any, arms: Sequence[Any]) -> None:
    """Give the arms colours that can be told apart; the first of a colour keeps it, and what a person chose stays."""
    own = [run.data.tags.get(_COLOUR) for run in arms]
    free = [one for one in _COLOURS if one not in own]
    for place, run in enumerate(arms):
        chosen = own[place] is not None and (own[place] not in _COLOURS or own[place] not in own[:place])
        if not chosen and free:
            client.set_tag(run.info.run_id, _COLOUR, free.pop(0))


def save(client: Any, experiment_id: str, view: View) -> str:
    """Have MLflow keep the view. Returns: its key."""
    client.set_experiment_tag(experiment_id, *saved(view, int(time.time() * 1000)))
    return view.key


def training_view() -> View:
    """All runs that train, branches below their trunks."""
    metrics = (_BITS, _LOSS, "tokens", "tokens_per_s")
    columns = [
        *(column("metrics", name) for name in metrics),
        column("tags", "trunkline.parent"),
        *(column("attributes", name) for name in ("Duration", "Source")),
    ]
    return View(name="Training runs", search=TRAINING, columns=columns)


def evaluations_view(heldout: str, replaced: Iterable[str] = ()) -> View:
    """All evaluations on one held-out set, the best first. Args: replaced, runs of those that were made anew since."""
    runs = f"{_is(KIND, 'evaluate')} AND {_is(HELDOUT, heldout)}"
    columns = [column("metrics", name) for name in (*_NUMBERS, "tokens_trained")]
    return View(
        name=f"Evaluations on {heldout}",
        runs=runs,
        search=runs + _but_for(replaced),
        order=column("metrics", _BITS),
        ascending=True,
        columns=columns,
        charts=[bars(_BITS)],
    )


def _among(run_ids: Iterable[Any]) -> str:
    return f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in run_ids)})"


def _but_for(run_ids: Iterable[str]) -> str:
    """The end of a filter, since MLflow's cannot ask for a tag that is not there."""
    named = ", ".join(repr(run_id) for run_id in run_ids)
    return f" AND attributes.run_id NOT IN ({named})" if named else ""


def _is(tag: str, value: str) -> str:
    quote = '"' if "'" in value else "'"
    return f"tags.`{tag}` = {quote}{value}{quote}"
