"""What a checkpoint knows: the tasks that a config names, measured one after another on one checkpoint.

Enters: a checkpoint and the held-out shards of its tokens. Leaves: `Results`, plain data, each task's numbers beside
the words that they are read with. What is measured and how is the tasks' own (`pipelines/train/tasks/`). Everything is
bounded, and drawn by `seed` alike for every checkpoint.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pipelines.config import ChosenByName, Seed, Window, WorkflowConfig, config_class, plain
from pipelines.errors import ArtifactError, ConfigError
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.ways_out import how_anew
from pipelines.train.checkpoint.lineage import Run, open_run, tokenizer_of, tokens_of, trained_length
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.tasks import TASKS
from pipelines.train.tasks.task import Subject, TaskPlan, TaskSettings

# task -> its settings; null: it is left out
Tasks = dict[str, Annotated[TaskSettings | None, ChosenByName(lambda: TASKS)]]


@config_class
class EvaluateConfig(WorkflowConfig):
    """What is measured, and on what."""

    parent: str  # e.g. anneal/demo, pretrain/demo@step-240
    tokens: str | None = None  # null: the tokens that the parent was trained on
    sequence_length: Window | None = None  # window T; null: that of its trunk, or of the last anneal
    tasks: Tasks
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Leave out the tasks that are null. Raises: ConfigError where no task is left."""
        super().__post_init__()
        chosen = {name: settings for name, settings in self.tasks.items() if settings is not None}
        if not chosen:
            raise ConfigError(f"tasks names none; expected some of {', '.join(TASKS)}")
        object.__setattr__(self, "tasks", chosen)


