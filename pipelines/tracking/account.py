"""What an MLflow run says of itself: its name, tags, parameters and description. Pure data; MLflow is not known here.

Enters: the header of a run, which `open_tracker` makes and the spool keeps, and what MLflow knows of others. Leaves:
names and texts.

    name          begins with what differs, ends with the artifact: `lr_0.01 (pretrain/demo-lr_0.01)`
    parameters    dotted keys to leaves, without what changes no result
    description   Markdown; what a person adds below its last line stays
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.display.progress import duration, human

DATA = ("corpus", "tokens", "mixture")  # kinds that are data to whoever reads them; any other is a parent
LONGEST_PARAMETER = 6000  # characters; what MLflow takes, which cuts the rest off in silence
_LONGEST_KEY = 250
_LONGEST_NOTE = 7500  # of 8,000
_LONGEST_WHY = 500
_TRAINING = "workflowType=machine_learning"  # else MLflow opens on its view of traces
GROUP = "trunkline.group"  # a tag that the arms of a sweep have in common
NOTE_END = "<!-- Trunkline writes what stands above this line anew; write below it -->"


@dataclass(frozen=True, kw_only=True)
class About:
    """What a command knows of its run beside the config and the artifacts that it reads.

    Attributes:
        params: the config without what changes no result; empty: all of it.
        what: a sentence on what the run is.
        command: as it was typed.
        parent: the checkpoint that it begins from or measures.
        bases: names that its own may extend, of the experiment.
        replaces: the id of the run of what a rebuild takes the place of.
        group: which the arms of a sweep have in common.
        sampled: by which process the machine is measured.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    command: str | None = None
    parent: str | None = None
    bases: tuple[str, ...] = ()
    replaces: str | None = None
    group: str | None = None
    sampled: Literal["here", "worker", "never"] = "never"


@dataclass(frozen=True)
class Seen:
    """What MLflow knows when a description is written.

    Attributes: page, of the run itself, as `experiments/1/runs/…`. pages, of artifacts that it read, by folder.
        metrics, the last value of each. params, as they are there, where none can be changed. files, paths of what is
        attached to the run.
    """

    page: str
    pages: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def run_name(folder: str, bases: Iterable[str], inputs: Iterable[str] = ()) -> str:
    """A name that begins with what tells the run from those beside it, and holds the artifact's reference.

    Args: folder, kind/name. bases, names that this one may extend, the experiment's; inputs, folders that it reads.
    """
    name = folder.split("/")[1]
    read = [reference.split("/") for reference in inputs]
    # an evaluation is called after what it measures: anneal-demo
    subject = next((of for of, _ in read if name.startswith(f"{of}-")), None)
    own = name.removeprefix(f"{subject}-") if subject else name
    known = sorted({*bases, *(base for _, base in read)}, key=len)
    for base in known:
        if rest := _rest(own, base):
            return f"{rest} ({folder})"
    beside = {*bases, *(base for of, base in read if of != subject)}
    if own in beside or any(_rest(base, own) for base in beside):
        # the stages of one recipe: their kinds differ
        return f"{subject} ({folder})" if subject else folder
    return f"{own} ({folder})"


def _rest(name: str, base: str) -> str:
    """What `name` has after `base`: lr_0.01 of demo-lr_0.01; "" where it does not extend it."""
    match = re.fullmatch(rf"{re.escape(base)}[-_.](.+)", name)
    return match[1] if match else ""


def parameters(settings: Mapping[str, Any]) -> dict[str, str]:
    """The leaves of a config as MLflow takes them.

    A list of plain values is one parameter; null and what is empty are none. A value that is too long for MLflow ends
    with a word on where all of it is.
    """
    leaves: dict[str, str] = {}
    for path, value in _leaves(settings):
        key = re.sub(r"/+", "/", re.sub(r"[^\w\-. :/]", "_", path)).strip("/.")
        if len(key) > _LONGEST_KEY:
            key = f"{key[: _LONGEST_KEY - 10]}.{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        leaves[key] = _fitting(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return leaves


