"""What a run takes, before anything of it exists: FLOPs, memory, hours, money, tokens of each source, the final loss.

    python -m workflows.plan +experiment=minicpm_2b gpus=160 gpu=a100
    python -m workflows.plan +experiment=minicpm_2b gpus=auto gpu=h100 deadline=10d out=plan
    python -m workflows.plan +experiment=minicpm_2b gpus=160 gpu=a100 law=fit-chinchilla batch.micro_batch=2 zero=zero2
    python -m workflows.plan recipe=sandbox/laptop target=2b beyond=allow

Needs no data and no store, and makes neither. Keys that are not this command's own go to the stages, as their own
commands would take them: `batch`, `zero`, `compute`, `cluster` and `optimizer` to all of them, others to the first;
`anneal.steps=18500` to that stage alone. docs/planning.md says how each number comes about, and how far to trust it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipelines.config import Count, Positive, WorkflowConfig, config_class, runtime
from pipelines.data.stream.mixture import MixturePlan
from pipelines.display.progress import announce, say, table
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.references import Reference
from pipelines.train.budget import plan as budget
from pipelines.train.budget import search
from pipelines.train.budget.deadline import deadline_hours
from pipelines.train.budget.device import DeviceConfig, Use
from pipelines.train.budget.job import Job, job_of
from pipelines.train.budget.layout import Layout, Speed, layout_of
from pipelines.train.budget.loss import ForeseenLoss, foreseen_loss, read_law
from pipelines.train.budget.measured import measured_speed
from pipelines.train.budget.page import write_page
from pipelines.train.budget.search import Offer
from pipelines.train.budget.sources import SourceNeeds, of_plan, of_recipe
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.sandbox.writer import Written, write_experiment
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import STAGES
from workflows.command_line import places
from workflows.command_line.commands import make
from workflows.command_line.composing import compose_config, experiment_named
from workflows.command_line.devices import Device, device_names, read_device, training_device
from workflows.entry import begin, entry
from workflows.mixture import MixtureConfig
from workflows.running.session import Session

_SHARED = ("batch", "zero", "compute", "cluster", "optimizer")  # how a run is run: the same in all stages
_MOST_OFFERS = 12


@config_class
class PlanConfig(WorkflowConfig):
    """What is planned for, and with what."""

    name: str = runtime("auto")
    gpus: Literal["auto"] | Count | None = None
    gpu: str | None = None
    device: Device = None
    stages: list[str] | None = None
    mfu: Use | None = None
    tokens_per_second: Positive | None = None
    measured: str | None = None
    deadline: str | None = None
    law: str | None = None
    recipe: str | None = None
    target: str | None = None
    tokens: Positive | None = None
    beyond: Literal["refuse", "allow"] = "refuse"
    into: str = runtime("conf")
    out: str | None = runtime(None)


def run(config: PlanConfig, session: Session, typed: Sequence[str] = ()) -> budget.Plan | None:
    """Print the plan. Args: typed, the overrides that go to the stages. Raises: ConfigError saying what to change."""
    _check(config)
    if config.recipe is not None:
        _write_recipe(config, session)
        return None
    # ── Compose the stages as their own commands would ────────────────────────────────────────────────────────────────
    jobs = compose_jobs(config, typed)
    hours = deadline_hours(config.deadline) if config.deadline else None
    # ── Choose a layout, and price it ─────────────────────────────────────────────────────────────────────────────────
    offers: list[Offer] = []
    if config.gpus == "auto":
        offers = _offers(config, session, jobs, hours)
        plan = _plan_of(config, session, jobs, offers[0])
    else:
        name, device = _device(config, jobs)
        jobs = [_on(job, config.gpus, device) for job in jobs]
        layouts = [layout_of(job, job.config.cluster.workers) for job in jobs]
        plan = budget.make_plan(jobs, layouts, name, device, *_speed(config, session, device))
    needs = {job.stage: _sources(config, session, job) for job in plan.jobs}
    loss = _loss(config, plan)
    # ── Say it ────────────────────────────────────────────────────────────────────────────────────────────────────────
    experiment = experiment_named(typed)
    title = experiment or plan.jobs[0].config.name
    announce(f"plan {title}", {**budget.overview(plan), **_verdicts(plan, hours, loss), **budget.traffic_lines(plan)})
    _show_tables(plan, needs, offers)
    if config.out:
        path = write_page(Path(config.out), title, plan, needs, offers, loss)
        say(f"\n   wrote {path} and plan.json beside it")
    return plan


def _show_tables(plan: budget.Plan, needs: dict[str, SourceNeeds], offers: Sequence[Offer]) -> None:
    if offers:
        say(f"\n   Layouts, the cheapest first ({len(offers)} in all)\n")
        say(table(OFFER_HEADER, offer_rows(offers[:_MOST_OFFERS])))
    say("\n   Stages\n")
    say(table(budget.COST_HEADER, budget.cost_rows(plan)))
    first = plan.jobs[0]
    say(f"\n   Memory of a worker of {first.stage}, by ZeRO stage and micro-batch (an upper bound on a GPU)\n")
    say(table(budget.MEMORY_HEADER, budget.memory_rows(first, plan.workers, plan.device)))
    for stage, need in needs.items():
        say(f"\n   Sources of {stage}\n")
        if need.sources:
            say(table(SOURCE_HEADER, source_rows(need)))
        for sentence in need.unknown:
            say(f"   not known: {sentence}")


SOURCE_HEADER = ("source", "weight", "tokens", "available", "epochs", "must have at least")
OFFER_HEADER = ("device", "devices", "days", "USD", "layout of the first stage", "step s", "GiB", "computed again")


def source_rows(need: SourceNeeds) -> list[list[Any]]:
    """Under `SOURCE_HEADER`."""
    return [
        [
            source.name, f"{source.weight:.2%}", source.tokens, source.available,
            None if source.epochs is None else round(source.epochs, 2),
            None if source.needed_tokens is None else round(source.needed_tokens),
        ]
        for source in need.sources
    ]  # fmt: skip


def offer_rows(offers: Sequence[Offer]) -> list[list[Any]]:
    """Under `OFFER_HEADER`."""
    return [
        [
            offer.device, offer.workers, round(offer.hours / 24, 2), None if offer.usd is None else round(offer.usd),
            f"ZeRO-{cost.layout.zero_stage}, micro-batch {cost.layout.micro_batch}", round(cost.step_seconds, 3),
            round(cost.memory.total / 2**30, 1), f"{cost.recomputed:.0%}",
        ]
        for offer in offers
        for cost in offer.costs[:1]
    ]  # fmt: skip


def _check(config: PlanConfig) -> None:
    """Refuse keys that contradict each other."""
    speeds = [key for key in ("mfu", "tokens_per_second", "measured") if getattr(config, key) is not None]
    if len(speeds) > 1:
        raise ConfigError(f"{' and '.join(speeds)} are set, and each says how fast a worker is: keep one of them")
    if config.gpu == "auto" and config.gpus != "auto":
        raise ConfigError("gpu=auto compares devices, and that needs gpus=auto: set it too, or name a device")
    if config.gpu == "auto" and speeds and speeds != ["mfu"]:
        raise ConfigError(f"{speeds[0]} was measured on one kind of device: name it with gpu=… instead of gpu=auto")
    if (config.recipe is None) != (config.target is None):
        raise ConfigError(
            "recipe and target belong together: e.g. recipe=sandbox/laptop target=2b "
            f"(got recipe={config.recipe} and target={config.target})"
        )
    if config.tokens is not None and config.recipe is None:
        raise ConfigError(f"tokens={config.tokens:g} is of a recipe; a plan takes steps=…")
    for stage in config.stages or ():
        if stage not in STAGES:
            close = difflib.get_close_matches(stage, STAGES, n=1)
            raise ConfigError(
                f"stages names {stage}; expected some of {', '.join(STAGES)}"
                + (f": did you mean {close[0]}?" if close else "")
            )
    if config.stages == []:
        raise ConfigError("stages is empty; expected e.g. stages=[pretrain,anneal], or leave it out")


# ── The stages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def compose_jobs(config: PlanConfig, typed: Sequence[str]) -> list[Job]:
    """The jobs of all stages, in order; each composed as its own command would. Raises: ConfigError."""
    _check_typed(typed)
    experiment = experiment_named(typed)
    stages = config.stages or [
        stage
        for stage in ("pretrain", "anneal")
        if stage == "pretrain" or (experiment and places.overlay(experiment, stage))
    ]
    jobs: list[Job] = []
    model: ModelConfig | None = None
    for stage in stages:
        composed = compose_config(stage, TrainConfig, _overrides(stage, stages, typed))
        jobs.append(job_of(stage, composed, model))
        model = jobs[-1].model
    return jobs


def _overrides(stage: str, stages: Sequence[str], typed: Sequence[str]) -> list[str]:
    """What of the command line is a stage's."""
    own = []
    for word in typed:
        key = word.partition("=")[0].lstrip("+~")
        prefix = key.split(".")[0]
        if key == "experiment":
            named = word.partition("=")[2]
            if places.overlay(named, stage) or stage == stages[0]:
                own.append(word)
        elif prefix in STAGES and "." in key:
            if prefix == stage:
                own.append(re.sub(rf"^([+~]*){prefix}\.", r"\1", word))
        elif prefix in _SHARED or stage == stages[0]:
            own.append(word)
    return own