@dataclass(frozen=True)
class Results:
    """The content of `results.json`."""

    parent: str
    step: int
    tokens_trained: int  # ancestors included
    tokens: str  # artifact that the held-out documents come from
    sequence_length: int
    tasks: dict[str, dict[str, Any]]  # task -> its numbers and how they are read (`Task.described`)
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        content: dict[str, Any] = plain(self)
        return content


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation before anything is loaded."""

    subject: Subject
    inputs: tuple[Artifact, ...]
    identity: dict[str, Any]
    announcement: dict[str, str]


def plan_evaluation(config: EvaluateConfig, store: ArtifactStore, parent: str) -> EvaluationPlan:
    """Find the checkpoint and its tokens, and refuse what cannot work.

    Args: parent, the resolved reference.
    Raises: ConfigError, ArtifactError or CheckpointError, each saying what exists or what to change.
    """
    run = open_run(store, parent)
    model = ModelConfig(**run.checkpoint.state["model"])
    tokens = _tokens(config, store, run)
    length = config.sequence_length or min(trained_length(store, run), model.max_positions)
    if not 0 < length <= model.max_positions:
        raise ConfigError(f"sequence_length is {length}; {run} has positions for 1 to {model.max_positions}: lower it")
    subject = Subject(run=run, architecture=model, tokens=tokens, sequence_length=length, seed=config.seed, store=store)
    plans = {name: TASKS[name].plan_task(subject, settings) for name, settings in config.tasks.items()}
    beside = {name: dict(task_plan.identity) for name, task_plan in plans.items() if task_plan.identity}
    return EvaluationPlan(
        subject=subject,
        inputs=(run.artifact, tokens, *(artifact for task_plan in plans.values() for artifact in task_plan.inputs)),
        identity={
            **identity(config),
            "parent": str(run),
            "tokens": tokens.folder,
            "sequence_length": length,
            **({"read_by_tasks": beside} if beside else {}),
        },
        announcement=_announcement(subject, plans),
    )


def _announcement(subject: Subject, plans: Mapping[str, TaskPlan]) -> dict[str, str]:
    """What the command says before it begins. Raises: as `_unmeasured` does."""
    run, tokens = subject.run, subject.tokens
    unmeasured = _unmeasured(tokens, plans)
    sources = tokens.statistics["sources"].values()
    kinds = Counter(source["kind"] for source in sources if source["heldout"]["documents"])
    heldout = ", ".join(f"{count} source{'s' * (count > 1)} of {kind}" for kind, count in kinds.items())
    announcement = {
        "checkpoint": f"{run}, {run.checkpoint.state['tokens']:,} tokens trained on",
        "held out": f"{tokens.folder}: {heldout or 'nothing'}",
        **{name: task_plan.announcement for name, task_plan in plans.items()},
    }
    if unmeasured:
        announcement["not measured"] = "; ".join(f"{name}: {reason}" for name, reason in unmeasured.items())
    return announcement


def evaluate(config: EvaluateConfig, planned: EvaluationPlan) -> Results:
    """Load the checkpoint (checksums verified) and measure it; one process, on a GPU where there is one.

    Raises: CheckpointError when a file is damaged, naming the checkpoint before it.
    """
    from pipelines.train.checkpoint import whole_model
    from pipelines.train.update.engine import device

    began = time.monotonic()
    subject = planned.subject
    model = whole_model(subject.run.checkpoint).to(device())
    tasks = {
        name: TASKS[name].described(TASKS[name].measure(model, subject, settings))
        for name, settings in config.tasks.items()
    }
    return Results(
        parent=str(subject.run),
        step=subject.run.checkpoint.step,
        tokens_trained=subject.run.checkpoint.state["tokens"],
        tokens=subject.tokens.folder,
        sequence_length=subject.sequence_length,
        tasks=tasks,
        seconds=round(time.monotonic() - began, 2),
    )


def read_results(evaluation: Artifact) -> dict[str, Any]:
    """The content of an evaluation's `results.json`.

    Raises: ArtifactError for one that an older version made, which knew no tasks.
    """
    if not of_this_version(evaluation):
        raise ArtifactError(
            f"{evaluation.folder} was made by an older version of Trunkline, which kept its numbers in another form: "
            + how_anew(evaluation.folder, evaluation.manifest, evaluation.storage.uri)
        )
    content: dict[str, Any] = evaluation.json("results.json")
    return content


def of_this_version(evaluation: Artifact) -> bool:
    """Whether an evaluation says which tasks it measured."""
    return "tasks" in evaluation.statistics


def _unmeasured(tokens: Artifact, plans: Mapping[str, TaskPlan]) -> dict[str, str]:
    """Sources of which nothing can be measured, with the reason.

    Raises: ConfigError when that is every source, or there is none: an evaluation without a number is none. Where there
        is no source, samples are worth having alone, and so is what a task measures on an input of its own.
    """
    sources = {name for task_plan in plans.values() for name in task_plan.sources}
    unmeasured = {name: reason for task_plan in plans.values() for name, reason in task_plan.unmeasured.items()}
    measurable = {
        name for task_plan in plans.values() for name in task_plan.sources if name not in task_plan.unmeasured
    }
    beside = any(task_plan.samples or task_plan.inputs or task_plan.identity for task_plan in plans.values())
    if not measurable and (sources or not beside):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unmeasured.items())
        raise ConfigError(
            f"nothing that {tokens.folder} holds out can be measured ({reasons or 'it holds nothing out'}): "
            "set sequence_length, or hold documents out in the corpus (conf/corpus/<name>.yaml)"
        )
    return unmeasured


def _tokens(config: EvaluateConfig, store: ArtifactStore, run: Run) -> Artifact:
    if config.tokens is None:
        return tokens_of(store, run)
    named = store.get_kind("tokens", "tokens", config.tokens)
    statistics = named.statistics
    size = max(statistics.get("vocabulary_size", 0), statistics.get("tokenizer", {}).get("vocabulary_size", 0))
    if size > run.checkpoint.state["model"]["vocabulary"]:
        raise ConfigError(
            f"tokens={config.tokens} has {size} ids, {run} knows {run.checkpoint.state['model']['vocabulary']}: "
            "encode the corpus with the model's own tokenizer (tokenizer.reuse=tokens/<name>)"
        )
    if tokenizer_of(named) != run.checkpoint.state.get("tokenizer"):
        raise ConfigError(
            f"tokens={config.tokens} was encoded with another tokenizer than {run} was trained on: "
            "encode the corpus with the model's own (tokenizer.reuse=tokens/<name>)"
        )
    return named