def _leaves(value: Any, where: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(item, (Mapping, list, tuple)) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{where}.{i}")
    elif isinstance(value, (list, tuple)):
        if value:
            yield where, list(value)
    elif isinstance(value, bool):
        yield where, str(value)
    elif value is not None and value != "":
        yield where, value if isinstance(value, str) else str(value)


def _fitting(value: str, most: int = LONGEST_PARAMETER) -> str:
    if len(value) <= most:
        return value
    told = f" … ({len(value):,} characters: all of it is in the run's config.json)"
    return value[: most - len(told)] + told


def tags(run: Mapping[str, Any]) -> dict[str, str]:
    """The tags that a run begins with, those of MLflow's own columns included. Args: run, its header."""
    folder = run["folder"]
    kind, name = folder.split("/")
    told: dict[str, str | None] = {
        "mlflow.runName": run_name(folder, run.get("bases", ()), [one[1] for one in run["inputs"]]),
        **origin_tags(run),
        "trunkline.artifact": folder,
        "trunkline.kind": kind,
        "trunkline.name": name,
        "trunkline.parent": run.get("parent"),
        "trunkline.replaces": run.get("replaces"),
        GROUP: run.get("group"),
    }
    for reference, *_ in run["inputs"]:
        key = f"trunkline.input.{reference.split('/')[0]}"
        told[key] = f"{told[key]}, {reference}" if key in told else reference
    return {key: value for key, value in told.items() if value}


def origin_tags(run: Mapping[str, Any]) -> dict[str, str | None]:
    """Who made the command that works on the run, with which code; None for what is not known or not so."""
    where = run.get("origin", {})
    commit, dirty = where.get("commit"), where.get("dirty")
    return {
        "mlflow.source.name": where.get("command"),
        # a command that runs to its end is what MLflow calls a job; of any other its page shows no more of the name
        # than stands behind the last slash
        "mlflow.source.type": "JOB" if where.get("command") else None,
        "mlflow.source.git.commit": commit,
        "mlflow.user": where.get("user"),
        "trunkline.version": where.get("version"),
        "trunkline.commit": "unknown" if where and not commit else None,
        "trunkline.dirty": None if not where else "unknown" if dirty is None else str(bool(dirty)).lower(),
        "trunkline.host": where.get("host"),
        "trunkline.job": where.get("job"),
    }


def data_of(run: Mapping[str, Any]) -> list[list[str]]:
    """The inputs of a run that are data: [reference, folder, fingerprint] each."""
    return [list(one) for one in run["inputs"] if one[1].split("/")[0] in DATA]


def description(run: Mapping[str, Any], seen: Seen, end: Mapping[str, Any] | None = None) -> str:
    """What a run is, in Markdown. Args: run, its header; end, how it ended: `end` (FINISHED, FAILED, KILLED), `at` in
    milliseconds, `why`, `checkpoint`; None while it runs."""
    data = {folder for _, folder, _ in data_of(run)}
    parents = [folder for _, folder, _ in run["inputs"] if folder not in data]
    began = run.get("parent")
    status = _status(run, end)
    # the page shows the first four lines: what went wrong is among them, or what came out
    lines = {
        "Ended": status if end and end["end"] != "FINISHED" else "",
        "Result": ", ".join(results(seen.metrics)) if end else "",
        "Parent": ", ".join(
            _link(began if began and began.split("@")[0] == folder else folder, seen.pages.get(folder))
            for folder in parents
        ),
        "Data": ", ".join(_link(folder, seen.pages.get(folder)) for _, folder, _ in run["inputs"] if folder in data),
        "Changed": ", ".join(changed(run, seen.params)),
        "Model": _model(run.get("params") or run["settings"]),
        "Checkpoint": _code(str(end["checkpoint"])) if end and end.get("checkpoint") else "",
        "Files": ", ".join(_link(path, _within(seen.page, f"artifacts/{path}")) for path in seen.files) if end else "",
        "Store": f"{_code(run['folder'])} in {_code(run['store'])}",
        "Command": _code(run.get("origin", {}).get("command") or ""),
        "Code": _state(run.get("origin", {})),
        "Status": status if not end or end["end"] == "FINISHED" else "",
    }
    text = "\n".join(
        [
            *([run["what"], ""] if run.get("what") else []),
            *(f"- **{label}:** {line}" for label, line in lines.items() if line),
        ]
    )
    if len(text) > _LONGEST_NOTE:
        text = f"{text[:_LONGEST_NOTE]} …"
    return f"{text}\n\n{NOTE_END}"


def changed(run: Mapping[str, Any], params: Mapping[str, str]) -> list[str]:
    """What a command that goes on with a run asks otherwise: MLflow keeps the parameters that a run began with."""
    own = parameters(run.get("params") or run["settings"])
    return [f"{key} {_code(params[key])} → {_code(own[key])}" for key in own if params.get(key, own[key]) != own[key]]


def renewed(note: str, text: str) -> str | None:
    """The description to write where one stands, or None where a person's took its place.

    What a person added below ours stays, and so do the lines of evaluations and of a successor, which others wrote.
    """
    if not note.strip():
        return text
    own, mark, added = note.partition(NOTE_END)
    if not mark:
        return None
    kept = [line for line in own.splitlines() if line.startswith((_EVALUATED, REPLACED))]
    return "\n".join([*(line + "\n" for line in kept), text]) + added


def with_evaluation(note: str, evaluation: str, page: str, heldout: str, at: str, numbers: Mapping[str, float]) -> str:
    """A description with a line of what an evaluation measured, in the place of what the same one measured before.

    Args: evaluation, kind/name; page, of its run; heldout, the documents; at, the checkpoint.
    """
    told = ", ".join(results({name: value for name, value in numbers.items() if name != "loss"}))
    line = f"{_EVALUATED} {told or 'no number'} of {_code(at)} on {_code(heldout)} ({_link(evaluation, page)})"
    others = [old for old in note.split("\n") if not (old.startswith(_EVALUATED) and f"[{evaluation}]" in old)]
    while others and not others[0]:
        others.pop(0)
    return "\n".join([line, "", *others])


_MEASURED = ("bits_per_byte", "assistant_loss", "preference_accuracy")
_EVALUATED, REPLACED = "**Evaluated:**", "**Replaced**"  # how the lines begin that other runs write here
_RESULTS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("bits_per_byte", lambda value: f"{value:.4f} bits per byte"),
    ("assistant_loss", lambda value: f"assistant loss {value:.4f}"),
    ("preference_accuracy", lambda value: f"{value:.1%} of pairs ordered right"),
    ("loss", lambda value: f"last loss {value:.4f}"),
    ("tokens", lambda value: f"{value:,.0f} tokens"),
    ("documents", lambda value: f"{value:,.0f} documents"),
    ("tokens_per_s", lambda value: f"{human(value)} tokens/s"),
)


