"""A checkpoint with its linear maps in 4 or 8 bits, measured against itself: a folder that transformers and vLLM load.

    python -m workflows.quantize parent=dpo/demo name=demo                        GPTQ, 4 bits in groups of 32
    python -m workflows.quantize parent=dpo/demo name=demo-rtn method=rtn 'compare=[]'
    python -m workflows.quantize parent=dpo/demo name=demo-mixed bits=auto budget=1.2MB
    python -m workflows.quantize parent=dpo/demo name=demo dry_run=true           bytes, memory, calibration

Leaves `model/` in compressed-tensors' layout, `quantization.json` with every number, and `quantization.html` with
pictures. Runs in this process, without Ray. Memory: of one layer and the rows of calibration while it quantizes; of one
whole model in float32 while it measures.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from pipelines.config import ChosenByName, WorkflowConfig, config_class, plain
from pipelines.display.progress import Progress, duration, human, say, table
from pipelines.errors import ConfigError
from pipelines.identity import decisive, identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.code import chosen_modules
from pipelines.store.draft import Draft
from pipelines.train.checkpoint.lineage import open_run, tokens_of, trained_length
from pipelines.train.formats import compressed_tensors
from pipelines.train.formats.contract import Source
from pipelines.train.formats.folder import tokenizer_settings
from pipelines.train.formats.llama import fold
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.network.untied import UntiedTransformer, untied_model
from pipelines.train.quantization import METHODS
from pipelines.train.quantization.budget import (
    HEADER as CHOICE_HEADER,
)
from pipelines.train.quantization.budget import (
    Budget,
    check_budget,
    choose_bits,
    measure_errors,
    mixed_grids,
    table_rows,
)
from pipelines.train.quantization.calibration import (
    CalibrationConfig,
    CalibrationPlan,
    counted,
    draw_calibration,
    plan_calibration,
)
from pipelines.train.quantization.contract import (
    CalibrationRows,
    Grid,
    GroupSize,
    MethodSettings,
    Quantized,
    QuantizedStream,
)
from pipelines.train.quantization.grids import uniform_grids
from pipelines.train.quantization.walk import MapError, quantize_stream
from pipelines.train.results.quantized import compared, sentences
from pipelines.train.results.quantized_evidence import (
    Answers,
    ComparisonSettings,
    Heldout,
    answers,
    read_heldout,
    reference,
)
from pipelines.train.results.quantized_page import HEADER, PAGE, metrics, rows, size_lines, write_page
from workflows.entry import entry
from workflows.running import onward
from workflows.running.session import Session, of_run

_STREAM = ("cuts", "interleave", "loader", "mixture", "order", "preferences", "rows", "source_stream")
_TOKENS = (
    "chat",
    "megatron",
    "sidecars.document_bytes",
    "sidecars.layouts",
    "sidecars.loss_mask",
    "token_shards",
    "token_sources",
    "tokenizer",
)
# the modules that decide the weights and the numbers, beside those of the methods
CODE = (
    "pipelines.train.results.quantized",
    "pipelines.train.results.quantized_evidence",
    "pipelines.laws.bootstrap",
    *(f"pipelines.train.quantization.{module}" for module in ("block", "budget", "calibration", "grids", "walk")),
    *(f"pipelines.train.quantization.{module}" for module in ("contract", "rounding")),
    *(f"pipelines.train.formats.{module}" for module in ("compressed_tensors", "folder", "llama")),
    *(f"pipelines.train.checkpoint.{module}" for module in ("weights", "snapshot")),
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "batch", "model", "attention")),
    "pipelines.train.network.untied",
    *(f"pipelines.train.tasks.{module}" for module in ("scoring", "text", "windows")),
    *(f"pipelines.data.stream.{module}" for module in _STREAM),
    *(f"pipelines.data.tokens.{module}" for module in _TOKENS),
)
Methods = dict[str, Annotated[MethodSettings | None, ChosenByName(lambda: METHODS)]]
_MODEL = "model"  # the folder of the artifact that other programs load


@config_class
class QuantizeCalibration(CalibrationConfig):
    """What calibrated methods look at."""

    tokens: str | None = None  # null: the tokens that the parent was trained on


@config_class
class QuantizeConfig(WorkflowConfig):
    """What is quantized, how, and what it is measured on."""

    parent: str  # e.g. dpo/demo, anneal/demo@step-80
    method: str  # a row of METHODS
    bits: Literal[4, 8, "auto"] = 4  # of a linear weight; auto: 4, and 8 where it helps most within the budget
    budget: str | None = None  # bytes of all weights with bits=auto, e.g. 1.8GB
    group_size: GroupSize = 32  # inputs that share a scale: 32, 64 or 128
    group_sizes: dict[str, GroupSize] = field(default_factory=dict)  # exceptions by map: {down_proj: 64}
    symmetric: bool = True  # without zero points; false: better at few bits, and fewer readers
    methods: Methods = field(default_factory=dict)  # their settings, by name; left out: its defaults
    compare: list[str] = field(
        default_factory=list
    )  # methods that are measured beside the chosen one, on the same grids
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"  # of scales and of what is not quantized
    calibration: QuantizeCalibration
    measure: ComparisonSettings | None  # null: nothing is measured, and no whole model is loaded

    def __post_init__(self) -> None:
        """Leave one entry of `methods` for each method that is used. Raises: ConfigError."""
        super().__post_init__()
        for where, names in {"method": [self.method], "compare": self.compare}.items():
            if unknown := [name for name in names if name not in METHODS]:
                raise ConfigError(f"{where} is {', '.join(unknown)}; expected some of {', '.join(METHODS)}")
        if self.compare and self.measure is None:
            raise ConfigError("compare names methods, and measure is null: nothing would be seen; set compare=[]")
        if (self.bits == "auto") != (self.budget is not None):
            raise ConfigError(
                f"bits is {self.bits} and budget is {self.budget}; a budget goes with bits=auto: give both, e.g. "
                "bits=auto budget=1.8GB, or bits=4 alone"
            )
        used = dict.fromkeys([self.method, *self.compare])
        settings = {name: self.methods.get(name) or METHODS[name].Settings() for name in used}
        object.__setattr__(self, "methods", settings)


@dataclass(frozen=True)
class Plan:
    """All that is known before anything is computed.

    Attributes: grids, by our own names of parameters: with bits=auto those of 4 bits, until `settled` has chosen;
        calibration, None where nothing looks at data; length, T of what is measured; eight and budget, with bits=auto
        alone: the grids of 8 bits, and what may be spent; choice, once bits were chosen: the table of it.
    """

    source: Source
    grids: Mapping[str, Grid]
    calibration: CalibrationPlan | None
    length: int
    eight: Mapping[str, Grid] | None = None
    budget: Budget | None = None
    choice: Mapping[str, Any] | None = None

    @property
    def inputs(self) -> list[Artifact]:
        """What is read."""
        read = [self.source.run.artifact, self.source.tokens]
        if self.calibration is not None and self.calibration.tokens.folder != self.source.tokens.folder:
            read.append(self.calibration.tokens)
        return read

    @property
    def maps(self) -> dict[str, Grid]:
        """The grids by Llama's names."""
        return compressed_tensors.by_map(self.grids, self.source.model)


