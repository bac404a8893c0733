"""What workers run on, against what was asked for: nothing here needs a GPU."""

from __future__ import annotations

import pytest

from pipelines.cluster.train_group_room import check_kinds
from pipelines.config import ClusterConfig
from pipelines.errors import ConfigError
from pipelines.train.plan import devices


def test_gpus_of_different_kinds_are_refused_with_where_each_is() -> None:
    devices.check_alike([("a", "NVIDIA H100"), ("b", "NVIDIA H100")])
    with pytest.raises(ConfigError) as caught:
        devices.check_alike([("a", "NVIDIA H100"), ("b", "NVIDIA A100"), ("c", "NVIDIA A100")])
    assert "devices of 2 kinds: NVIDIA A100 on b, c; NVIDIA H100 on a" in str(caught.value)


def test_gpus_that_this_machine_does_not_have_are_refused_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    devices.check_gpus(ClusterConfig(workers=2))
    devices.check_gpus(ClusterConfig(workers=2, gpus_per_worker=1, address="ray://elsewhere:10001"))
    with pytest.raises(ConfigError, match="asks for 4096 GPUs; this machine has .* set cluster=local"):
        devices.check_gpus(ClusterConfig(workers=4096, gpus_per_worker=1))


def test_a_cluster_of_mixed_gpus_is_refused_unless_one_kind_is_chosen() -> None:
    nodes = [
        {"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"GPU": 8, "accelerator_type:H100": 1}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"GPU": 8, "accelerator_type:A100": 1}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.3", "Resources": {"CPU": 8, "accelerator_type:TPU-V4": 1}},
        {"Alive": False, "NodeManagerAddress": "10.0.0.4", "Resources": {"GPU": 8, "accelerator_type:L4": 1}},
    ]
    asked = ClusterConfig(workers=2, gpus_per_worker=1)
    with pytest.raises(ConfigError) as caught:
        check_kinds(asked, nodes)
    assert "GPUs of 2 kinds (A100: 10.0.0.2; H100: 10.0.0.1)" in str(caught.value)
    assert "set cluster.accelerator=A100 or H100" in str(caught.value)
    check_kinds(asked, nodes[1:])
    check_kinds(ClusterConfig(workers=2), nodes)  # on CPUs it does not matter
    check_kinds(ClusterConfig(workers=2, gpus_per_worker=1, accelerator="H100"), nodes)
    with pytest.raises(ConfigError, match="cluster.accelerator=B200; this Ray cluster has A100, H100"):
        check_kinds(ClusterConfig(workers=2, gpus_per_worker=1, accelerator="B200"), nodes)
