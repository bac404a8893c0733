"""An artifact's run at a server: found, or made and described; its end, and what others write onto it.

Enters: a server (`tracker.py`), and the header of a run, which says all that it takes. Leaves: the run's id; tags,
parameters, datasets and the description on it. Done twice, everything here says the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pipelines.display.progress import say
from pipelines.store.lease import in_work
from pipelines.store.opening import open_storage
from pipelines.store.storage import Storage
from pipelines.tracking.account import (
    GROUP,
    NOTE_END,
    REPLACED,
    Seen,
    data_of,
    description,
    origin_tags,
    page_of,
    parameters,
    renewed,
    tags,
    with_evaluation,
    without_measured,
)
from pipelines.tracking.errors import (
    Deleted,
    NotMLflow,
    experiment_deleted,
    first_line,
    is_gone,
    kind_of,
    run_deleted,
    run_gone,
)
from pipelines.tracking.records import fingerprint_of, record_key, record_of, run_anywhere, run_at

_DESCRIBED = "trunkline.store"  # the tag that is set last: the run has its parameters and inputs
NOTE, NAME = "mlflow.note.content", "mlflow.runName"
_WHY, _EARLIER, _COMMIT = "trunkline.why", "trunkline.earlier_commits", "mlflow.source.git.commit"
_HELDOUT, _MEASURED_BY = "trunkline.heldout", "trunkline.evaluated."
_LOST = "the command ended without a word: it was killed, or its machine was lost"
told: set[str] = set()  # what this process has said of runs that were deleted: they are looked at again and again


class Server(Protocol):
    """MLflow's client, and the calls that take objects of its own."""

    client: Any

    def log_metrics(self, run_id: str, rows: Sequence[Sequence[Any]]) -> None:
        """Args: rows, of name, value, time in milliseconds, step."""

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log at most 100."""

    def log_datasets(self, run_id: str, datasets: Sequence[Mapping[str, str]]) -> None:
        """Args: datasets, of name, digest, source_type, source, context."""


def ready(server: Server, run: Mapping[str, Any]) -> str:
    """The id of the artifact's run: that of its header, else that in the store, else one that is made now; described,
    and not deleted.

    What is left of a run that was deleted goes to the run that `mlflow.json` names now, or to a new one where it names
    none any more, as long as the artifact is still the same.

    Raises: Deleted; whatever a server that is away makes MLflow's client raise.
    """
    storage = open_storage(run["store"])
    same = run.get("fingerprint", "") == fingerprint_of(storage, run["folder"])
    first, lost = run["run_id"], None
    while True:
        recorded = run_at(storage, run["folder"], run["uri"])
        for run_id in dict.fromkeys([first, recorded if same or first is None else None]):
            if run_id is None:
                continue
            try:
                if _DESCRIBED not in alive(server, run, run_id).data.tags:
                    _describe(server, run, run_id)
                return str(run_id)
            except Deleted as error:
                lost = lost or error
        left_behind = lost is not None and lost.gone and record_of(storage, run["folder"]).get("uri") != run["uri"]
        if lost is not None and (not same if recorded is None else not left_behind):
            raise lost
        _make(server, run, storage, replace=recorded is not None)
        first, lost = None, None


def alive(server: Server, run: Mapping[str, Any], run_id: str) -> Any:
    """The run as MLflow has it. Raises: Deleted, naming what was deleted and the way back."""
    try:
        mlflow_run = server.client.get_run(run_id)
    except Exception as error:
        if is_gone(error, run_id):
            raise run_gone(run, run_id) from error
        raise
    if mlflow_run.info.run_id != run_id:
        raise NotMLflow(f"it was asked for run {run_id}, and gave {mlflow_run.info.run_id!r}")
    if mlflow_run.info.lifecycle_stage != "active":
        experiment = server.client.get_experiment(mlflow_run.info.experiment_id)
        if experiment.lifecycle_stage != "active":
            raise experiment_deleted(run, experiment.name, experiment.experiment_id, run_id)
        raise run_deleted(run, run_id)
    return mlflow_run


def goes_on(server: Server, run: Mapping[str, Any], run_id: str) -> None:
    """Have the run say that a command works on it, and which: not that of before, nor why that ended."""
    server.client.update_run(run_id, status="RUNNING")
    tags_there = server.client.get_run(run_id).data.tags
    before, commit = tags_there.get(_COMMIT), run.get("origin", {}).get("commit")
    if before and before != commit and before not in tags_there.get(_EARLIER, ""):
        earlier = [tags_there[_EARLIER]] if _EARLIER in tags_there else []
        server.client.set_tag(run_id, _EARLIER, ", ".join([*earlier, before]))
    for name, value in {**origin_tags(run), _WHY: None}.items() if run.get("origin") else ():
        if value and value != tags_there.get(name):
            server.client.set_tag(run_id, name, value)
        elif not value and name in tags_there:
            server.client.delete_tag(run_id, name)
    if run.get("group"):  # of a run that an earlier command made
        server.client.set_tag(run_id, GROUP, run["group"])
    _write_note(server, run, run_id, None)


def ended(server: Server, run: Mapping[str, Any], run_id: str, end: Mapping[str, Any]) -> None:
    """Set the run's end, and complete its description. Args: end, as `account.description` takes it."""
    server.client.set_terminated(run_id, end["end"], end["at"])
    if end.get("why"):
        server.client.set_tag(run_id, _WHY, str(end["why"])[:500])
    _write_note(server, run, run_id, end)
    if end["end"] == "FINISHED" and run.get("replaces") and run["replaces"] != run_id:
        _replaced(server, run, run["replaces"], run_id)