def without_measured(metrics: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a run itself, without those that an evaluation has written there: it has a line of its own, and
    the run may have gone on since."""
    return {name: value for name, value in metrics.items() if name not in _MEASURED}


def results(metrics: Mapping[str, float]) -> list[str]:
    """The numbers that matter most, in words, most important first."""
    known = dict(metrics)
    for total, mark in (("documents", "/train_documents"), ("tokens", "tokens.")):
        parts = [value for name, value in metrics.items() if name.endswith(mark) or name.startswith(mark)]
        if parts:
            known.setdefault(total, sum(parts))
    return [said(known[name]) for name, said in _RESULTS if name in known]


def _model(settings: Mapping[str, Any]) -> str:
    model = settings.get("model")
    if not isinstance(model, Mapping) or not {"layers", "d_model"} <= model.keys():
        return ""
    count = f"{human(model['parameters'])} parameters, " if model.get("parameters") else ""
    return f"{count}{model['layers']} layers of width {model['d_model']}"


def _state(where: Mapping[str, Any]) -> str:
    if not where:
        return ""
    if where.get("commit") is None:
        return f"Trunkline {where['version']}, commit unknown (installed, or copied without its history)"
    dirty = {True: ", with changes that are not in it", False: "", None: ", perhaps with changes"}[where.get("dirty")]
    return f"Trunkline {where['version']}, commit {_code(where['commit'][:12])}{dirty}"


def _status(run: Mapping[str, Any], end: Mapping[str, Any] | None) -> str:
    who = " ".join(
        f"{word} {_code(where)}" for word, where in zip(("by", "on"), _user_and_host(run), strict=True) if where
    )
    if end is None:
        return f"running since {_time(run['began'])} {who}".strip()
    took = duration(max(0.0, (end["at"] - run["began"]) / 1000))
    words = {
        "FINISHED": "finished",
        "FAILED": "failed",
        "KILLED": "stopped",
    }
    why = f": {_code(str(end['why']).splitlines()[0][:_LONGEST_WHY])}" if end.get("why") else ""
    return f"{words.get(end['end'], end['end'])} at {_time(end['at'])} after {took} {who}".strip() + why


def _user_and_host(run: Mapping[str, Any]) -> tuple[str | None, str | None]:
    where = run.get("origin", {})
    return where.get("user"), where.get("host")


def _time(milliseconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def page_of(experiment: str, run_id: str) -> str:
    """Where a run stands among MLflow's pages, in its view of training."""
    return f"experiments/{experiment}/runs/{run_id}?{_TRAINING}"


def _within(page: str, place: str) -> str:
    path, _, query = page.partition("?")
    return f"{path}/{place}?{query}" if query else f"{path}/{place}"


def _link(text: str, page: str | None) -> str:
    return f"[{text}](#/{page})" if page else _code(text)


def _code(text: str) -> str:
    """Text as Markdown shows it letter by letter."""
    if not text:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"
