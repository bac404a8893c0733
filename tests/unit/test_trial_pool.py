"""How many lanes a cluster has room for, and after which errors a lane goes on."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.cluster.train_group_rank import goes_on_after
from pipelines.cluster.trial_pool import fitted, lanes_in, shared_config
from pipelines.cluster.trials_per_gpu import chosen_trials, measured_trials_per_gpu
from pipelines.config import ClusterConfig
from pipelines.errors import CheckpointError, ConfigError, TrainingError
from pipelines.train.trials.worker import ready

ONE = ClusterConfig(workers=1)
GPU = ClusterConfig(workers=1, gpus_per_worker=1.0)


@pytest.mark.parametrize(
    ("config", "resources", "lanes"),
    [
        (ONE, {"CPU": 2.0}, 2),
        (ClusterConfig(workers=2), {"CPU": 2.0}, 1),
        (ClusterConfig(workers=2), {"CPU": 9.0}, 4),
        (ClusterConfig(workers=1, cpus_per_worker=4.0), {"CPU": 16.0}, 4),
        (ClusterConfig(workers=4), {"CPU": 2.0}, 1),
        (GPU, {"CPU": 64.0, "GPU": 8.0}, 8),
        (shared_config(GPU, 4), {"CPU": 64.0, "GPU": 8.0}, 32),
        (shared_config(GPU, 3), {"CPU": 64.0, "GPU": 1.0}, 3),
        (shared_config(GPU, 4), {"CPU": 16.0, "GPU": 8.0}, 16),
    ],
)
def test_as_many_lanes_as_there_is_room_for(config: ClusterConfig, resources: dict[str, float], lanes: int) -> None:
    assert lanes_in(config, resources) == lanes


def test_more_lanes_than_cores_share_the_cores() -> None:
    assert fitted(ONE, 2, {"CPU": 2.0}) == ONE
    crowded = fitted(ONE, 3, {"CPU": 2.0})
    assert 0.6 < crowded.cpus_per_worker < 2 / 3
    assert lanes_in(crowded, {"CPU": 2.0}) == 3


def test_workers_of_one_trial_do_not_share_a_gpu() -> None:
    assert shared_config(ONE, 4) == ONE
    with pytest.raises(ConfigError, match=r"trials_per_gpu=2 with cluster\.workers=2"):
        shared_config(ClusterConfig(workers=2, gpus_per_worker=1.0), 2)


@pytest.mark.parametrize(
    ("error", "ranks", "goes_on"),
    [
        (TrainingError("diverged"), 1, True),
        (TrainingError("diverged"), 8, True),
        (CheckpointError("damaged"), 1, True),
        (CheckpointError("damaged"), 2, False),
        (RuntimeError("CUDA error"), 1, False),
        (KeyboardInterrupt(), 1, False),
    ],
)
def test_a_lane_goes_on_where_all_its_ranks_know_that_the_trial_is_over(
    error: BaseException, ranks: int, goes_on: bool
) -> None:
    assert goes_on_after(error, ranks) is goes_on


@pytest.mark.parametrize(
    ("rates", "trials"),
    [
        ({1: 100.0}, 1),
        ({1: 100.0, 2: 105.0}, 1),
        ({1: 100.0, 2: 180.0}, 2),
        ({1: 100.0, 2: 180.0, 4: 190.0}, 2),
        ({1: 100.0, 2: 180.0, 4: 300.0}, 4),
        ({1: 100.0, 2: 100.0, 4: 300.0}, 1),
    ],
)
def test_trials_share_a_gpu_as_long_as_that_pays(rates: dict[int, float], trials: int) -> None:
    assert chosen_trials(rates) == trials


def probe_never(values: dict[str, Any], emit: Any) -> None:
    raise AssertionError


def test_nothing_is_measured_where_no_gpu_is_shared() -> None:
    for config in (ONE, ClusterConfig(workers=2, gpus_per_worker=1.0)):
        assert measured_trials_per_gpu(config, ready, probe_never, {}) == 1
