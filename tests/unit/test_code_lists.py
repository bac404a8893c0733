"""What decides a result and is not hashed fails here: every module that a workflow reaches is in its CODE, or listed
with a reason.

Reached is what its imports lead to inside `pipelines/`, those within functions included. A new module fails until
somebody has decided: into `CODE`, where a change of behaviour makes finished artifacts stale, or into a list below,
with why it cannot change them.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.data.cleaning.further import FURTHER
from pipelines.data.sources.formats import FORMATS as FILE_FORMATS
from pipelines.store.code import chosen_modules, imports_of
from pipelines.train.formats import FORMATS
from pipelines.train.measures import MEASURES
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.optimizers import OPTIMIZERS
from pipelines.train.quantization import METHODS
from pipelines.train.runtimes import RUNTIMES
from pipelines.train.studies import STUDIES
from pipelines.train.tasks import TASKS
from workflows import corpus, cost, evaluate, export, quantize
from workflows.running import training

ROOT = Path(__file__).parents[2]
WORKFLOWS = (
    "corpus",
    "tokenize",
    "mixture",
    "running.training",
    "evaluate",
    "export",
    "quantize",
    "average",
    "cost",
    "verify_resume",
    "publish",
    "recipe",
    "sandbox",
)

# how and where a run goes, and what it says; a prefix stands for all modules below it
ANYWHERE = {
    "pipelines.store.artifacts": "keeps results under their fingerprint",
    "pipelines.store.artifact": "files that are published, bytes as they are",
    "pipelines.store.draft": "publishes files, bytes as they are",
    "pipelines.store.references": "names of artifacts; the artifacts are in the fingerprint",
    "pipelines.store.ways_out": "messages",
    "pipelines.store.missing": "messages",
    "pipelines.store.code": "makes the hashes",
    "pipelines.store.sealed": "checksums of small files",
    "pipelines.store.storage": "bytes as they are",
    "pipelines.store.opening": "bytes as they are",
    "pipelines.store.s3": "bytes as they are",
    "pipelines.store.lease": "whether a command works on an artifact now",
    "pipelines.store.cache": "copies of files, bytes as they are",
    "pipelines.config": "its values are in the fingerprint",
    "pipelines.identity": "makes the fingerprint",
    "pipelines.uris": "messages",
    "pipelines.errors": "messages",
    "pipelines.store.disk": "messages about full disks",
    "pipelines.display.progress": "messages",
    "pipelines.display.evaluation": "tables and metrics of what is committed",
    "pipelines.display.timeline": "times of a start, for a benchmark",
    "pipelines.cluster.ray_token": "authentication of Ray",
    "pipelines.cluster.cluster": "where tasks run; results do not depend on it (tests/integration/test_map_shards.py)",
    "pipelines.cluster.nodes": "asks machines",
    "pipelines.cluster.private_ray": "which processes Ray starts",
    "pipelines.data.text.kernels": "where machine code is kept; what it computes is in the modules of the kernels",
    "pipelines.cluster.train_group": "where workers run",
    "pipelines.cluster.train_group_rank": "likewise",
    "pipelines.cluster.train_group_lines": "messages",
    "pipelines.cluster.train_group_room": "refuses",
    "pipelines.cluster.trial_pool": "where trials run",
    "pipelines.display.markup": "pages about results",
    "pipelines.display.charts": "pages about results",
    "pipelines.tracking": "what MLflow is told, and measured points on their way to it",
    "pipelines.data.stream.prefetch": "when shards are downloaded, not which",
    "pipelines.data.tokens.sidecars": "those that a run's tokens have are hashed with it",
    "pipelines.data.tokens.vocabulary": "how many ids, which is in the fingerprint",
    "pipelines.data.tokens.blocks": "compares blocks with their checksums",
    "pipelines.train.network.compute": "runtime(): equal up to rounding (tests/unit/test_attention.py)",
    "pipelines.train.network.cudnn_attention": "likewise: a kernel that compute.attention chooses",
    "pipelines.train.plan.memory": "what a worker needs; chooses recomputation, which changes nothing",
    "pipelines.train.plan.devices": "refuses devices",
    "pipelines.train.schedules.decays": "the shape's values are in the fingerprint (schedule.decay_values)",
    "pipelines.train.plan.planning": "builds the spec; what it decides is in the fingerprint: model, schedule, steps, "
    "parent, where the stream is read",
    "pipelines.train.plan.checked": "refuses; what it looks up is in the fingerprint by way of planning",
    "pipelines.train.plan.inheritance": "likewise",
    "pipelines.train.plan.sizing": "its outcome, a config without nulls, is in the fingerprint",
    "pipelines.train.plan.announcement": "messages",
    "pipelines.train.plan.reading": "messages and refusals",
    "pipelines.train.plan.context": "its outcome, the model and the segments, is in the fingerprint",
    "pipelines.train.stages": "the table of stages; what a row decides, planning writes into the fingerprint",
    "pipelines.train.spec": "config and spec: their values are in the fingerprint",
    "pipelines.train.run.garbage": "when Python looks for garbage",
    "pipelines.train.run.log": "messages and measured points",
    "pipelines.train.run.monitor": "measured points",
    "pipelines.train.run.profile": "a trace of times",
    "pipelines.train.worker": "starts the loop",
    "pipelines.train.checkpoint.committed": "stores and reads bytes, compared with their checksums",
    "pipelines.train.checkpoint.snapshot": "copies of slices, exact",
    "pipelines.train.checkpoint.saver": "when and where slices are written",
    "pipelines.train.checkpoint.retention": "which checkpoints stay",
    "pipelines.train.results.sample_question": "what a person is shown to ask a model, and no weight",
    "pipelines.train.results.registered": "what MLflow's registry says of an export",
    "pipelines.train.results.heldout": "the name of what was measured on, for MLflow",
    "pipelines.train.checkpoint.lineage": "finds runs by their names",
}
_CODE_POINTS = {"pipelines.data.text": "likewise of codepoints: which text goes to which of two equal encoders"}
_STREAM = {"pipelines.data.stream": "reads nothing of a stream: reached by way of planning"}
_TRAINING = {
    "pipelines.train.objectives": "trains nothing: reached by way of the stages",
    "pipelines.train.batches": "likewise",
    "pipelines.train.update": "updates nothing: reached by way of the engine's `device`",
    "pipelines.train.optimizers": "likewise",
    "pipelines.train.checkpoint.slices": "fills engines, and there is none here",
    "pipelines.train.network.linear_cross_entropy": "likewise",
    "pipelines.train.network.float8": "likewise",
}
# what a workflow reaches and has no use for that could change its result
BESIDE = {
    "corpus": {
        "pipelines.data.corpus.data_card": "a page about the corpus, drawn from what is committed",
        "pipelines.data.corpus.browse": "shows what is there",
        "pipelines.data.corpus.reasons": "says which key governs a drop",
        "pipelines.data.plan.estimate": "the plan alone",
        "pipelines.data.plan.extrapolate": "the plan alone",
        "pipelines.data.plan.metering": "the plan alone",
        "pipelines.data.dedup.sizing": "numbers of tasks, which change nothing",
        "pipelines.data.sources.remote": "bytes as they are",
        "pipelines.data.sources.glance": "the plan alone",
    },
    "tokenize": {"pipelines.data.stream": "the sample's shares, which are in the fingerprint"},
    "mixture": {
        "pipelines.data.stream.interleave": "the least weight, below which a mixture is refused",
        "pipelines.data.stream.asked_mixture": "its outcome, weights and budget, is in the fingerprint",
    },
    "running.training": {
        "pipelines.data.stream.mixture": "the plan is in the fingerprint, as segments or by the mixture's own",
        "pipelines.train.checkpoint.weights": "weights without an engine: a run fills its engine (slices)",
    },
    "verify_resume": {
        "pipelines.data.stream.mixture": "as for training",
        "pipelines.train.checkpoint.weights": "as for training",
    },
    "evaluate": {
        **_STREAM,
        **_TRAINING,
        **_CODE_POINTS,
        "pipelines.data.tokens.codepoints": "which text goes to which of two equal encoders",
    },
    "export": {
        **_STREAM,
        **_TRAINING,
        **_CODE_POINTS,
        "pipelines.data.tokens": "only verifies what was written, but for chat and tokenizer",
        "pipelines.train.network.attention": "likewise",
        "pipelines.train.network.batch": "likewise",
        "pipelines.train.tasks.generate": "likewise",
        "pipelines.train.tasks.scoring": "likewise",
        "pipelines.train.results.evaluate": "finds evaluations, makes none",
        "pipelines.train.tasks": "finds evaluations, makes none",
        "pipelines.train.formats.parents": "finds the parent by its name",
        "pipelines.train.runtimes": "programs that are asked about what was written",
        "pipelines.train.quantization": "what it made is read from a folder that is an input",
    },
    "quantize": {
        **_TRAINING,
        **_CODE_POINTS,
        "pipelines.data.tokens.codepoints": "which text goes to which of two equal encoders",
        "pipelines.display.report": "colours and fonts of the pictures",
        "pipelines.laws": "axes of the pictures; what draws intervals is hashed",
        "pipelines.train.results.quantized_page": "a page about what is committed",
        "pipelines.train.formats": "beside the layout, reached by way of the table of formats",
        "pipelines.train.runtimes": "likewise",
        "pipelines.train.tasks": "beside scoring, text and windows, reached by way of the table of tasks",
    },
    "cost": {
        **_STREAM,
        **_TRAINING,
        **_CODE_POINTS,
        "pipelines.data.tokens": "reads held-out ids as they are; its tokens are in the fingerprint",
        "pipelines.train.network.losses": "trains nothing: reached by way of the spec",
        "pipelines.train.cost.page": "a page about what is committed",
        "pipelines.train.cost.drawing": "likewise",
        "pipelines.train.quantization": "what it made is read from a folder that is an input",
        "pipelines.train.cost.table": "messages",
        "pipelines.train.formats.parents": "finds what a model was made of",
        "pipelines.train.runtimes.contract": "what runtimes say of themselves",
        "pipelines.train.tasks.task": "what tasks say of themselves",
        "pipelines.train.schedules": "trains nothing: reached by way of the spec",
    },
    "average": {
        **_STREAM,
        **_TRAINING,
        "pipelines.data.tokens": "reads no tokens",
        "pipelines.train.network": "reads weights by name, builds no model",
    },
    "publish": {
        "pipelines.data": "sends files as they are: reached by way of the card, which an export holds",
        "pipelines.train": "likewise",
    },
    "sandbox": {
        "pipelines.train.budget.device": "the price elsewhere",
        "pipelines.train.cost.device": "likewise",
        "pipelines.data.stream.mixture": "its mixtures are artifacts of their own",
        "pipelines.display.report": "colours and fonts of the pictures",
        "pipelines.train.checkpoint.weights": "as for training",
        "pipelines.train.sandbox.config": "its values are in the fingerprint",
        "pipelines.train.sandbox.space": "likewise",
        "pipelines.train.sandbox.costs": "what it takes, beside what it says",
        "pipelines.train.sandbox.page": "a page about what is committed",
        "pipelines.train.sandbox.writing": "likewise",
        "pipelines.train.trials": "rows and fields of what is committed",
    },
    "recipe": {
        "pipelines.data": "its stages are workflows of their own; of training the report reads the curve",
        "pipelines.train": "likewise",
    },
}


# the rows of tables that a workflow chooses from; a row's own modules are hashed where it is chosen, and the table
# never
ROWS: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
    "corpus": lambda: (corpus.code_of([name], FURTHER) for name in FILE_FORMATS),
    "running.training": lambda: (training.code_of(one, other) for one in OBJECTIVES for other in OPTIMIZERS),
    "verify_resume": lambda: (training.code_of(one, other) for one in OBJECTIVES for other in OPTIMIZERS),
    "evaluate": lambda: (evaluate.code_of([task]) for task in TASKS),
    "export": lambda: (export.code_of(name) for name in FORMATS),
    "cost": lambda: (cost.code_of([one], [other]) for one in FORMATS for other in RUNTIMES),
    "quantize": lambda: (quantize.code_of([name]) for name in METHODS),
    "sandbox": lambda: (
        (*chosen_modules("pipelines.train.studies", [kind]), *measures(), *training.code_of(one, other))
        for kind in STUDIES
        for one in OBJECTIVES
        for other in OPTIMIZERS
    ),
}
TABLES = {
    "pipelines.data.cleaning.further",
    "pipelines.data.sources.formats",
    *(f"pipelines.train.{table}" for table in ("objectives", "optimizers", "tasks", "formats", "studies", "measures")),
    "pipelines.train.runtimes",
    "pipelines.train.quantization",
}


def measures() -> tuple[str, ...]:
    """The modules of all measures."""
    return chosen_modules("pipelines.train.measures", MEASURES, beside=["pipelines.train.tasks"])


def code_of(workflow: str) -> set[str]:
    """The modules that are hashed whatever is chosen."""
    return set(importlib.import_module(f"workflows.{workflow}").CODE)


def rows_of(workflow: str) -> list[set[str]]:
    """What each choice has hashed."""
    return [set(code) for code in ROWS.get(workflow, lambda: iter(()))()]


def computes(module: str) -> bool:
    """Whether a module is more than a package that holds others: a table, or looking up their names, is no more."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    package = ROOT / module.replace(".", "/") / "__init__.py"
    if path.exists():
        return True
    definitions = (ast.ClassDef, ast.FunctionDef)
    return module not in TABLES and any(
        isinstance(node, definitions) and node.name != "__getattr__"
        for node in ast.walk(ast.parse(package.read_text()))
    )


