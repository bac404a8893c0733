"""What answers cost: every format of a model side by side, in bytes, speed, memory, bits per byte and money.

    python -m workflows.cost parent=dpo/demo name=demo                       all that the store has of that checkpoint
    python -m workflows.cost models=[export/demo,quantize/demo] name=demo    those that are named
    python -m workflows.cost parent=dpo/demo name=demo +speed.snapdragon_855=12

Speed and memory are measured here, each model in a process of its own. Elsewhere they are published, told or estimated,
and the page says which. Prices: conf/device and conf/price. docs/cost.md says how each number comes about.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from pipelines.config import Count, Positive, WorkflowConfig, config_class, plain
from pipelines.display.progress import human, say
from pipelines.errors import ConfigError
from pipelines.identity import decisive, identity
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint.lineage import tokens_of, trained_length
from pipelines.train.cost.device import AnsweringDevice
from pipelines.train.cost.loss import Lost, TextConfig, measure_lost
from pipelines.train.cost.measuring import Measured, Task, free_bytes, measure, this_host
from pipelines.train.cost.money import PricesConfig
from pipelines.train.cost.page import page_of
from pipelines.train.cost.process import Order
from pipelines.train.cost.results import (
    Content,
    Market,
    Row,
    cloud_prices,
    comparisons,
    metrics,
    offers,
    plain_row,
    prompt_prices,
    worked_through,
)
from pipelines.train.cost.subjects import Subject, Way, inputs_of, named_subjects, read_bytes, subjects_of, ways
from pipelines.train.cost.table import print_content
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.spec import TrainConfig
from workflows.command_line.composing import compose_config
from workflows.command_line.devices import all_devices, read_any_device
from workflows.entry import entry
from workflows.running.session import Session, of_run

_COST = ("device", "loss", "measuring", "money", "process", "results", "speeds", "subjects")
# the modules that decide the numbers, beside those of the formats and the runtimes
CODE = (
    *(f"pipelines.train.cost.{module}" for module in _COST),
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "batch", "model", "untied")),
    "pipelines.train.network.attention",
    "pipelines.train.checkpoint.weights",
    "pipelines.train.quantization.contract",
    *(f"pipelines.train.tasks.{module}" for module in ("scoring", "text", "windows")),
)
_BUSY = 0.5  # load average for each core beyond which a machine is called busy
_SHAPE = ("layers", "d_model", "d_ff", "heads", "kv_heads")  # a published speed is of models of this shape


@config_class
class CostConfig(WorkflowConfig):
    """What is put side by side, how it is measured, and by which prices."""

    parent: str | None = None
    models: list[str] = field(default_factory=list)
    rounds: Count = 5
    prompt_tokens: Count = 128
    new_tokens: Count = 64
    threads: list[Count] | None = None
    speed: dict[str, Positive] = field(default_factory=dict)
    devices: list[str] | None = None
    here: str | None = "cpu"
    heldout: TextConfig | None = None
    price: PricesConfig = field(default_factory=PricesConfig)

    def __post_init__(self) -> None:
        """Raises: ConfigError for a round that decodes no second token."""
        super().__post_init__()
        if self.new_tokens < 2:
            raise ConfigError("new_tokens is 1; expected at least 2: the first is counted to the prompt")


def code_of(formats: Iterable[str], runtimes: Iterable[str]) -> tuple[str, ...]:
    """All modules that decide the numbers of these formats in these runtimes."""
    return (
        *CODE,
        *chosen_modules("pipelines.train.formats", formats),
        *chosen_modules("pipelines.train.runtimes", runtimes),
    )


def run(config: CostConfig, session: Session) -> Artifact:
    """Make `cost/<name>`, or find it finished; its numbers are in `cost.json`, and its page is `cost.html`."""
    subjects = _subjects(config, session)
    market, threads = _market(config, subjects[0]), _threads(config)
    planned = {subject.name: ways(subject, None) for subject in subjects}
    tokens = tokens_of(session.store, subjects[0].run)

    # ── announce ──
    inputs = [*inputs_of(subjects), tokens]
    host = this_host()
    decided = {
        **identity(config),
        "models": [subject.name for subject in subjects],
        "parent": str(subjects[0].run),
        "threads": threads,
        "devices": {name: identity(device) for name, device in market.devices.items()},
        "machine": f"{host.cpu}, {host.cores} cores",
    }
    runtimes = {way.runtime for each in planned.values() for way in each if way.runtime and not way.missing}
    code = code_of({subject.format_name for subject in subjects if subject.format}, sorted(runtimes))
    announcement = _announcement(config, subjects, planned, market, threads)
    draft = session.begin("cost", config, announcement, inputs, code, identity=decided)
    if isinstance(draft, Artifact):
        print_content(draft.json("cost.json"))
        return draft

    # ── measure ──
    with session.track(draft, config, inputs, **of_run(subjects[0].run)) as tracker:
        busy = os.getloadavg()[0]
        rows, full = _measure(config, session, subjects, tokens, threads)
        content = _content(config, subjects, rows, full, market, busy)
        # ── publish ──
        print_content(content)
        paths = {name: draft.scratch(name) for name in ("cost.json", "cost.html")}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        paths["cost.json"].write_text(text, encoding="utf-8")
        paths["cost.html"].write_text(page_of(config.name, content), encoding="utf-8")
        draft.publish("cost", paths)
        tracker.metrics(metrics(content), 0)
        for name in paths:
            tracker.file(draft.storage.fetch(f"{draft.folder}/{name}"))
        artifact = draft.commit({**decisive(config), **decided}, metrics(content), tokens.manifest["licences"])
    if isinstance(draft.storage, FolderStorage):
        say(f"   the page: {draft.storage.root / draft.folder / 'cost.html'}")
    return session.done(artifact)


# ── What is compared ──────────────────────────────────────────────────────────────────────────────────────────────────


def _subjects(config: CostConfig, session: Session) -> list[Subject]:
    if bool(config.models) == (config.parent is not None):
        raise ConfigError(
            "name parent=dpo/demo, and all that the store has of it is put side by side, or the models themselves, "
            f"models=[export/demo,quantize/demo]; {'both came' if config.models else 'neither came'}"
        )
    if config.models:
        return named_subjects(session.store, [session.resolve(reference) for reference in config.models])
    assert config.parent is not None
    return subjects_of(session.store, session.resolve(config.parent))


def _threads(config: CostConfig) -> list[int]:
    cores = len(os.sched_getaffinity(0))
    if config.threads is None:
        return sorted({1, cores})
    if not config.threads or max(config.threads) > cores:
        raise ConfigError(f"threads is {config.threads}; expected numbers from 1 to {cores}, the cores that are here")
    return sorted(set(config.threads))


def _market(config: CostConfig, subject: Subject) -> Market:
    """The devices, each with a currency that has a rate. Raises: ConfigError for a device that is not there."""
    names = all_devices() if config.devices is None else config.devices
    asked = {"devices": names, "speed": list(config.speed), "here": [config.here] if config.here else []}
    for key, listed in asked.items():
        for name in listed:
            if name not in all_devices():
                raise ConfigError(f"{key} names {name}; conf/device has {', '.join(all_devices())}")
    if left_out := [name for name in config.speed if name not in names]:
        raise ConfigError(f"speed names {', '.join(left_out)}, and devices is {names}: name it there too")
    devices = {name: read_any_device(name) for name in names}
    for name, device in devices.items():
        if device.inference is not None:
            config.price.rate(device.inference.currency, f"conf/device/{name}.yaml: inference.currency")
    here = config.here if config.here in devices else None
    return Market(devices, here, config.price, config.speed, _shapes(subject, devices.values()))


def _shapes(subject: Subject, devices: Iterable[AnsweringDevice]) -> list[str]:
    """The models with published speeds whose shape the subject has."""
    told = {speed.model for device in devices if device.inference for speed in device.inference.speeds}
    own = subject.run.checkpoint.state["model"]
    alike = []
    for name in sorted(told):
        model = compose_config("pretrain", TrainConfig, [f"model={name}"]).model
        if model is not None and all(getattr(model, part) == own[part] for part in _SHAPE):
            alike.append(name)
    return alike


def _announcement(
    config: CostConfig, subjects: Sequence[Subject], planned: Mapping[str, Sequence[Way]], market: Market,
    threads: Sequence[int],
) -> dict[str, str]:  # fmt: skip
    lines = {"checkpoint": str(subjects[0].run)}
    for subject in subjects:
        how = "; ".join(way.missing or f"in {way.runtime}" for way in planned[subject.name])
        size = human(subject.weight_bytes, "B")
        lines[subject.name] = f"{subject.format_name} {subject.dtype}, {size} of weights; speed {how}"
    counts = " and ".join("1 thread" if count == 1 else f"{count} threads" for count in threads)
    lines["speed"] = (
        f"{config.rounds} rounds in turn, {config.prompt_tokens} tokens read and {config.new_tokens} decoded, {counts}"
    )
    lines["loss"] = (
        "bits per byte are not measured (heldout=null)"
        if config.heldout is None
        else f"bits per byte on {config.heldout.max_tokens:,} held-out tokens of each source, beside the checkpoint"
    )
    lines["devices"] = ", ".join(market.devices) + ("" if market.here else "; this machine is not priced")
    lines["prices"] = _exchange_words(config.price)
    return lines


def _exchange_words(price: PricesConfig) -> str:
    rates = ", ".join(f"{rate:g} {currency}" for currency, rate in price.exchange.items() if currency != "USD")
    when = f", {price.exchange_date}" if price.exchange_date else ""
    return f"1 USD is {rates or 'by itself'}{when}"


# ── Measuring ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _measure(
    config: CostConfig, session: Session, subjects: Sequence[Subject], tokens: Artifact, threads: Sequence[int]
) -> tuple[list[Row], float | None]:
    """Every model in every runtime that loads it; and the checkpoint's own bits per byte."""
    run = subjects[0].run
    in_float32 = 4 * parameter_counts(ModelConfig(**run.checkpoint.state["model"]))["total"]
    folders = {subject.name: subject.folder() for subject in subjects}
    found = [(subject, way) for subject in subjects for way in ways(subject, folders[subject.name])]
    tasks = [
        Task(
            subject.name,
            Order(way.runtime, str(way.path), count, config.prompt_tokens, config.new_tokens),
            in_float32,
        )
        for subject, way in found
        if way.path is not None and not way.missing
        for count in threads
    ]
    measured = iter(measure(tasks, config.rounds, lambda words: say(f"   {words}")))
    by_way: list[tuple[Measured, ...]] = [
        tuple(next(measured) for _ in threads) if way.path is not None and not way.missing else () for _, way in found
    ]
    full, lost = _lost(config, session, subjects, tokens, in_float32)
    rows = [
        Row(subject, way.runtime, read_bytes(folders[subject.name]), lost[subject.name], taken, way.missing)
        for (subject, way), taken in zip(found, by_way, strict=True)
    ]
    return rows, full