def _check_typed(typed: Sequence[str]) -> None:
    """Refuse a key that neither this command nor a stage has."""
    own = [field.name for field in dataclasses.fields(PlanConfig)]
    stage_keys = [field.name for field in dataclasses.fields(TrainConfig)]
    known = {*stage_keys, *STAGES, "experiment", *places.groups()}
    for word in typed:
        first = re.split(r"[.=@]", word.lstrip("+~"))[0]
        if first not in known:
            close = difflib.get_close_matches(first, [*own, *stage_keys], n=1)
            raise ConfigError(
                f"unknown key {first}; this command takes {', '.join(own)}, and the keys of its stages"
                + (f": did you mean {close[0]}?" if close else "")
            )


def _on(job: Job, gpus: int | str | None, device: DeviceConfig) -> Job:
    """The job on so many devices; None: as many workers as its config says."""
    workers = job.config.cluster.workers if not isinstance(gpus, int) else gpus
    each = 1.0 if device.kind == "cuda" else 0.0
    cluster = dataclasses.replace(job.config.cluster, workers=workers, gpus_per_worker=each)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, cluster=cluster))


# ── Devices and their speed ───────────────────────────────────────────────────────────────────────────────────────────


def _device(config: PlanConfig, jobs: Sequence[Job]) -> tuple[str, DeviceConfig]:
    """The one that is named; the CPU's where the stages train on CPUs."""
    if config.device is not None:
        name = config.gpu or "device"
        return name, training_device(name, config.device)
    if config.gpus is None and not jobs[0].config.cluster.gpus_per_worker:
        return "cpu", read_device("cpu")
    raise ConfigError(
        f"which device? set gpu=… to one of {', '.join(device_names())} (conf/device; another is one more file there)"
    )


