"""What a search is about: keys of the config with the values that each may take, and when a trial is ended early.

Enters: `search:` of a study. Leaves: settings, or a refusal before any work.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pipelines.config import Amount, Count, Positive, Range, Whole, config_class, plain
from pipelines.errors import ConfigError


@config_class
class Span:
    """The values of one key: exactly one of these."""

    log: tuple[Positive, Positive] | None = None  # lowest and highest, evenly in the logarithm
    linear: tuple[Amount, Amount] | None = None
    whole: tuple[Whole, Whole] | None = None  # whole numbers, evenly
    choices: tuple[Any, ...] | None = None  # numbers, texts, true and false


@config_class
class PruneSettings:
    """When a trial is ended early."""

    rungs: tuple[Count, ...]  # steps of the last stage at which trials are compared
    keep: Annotated[float, Range(above=0, below=1)] = 0.5  # of those compared
    after_trials: Count = 5  # that have reached a rung before any is pruned there


@config_class
class SearchSettings:
    """`search:` of a study. What is searched for is the lowest value."""

    sampler: Literal["tpe", "random"] = "tpe"
    trials: Count  # proposals; each is trained with every seed of the study
    space: dict[str, Span]
    start: tuple[dict[str, Any], ...] = ()  # proposed first, e.g. the published values
    startup_trials: Count = 10  # at random, before TPE has something to go by
    prune: PruneSettings | None = None


def check_search(
    settings: SearchSettings, varied: Collection[str] = (), steps: int | None = None, where: str = "search"
) -> None:
    """Refuse a search that cannot be run.

    Args: varied, keys that `vary` sets; steps, of the last stage; where, the key that the settings stand under.
    Raises: ConfigError.
    """
    if not settings.space:
        raise ConfigError(
            f"{where}.space is empty; expected keys with their values: {{model.init_std: {{log: [0.01, 1]}}}}"
        )
    for key, span in settings.space.items():
        _check_span(span, f"{where}.space.{key}")
        if key in varied:
            raise ConfigError(f"{key} stands in {where}.space and in vary: keep one of them")
    for number, values in enumerate(settings.start):
        _check_start(settings, values, f"{where}.start[{number}]")
    if settings.prune is not None:
        rungs = settings.prune.rungs
        if not rungs or list(rungs) != sorted(set(rungs)):
            raise ConfigError(
                f"{where}.prune.rungs is {list(rungs)}; expected rising steps, or null instead of {where}.prune"
            )
        if steps is not None and rungs[-1] >= steps:
            raise ConfigError(
                f"{where}.prune.rungs ends with step {rungs[-1]}, and a trial has {steps} steps: expected rungs before "
                "its last step; give lower rungs or more steps"
            )


def _check_span(span: Span, where: str) -> None:
    given = {name: value for name, value in plain(span).items() if value is not None}
    if len(given) != 1:
        raise ConfigError(f"{where} has {', '.join(given) or 'nothing'}; expected one of log, linear, whole, choices")
    if span.choices is not None:
        scalars = all(isinstance(choice, (int, str)) or _is_finite(choice) for choice in span.choices)
        if not scalars or len(set(map(str, span.choices))) != len(span.choices) or len(span.choices) < 2:
            raise ConfigError(
                f"{where}.choices is {list(span.choices)}; expected two or more numbers, texts or true and false that "
                "differ"
            )
        return
    ((name, (low, high)),) = given.items()
    if not low < high:
        raise ConfigError(f"{where}.{name} is [{low:g}, {high:g}]; expected the lowest value, then a higher one")


def _check_start(settings: SearchSettings, values: Mapping[str, Any], where: str) -> None:
    if set(values) != set(settings.space):
        raise ConfigError(
            f"{where} has the keys {', '.join(sorted(values)) or 'none'}; expected those of space: "
            f"{', '.join(sorted(settings.space))}"
        )
    for key, span in settings.space.items():
        if not lies_in(span, values[key]):
            raise ConfigError(f"{where}.{key} is {values[key]}; expected a value of space.{key}: {_words(span)}")


def ends_of(span: Span) -> tuple[float, float]:
    """The lowest and highest value of a span that has no choices."""
    return span.log or span.linear or span.whole or (0.0, 0.0)


def outermost(settings: SearchSettings) -> list[dict[str, Any]]:
    """Two proposals, of lowest and of highest values, and those that come first: what all others lie between.

    A search has no trials before it is run; these stand for them where keys, memory and steps are checked.
    """
    ends = {key: span.choices or ends_of(span) for key, span in settings.space.items()}
    return [{key: values[place] for key, values in ends.items()} for place in (0, -1)] + [*map(dict, settings.start)]


def lies_in(span: Span, value: Any) -> bool:
    """Whether a value is one that the span proposes."""
    if span.choices is not None:
        return value in span.choices
    if span.whole is not None and not isinstance(value, int):
        return False
    low, high = ends_of(span)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _words(span: Span) -> str:
    return ", ".join(f"{name} {list(value)}" for name, value in plain(span).items() if value is not None)
