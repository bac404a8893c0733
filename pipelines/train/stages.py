"""The table of training stages, the config that all of them take, and the spec that their workers get.

Three words are never mixed up: *resume* (the same run goes on), *branch* (a new run from selected parent state) and
*initialise* (weights only). A row of `STAGES` says what a stage means; planning, lineage, retention, averaging and the
commands read it there, so that another stage is one more row. A `TrainSpec` is plain data that says everything a worker
needs, so the same worker runs under Ray and under torchrun; `planning.py` makes it.

Source of the table: MiniCPM (arXiv 2404.06395 §6) and its author's answers; see docs/recipe.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pipelines.config import Chosen, Count, Positive, Rows, Seed, Whole, Window, WorkflowConfig, config_class, runtime
from pipelines.errors import ConfigError
from pipelines.train.checkpoint.retention import Rule
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.compute import ComputeConfig
from pipelines.train.network.roles import check_kinds
from pipelines.train.objectives import OBJECTIVES, ObjectiveSettings
from pipelines.train.optimizers import OPTIMIZERS
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.optimizers.contract import OptimizerSettings
from pipelines.train.plan.context import RopeBase
from pipelines.train.plan.schedule import Schedule, ScheduleConfig
from pipelines.train.update.engine import ZeroConfig

# `kind` picks a row of the table
Optimizer = Annotated[OptimizerSettings, Chosen("kind", lambda: OPTIMIZERS)]
StartMode = Literal["fresh", "branch", "initialise"]
RateOrigin = Literal["own", "parent", "trunk"]
Objective = Annotated[ObjectiveSettings, Chosen("name", lambda: OBJECTIVES)]
AVERAGE = "average"  # the kind of artifact that `workflows.average` makes: weights alone, and a parent like a run


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of the table. It states every entry: a row that misses one fails at import, with the entry's name."""

    # fresh: new weights. branch: weights, optimizer state, LR and place in the data of the parent. initialise: its
    # weights alone
    starts: StartMode
    # kinds that `parent=` may name; the likeliest last, and first the one to make where the store has none
    parents: tuple[str, ...]
    # kinds of artifacts that `data=` may name
    data: tuple[str, ...]
    # how the announcement calls what is read
    reads: str
    # the objective of a config that names none
    objective: str
    # kinds of roles whose parameters train; None: all
    trains: tuple[str, ...] | None
    # where the LR begins. own: at a peak of its own. parent: at the parent's last. trunk: at the trunk's stable one,
    # compared with it before the first step
    learning_rate: RateOrigin
    # whether the run goes on for ever, as a trunk does: more steps are then the same run
    endless: bool
    # whether checkpoints along a run may be averaged
    averaged: bool
    # the stage that usually follows; None: the model is finished, and is exported
    followed_by: str | None
    # of its curves in a report
    colour: str

    @property
    def branches(self) -> bool:
        """Whether a run goes on in its parent's line: its optimizer state, its LR and its place in the data."""
        return self.starts == "branch"

    @property
    def weights(self) -> str:
        """Where weights come from, for the announcement."""
        return {"fresh": "own resume, or fresh", "branch": "parent trunk", "initialise": "parent"}[self.starts]

    @property
    def optimizer_state(self) -> str:
        """Where the optimizer's state comes from, for the announcement."""
        return {"fresh": "own resume", "branch": "parent's", "initialise": "fresh"}[self.starts]

    @property
    def rate_begins_at(self) -> str:
        """Where the LR begins, for the announcement."""
        return {
            "own": "a peak of its own",
            "parent": "the parent's last LR",
            "trunk": "the trunk's stable LR, checked equal before step 1",
        }[self.learning_rate]


STAGES: dict[str, Stage] = {
    "pretrain": Stage(
        starts="fresh",
        parents=(),
        data=("mixture",),
        reads="stable mixture",
        objective="next_token",
        trains=None,
        learning_rate="own",
        endless=True,
        averaged=True,
        followed_by="anneal",
        colour="#33658a",
    ),
    "anneal": Stage(
        starts="branch",
        parents=("pretrain", "anneal"),
        data=("mixture",),
        reads="decay mixture (SFT data in it)",
        objective="next_token",
        trains=None,
        learning_rate="trunk",
        endless=False,
        averaged=True,
        followed_by="sft",
        colour="#e07a2f",
    ),
    "sft": Stage(
        starts="initialise",
        parents=("pretrain", AVERAGE, "anneal", "sft"),
        data=("tokens", "mixture"),
        reads="conversations, assistant tokens only",
        objective="next_token",
        trains=None,
        learning_rate="parent",
        endless=False,
        averaged=True,
        followed_by="dpo",
        colour="#3a9a5b",
    ),
    "dpo": Stage(
        starts="initialise",
        parents=(AVERAGE, "anneal", "sft", "dpo"),
        data=("tokens",),
        reads="preference pairs",
        objective="dpo",
        trains=None,
        learning_rate="own",
        endless=False,
        averaged=False,  # pairs are compared with a reference that an average would blur
        followed_by=None,
        colour="#8e4fa8",
    ),
}