@dataclass
class Made:
    """What is known of one method once its stream has run."""

    seconds: float = 0.0
    errors: list[MapError] = field(default_factory=list)


def code_of(methods: Iterable[str]) -> tuple[str, ...]:
    """All modules that decide what these methods leave, and what is measured of it."""
    chosen = chosen_modules("pipelines.train.quantization", methods)
    return tuple(dict.fromkeys([*CODE, *chosen]))


def run(config: QuantizeConfig, session: Session) -> Artifact:
    """Make `quantize/<name>`, or find it finished."""
    planned = plan(config, session.store, session.resolve(config.parent))
    source = planned.source
    decided = {**identity(config), "parent": str(source.run), "sequence_length": planned.length}
    draft = session.begin(
        "quantize", config, announcement(config, planned), planned.inputs, code_of(config.methods), identity=decided
    )
    if isinstance(draft, Artifact):
        draft.compare()
        return session.reused(draft, *onward.after_quantize(session, config.name))

    reach = source.run.checkpoint.verify if draft.replaces else None
    with session.track(draft, config, planned.inputs, reach, **of_run(source.run)) as tracker:
        began = time.monotonic()
        folder = draft.scratch(_MODEL)
        folder.mkdir(parents=True)
        try:
            content = work(config, planned, folder)
            content["seconds"] = round(time.monotonic() - began, 2)
            show(content)
            files = publish(config, draft, folder, content)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        tracker.metrics(metrics(content), source.run.checkpoint.step)
        for name in files:
            tracker.file(draft.storage.fetch(f"{draft.folder}/{name}"))
        recorded = {**decisive(config), "parent": str(source.run), "methods": decisive(config.methods)}
        artifact = draft.commit(recorded, statistics(content), source.tokens.manifest["licences"])
    return session.done(artifact, *onward.after_quantize(session, config.name))


