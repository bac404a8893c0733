"""What each stage inherits: one table, the config of a stage, and the spec that its workers get.

Three words are never mixed up: *resume* (the same run goes on), *branch* (a new run from selected parent state) and
*initialise* (weights only). A `TrainSpec` is plain data that says everything a worker needs, so the same worker runs under
Ray and under torchrun; `planning.py` makes it.

Source of the table: MiniCPM (arXiv 2404.06395 §6) and its author's answers; see docs/recipe.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.config import Count, Positive, Rows, Seed, Whole, Window, WorkflowConfig, runtime
from pipelines.train.checkpoint.retention import Rule
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.compute import ComputeConfig
from pipelines.train.plan.context import RopeBase
from pipelines.train.plan.schedule import Schedule, ScheduleConfig
from pipelines.train.update.engine import ZeroConfig
from pipelines.train.update.optimizer import OptimizerConfig

StageName = Literal["pretrain", "anneal", "sft", "dpo"]


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: StageName
    weights: str
    optimizer_state: str
    begins_at: str
    data: str
    optimizer_from_parent: bool = False
    parents: tuple[str, ...] = ()


STAGES: dict[StageName, Stage] = {
    stage.name: stage
    for stage in (
        Stage("pretrain", "own resume, or fresh", "own resume", "warmup", "stable mixture"),
        Stage(
            "anneal", "parent trunk", "parent's", "the trunk's stable LR, checked equal before step 1",
            "decay mixture (SFT data in it)", True, ("pretrain", "anneal"),
        ),
        Stage("sft", "parent", "fresh", "the parent's last LR", "conversations, assistant tokens only", False, ("pretrain", "average", "anneal", "sft")),
        Stage(
            "dpo", "parent, and the same frozen as reference", "fresh", "its own peak, cosine, no muP scaling",
            "preference pairs", False, ("average", "anneal", "sft", "dpo"),
        ),
    )
}  # fmt: skip
TRAINED = (*STAGES, "average")  # kinds of artifacts that hold checkpoints; an average has weights alone (average.py)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """`global_batch = micro_batch × accumulation × workers`; accumulation follows."""

    sequence_length: Window  # tokens a row feeds to the model
    global_batch: Rows  # rows (DPO: pairs) per optimizer step, over all workers
    micro_batch: Rows = runtime(1)  # rows (DPO: pairs) per forward on one worker


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(WorkflowConfig):
    """All four training stages; which fields a stage takes is checked by `plan`."""

    parent: str | None = None  # anneal, sft, dpo: e.g. pretrain/demo@step-200; not for pretrain
    data: str  # a mixture (mixture/demo_stable); sft and dpo may take every fitting source of tokens/demo
    model: ModelConfig | None = None  # pretrain; a child has its parent's and may repeat it; see rope_base
    rope_base: RopeBase = "keep"  # anneal: ntk, for windows longer than the parent's, or a number (context.py)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    zero: ZeroConfig = runtime(default_factory=ZeroConfig)
    compute: ComputeConfig = runtime(default_factory=ComputeConfig)
    batch: BatchConfig
    steps: Count | None = None
    epochs: Positive | None = None  # sft, dpo: instead of steps
    beta: Positive = 0.1  # dpo: pull to the reference; unpublished for MiniCPM
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

    mode: Literal["fresh", "branch", "initialise"]
    run: str | None = None
    step: int | None = None
    samples: int = 0  # of the stream, read by the parent before this run's first step
    tokens: int = 0  # trained on by all ancestors


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything a worker needs; plain data all through (`config.plain` / `config.parse`)."""

    kind: StageName
    name: str
    store: str
    claim: dict[str, Any]
    config: dict[str, Any]  # resolved config, for manifest and checkpoint
    model: ModelConfig
    schedule: Schedule
    optimizer: OptimizerConfig
    zero: ZeroConfig
    compute: ComputeConfig
    batch: BatchConfig
    steps: int
    seed: int
    beta: float
    tokens: str
    tokenizer: str | None  # checksum of the tokenizer that made the tokens
    segments: tuple[dict[str, Any], ...]  # {"from_sample", "plan"}, the first perhaps "begin"; empty for dpo
    start: Start
    checkpoint: CheckpointConfig
    log_every_steps: int
    monitor_every_steps: int
    profile: bool
    profile_steps: tuple[int, int]
    tracking: dict[str, Any]  # `Tracker.run`, empty where nothing is tracked
    verified: tuple[str, ...] = ()  # `Checkpoint.token` of what the driver has read whole

    @property
    def run(self) -> str:
        return f"{self.kind}/{self.name}"
