"""What a cluster must have for a group of training processes: refused before it is asked for, or waited for aloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import ClusterConfig
from pipelines.errors import ConfigError


def check_size(config: ClusterConfig) -> None:
    """Refuse a group that this cluster cannot hold; one that grows by itself is asked for it by the group's own
    demand.
    """
    for resource, of_worker, need, have in () if config.grows else lacking(config):
        raise ConfigError(
            f"cluster.workers={config.workers} × {of_worker:g} {resource} needs {need:g} {resource}; this Ray cluster "
            f"has {have:g}: lower cluster.workers or cluster.{resource.lower()}s_per_worker, add machines, or set "
            "cluster.grows=true where an autoscaler does"
        )


def lacking(config: ClusterConfig) -> list[tuple[str, float, float, float]]:
    """Each resource of which the cluster has too little now: its name, what a worker takes, what all take, what there
    is.
    """
    import ray

    have = ray.cluster_resources()
    asked = (("CPU", config.cpus_per_worker), ("GPU", config.gpus_per_worker))
    needs = [
        (resource, of_worker, of_worker * config.workers, have.get(resource, 0.0)) for resource, of_worker in asked
    ]
    return [need for need in needs if need[2] > need[3]]


def check_kinds(config: ClusterConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a group that could be spread over GPUs of different kinds: its slowest would set the pace.

    Args: nodes, as `ray.nodes()` lists them; Ray labels a node's GPUs with a resource `accelerator_type:<kind>`.
    Raises: ConfigError naming the nodes of each kind.
    """
    if not config.gpus_per_worker:
        return
    kinds: dict[str, list[str]] = {}
    for node in nodes:
        if node["Alive"] and node["Resources"].get("GPU"):
            for label in (name for name in node["Resources"] if name.startswith("accelerator_type:")):
                kinds.setdefault(label.split(":", 1)[1], []).append(node["NodeManagerAddress"])
    if config.accelerator is not None:
        if kinds and config.accelerator not in kinds:
            raise ConfigError(
                f"cluster.accelerator={config.accelerator}; this Ray cluster has {', '.join(sorted(kinds))}: choose "
                "one of them"
            )
    elif len(kinds) > 1:
        listed = "; ".join(f"{kind}: {', '.join(where)}" for kind, where in sorted(kinds.items()))
        raise ConfigError(
            f"this Ray cluster has GPUs of {len(kinds)} kinds ({listed}); a group trains on one, since its slowest "
            f"sets the pace: set cluster.accelerator={' or '.join(sorted(kinds))}"
        )