def _speed(config: PlanConfig, session: Session, device: DeviceConfig) -> tuple[Speed, str]:
    """How fast a worker is, and where that is from."""
    if config.tokens_per_second is not None:
        return Speed(None, config.tokens_per_second), f"{config.tokens_per_second:,.5g} tokens/s a worker, as you say"
    if config.measured is not None:
        speed, source = measured_speed(session.store, session.resolve(config.measured))
        return Speed(None, speed), source
    if config.mfu is not None:
        return Speed(config.mfu), f"MFU {config.mfu:.1%}, as you say (attention as causal)"
    share = device.mfu
    return Speed(share.value), f"MFU {share.value:.0%} ({share.low:.0%} to {share.high:.0%}), {device.mfu_source}"


def _offers(config: PlanConfig, session: Session, jobs: Sequence[Job], hours: float | None) -> list[Offer]:
    """Layouts that meet the deadline, the cheapest first."""
    if config.gpu == "auto":
        devices = {name: read_device(name) for name in device_names()}
        devices = {name: device for name, device in devices.items() if device.kind == "cuda" and device.usd_per_hour}
    else:
        name, device = _device(config, jobs)
        devices = {name: device}
    speeds = {name: _speed(config, session, device)[0] for name, device in devices.items()}
    made = search.offers(jobs, devices, speeds)
    return made if hours is None else search.within(made, hours)


