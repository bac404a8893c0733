"""The machines of a Ray cluster: those that it lists as alive, and those that answer.

A node that died stays listed until Ray has missed its heartbeats for some seconds, and one whose link is cut for
longer. Who would refuse a cluster for what a node is or has asks the node first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.display.progress import say
from pipelines.errors import ClusterError

_QUIET_SECONDS = 2.0  # without an answer, before it is said that one is waited for


def alive_nodes() -> list[dict[str, Any]]:
    """The machines that Ray takes for alive, as `ray.nodes()` gives them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def ask_nodes(why: str, function: Callable[..., Any], *arguments: Any) -> list[tuple[dict[str, Any], Any]]:
    """What `function(*arguments)` returns on each node. One that died is waited for, named, and left out: it will do no
    work.

    Args: why, what is asked for, a clause that follows "whether".
    Raises: ClusterError when a node that is alive could not be asked; whatever the function raised.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asking = ray.remote(num_cpus=0)(function)
    asked = [
        (
            node,
            asking.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                *arguments
            ),
        )
        for node in alive_nodes()
    ]
    answers = []
    for node, reference in asked:
        address = node["NodeManagerAddress"]
        if not ray.wait([reference], timeout=_QUIET_SECONDS)[0]:
            say(f"   waiting for node {address} to say whether {why}")
        try:
            answers.append((node, ray.get(reference)))
        except RayTaskError:
            raise
        except RayError as error:
            if node["NodeID"] in {other["NodeID"] for other in alive_nodes()}:
                raise ClusterError(
                    f"node {address} of this cluster could not be asked whether {why} ({error}); "
                    "nothing has begun: run the same command again"
                ) from error
            say(f"   node {address} was lost: the work goes on without it")
    return answers


def answering_nodes() -> list[dict[str, Any]]:
    """The machines that answer."""
    return [node for node, _ in ask_nodes("it is there", _here)]


def _here() -> bool:
    return True