def _lost(
    config: CostConfig, session: Session, subjects: Sequence[Subject], tokens: Artifact, in_float32: int
) -> tuple[float | None, dict[str, Lost]]:
    """What each format costs in bits per byte, or why that was not measured."""
    reason = ""
    if config.heldout is None:
        reason = "heldout=null"
    elif 2 * in_float32 > free_bytes():
        reason = f"the model takes {human(in_float32, 'B')} in float32, and {human(free_bytes(), 'B')} are free"
    if reason or config.heldout is None:
        return None, {subject.name: Lost(unmeasured=reason) for subject in subjects}
    run = subjects[0].run
    length = min(trained_length(session.store, run), int(run.checkpoint.state["model"]["max_positions"]))
    full, lost = measure_lost(run, tokens, subjects, length, config.heldout, lambda words: say(f"   {words}"))
    return full, {subject.name: each for subject, each in zip(subjects, lost, strict=True)}


def _content(
    config: CostConfig, subjects: Sequence[Subject], rows: Sequence[Row], full: float | None, market: Market,
    busy: float,
) -> Content:  # fmt: skip
    host = this_host()
    warnings = []
    if busy > _BUSY * host.cores:
        warnings.append(
            f"this machine was busy before anything was measured: load average {busy:.1f} on {host.cores} cores. "
            "Speeds are what was left of it, and its prices too high"
        )
    content: dict[str, Any] = {
        "parent": str(subjects[0].run),
        "machine": {**plain(host), "load_average_before": busy, "load_average_after": os.getloadavg()[0]},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "rounds": config.rounds,
        "bits_per_byte": full,
        "warnings": warnings,
        "rows": [plain_row(row) for row in rows],
        "comparisons": comparisons(rows),
        "exchange": dict(config.price.exchange),
        "exchange_words": _exchange_words(config.price),
        "exchange_source": config.price.exchange_source,
        "offers": offers(rows, market),
        "prompts": prompt_prices(rows, market),
        "worked": worked_through(market),
        "cloud": cloud_prices(config.price),
    }
    return content


main = entry(CostConfig, run, "cost")

if __name__ == "__main__":
    main()
