"""One stage as a plan sees it: the model, the batch and the number of steps, which need neither data nor a store.

Enters: the config that the stage's own command would compose, and for a stage that begins from a run the model of the
stage before. Leaves: a `Job`, or a refusal of what the stage itself would refuse for its config alone. Where the number
of steps depends on data that is not here, the refusal says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.errors import ConfigError
from pipelines.train.budget.flops import TokenFlops, token_flops
from pipelines.train.network.architecture import ModelConfig, check_shapes, parameter_counts
from pipelines.train.network.roles import numbers
from pipelines.train.objectives import Objective
from pipelines.train.optimizers import row_of
from pipelines.train.plan.checked import chosen_objective
from pipelines.train.schedules import schedule
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import stage_named

# a frozen reference's forward pass beside the policy's forward and backward pass: 2 of 6 FLOPs a weight
_REFERENCE_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage of which everything is known that decides its cost."""

    stage: str
    config: TrainConfig
    model: ModelConfig
    objective: Objective
    steps: int

    @property
    def samples(self) -> int:
        """Windows, or pairs, of all steps."""
        return self.steps * self.config.batch.global_batch

    @property
    def rows_per_unit(self) -> int:
        """Rows that a sample is: a pair is two."""
        return self.objective.batches.rows_per_unit

    @property
    def tokens_per_step(self) -> int:
        """Of a step; of pairs, at most."""
        batch = self.config.batch
        return batch.global_batch * self.rows_per_unit * batch.sequence_length

    @property
    def tokens(self) -> int:
        """Of all steps."""
        return self.steps * self.tokens_per_step

    @property
    def token_flops(self) -> TokenFlops:
        return token_flops(self.model, self.config.batch.sequence_length)

    @property
    def flops(self) -> float:
        """Of the whole stage, attention counted as causal."""
        reference = 1 + (_REFERENCE_SHARE if self.rows_per_unit > 1 else 0)
        return self.tokens * self.token_flops.causal * reference

    @property
    def parameters(self) -> dict[str, int]:
        """`non_embedding`, `embedding`, `total`."""
        return parameter_counts(self.model)

    @property
    def checkpoint_bytes(self) -> int:
        """Float32 weights and the optimizer's moments."""
        kept = sum(row_of(self.config.optimizer).bytes_kept(kind) * n for kind, n in numbers(self.model).items())
        return 4 * self.parameters["total"] + kept

    @property
    def checkpoints_kept(self) -> int:
        """How many stay at the end of the stage, by its rule."""
        every, rule = self.config.checkpoint.every_steps, self.config.checkpoint
        made = math.ceil(self.steps / every)
        if rule.keep_last is None:
            return made
        multiples = self.steps // rule.keep_every_steps if rule.keep_every_steps else 0
        return min(made, rule.keep_last + multiples)


def job_of(stage: str, config: TrainConfig, inherited: ModelConfig | None) -> Job:
    """A stage's job.

    Args: stage, a name in `STAGES`; inherited, the model of the stage before, where there is one.
    Raises: ConfigError saying what to change.
    """
    if None in (config.batch.sequence_length, config.batch.global_batch, config.batch.micro_batch):
        raise ConfigError(
            f"{stage} of this experiment is sized by its data, which a plan without data cannot see: `python -m "
            f"workflows.{stage} … dry_run=true` shows model, hours and memory; or set batch.sequence_length, "
            "batch.global_batch and batch.micro_batch, a model and steps"
        )
    model = config.model if stage_named(stage).starts == "fresh" else inherited or config.model
    if model is None:
        raise ConfigError(
            f"{stage}: no model is known: choose model=<name in conf/model>, or an experiment that has pretrain too"
        )
    check_shapes(model)
    length = config.batch.sequence_length
    if length > model.max_positions:
        raise ConfigError(
            f"{stage}: batch.sequence_length {length} exceeds model.max_positions {model.max_positions}: lower it, or "
            "raise max_positions"
        )
    if config.steps is None:
        raise ConfigError(
            f"{stage} reads {config.epochs or 1:g} epochs of {config.data}, and how long an epoch is depends on tokens "
            f"that are not here: set {stage}.steps=… and {stage}.epochs=null, or leave {stage} out of stages"
        )
    inherited_lr = 0.01 if stage_named(stage).learning_rate != "own" else None
    schedule.resolve(config.schedule, config.steps, inherited_lr)
    return Job(stage=stage, config=config, model=model, objective=chosen_objective(stage, config), steps=config.steps)