def lost(server: Server, run: Mapping[str, Any], run_id: str, at: float) -> None:
    """Set the end of a run whose command died without a word, unless it has ended or goes on by now.

    Args: at, in milliseconds, when that command was known to live.
    """
    mlflow_run = server.client.get_run(run_id)
    if mlflow_run.info.status != "RUNNING" or in_work(open_storage(run["store"]), run["folder"]):
        return
    lived = max([at, *(point.timestamp for point in getattr(mlflow_run.data, "_metric_objs", []))])
    ended(server, run, run_id, {"end": "KILLED", "at": int(lived), "why": _LOST})


def evaluated(server: Server, run: Mapping[str, Any], told_of: Mapping[str, Any]) -> None:
    """Write what an evaluation measured onto the run that it measured, where that is tracked here.

    Numbers of one set of held-out documents have the plain names; those of another stand below its name.

    Args: run, header of the evaluation; told_of, the item: `evaluated` (kind/name), its `fingerprint`, `heldout` (which
        documents, measured how), `rows` of metrics.
    """
    storage = open_storage(run["store"])
    folder, heldout = told_of["evaluated"], told_of["heldout"]
    run_id = run_at(storage, folder, run["uri"])
    if run_id is None or fingerprint_of(storage, folder) != told_of["fingerprint"]:
        return  # it was tracked elsewhere or not at all, or was made anew since
    own = {**run, "folder": folder}
    try:
        mlflow_run = alive(server, own, run_id)
    except Deleted as error:
        if run_id not in told:
            told.add(run_id)
            say(f"   its numbers stand on {run['folder']} alone: {error.deletion}")
        return
    first = mlflow_run.data.tags.get(_HELDOUT, heldout)
    below = "" if first == heldout else f"{heldout.split('/', 1)[-1].replace(' ', '.')}/"
    rows = [[f"{below}{name}", *rest] for name, *rest in told_of["rows"]]
    server.log_metrics(run_id, rows)
    server.client.set_tag(run_id, _HELDOUT, first)
    server.client.set_tag(run_id, f"{_MEASURED_BY}{below.rstrip('/') or 'own'}", run["folder"])
    numbers, note = {name: value for name, value, *_ in told_of["rows"]}, mlflow_run.data.tags.get(NOTE, "")
    at = f"{folder}@step-{told_of['rows'][0][3]}" if told_of["rows"] else folder
    if NOTE_END in note:  # else a person has written another
        own_page = page_of(mlflow_run.info.experiment_id, run["run_id"])
        server.client.set_tag(run_id, NOTE, with_evaluation(note, run["folder"], own_page, heldout, at, numbers))


def _replaced(server: Server, run: Mapping[str, Any], old: str, new: str) -> None:
    """Mark the run of what a rebuild took the place of."""
    try:
        mlflow_run = alive(server, run, old)
    except Deleted:  # somebody has cleared it away
        return
    name = mlflow_run.info.run_name or run["folder"]
    if not name.startswith("replaced: "):
        server.client.set_tag(old, NAME, f"replaced: {name}")
    server.client.set_tag(old, "trunkline.replaced_by", new)
    note, page = mlflow_run.data.tags.get(NOTE, ""), f"#/{_page(server, new)}"
    if "trunkline.replaced_by" not in mlflow_run.data.tags:
        line = f"{REPLACED} by [the run]({page}) that made {run['folder']} anew: this one's is not in the store."
        server.client.set_tag(old, NOTE, f"{line}\n\n{note}")


def _write_note(server: Server, run: Mapping[str, Any], run_id: str, end: Mapping[str, Any] | None) -> None:
    """Write the description, unless a person has put another in its place."""
    mlflow_run = server.client.get_run(run_id)
    storage, experiment = open_storage(run["store"]), mlflow_run.info.experiment_id
    pages = {}
    for _, folder, _ in run["inputs"]:
        if (input_run := run_at(storage, folder, run["uri"])) is not None:
            pages[folder] = _page(server, input_run)
    files = tuple(file.path for file in server.client.list_artifacts(run_id)) if end is not None else ()
    page = page_of(experiment, run_id)
    own = mlflow_run.data
    measured = any(tag.startswith(_MEASURED_BY) for tag in own.tags)
    metrics = without_measured(own.metrics) if measured else own.metrics
    seen = Seen(page, {folder: at for folder, at in pages.items() if at}, metrics, own.params, files)
    note = renewed(own.tags.get(NOTE, ""), description(run, seen, end))
    if note is not None:
        server.client.set_tag(run_id, NOTE, note)