def _plan_of(config: PlanConfig, session: Session, jobs: Sequence[Job], offer: Offer) -> budget.Plan:
    device = read_device(offer.device) if config.device is None else training_device(offer.device, config.device)
    layouts: list[Layout] = [cost.layout for cost in offer.costs]
    settled = [
        search.with_layout(_on(job, offer.workers, device), layout) for job, layout in zip(jobs, layouts, strict=True)
    ]
    return budget.make_plan(settled, layouts, offer.device, device, *_speed(config, session, device))


# ── What is said beside it ────────────────────────────────────────────────────────────────────────────────────────────


def _verdicts(plan: budget.Plan, hours: float | None, loss: ForeseenLoss | None) -> dict[str, str]:
    lines: dict[str, str] = {}
    for job, cost in zip(plan.jobs, plan.costs, strict=True):
        if refusal := budget.refused_memory(job, cost.layout, plan.device, plan.device_name):
            lines[f"{job.stage}: memory"] = f"✗ {refusal}"
        else:
            lines[f"{job.stage}: memory"] = f"{cost.memory} of {plan.device.usable_bytes / 2**30:.3g} GiB usable"
    if hours is not None:
        met = "met" if plan.hours <= hours else "✗ missed: gpus=auto finds a layout that meets it"
        lines["deadline"] = f"{hours / 24:.3g} days: {met}"
    if loss is not None:
        lines["final loss"] = str(loss)
        lines |= {f"final loss, {n}": f"⚠ {warning}" for n, warning in enumerate(loss.warnings, 1)}
    return lines


def _loss(config: PlanConfig, plan: budget.Plan) -> ForeseenLoss | None:
    if config.law is None:
        return None
    trained = sum(job.tokens for job in plan.jobs if job.stage in ("pretrain", "anneal"))
    return foreseen_loss(read_law(config.law), plan.jobs[0].parameters["non_embedding"], trained or plan.tokens)


def _sources(config: PlanConfig, session: Session, job: Job) -> SourceNeeds:
    """From the store's mixture where there is one, else from conf/mixture."""
    kind, name = Reference.parse(job.config.data).kind, Reference.parse(job.config.data).name
    if kind != "mixture":
        return SourceNeeds(
            (), (f"{job.stage} reads {job.config.data}: its sources are known when the tokens are there",)
        )
    try:
        found = session.store.find(f"mixture/{name}")
    except ArtifactError as error:
        return SourceNeeds((), (f"mixture/{name} cannot be read: {error}",))
    if found is not None:
        return of_plan(MixturePlan.from_json(found.json("mixture.json")), job.tokens)
    if places.find(f"mixture/{name}.yaml") is None:
        shipped = ", ".join(places.choices("mixture"))
        unknown = f"mixture/{name} is neither in {session.store.uri} nor in conf/mixture, which has {shipped}"
        return SourceNeeds((), (unknown,))
    recipe = compose_config("mixture", MixtureConfig, [f"mixture={name}"])
    stated = recipe.mixture
    if not isinstance(stated.weights, dict) or stated.budget_tokens is None:
        return SourceNeeds((), (f"the weights of {name} are worked out from the tokens, when they are there",))
    tokens = recipe.tokens if config.recipe else "the corpus of its tokens"
    return of_recipe(stated.stated(stated.budget_tokens), job.tokens, tokens)


# ── A recipe of the wind tunnel ───────────────────────────────────────────────────────────────────────────────────────


