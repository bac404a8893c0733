"""What varies in a study: the forms that a YAML may give an axis, as a list of options.

    schedule.peak_lr: [0.001, 0.01]                              these values
    schedule.peak_lr: {log: [1.0e-3, 1.0e-1], points: 7}         or `linear`: a range, both ends included
    width: {bundles: {d32: {model.d_model: 32, model.heads: 2}}} a label -> keys that are set together
    schedule.peak_lr: {sample: {log: [1.0e-3, 1.0e-1], count: 8, seed: 0}}
    mixture.weights: {sample: {dirichlet: {web: 4, code: 1}, count: 16, seed: 0}}
                                                                 shares that sum to 1; the numbers are concentrations
    mixture.weights: {sample: {around: {web: 0.8, code: 0.2}, concentration: 12, count: 16, seed: 0}}
                                                                 the first is the mixture itself

Enters: one entry of `vary`. Leaves: its options, each with a label, the value that `TrialResult.settings` gets, and the
keys of the config that it sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import ConfigError
from pipelines.identity import fingerprint

_FORMS = (
    "a list; {log|linear: [low, high], points: n}; {bundles: {label: {key: value}}}; {sample: {…, count: n, seed: 0}}"
)
_SAMPLED = {
    "log": "{log: [low, high], count: n, seed: 0}",
    "linear": "{linear: [low, high], count: n, seed: 0}",
    "dirichlet": "{dirichlet: {source: concentration}, count: n, seed: 0}",
    "around": "{around: {source: weight}, concentration: 12, count: n, seed: 0}",
}
# more would be an accident: a trial takes seconds, and Hydra's composition of groups a tenth of one
_MOST_OPTIONS = 10_000
_DIGITS = 4  # of a value in a range, so that it can be read and typed


@dataclass(frozen=True)
class Option:
    """One value of an axis.

    Attributes:
        label: for names. value: for `TrialResult.settings`. keys: dotted key of the config -> value.
    """

    label: str
    value: Any
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What varies, and how."""

    name: str
    options: tuple[Option, ...]


def read_axis(name: str, form: Any, where: str) -> Axis:
    """The axis that an entry of `vary` says. Args: where, its dotted path, for messages. Raises: ConfigError."""
    options = _options(name, form, where)
    if not options:
        raise ConfigError(
            f"{where} is empty, so there would be no trial: give it values, or leave it out; expected {_FORMS}"
        )
    if len(options) > _MOST_OPTIONS:
        raise ConfigError(f"{where} has {len(options):,} values; expected at most {_MOST_OPTIONS:,}")
    labels = [option.label for option in options]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f"{where} has {', '.join(twice)} more than once: give each value once")
    return Axis(name, tuple(options))


def _options(name: str, form: Any, where: str) -> list[Option]:
    if isinstance(form, list):
        return [_plain(name, value, where) for value in form]
    if not isinstance(form, Mapping):
        raise ConfigError(f"{where} is {form!r}; expected {_FORMS}")
    kind = next((kind for kind in _READ if kind in form), None)
    if kind is None:
        raise ConfigError(f"{where} has the keys {', '.join(map(str, form))}; expected {_FORMS}")
    read, beside = _READ[kind]
    if unknown := [str(key) for key in form if key != kind and key not in beside]:
        accepted = ", ".join((kind, *beside))
        raise ConfigError(f"{where} has {', '.join(unknown)}, which `{kind}` does not take; expected {accepted}")
    return read(name, form, where)


def _plain(name: str, value: Any, where: str) -> Option:
    if isinstance(value, Mapping):
        raise ConfigError(
            f"{where} lists {dict(value)}; expected plain values: for keys that are set together write "
            f"{{bundles: {{<label>: {{<key>: <value>}}}}}}"
        )
    return Option(label_of(value), value, {name: value})


