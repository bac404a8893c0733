"""The config that all training stages take, and the spec that their workers get.

Enters: a stage's YAML (`TrainConfig`). Leaves, by way of `plan/planning.py`: a `TrainSpec`, plain data that says
everything a worker needs, so that the same worker runs under Ray and under torchrun.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from pipelines.config import (
    Chosen,
    Count,
    Open,
    Positive,
    Rows,
    Seed,
    Whole,
    Window,
    Wording,
    WorkflowConfig,
    config_class,
    runtime,
)
from pipelines.train.checkpoint.retention import Rule
from pipelines.train.network.architecture import ModelConfig, RopeBase
from pipelines.train.network.compute import ComputeConfig
from pipelines.train.objectives import OBJECTIVES, ObjectiveSettings
from pipelines.train.optimizers import OPTIMIZERS
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.optimizers.contract import OptimizerSettings
from pipelines.train.schedules.schedule import Schedule, ScheduleConfig
from pipelines.train.stages import STAGES, StartMode, check_objectives
from pipelines.train.update.zero import ZeroConfig

# a key of the mapping picks a row of the table, and with it the class of the rest
Optimizer = Annotated[OptimizerSettings, Chosen("kind", lambda: OPTIMIZERS)]
Objective = Annotated[ObjectiveSettings, Chosen("name", lambda: OBJECTIVES)]
check_objectives(STAGES, OBJECTIVES)

_GOES_ON = "the same command, given again, goes on from the last checkpoint by itself"
Resumed = Annotated[
    str,
    Wording(r"latest|step-\d+", f"latest or step-N, e.g. step-200, to go on from an earlier checkpoint: {_GOES_ON}"),
]


@config_class
class BatchConfig:
    """`global_batch = micro_batch × accumulation × workers`; accumulation follows.

    What is null is worked out from the data, or taken of the parent (`plan/sizing.py`).
    """

    sequence_length: Annotated[Window, Open()]  # tokens a row feeds to the model
    global_batch: Annotated[Rows, Open()]  # windows, or pairs, per optimizer step, over all workers
    micro_batch: Annotated[Rows, Open()] = runtime(1)  # of them, per forward on one worker


@config_class
class CheckpointConfig:
    """When to save, what stays, and where to go on."""

    every_steps: Annotated[Count, Open()] = 100  # null: ten times in the run
    keep_last: Count | None = None  # null: every checkpoint stays, so that any can be branched from
    keep_every_steps: Count | None = None  # besides the last ones, those whose step is a multiple of this
    resume: Resumed = "latest"  # step-200: set this run's later checkpoints aside, go on from there

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
    epochs: Positive | None = None  # instead of steps: how often the data is read
    # no source is read more often than this; null: as the mixture says, and over tokens as mixtures do, 4
    max_epochs: Positive | None = runtime(None)
    # of a fresh run without a model: how long it may train; the largest model that this and the data allow is taken
    hours: Positive | None = None
    flops_per_second: Positive | None = runtime(None)  # of one worker, for `hours`; null: as conf/device states it
    # null: the stage's own; it may choose another that learns from batches of the same kind
    objective: Objective | None = None
    seed: Seed = 0
    checkpoint: CheckpointConfig = runtime(default_factory=CheckpointConfig)
    log_every_steps: Count = runtime(10)
    monitor_every_steps: Whole = runtime(50)  # noise scale, update ratios, attention logits (monitor.py); 0: never
    profile: bool = runtime(False)  # trace some steps of rank zero (profile.py)
    profile_steps: tuple[Count, Count] = runtime((10, 13))  # first and last, counted from where this start begins
    write_spec: str | None = runtime(None)  # write the workers' spec to this file and stop, for torchrun
    share: bool = runtime(False)  # with -m: its runs train their common steps once (workflows/running/sweeps/)

    @property
    def sized_by_data(self) -> bool:
        """Whether windows or batches are still to be worked out from the data, when the run is planned."""
        return None in (self.batch.sequence_length, self.batch.global_batch, self.batch.micro_batch)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where weights come from, when this run has no checkpoint of its own."""

    mode: StartMode
    run: str | None = None
    step: int | None = None
    samples: int = 0  # of the stream, read by the parent before this run's first step
    tokens: int = 0  # trained on by all ancestors


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The checkpoint of another run whose steps until then are, bit by bit, also this run's."""

    run: str  # kind/name
    step: int

    def __str__(self) -> str:
        return f"{self.run}@step-{self.step}"


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
    # where this run goes on if it has no checkpoint of its own (pipelines/train/sharing); None: at its `start`
    adopts: Adopted | None = None
    until: int | None = None  # commit a checkpoint at this step and return, without a manifest; None: to the end

    @property
    def run(self) -> str:
        return f"{self.kind}/{self.name}"
