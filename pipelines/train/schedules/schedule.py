"""Learning-rate schedules as pure functions of the step.

Enters: a `Schedule` and an optimizer step. Leaves: the base learning rate at that step; each parameter group multiplies
it by its own factor (`optimizers/groups.py`). There is no scheduler object, hence no state that a resume could load
into the wrong phase.

Sources: Warmup-Stable-Decay, MiniCPM (arXiv 2404.06395 §4); `exponential` f = 0.5^((s - s_decay_start) / half_life),
where the paper's printed `S` is a misprint; `earlier_decays`, WSD-S (Wen et al., arXiv 2410.05192): a run goes on from
its decayed weights, at the peak again, and decays once more; the other shapes are in `decays.py`, each with its source.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from pipelines.config import Positive, Share, Whole, config_class
from pipelines.errors import ConfigError
from pipelines.train.schedules.decays import DECAYS


@config_class
class ScheduleConfig:
    """What a YAML may leave open until the run's length and parent are known; `resolve` closes it."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    peak_lr: Positive | None = None  # null: inherited from the parent checkpoint
    warmup_steps: Whole | None = None
    warmup_fraction: Share | None = None  # of the run's steps, instead of warmup_steps
    decay: str = "none"  # none, exponential, or a shape in decays.py
    decay_steps: Whole | None = None
    decay_fraction: Share | None = None  # of the run's steps, instead of decay_steps
    half_life_steps: Positive | None = None
    final_ratio: Share = 0.1
    # WSD-S: where earlier decays end, in parts of the run's steps; each decays as a run of that length would
    earlier_decays: tuple[Share, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warmup, then stable, then decay.

    `wsd` with `decay: none` is the trunk. A branch has `warmup_steps: 0` and decays from its first step, or after a
    stable phase of its own. `cosine` and `constant` are the ablation baselines.
    """

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    peak_lr: float
    warmup_steps: int = 0
    decay: str = "none"
    decay_steps: int = 0  # length of the decay; the run's steps = warmup + stable + decay
    half_life_steps: float | None = None  # exponential only; unpublished for sure (5000 or 8000 of 18,500), so a choice
    final_ratio: float = 0.1  # LR at the end of linear, 1-sqrt and cosine decays, as a part of peak_lr
    earlier_decays: tuple[tuple[int, int], ...] = ()  # WSD-S: the step before which each ends, and its length


def resolve(config: ScheduleConfig, steps: int, inherited_lr: float | None) -> Schedule:
    """The schedule of a run of `steps` steps. Raises: ConfigError for facts that contradict each other."""
    lengths = {}
    for phase in ("warmup", "decay"):
        count, fraction = getattr(config, f"{phase}_steps"), getattr(config, f"{phase}_fraction")
        if count is not None and fraction is not None:
            raise ConfigError(
                f"schedule.{phase}_steps={count} and schedule.{phase}_fraction={fraction} are both set: keep one"
            )
        lengths[f"{phase}_steps"] = count if count is not None else round((fraction or 0.0) * steps)
    peak_lr = config.peak_lr if config.peak_lr is not None else inherited_lr
    if peak_lr is None:
        raise ConfigError(
            "schedule.peak_lr is null, and this stage takes no LR from a parent: set schedule.peak_lr "
            "(the recipe: 0.01; DPO: 1e-5)"
        )
    schedule = Schedule(
        kind=config.kind,
        peak_lr=peak_lr,
        decay=config.decay,
        half_life_steps=config.half_life_steps,
        final_ratio=config.final_ratio,
        earlier_decays=_earlier_decays(config, steps),
        **lengths,
    )
    check(schedule, steps)
    return schedule


def _earlier_decays(config: ScheduleConfig, steps: int) -> tuple[tuple[int, int], ...]:
    """The end and length of each: what the decay of a run with that many steps has. Raises: ConfigError."""
    ends = [round(part * steps) for part in config.earlier_decays]
    lengths = [config.decay_steps or round((config.decay_fraction or 0.0) * end) for end in ends]
    if 0 in lengths:
        raise ConfigError(
            f"schedule.earlier_decays is {list(config.earlier_decays)} and the decay before step "
            f"{ends[lengths.index(0)]} has no steps: set schedule.decay_fraction (e.g. 0.1), or leave out that end"
        )
    return tuple(zip(ends, lengths, strict=True))


def check(schedule: Schedule, steps: int) -> None:
    """Refuse facts that contradict each other. Raises: ConfigError."""
    if schedule.peak_lr <= 0:
        raise ConfigError(f"schedule.peak_lr is {schedule.peak_lr}; expected a positive number")
    accepted = ("none", "exponential", *DECAYS)
    if schedule.decay not in accepted:
        close = difflib.get_close_matches(schedule.decay, accepted, n=1)
        raise ConfigError(
            f"schedule.decay is {schedule.decay!r}; expected one of {', '.join(accepted)} (another is one line in "
            "pipelines/train/schedules/decays.py)" + (f": did you mean {close[0]}?" if close else "")
        )
    if schedule.warmup_steps + schedule.decay_steps > steps:
        raise ConfigError(
            f"schedule.warmup_steps {schedule.warmup_steps} + schedule.decay_steps {schedule.decay_steps} exceed "
            f"steps {steps}: lengthen steps or shorten the phases"
        )
    if schedule.earlier_decays:
        _check_earlier_decays(schedule, steps)
    if not 0 <= schedule.final_ratio <= 1:
        raise ConfigError(f"schedule.final_ratio is {schedule.final_ratio}; expected 0 to 1")
    if schedule.kind != "wsd" and (schedule.decay != "none" or schedule.decay_steps):
        raise ConfigError(
            f"schedule.kind={schedule.kind} takes no decay phase: set schedule.kind=wsd, or schedule.decay=none and "
            "schedule.decay_steps=0"
        )
    if (schedule.decay == "none") != (schedule.decay_steps == 0):
        raise ConfigError(
            f"schedule.decay={schedule.decay} with schedule.decay_steps={schedule.decay_steps}: a decay needs steps "
            "and steps need a decay: set schedule.decay_steps to how many steps decay, or schedule.decay=none with "
            "schedule.decay_steps=0"
        )
    if schedule.decay == "exponential" and not (schedule.half_life_steps and schedule.half_life_steps > 0):
        raise ConfigError(
            f"schedule.half_life_steps is {schedule.half_life_steps}; exponential decay needs a positive "
            "half-life in steps"
        )


def _check_earlier_decays(schedule: Schedule, steps: int) -> None:
    """Raises: ConfigError for decays without a last one, or that lie within each other or the warmup."""
    if schedule.kind != "wsd" or schedule.decay == "none":
        raise ConfigError(
            f"schedule.earlier_decays is set with schedule.kind={schedule.kind} and schedule.decay={schedule.decay}; "
            "they repeat the decay of a wsd schedule: choose schedule.kind=wsd and a schedule.decay, or "
            "schedule.earlier_decays=[]"
        )
    after = schedule.warmup_steps
    for end, length in (*schedule.earlier_decays, (steps, schedule.decay_steps)):
        if end - length < after:
            raise ConfigError(
                f"schedule.earlier_decays: the decay before step {end} begins at step {end - length}, and what comes "
                f"before it ends at step {after}: put the ends in ascending order and further apart, or shorten the "
                "decays"
            )
        after = end


def learning_rate(schedule: Schedule, step: int, steps: int) -> float:
    """The base LR of optimizer step `step` (0 is the first) in a run of `steps` steps.

    Warmup rises linearly and reaches the peak at step `warmup_steps` - 1 (the first step is not wasted at zero).
    Decay progress p runs from 1/decay_steps at its first step to 1 at the run's last.
    """
    if step < schedule.warmup_steps:
        return schedule.peak_lr * (step + 1) / schedule.warmup_steps
    if schedule.kind == "cosine":
        progress = min(1.0, (step - schedule.warmup_steps + 1) / max(1, steps - schedule.warmup_steps))
        return _on_the_way_down(schedule, "cosine", progress)
    if schedule.kind == "constant" or schedule.decay == "none":
        return schedule.peak_lr
    for end, length in (*schedule.earlier_decays, (steps, schedule.decay_steps)):
        into_decay = step - (end - length) + 1
        if into_decay > 0 and (step < end or end == steps):
            if schedule.decay == "exponential":
                assert schedule.half_life_steps is not None
                return schedule.peak_lr * float(0.5 ** (into_decay / schedule.half_life_steps))
            return _on_the_way_down(schedule, schedule.decay, min(1.0, into_decay / length))
    return schedule.peak_lr


def _on_the_way_down(schedule: Schedule, shape: str, progress: float) -> float:
    floor = schedule.final_ratio
    return schedule.peak_lr * (floor + (1 - floor) * DECAYS[shape](progress))


def decay_values(schedule: Schedule) -> list[float]:
    """The shape in use at eighths of its way, for the fingerprint, which so forgets all other shapes.

    Empty without one: exponential decay is this module's own formula.
    """
    shape = DECAYS.get("cosine" if schedule.kind == "cosine" else schedule.decay)
    return [shape(eighth / 8) for eighth in range(1, 9)] if shape else []