# ── Before any work ───────────────────────────────────────────────────────────────────────────────────────────────────


def plan(config: QuantizeConfig, store: ArtifactStore, parent: str) -> Plan:
    """Find the checkpoint, its tokens and those of calibration, and refuse what cannot work.

    Raises: ConfigError, ArtifactError, CheckpointError or DataError, each saying what exists or what to change.
    """
    checkpoint = open_run(store, parent)
    source = Source(checkpoint, tokens_of(store, checkpoint))
    tokenizer_settings(source)
    calibration = None
    if config.bits == "auto" or any(METHODS[name].calibrated for name in config.methods):
        named = config.calibration.tokens
        tokens = source.tokens if named is None else store.get_kind("calibration.tokens", "tokens", named)
        calibration = plan_calibration(checkpoint, tokens, config.calibration)
    length = min(trained_length(store, checkpoint), source.model.max_positions)

    def grids(bits: Literal[4, 8]) -> dict[str, Grid]:
        return uniform_grids(source.model, bits, config.group_size, config.symmetric, config.group_sizes)

    if config.bits != "auto":
        planned = Plan(source, grids(config.bits), calibration, length)
        compressed_tensors.refuse_mixture(planned.maps)
        return planned
    assert config.budget is not None
    four, eight = grids(4), grids(8)
    compressed_tensors.refuse_mixture({"4 bits": next(iter(four.values())), "8 bits": next(iter(eight.values()))})

    def size(mixed: Mapping[str, Grid]) -> int:
        maps = compressed_tensors.by_map(mixed, source.model)
        return compressed_tensors.stored_bytes(source, maps, config.dtype)["total"]

    budget = check_budget(config.budget, source.model, four, eight, getattr(torch, config.dtype), size)
    return Plan(source, four, calibration, length, eight, budget)


def announcement(config: QuantizeConfig, planned: Plan) -> dict[str, str]:
    """What the command says before it begins."""
    source, sizes = planned.source, byte_sizes(config, planned)
    told = {
        "checkpoint": f"{source.run}, {source.run.checkpoint.state['tokens']:,} tokens trained on",
        "method": f"{config.method}: {METHODS[config.method].words}",
        "grids": grid_words(planned.grids),
        "weights": f"{human(sizes['total'], 'B')} after, {human(sizes['bfloat16']['total'], 'B')} before in bfloat16 "
        f"(linear maps {human(sizes['linear'], 'B')}, {human(sizes['bfloat16']['linear'], 'B')} before)",
        "calibration": str(planned.calibration or "none: no method that is used looks at data"),
    }
    if config.measure is None:
        told["measured"] = "nothing (measure is null)"
    else:
        beside = "".join(f", {name} beside it" for name in config.methods if name != config.method)
        told["measured"] = (
            f"against the full model{beside}: per source {config.measure.max_tokens:,} tokens "
            f"({config.measure.kl_tokens:,} for KL) and {config.measure.max_pairs:,} pairs, in windows of "
            f"{planned.length:,}"
        )
    if planned.budget is not None:
        told["budget"] = (
            f"{human(planned.budget.bytes, 'B')} of all weights: 8 bits where they help most for a byte (with 8 bits "
            f"everywhere {human(planned.budget.most, 'B')}); chosen by {config.method} on the rows of calibration"
        )
    told["memory"] = memory_words(config, planned)
    return told


def byte_sizes(config: QuantizeConfig, planned: Plan) -> dict[str, Any]:
    """Of all weights as they are stored, and of the same in bfloat16, in bytes."""
    source = planned.source
    return {
        **compressed_tensors.stored_bytes(source, planned.maps, config.dtype),
        "bfloat16": compressed_tensors.plain_bytes(source, planned.maps, torch.bfloat16.itemsize),
    }


def grid_words(grids: Mapping[str, Grid]) -> str:
    """E.g. `24 matrices with 4 bits in groups of 32, symmetric`."""
    counts: dict[Grid, int] = {}
    for grid in grids.values():
        counts[grid] = counts.get(grid, 0) + 1
    return "; ".join(
        f"{count:,} matrices with {grid.bits} bits in groups of {grid.group_size}, "
        f"{'symmetric' if grid.symmetric else 'with zero points'}"
        for grid, count in counts.items()
    )