@functools.cache
def reached(start: str) -> set[str]:
    """Everything that a module's imports lead to, packages that only hold others left out."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        for name in imports_of(ahead.pop()) - seen:
            seen.add(name)
            ahead.append(name)
    return {name for name in seen if computes(name)}


def listed(module: str, reasons: dict[str, str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in reasons)


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_every_module_that_a_workflow_reaches_is_hashed_or_has_a_reason_not_to_be(workflow: str) -> None:
    code = importlib.import_module(f"workflows.{workflow}").CODE
    assert len(set(code)) == len(code)
    undecided = {
        module
        for module in reached(f"workflows.{workflow}") - set(code).union(*rows_of(workflow))
        if not listed(module, ANYWHERE) and not listed(module, BESIDE.get(workflow, {}))
    }
    assert not undecided, f"into CODE of workflows/{workflow}.py, or with a reason into this file"


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_what_is_hashed_is_reached(workflow: str) -> None:
    """`verification` runs in processes that verify_resume starts by name."""
    code = code_of(workflow).union(*rows_of(workflow))
    assert code - reached(f"workflows.{workflow}") <= {"pipelines.train.verification"}


@pytest.mark.parametrize("workflow", sorted(ROWS))
def test_the_common_code_reaches_a_row_by_its_table_alone(workflow: str) -> None:
    """A module of one row that every run imports decides what others do, and would be hashed for that one alone."""
    rows, code = rows_of(workflow), code_of(workflow)
    assert len(rows) > 1
    own = set.union(*rows) - set.intersection(*rows) - code
    assert own
    assert {(module, name) for module in code for name in imports_of(module) & own} == set()


def test_every_reason_is_of_something_that_is_there() -> None:
    everything = {module for workflow in WORKFLOWS for module in reached(f"workflows.{workflow}")}
    for prefix in ANYWHERE:
        assert any(listed(module, {prefix: ""}) for module in everything), prefix
    for workflow, reasons in BESIDE.items():
        for prefix in reasons:
            assert any(listed(module, {prefix: ""}) for module in reached(f"workflows.{workflow}")), (workflow, prefix)


def test_a_workflow_that_commits_has_a_list() -> None:
    """Those without one make no artifact, or are `running.training` under another name."""
    with_code = {
        ".".join(path.relative_to(ROOT / "workflows").with_suffix("").parts)
        for path in (ROOT / "workflows").rglob("*.py")
        if "\nCODE" in path.read_text()
    }
    assert with_code == set(WORKFLOWS)
