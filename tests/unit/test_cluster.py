"""What a private Ray needs of its machine, told before it starts, and failed starts told by their cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster import cluster, train_group
from pipelines.cluster.cluster import Cluster, _ray_advice, _short_folder
from pipelines.config import ClusterConfig
from pipelines.errors import ClusterError, ConfigError
from tests.ports import free_port


def test_a_temporary_folder_too_long_for_sockets_gives_way_to_a_short_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(cluster, "temporary_folder", lambda: Path("/tmp/" + "x" * 98))
    assert _short_folder() == "/tmp/ray"
    assert "is too long for its sockets (171 bytes of 107)" in capsys.readouterr().out
    monkeypatch.setattr(cluster, "temporary_folder", lambda: Path("/tmp/" + "x" * 34))  # 39 bytes, and 68 of Ray's
    assert _short_folder() is None
    monkeypatch.setattr(cluster, "temporary_folder", lambda: Path("/tmp/" + "x" * 35))
    assert _short_folder() == "/tmp/ray"


def test_a_folder_that_was_named_for_ray_is_refused_when_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + "中" * 20)
    with pytest.raises(
        ConfigError, match=r"RAY_TMPDIR=.* is too long .*: set RAY_TMPDIR to a folder of at most 39 bytes"
    ):
        _short_folder()


@pytest.mark.parametrize(
    ("error", "embedded", "words"),
    [
        (RuntimeError("Invalid authentication token"), False, "RAY_AUTH_MODE=token"),
        (ConnectionError("Could not find any running Ray instance"), False, "is it running there"),
        (
            RuntimeError("Version mismatch: the cluster was started with Ray 2.9"),
            False,
            "Python and Ray that the cluster",
        ),
        (OSError("out of memory"), True, "is there memory for another Ray"),
    ],
)
def test_a_failed_start_is_told_by_its_cause(error: Exception, embedded: bool, words: str) -> None:
    advice = _ray_advice(error, embedded)
    assert words in advice
    assert ("RAY_AUTH_MODE" in advice) == ("token" in str(error))


def test_a_node_that_does_not_answer_counts_neither_for_sqlite_nor_for_kinds_of_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has just died, and Ray does not know yet."""

    def node(kind: str) -> dict[str, Any]:
        resources = {"CPU": 8.0, "GPU": 8.0, f"accelerator_type:{kind}": 1.0}
        return {"Alive": True, "NodeID": kind, "NodeManagerAddress": kind, "Resources": resources}

    here, dead = node("H100"), node("A100")
    monkeypatch.setattr(cluster, "alive_nodes", lambda: [here, dead])
    monkeypatch.setattr(train_group, "alive_nodes", lambda: [here, dead])
    for answering, counted in (([here], 1), ([here, dead], 2)):
        monkeypatch.setattr(cluster, "answering_nodes", lambda answering=answering: answering)
        monkeypatch.setattr(train_group, "answering_nodes", lambda answering=answering: answering)
        assert Cluster(ClusterConfig()).nodes() == counted
        asked = ClusterConfig(workers=2, gpus_per_worker=1)
        if counted == 1:
            train_group.check_kinds_here(asked)
        else:
            with pytest.raises(ConfigError, match="GPUs of 2 kinds"):
                train_group.check_kinds_here(asked)


def test_a_cluster_at_which_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match=r"\(RAY_ADDRESS\): .*refused; is it running there .*Without RAY_ADDRESS"):
        Cluster(ClusterConfig()).__enter__()
    elsewhere = ClusterConfig(address=f"ray://localhost:{free_port()}")
    with pytest.raises(ClusterError, match=r"at ray://localhost:\d+ \(cluster.address\)"):
        Cluster(elsewhere).__enter__()