def memory_words(config: QuantizeConfig, planned: Plan) -> str:
    """What quantizing and measuring take beside the program itself, by arithmetic."""
    model = planned.source.model
    counts = parameter_counts(model)
    block = 4 * (counts["total"] - counts["embedding"]) / model.layers
    # weights of one layer, as they were and as they will be; the embedding, once more as the output matrix
    quantizing = 3 * block + 2 * 4 * counts["embedding"]
    if planned.calibration is not None:
        tokens = sum(planned.calibration.rows.values()) * planned.calibration.sequence_length
        # hidden states through the full and the quantized layers and one more of each; the Hessian and its factors
        quantizing += 4 * tokens * model.d_model * 4 + 4 * 4 * max(model.d_ff, model.d_model) ** 2
    told = f"about {human(quantizing, 'B')} to quantize"
    if config.measure is not None:
        whole = 4 * (counts["total"] + counts["embedding"])
        told += f", {human(whole + 4 * counts['embedding'] + (quantizing if config.compare else 0), 'B')} to measure"
    return told


# ── Work ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def work(config: QuantizeConfig, planned: Plan, folder: Path) -> dict[str, Any]:
    """Write the folder and measure; returns the content of `quantization.json`, but for its seconds."""
    source = planned.source
    drawn = None if planned.calibration is None else draw_calibration(planned.calibration)
    if planned.budget is not None:
        assert drawn is not None
        planned = settled(config, planned, drawn)
    made = {name: Made() for name in config.methods}
    # the checkpoint's checksums are compared on this first way through
    stream = method_stream(config, planned, config.method, drawn, made[config.method], verify=True)
    compressed_tensors.write_quantized(folder, source, stream, planned.maps, config.dtype)
    del stream
    content = described(config, planned, drawn)
    if config.measure is not None:
        heldout = read_heldout(source.tokens, planned.length, config.measure)
        full, models = measure(config, planned, folder, drawn, heldout, made)
        content["measured"] = compared(heldout, full, models, source.model.vocabulary, config.measure.seed)
    content["made"] = {
        name: {"seconds": round(one.seconds, 2), "errors": plain(one.errors)} for name, one in made.items()
    }
    return content


def settled(config: QuantizeConfig, planned: Plan, drawn: CalibrationRows) -> Plan:
    """Choose 4 or 8 bits for each matrix within the budget, and show why."""
    source, settings = planned.source, config.methods[config.method]
    assert planned.budget is not None
    assert planned.eight is not None
    assert settings is not None
    progress = Progress("errors at 4 and 8 bits", source.model.layers, "layers")
    errors = measure_errors(
        fold(source.weights(verify=True), source.model), source.model, METHODS[config.method], settings,
        [planned.grids, planned.eight], drawn, getattr(torch, config.dtype), progress,
    )  # fmt: skip
    choices = choose_bits(planned.budget, errors)
    chosen = [[name, _digits(four), _digits(eight), *rest] for name, four, eight, *rest in table_rows(choices)]
    words = (
        f"Of {len(choices)} matrices {sum(one.bits == 8 for one in choices)} have 8 bits, within "
        f"{planned.budget.bytes:,} bytes of all weights. An error is that of the matrix's output, relative to it, each "
        "matrix alone; what falls most for a byte comes first."
    )
    say(f"   {words}")
    say(table(CHOICE_HEADER, chosen) + "\n")
    grids = mixed_grids(choices, planned.grids, planned.eight)
    choice = {"words": words, "header": list(CHOICE_HEADER), "rows": chosen, "budget_bytes": planned.budget.bytes}
    return dataclasses.replace(planned, grids=grids, choice=choice)


def _digits(error: Any) -> str:
    return f"{error:.2e}"


def method_stream(
    config: QuantizeConfig, planned: Plan, method: str, drawn: CalibrationRows | None, made: Made, verify: bool = False
) -> QuantizedStream:
    """One method's weights, in the order of a stream; `made` is filled meanwhile."""
    source, settings = planned.source, config.methods[method]
    assert settings is not None
    progress = Progress(f"quantize by {method}", source.model.layers, "layers")
    began = time.monotonic()
    yield from quantize_stream(
        fold(source.weights(verify=verify), source.model), source.model, METHODS[method], settings, planned.grids,
        drawn if METHODS[method].calibrated else None, getattr(torch, config.dtype), progress, made.errors.append,
    )  # fmt: skip
    made.seconds = time.monotonic() - began


