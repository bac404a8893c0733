"""How many trials may share a GPU: measured, since it depends on the model, the GPU and the cores beside it.

A small model leaves most of a GPU idle between its kernels, and a second process can use that; a large one leaves
nothing, and two would only wait for each other. Enters: a trial's plain values. Leaves: 1, 2 or 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from pipelines.cluster.train_group_rank import Worker
from pipelines.cluster.trial_pool import TrialPool
from pipelines.config import ClusterConfig
from pipelines.display.progress import say
from pipelines.errors import ClusterError, ConfigError

CANDIDATES = (1, 2, 4)
_WORTH_IT = 1.1  # how much more must be trained a second, or the crowd is not worth its memory
_PROBE_STEPS = 50


def measured_trials_per_gpu(
    config: ClusterConfig, ready: Callable[[], None], probe: Worker, values: dict[str, Any]
) -> int:
    """Have every GPU train 1, 2 and 4 trials at once for some steps, and choose.

    Args: config, of a lane; without GPUs, or with several workers, the answer is 1 without a measurement; ready, probe,
        importable (`pipelines/train/trials/probe.py`); values, of the trial that needs most memory.
    Raises: ClusterError, ConfigError when not even one trial trains.
    """
    if config.workers > 1 or config.gpus_per_worker != 1:
        return 1
    rates: dict[int, float] = {}
    for trials in CANDIDATES:
        try:
            rates[trials] = _rate(config, trials, ready, probe, {**values, "steps": _PROBE_STEPS})
        except (ClusterError, ConfigError) as error:
            if not rates:
                raise
            say(f"   {trials} trials a GPU do not go: {error}")
            break
        if chosen_trials(rates) != trials:  # no more will be better
            break
    chosen = chosen_trials(rates)
    told = ", ".join(f"{trials}: {rate:.1f}" for trials, rate in rates.items())
    say(f"   trials_per_gpu: {chosen}; steps a second of all GPUs together, by trials a GPU: {told}")
    return chosen


def chosen_trials(rates: Mapping[int, float]) -> int:
    """The most trials of which each doubling was worth it. Args: rates, trials a GPU -> steps a second over all."""
    best = CANDIDATES[0]
    for before, trials in itertools.pairwise(CANDIDATES):
        if trials not in rates or rates[trials] < _WORTH_IT * rates[before]:
            break
        best = trials
    return best


def _rate(
    config: ClusterConfig, trials: int, ready: Callable[[], None], probe: Worker, values: dict[str, Any]
) -> float:
    """Steps a second of all lanes together. The first run of a lane makes its kernels ready and does not count."""
    with TrialPool(config, None, ready, probe, trials_per_gpu=trials) as pool:
        runs = [f"probe-{number}" for number in range(2 * pool.lanes)]
        for run in runs:
            pool.submit(run, values)
        seconds: dict[int, float] = {}
        while pool.outstanding:
            if (ended := pool.next(timeout=1.0)) is not None:
                if ended.error is not None:
                    raise ClusterError(str(ended.error)) from ended.error
                seconds[ended.lane] = min(ended.seconds, seconds.get(ended.lane, ended.seconds))
        return sum(int(values["steps"]) / took for took in seconds.values()) * pool.lanes / len(seconds)
