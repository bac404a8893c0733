"""What is known of a trial when it is over: plain data that studies analyse.

A trial is a chain of stages' runs (mostly one run of `pretrain`; `pretrain`, then `anneal`, where the data of the decay
is asked about) and what was measured along it. It is evidence also where it diverged.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.train.network.architecture import ModelConfig, flops_per_token, parameter_counts
from pipelines.train.schedules.schedule import Schedule

# finished: trained to its end. diverged: its loss or gradient became no number. pruned: the search ended it.
# failed: an error that is not the trial's own, tried again by the next command
Status = Literal["finished", "diverged", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One run of a trial's chain."""

    stage: str
    folder: str  # e.g. pretrain/lr-d64-0.01-s0
    config: Mapping[str, Any]  # the resolved config, plain
    model: ModelConfig
    schedule: Schedule
    steps: int
    batch_tokens: int  # tokens of a step
    tokens: int  # trained on by this run, without its parents

    @property
    def flops(self) -> float:
        """Training FLOPs of this run, causal attention counted once."""
        return flops_per_token(self.model, int(self.config["batch"]["sequence_length"])) * self.tokens


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measure said after a step of the chain's last run, or of an earlier one."""

    measure: str  # a row of MEASURES: heldout, coordinates, noise, …
    folder: str  # of the run
    step: int  # of that run
    tokens: int  # trained on until then, earlier runs of the chain included
    values: Mapping[str, float]  # of heldout: held-out set -> bits per byte


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A trial of a study.

    Attributes:
        name: of the trial, readable, unique in its study, e.g. `d64 peak_lr=0.01 seed=0`.
        settings: the keys that vary -> this trial's value; a bundle (several keys under one name) -> its label.
        seed: of weights and data order.
        reason: of one that did not finish: why.
        round: 0, of the study's YAML; 1, asked for by the study itself (`Study.further`).
        measured: in order of tokens.
        curve: rows of the training curve (step, tokens, loss, learning_rate, gradient_norm, …), joined over the chain.
    """

    name: str
    settings: Mapping[str, Any]
    seed: int
    status: Status
    runs: tuple[StageRun, ...]
    reason: str = ""
    round: int = 0
    measured: tuple[Measured, ...] = ()
    curve: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    @property
    def model(self) -> ModelConfig:
        return self.runs[-1].model

    @functools.cached_property
    def parameters(self) -> int:
        """N: non-embedding parameters, as the paper counts them."""
        return parameter_counts(self.model)["non_embedding"]

    @property
    def peak_lr(self) -> float:
        return self.runs[0].schedule.peak_lr

    @property
    def batch_tokens(self) -> int:
        """Tokens of a step of the first run."""
        return self.runs[0].batch_tokens

    @property
    def tokens(self) -> int:
        """D: trained on by the whole chain."""
        return sum(run.tokens for run in self.runs)

    @property
    def flops(self) -> float:
        """C of the whole chain."""
        return sum(run.flops for run in self.runs)

    @property
    def folder(self) -> str:
        """Of the last run: what a finding names."""
        return self.runs[-1].folder

    def losses(self, measure: str = "heldout") -> dict[int, dict[str, float]]:
        """Tokens -> held-out set -> bits per byte, all along the chain."""
        return {row.tokens: dict(row.values) for row in self.measured if row.measure == measure}

    def loss(self, heldout_set: str | None = None, measure: str = "heldout") -> float | None:
        """Bits per byte at the end, of one set or the mean over all; None where it was not measured."""
        rows = [row for row in self.measured if row.measure == measure]
        if not rows or self.status != "finished":
            return None
        values = rows[-1].values
        return values.get(heldout_set) if heldout_set else sum(values.values()) / len(values)
