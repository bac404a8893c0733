"""Chains of runs that share their common steps: each step is trained once, and every run is an ordinary artifact."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EdgeEnded:
    """Some steps of a run that are committed, or an error that ended chains.

    Attributes:
        chains: names of the chains that it is about: all that these steps belong to; with `last`, those that are over.
        run: folder of the run, e.g. pretrain/lr-0.01.
        step: at which it stands; of an error, its last committed step.
        last: whether these chains are over: their last run is finished (and may have been before), or `error` says why
            not.
        error: None, or what ended them: a TrainingError of one that has diverged, which is a result; any other is none.
    """

    chains: tuple[str, ...]
    run: str
    step: int
    last: bool
    error: Exception | None = None