def _page(server: Server, run_id: str) -> str:
    """Where a run stands in MLflow's pages; "" where it is not there any more."""
    try:
        return page_of(server.client.get_run(run_id).info.experiment_id, run_id)
    except Exception as error:
        if is_gone(error, run_id):
            return ""
        raise


def _make(server: Server, run: Mapping[str, Any], storage: Storage, replace: bool) -> None:
    """Make the artifact's run and note it in the store, unless another process was first."""
    key = record_key(run["folder"])
    made = _create_run(server, run, storage)
    told_of = {"uri": run["uri"], "run_id": made}
    record = json.dumps(told_of | ({"replaces": run["replaces"]} if run.get("replaces") else {})).encode()
    if replace:
        storage.write(key, record)
    elif not storage.create(key, record):
        if run_at(storage, run["folder"], run["uri"]) is not None:
            server.client.delete_run(made)
        else:
            storage.write(key, record)  # what was there is another server's


def _create_run(server: Server, run: Mapping[str, Any], storage: Storage) -> str:
    experiment_id = _experiment(server, run)
    own = tags(run)
    for i, (_, parent_folder, _) in enumerate(run["inputs"]):
        parent = run_anywhere(storage, parent_folder)
        if parent and i == 0:
            own["trunkline.parent_run"] = parent
            if run["settings"].get("parent", parent) is not None:
                # MLflow folds children under their parent. A run that takes one and has none, a trunk, stays at the
                # top, so that trunks over the same data stand side by side; its link to the mixture is the tag above
                own["mlflow.parentRunId"] = parent
                if run_at(storage, parent_folder, run["uri"]):  # else the parent was tracked elsewhere
                    _check_parent(server, run, parent_folder, parent)
    under = run.get("under")
    if under and (parent := run_anywhere(storage, under) if "/" in under else under):
        own.setdefault("mlflow.parentRunId", parent)
    return str(server.client.create_run(experiment_id, start_time=run["began"], tags=own).info.run_id)


def _experiment(server: Server, run: Mapping[str, Any]) -> str:
    """The id of the run's experiment, made where there is none. Raises: Deleted."""
    client = server.client
    experiment = client.get_experiment_by_name(run["experiment"])
    if experiment is None:
        try:
            return str(
                client.create_experiment(
                    run["experiment"],
                    artifact_location=run["artifacts"],
                    tags={"mlflow.experimentKind": "custom_model_development"},  # the page opens on runs, not on traces
                )
            )
        except Exception:
            experiment = client.get_experiment_by_name(run["experiment"])
            if experiment is None:  # else another command has just made it
                raise
    if experiment.name != run["experiment"]:
        raise NotMLflow(f"it was asked for experiment {run['experiment']!r}, and gave {experiment.name!r}")
    if experiment.lifecycle_stage != "active":
        raise experiment_deleted(run, experiment.name, experiment.experiment_id, None)
    return str(experiment.experiment_id)


def _check_parent(server: Server, run: Mapping[str, Any], folder: str, parent: str) -> None:
    """Say so when the run under which MLflow would show this one was deleted there."""
    try:
        alive(server, {**run, "folder": folder}, parent)
    except Deleted as error:
        if parent not in told:
            told.add(parent)
            gone = f"MLflow's run {parent} of {folder}, under which it would stand, was removed for good"
            say(f"   {run['folder']} stands alone in MLflow: {gone if error.gone else error.deletion}")


def _describe(server: Server, run: Mapping[str, Any], run_id: str) -> None:
    """Log parameters, the whole config and the inputs, and write the description; done again, it says the same."""
    params = list(parameters(run.get("params") or run["settings"]).items())
    for first in range(0, len(params), 100):  # MLflow takes at most 100 a call
        try:
            server.log_params(run_id, dict(params[first : first + 100]))
        except Exception as error:
            if kind_of(error) != "invalid":
                raise
            say(
                f"   MLflow cannot take some parameters of {run['folder']}: {first_line(error)}; all are in its "
                "config.json"
            )
    server.client.log_dict(run_id, run["settings"], "config.json")
    datasets = [
        {
            "name": reference,
            "digest": fingerprint,
            "source_type": run["store"].partition("://")[0] if "://" in run["store"] else "local",
            "source": json.dumps({"uri": f"{run['store']}/{reference}"}),
            "context": reference.split("/")[0],
        }
        for reference, _, fingerprint in data_of(run)
    ]
    if datasets:
        server.log_datasets(run_id, datasets)
    _write_note(server, run, run_id, None)
    server.client.set_tag(run_id, _DESCRIBED, run["store"])