def check_table(stages: Mapping[str, Stage]) -> None:
    """Refuse rows that name what there is not, or contradict themselves. Raises: ConfigError naming row and entry."""
    for name, stage in stages.items():
        for entry, named, known in (
            ("starts", (stage.starts,), ("fresh", "branch", "initialise")),
            ("learning_rate", (stage.learning_rate,), ("own", "parent", "trunk")),
            ("parents", stage.parents, (*stages, AVERAGE)),
            ("followed_by", (stage.followed_by,), (*stages, None)),
            ("objective", (stage.objective,), tuple(OBJECTIVES)),
        ):
            if unknown := [str(value) for value in named if value not in known]:
                raise ConfigError(
                    f"STAGES[{name!r}].{entry} names {', '.join(unknown)}; there are {', '.join(map(str, known))}"
                )
        if (stage.starts == "fresh") == bool(stage.parents):
            raise ConfigError(
                f"STAGES[{name!r}] starts {stage.starts} with parents {stage.parents}; "
                "a fresh run has none, any other has some"
            )
        check_kinds(stage.trains, f"STAGES[{name!r}].trains")
        if stage.branches and AVERAGE in stage.parents:
            raise ConfigError(f"STAGES[{name!r}].parents has {AVERAGE}, which keeps no optimizer state to branch from")


check_table(STAGES)
TRAINED = (*STAGES, AVERAGE)  # kinds of artifacts that hold checkpoints


def stage_named(name: str) -> Stage:
    """A stage's row. Raises: ConfigError for an unknown name, with the known ones."""
    if name not in STAGES:
        raise ConfigError(f"{name} is no training stage; there are {', '.join(STAGES)}")
    return STAGES[name]


@config_class
class BatchConfig:
    """`global_batch = micro_batch × accumulation × workers`; accumulation follows."""

    sequence_length: Window  # tokens a row feeds to the model
    global_batch: Rows  # windows, or pairs, per optimizer step, over all workers
    micro_batch: Rows = runtime(1)  # of them, per forward on one worker


@config_class
class CheckpointConfig:
    """When to save, what stays, and where to go on."""

    every_steps: Count = 100
    keep_last: Count | None = None  # null: every checkpoint stays, so that any can be branched from
    keep_every_steps: Count | None = None  # besides the last ones, those whose step is a multiple of this
    resume: str = "latest"  # or step-200: set the later checkpoints of this run aside and go on from there

    def __post_init__(self) -> None:
        _ = self.rule  # refuses what is no rule

    @property
    def rule(self) -> Rule:
        """Which checkpoints stay; those that other artifacts name always do."""
        return Rule(self.keep_last, self.keep_every_steps)


@config_class
class TrainConfig(WorkflowConfig):
    """What all training stages take; which fields a stage takes is checked when its run is planned (`plan/checked.py`).

    conf/base/stage.yaml has them all, with their meaning; conf/<stage>.yaml what a stage has otherwise.
    """

    parent: str | None = None  # of a stage that begins from a run, e.g. pretrain/demo@step-200
    data: str  # a mixture (mixture/demo_stable), or every fitting source of tokens/demo, as the stage's row says
    model: ModelConfig | None = None  # of a fresh run; a child has its parent's and may repeat it; see rope_base
    rope_base: RopeBase = "keep"  # of a branch: ntk, for windows longer than the parent's, or a number (context.py)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    optimizer: Optimizer = dataclasses.field(default_factory=AdamWSettings)
    zero: ZeroConfig = runtime(default_factory=ZeroConfig)
    compute: ComputeConfig = runtime(default_factory=ComputeConfig)
    batch: BatchConfig
    steps: Count | None = None
    epochs: Positive | None = None  # instead of steps, over tokens
    # null: the stage's own; it may choose another that learns from batches of the same kind
    objective: Objective | None = None
    seed: Seed = 0
    checkpoint: CheckpointConfig = runtime(default_factory=CheckpointConfig)
    log_every_steps: Count = runtime(10)
    monitor_every_steps: Whole = runtime(50)  # noise scale, update ratios, attention logits (monitor.py); 0: never
    profile: bool = runtime(False)  # trace some steps of rank zero (profile.py)
    profile_steps: tuple[Count, Count] = runtime((10, 13))  # first and last, counted from where this start begins
    write_spec: str | None = runtime(None)  # write the workers' spec to this file and stop, for torchrun


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where weights come from, when this run has no checkpoint of its own."""

    mode: StartMode
    run: str | None = None
    step: int | None = None
    samples: int = 0  # of the stream, read by the parent before this run's first step
    tokens: int = 0  # trained on by all ancestors


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything a worker needs; plain data all through (`config.plain` / `config.parse`)."""

    kind: str  # name of the stage
    name: str
    store: str
    claim: dict[str, Any]
    config: dict[str, Any]  # resolved config, for manifest and checkpoint
    model: ModelConfig
    schedule: Schedule
    optimizer: Optimizer
    zero: ZeroConfig
    compute: ComputeConfig
    batch: BatchConfig
    steps: int
    seed: int
    objective: Objective
    tokens: str
    tokenizer: str | None  # checksum of the tokenizer that made the tokens
    segments: tuple[dict[str, Any], ...]  # {"from_sample", "plan"}, the first perhaps "begin"; empty for pairs
    start: Start
    checkpoint: CheckpointConfig
    log_every_steps: int
    monitor_every_steps: int
    profile: bool
    profile_steps: tuple[int, int]
    tracking: dict[str, Any]  # `Tracker.run`, empty where nothing is tracked
    trains: tuple[str, ...] | None = None  # role kinds of the parameters that train; None: all
    verified: tuple[str, ...] = ()  # `Checkpoint.token` of what the driver has read whole

    @property
    def run(self) -> str:
        return f"{self.kind}/{self.name}"
