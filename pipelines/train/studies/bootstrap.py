"""Intervals from a few seeds: seeds are drawn with replacement, and what is asked about is worked out anew each time.

Enters: groups of seeds (one group for each width, say), and a function from such groups to named numbers. Leaves: each
number with its interval, and its value in every sample, so that what is derived of several has an interval as well.

The seeds of a group are drawn together, whatever was measured of each: two arms of one seed saw the same data, so what
they have in common falls out of their difference.

A bootstrap of n values spreads by √((n-1)/n) of what their mean does, and takes that spread for known. So distances
from the value are stretched by √(n/(n-1)) · t/z, where t and z are the quantiles of Student's t at all groups' n-1
together and of the normal distribution: 2.7 times for three seeds at 95 %. `tests/unit/test_bootstrap.py` counts how
often such intervals hold the truth. Source: T. C. Hesterberg, "What Teachers Should Know About the Bootstrap" (The
American Statistician 69, 2015), §3.3 and §5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pipelines.laws.law import Estimate

Group = TypeVar("Group", bound=Hashable)
Member = TypeVar("Member")

# of the samples, in which a number may be missing (a parabola that opens downwards) before it counts as undetermined
_MOST_MISSING = 0.1


@dataclass(frozen=True)
class Bootstrapped:
    """Named numbers of one bootstrap.

    Attributes:
        values: of all seeds as they are. estimates: those with an interval; a number that has none (one seed, or not
            to be worked out in a tenth of the samples) is left out.
        samples: name -> value in each sample in which it could be worked out; numbers of `estimates` alone.
    """

    values: Mapping[str, float]
    estimates: Mapping[str, Estimate]
    samples: Mapping[str, list[float]] = field(default_factory=dict, repr=False)


def bootstrap(
    numbers: Callable[[Mapping[Group, Sequence[Member]]], Mapping[str, float]],
    groups: Mapping[Group, Sequence[Member]],
    *,
    level: float,
    samples: int,
    seed: int = 0,
    behind: Callable[[str], Iterable[Group]] | None = None,
) -> Bootstrapped:
    """Work out `numbers` of the groups, and their intervals.

    Args:
        numbers: what is asked about; it leaves out what cannot be worked out, and what it gives is finite.
        groups: name of a group -> its members, a seed each.
        level: of the intervals, e.g. 0.95. samples: how many.
        behind: a number's name -> the groups that it comes from; None: from all of them.
    """
    values = dict(numbers(groups))
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(samples):
        sample = {
            name: [members[number] for number in random.integers(len(members), size=len(members))]
            for name, members in groups.items()
            if members
        }
        for name, value in numbers(sample).items():
            if name in drawn:
                drawn[name].append(value)
    estimates: dict[str, Estimate] = {}
    for name, value in values.items():
        sizes = [len(groups[group]) for group in (groups if behind is None else behind(name))]
        if len(drawn[name]) < (1 - _MOST_MISSING) * samples or not sizes or max(sizes) < 2:
            continue
        estimates[name] = interval(value, drawn[name], level=level, sizes=sizes)
    return Bootstrapped(values, estimates, {name: drawn[name] for name in estimates})


def interval(value: float, samples: Sequence[float], *, level: float, sizes: Sequence[int]) -> Estimate:
    """A percentile interval, stretched for few seeds. Args: sizes, of the groups behind the value, one above 1."""
    low, high = (float(bound) for bound in np.quantile(samples, [(1 - level) / 2, (1 + level) / 2]))
    stretch = stretched(level, sizes)
    return Estimate(value, min(value, value - stretch * (value - low)), max(value, value + stretch * (high - value)))


def stretched(level: float, sizes: Sequence[int]) -> float:
    """By how much a bootstrap interval of groups of these sizes is too narrow."""
    from scipy import stats

    several = [size for size in sizes if size > 1]
    freedom = sum(size - 1 for size in several)
    mean_size = sum(several) / len(several)
    quantile = (1 + level) / 2
    return math.sqrt(mean_size / (mean_size - 1)) * float(stats.t.ppf(quantile, freedom) / stats.norm.ppf(quantile))


def transformed(estimate: Estimate, function: Callable[[float], float]) -> Estimate:
    """The estimate of a monotone function of a number, e.g. of a learning rate whose logarithm was estimated."""
    low, high = sorted((function(estimate.low), function(estimate.high)))
    return dataclasses.replace(estimate, value=function(estimate.value), low=low, high=high)


def mean_of(members: Sequence[float], *, level: float, samples: int, seed: int = 0) -> Estimate | None:
    """The mean of a number per seed, e.g. of a difference between two arms; None for fewer than two seeds."""
    means = bootstrap(
        lambda groups: {"mean": float(np.mean(groups["all"]))} if groups.get("all") else {},
        {"all": members},
        level=level,
        samples=samples,
        seed=seed,
    )
    return means.estimates.get("mean")


# how an interval lies to the bounds of a claim, for the reason of a verdict
WHERE = {True: "lies within", False: "lies outside of", None: "reaches beyond"}


def within(estimate: Estimate, low: float, high: float) -> bool | None:
    """Whether the whole interval lies between two bounds; False: the whole of it outside; None: neither."""
    if low <= estimate.low and estimate.high <= high:
        return True
    return False if estimate.low > high or estimate.high < low else None
