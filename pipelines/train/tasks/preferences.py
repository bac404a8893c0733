"""Held-out preference pairs: how often the model prefers the chosen answer.

    accuracy            share of pairs whose chosen answer has the higher *mean* log-probability per answer token
    by sums, beside it  the same by the log-probability of the whole answer, which prefers short answers

A tie is no preference. Of each source at most `max_pairs` pairs are read, drawn by the seed alike for every checkpoint;
of each side the first T + 1 ids, as in training (`data.stream.preferences.fitting`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.config import Count, config_class
from pipelines.data.stream.preferences import NothingFits, PreferenceLoader, fitting, open_preferences
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.train.tasks.task import Chart, Column, Measured, Number, Subject, Task, TaskPlan, TaskSettings
from pipelines.train.tasks.windows import Ids, document_ids, drawn_order

if TYPE_CHECKING:
    from pipelines.train.network.model import Transformer


@config_class
class PreferenceSettings(TaskSettings):
    """How many pairs are compared."""

    max_pairs: Count = 200  # per source of preferences


@dataclass(frozen=True)
class PreferenceScore:
    """One source of preference pairs."""

    accuracy: float  # by mean log-probability per answer token
    summed_accuracy: float  # by log-probability of the whole answer
    pairs: int
    left_out: int  # too little of it fits the window


def plan_preferences(subject: Subject, settings: PreferenceSettings) -> TaskPlan:
    """Find the sources that hold pairs out, and those of which no pair fits the window."""
    opened = open_preferences(subject.tokens, "heldout")
    unmeasured = {}
    for name, sides in opened.items():
        try:
            PreferenceLoader({name: sides}, 0, subject.sequence_length)
        except NothingFits as error:
            unmeasured[name] = str(error).replace("batch.sequence_length", "sequence_length")
    announcement = f"per source {settings.max_pairs:,} pairs" if opened else "none: the tokens hold no pairs out"
    return TaskPlan(announcement=announcement, sources=tuple(opened), unmeasured=unmeasured)


def measure_preferences(model: Transformer, subject: Subject, settings: PreferenceSettings) -> Measured:
    """Score every source."""
    length = subject.sequence_length
    scores = {
        name: score_preferences(model, *sides, length, settings.max_pairs, subject.seed)
        for name, sides in open_preferences(subject.tokens, "heldout").items()
    }
    scored = {name: score for name, score in scores.items() if score is not None}
    no_pair = f"no pair leaves room for its answers in {length + 1} tokens: raise sequence_length"
    return Measured(
        rows={name: dataclasses.asdict(score) for name, score in scored.items()},
        summary=summary(scored),
        unmeasured={name: no_pair for name, score in scores.items() if score is None},
    )


def score_preferences(
    model: Transformer, chosen: TokenSource, rejected: TokenSource, length: int, max_pairs: int, seed: int
) -> PreferenceScore | None:
    """How often the model prefers the chosen answer, or None when no pair fits the window. Args: length, T."""
    from pipelines.train.tasks.scoring import token_nats

    rows: list[tuple[Ids, NDArray[np.bool_]]] = []
    left_out = 0
    for index in range(len(chosen.prefixes)):
        sides = (chosen.shard(index), rejected.shard(index))
        fits = fitting(*sides, length + 1)
        left_out += sides[0].documents - len(fits)
        for document in fits[drawn_order(len(fits), seed)].tolist():
            if len(rows) == 2 * max_pairs:
                break
            pair = [document_ids(side, document) for side in sides]
            rows += [(tokens[: length + 1], counted[1 : length + 1]) for tokens, counted in pair]
    if not rows:
        return None
    nats, counts = token_nats(model, rows)
    means = nats / np.maximum(1, counts)
    return PreferenceScore(
        accuracy=float(np.mean(means[0::2] < means[1::2])), summed_accuracy=float(np.mean(nats[0::2] < nats[1::2])),
        pairs=len(rows) // 2, left_out=left_out,
    )  # fmt: skip


def summary(scores: Mapping[str, PreferenceScore]) -> dict[str, float | None]:
    """Both accuracies over all pairs; None where there is no pair."""
    pairs = sum(s.pairs for s in scores.values())
    accuracy = sum(s.accuracy * s.pairs for s in scores.values())
    summed = sum(s.summed_accuracy * s.pairs for s in scores.values())
    return {
        "preference_accuracy": accuracy / pairs if pairs else None,
        "preference_summed_accuracy": summed / pairs if pairs else None,
    }


_READING = "Share of held-out pairs whose chosen answer has the higher mean log-probability per token."

PREFERENCES = Task(
    Settings=PreferenceSettings,
    plan_task=plan_preferences,
    measure=measure_preferences,
    title="Preference accuracy",
    reading=_READING,
    row="preferences",
    columns={
        "pairs": Column(heading="pairs"),
        "accuracy": Column(heading="accuracy (mean)", metric="preference_accuracy", share=True),
        "summed_accuracy": Column(heading="accuracy (sum)", share=True),
        "left_out": Column(heading="left out"),
    },
    numbers={
        "preference_accuracy": Number(
            label="all pairs", unit="of pairs", better="higher", heading="preference accuracy", share=True,
            column="accuracy",
        ),
        "preference_summed_accuracy": Number(
            label="all pairs", unit="of pairs by sums", better="higher", share=True, column="summed_accuracy"
        ),
    },
    chart=Chart(
        name="preference_accuracy",
        kind="lines",
        column="accuracy",
        total="preference_accuracy",
        chance=0.5,
        title="Held-out preference accuracy",
        axis="chosen preferred, share of pairs",
        caption=_READING,
    ),
)  # fmt: skip