def _write_recipe(config: PlanConfig, session: Session) -> Written:
    """Write the experiment that a sandbox's laws propose for a model of conf/model."""
    assert config.recipe is not None
    assert config.target is not None
    results, where = _results(config.recipe, session)
    model_name = _model_named(config.target)
    model = compose_config("pretrain", TrainConfig, [f"model={model_name}"]).model
    assert model is not None
    base = compose_config("pretrain", TrainConfig, [])
    written = write_experiment(
        results,
        where,
        model_name,
        model,
        name=f"{Path(where).name}_{model_name}" if config.name == "auto" else config.name,
        sequence_length=base.batch.sequence_length,
        tokens=config.tokens,
        beyond=config.beyond == "allow",
        into=Path(config.into) if config.into != "conf" else places.written_to(),
        replace=config.on_change == "rebuild",
    )
    announce(f"recipe {where} for {model_name}", written.lines)
    for path in written.files:
        say(f"   wrote {path}")
    for sentence in written.warnings:
        say(f"   ⚠ {sentence}")
    into = Path(config.into) if config.into != "conf" else None
    known = into is None or into.resolve() in {folder.resolve() for folder in places.all_folders()}
    words = [*([] if known else ["--config-dir", str(into)]), f"+experiment={written.name}", "gpus=160", "gpu=a100"]
    say(f"   next: {session.typed(shlex.join(['python', '-m', 'workflows.plan', *words]))}")
    return written


def _results(recipe: str, session: Session) -> tuple[dict[str, Any], str]:
    """`results.json` of a sandbox of the store, or of a folder or a file; and how it is called."""
    path = Path(recipe)
    if path.is_dir() or path.is_file():
        file = path / "results.json" if path.is_dir() else path
        if not file.is_file():
            raise ConfigError(f"recipe={recipe} has no results.json; expected sandbox/<name> of the store, or its file")
        return _json(file.read_text(encoding="utf-8"), recipe), recipe.removesuffix("/results.json")
    storage, folder = session.store.storage, recipe.split("@")[0]
    if not storage.exists(f"{folder}/results.json"):
        there = sorted(f"sandbox/{name}" for name in storage.folders("sandbox"))
        raise ConfigError(
            f"recipe={recipe}: {session.store.uri} has no {folder}/results.json; "
            + (
                f"it has {', '.join(there)}"
                if there
                else f"run `{make('sandbox-demo')}` or `python -m workflows.sandbox` first"
            )
        )
    return _json(storage.read(f"{folder}/results.json").decode(), recipe), folder


def _json(text: str, recipe: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"recipe={recipe}: its results.json is damaged ({error}): run the sandbox again") from error
    if not isinstance(values, dict) or "studies" not in values:
        raise ConfigError(f"recipe={recipe} is no results.json of a sandbox: it has no studies; name sandbox/<name>")
    return values


def _model_named(target: str) -> str:
    """The model of conf/model that a name or the end of one means."""
    names = places.choices("model")
    if target in names:
        return target
    ends = [name for name in names if name.endswith(f"_{target}")]
    if len(ends) == 1:
        return ends[0]
    raise ConfigError(
        f"target={target} is {'the end of ' + ', '.join(ends) if ends else 'no model'}; expected one of "
        f"{', '.join(names)}, or the end of one, e.g. target=2b: another model is one more file in conf/model"
    )


# ── The command line ──────────────────────────────────────────────────────────────────────────────────────────────────


def split_command_line(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """This command's own words, and those of the stages. `gpu=a100` chooses conf/device/a100.yaml as well."""
    fields = {field.name for field in dataclasses.fields(PlanConfig)} - {"cluster", "tracking"}
    own: list[str] = []
    typed: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        mine = word.startswith("-") or "=" not in word or key.lstrip("+~").split(".")[0] in fields
        (own if mine else typed).append(word)
        if key == "gpu" and value not in ("auto", "null", ""):
            own.append(f"device={value}")
    return own, typed


def main() -> None:
    """Split the command line: the stages compose their own part of it."""
    own, typed = split_command_line(begin(sys.argv[1:]))
    sys.argv[1:] = [*places.words(), *own]
    entry(PlanConfig, functools.partial(run, typed=typed), "plan", uses_store=False)()


if __name__ == "__main__":
    main()