def label_of(value: Any) -> str:
    """A value as a name has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"#{fingerprint(dict(value))[:4]}"
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _bundles(name: str, form: Mapping[str, Any], where: str) -> list[Option]:
    bundles = form["bundles"]
    if not isinstance(bundles, Mapping):
        raise ConfigError(f"{where}.bundles is {bundles!r}; expected label -> keys that are set together")
    options = []
    for label, keys in bundles.items():
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{where}.bundles.{label} is {keys!r}; expected key: value, e.g. model.d_model: 64")
        options.append(Option(str(label), str(label), dict(keys)))
    return options


def _range(name: str, form: Mapping[str, Any], where: str) -> list[Option]:
    scale = "log" if "log" in form else "linear"
    low, high = _bounds(form[scale], scale, f"{where}.{scale}")
    points = _count(form, "points", where)
    if points == 1:
        raise ConfigError(f"{where}.points is 1, and a range has two ends: set it to 2 or more, or list the one value")
    if points == 0:
        return []
    return [_plain(name, value, where) for value in _between(scale, low, high, np.linspace(0, 1, points))]


def _sample(name: str, form: Mapping[str, Any], where: str) -> list[Option]:
    beside = {key: value for key, value in form.items() if key != "sample"}
    sample, where = form["sample"], f"{where}.sample"
    if isinstance(sample, Mapping):  # a count may stand within or beside
        sample = {**beside, **sample}
    kind = next((kind for kind in _SAMPLED if isinstance(sample, Mapping) and kind in sample), None)
    if kind is None:
        raise ConfigError(f"{where} is {sample!r}; expected one of {'; '.join(_SAMPLED.values())}")
    accepted = ("count", "seed", *(("concentration",) if kind == "around" else ()))
    if unknown := [str(key) for key in sample if key != kind and key not in accepted]:
        raise ConfigError(f"{where} has {', '.join(unknown)}; expected {_SAMPLED[kind]}")
    count, seed = _count(sample, "count", where), sample.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ConfigError(f"{where}.seed is {seed!r}; expected a whole number of at least 0")
    draw = np.random.default_rng(seed)
    if kind in ("log", "linear"):
        low, high = _bounds(sample[kind], kind, f"{where}.{kind}")
        return [_plain(name, value, where) for value in _between(kind, low, high, draw.random(count))]
    numbers = _numbers(sample[kind], f"{where}.{kind}")
    drawn = []
    if kind == "around":
        concentration = _number(sample.get("concentration"), f"{where}.concentration")
        total = sum(numbers.values())
        drawn = [{source: number / total for source, number in numbers.items()}]
        numbers = {source: concentration * share for source, share in drawn[0].items()}
    rows = draw.dirichlet(list(numbers.values()), max(0, count - len(drawn))).tolist()
    drawn = [*drawn[:count], *(dict(zip(numbers, row, strict=True)) for row in rows)]
    weights = [_to_thousandths(shares) for shares in drawn]
    return [Option(f"#{place}", shares, {name: shares}) for place, shares in enumerate(weights)]


def _numbers(given: Any, where: str) -> dict[str, float]:
    """Source -> a number above 0."""
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where} is {given!r}; expected source: a number above 0")
    numbers = {str(source): float(_number(value, f"{where}.{source}")) for source, value in given.items()}
    if min(numbers.values()) <= 0:
        raise ConfigError(f"{where} is {dict(given)}; expected numbers above 0")
    return numbers


def _to_thousandths(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares in whole thousandths that sum to 1 exactly: the largest takes what rounding leaves."""
    thousandths = {source: round(share * 1000) for source, share in shares.items()}
    thousandths[max(thousandths, key=lambda source: thousandths[source])] += 1000 - sum(thousandths.values())
    return {source: count / 1000 for source, count in thousandths.items()}


def _between(scale: str, low: float, high: float, shares: np.ndarray[Any, Any]) -> list[Any]:
    """Values at shares of the way; whole numbers where both ends are, each once."""
    values = low * (high / low) ** shares if scale == "log" else low + (high - low) * shares
    if isinstance(low, int) and isinstance(high, int):
        return list(dict.fromkeys(round(value) for value in values.tolist()))
    return list(dict.fromkeys(float(f"{value:.{_DIGITS}g}") for value in values.tolist()))


def _bounds(given: Any, scale: str, where: str) -> tuple[Any, Any]:
    if not isinstance(given, list) or len(given) != 2:
        raise ConfigError(f"{where} is {given!r}; expected [low, high]")
    low, high = (_number(value, where) for value in given)
    if low >= high or (scale == "log" and low <= 0):
        raise ConfigError(
            f"{where} is {given}; expected [low, high] with low < high" + (" and low > 0" if scale == "log" else "")
        )
    return low, high


def _number(value: Any, where: str) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{where} has {value!r}; expected a finite number")
    return value


def _count(form: Mapping[str, Any], key: str, where: str) -> int:
    count = form.get(key)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= _MOST_OPTIONS:
        raise ConfigError(f"{where}.{key} is {count!r}; expected a whole number up to {_MOST_OPTIONS:,}")
    return count


_READ: dict[str, tuple[Callable[[str, Mapping[str, Any], str], list[Option]], tuple[str, ...]]] = {
    "bundles": (_bundles, ()),
    "log": (_range, ("points",)),
    "linear": (_range, ("points",)),
    "sample": (_sample, ("count", "seed")),
}