def measure(
    config: QuantizeConfig, planned: Plan, folder: Path, drawn: CalibrationRows | None, heldout: Heldout,
    made: Mapping[str, Made],
) -> tuple[Answers, dict[str, Answers]]:  # fmt: skip
    """Answers of the full model and of each method: the chosen one as it reads back, others as they would.

    One whole model is in memory at a time.
    """
    source = planned.source
    model = untied_model(fold(source.weights(), source.model), source.model)
    say(f"   measure the full model on {sum(read.tokens for read in heldout.sources.values()):,} held-out tokens")
    full = answers(model, heldout)
    kept = reference(model, heldout, model.lm_head.weight.detach())
    del model
    models: dict[str, Answers] = {}
    for name in config.methods:
        gc.collect()
        quantized = _delivered(config, planned, folder, name, drawn, made[name])
        say(f"   measure {name}")
        models[name] = answers(quantized, heldout, kept)
        del quantized
    return full, models


def _delivered(
    config: QuantizeConfig, planned: Plan, folder: Path, method: str, drawn: CalibrationRows | None, made: Made
) -> UntiedTransformer:
    """A quantized model in memory."""
    if method == config.method:
        return untied_model(compressed_tensors.read(folder).weights(), planned.source.model)
    stream = method_stream(config, planned, method, drawn, made)
    return untied_model(as_read(stream, getattr(torch, config.dtype)), planned.source.model)


def as_read(stream: QuantizedStream, kept: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """What a reader of the folder would compute with, had the stream been written."""
    for name, value in stream:
        yield name, value.values() if isinstance(value, Quantized) else value.to(kept).float()


def described(config: QuantizeConfig, planned: Plan, drawn: CalibrationRows | None) -> dict[str, Any]:
    """What was made, of what, and how."""
    sizes = byte_sizes(config, planned)
    linear = sizes["bfloat16"]["linear"] / torch.bfloat16.itemsize
    content: dict[str, Any] = {
        "parent": str(planned.source.run),
        "method": config.method,
        "words": METHODS[config.method].words,
        "settings": plain(config.methods),
        "dtype": config.dtype,
        "grids": plain(planned.grids),
        "bits_per_weight": 8 * sizes["linear"] / linear,
        "bytes": sizes,
        "calibration": None,
        "choice": planned.choice,
        "sequence_length": planned.length,
        "tokens": planned.source.tokens.folder,
        "measured": None,
    }
    if planned.calibration is not None and drawn is not None:
        content["calibration"] = {
            "words": f"{sum(planned.calibration.rows.values()):,} rows of {planned.calibration.sequence_length:,} ids",
            "tokens": planned.calibration.tokens.folder,
            "sequence_length": planned.calibration.sequence_length,
            "seed": planned.calibration.seed,
            "sources": counted(drawn, planned.calibration),
        }
    return content


# ── After the work ────────────────────────────────────────────────────────────────────────────────────────────────────


def show(content: Mapping[str, Any]) -> None:
    """The result on the terminal."""
    for name, line in size_lines(content).items():
        say(f"   {name}: {line}")
    if content["measured"]:
        say(table(HEADER, rows(content)) + "\n")
        for sentence in sentences(content["measured"]):
            say(f"   {sentence}")
    say(f"   in {duration(content['seconds'])}")


def publish(config: QuantizeConfig, draft: Draft, folder: Path, content: Mapping[str, Any]) -> list[str]:
    """Publish the model, its numbers and its page; returns the names of what is for people."""
    draft.publish(_MODEL, {f"{_MODEL}/{path.name}": path for path in sorted(folder.iterdir())})
    record = draft.scratch("quantization.json")
    record.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    names = write_page(record.parent, f"quantize/{config.name}", content)
    assert names[0] == PAGE
    files = {"quantization.json": record, **{name: record.parent / name for name in names}}
    draft.publish("report", files)
    return list(files)


def statistics(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says: the parent, sizes, and the chosen method's numbers."""
    told: dict[str, Any] = {
        "parent": content["parent"],
        "method": content["method"],
        "bits_per_weight": content["bits_per_weight"],
        "linear_bytes": content["bytes"]["linear"],
        "weights_bytes": content["bytes"]["total"],
        "linear_share_of_bfloat16": content["bytes"]["linear"] / content["bytes"]["bfloat16"]["linear"],
    }
    if content["measured"]:
        own = content["measured"]["models"][content["method"]]
        told |= {"bits_per_byte": own["bits_per_byte"]["mean"], "assistant_loss": own["assistant_loss"]}
        told |= {key: own[key]["mean"] and own[key]["mean"]["value"] for key in ("lost_bits_per_byte", "kl", "top1")}
    return told


main = entry(QuantizeConfig, run, "quantize")

if __name__ == "__main__":
    main()
