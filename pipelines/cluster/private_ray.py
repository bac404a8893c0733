"""A Ray for one process alone, with no more processes than work needs.

Enters: how many CPUs, what its workers import from, where its session lies. Leaves: this process connected to it.

Of what Ray starts beside its two servers a private one needs nothing: the dashboard, the agent that gathers metrics and
the one that makes a `runtime_env`, the autoscaler, the monitor of logs. Each is a Python that imports Ray, and the
command waits for some of them. Ray's servers insist on two of these, so `cat` stands in: it ends as they should, when
the server that started it does. Measured: 3.5 s of CPU less a start.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

# the versions whose inside is known; another one starts with all that it has
_KNOWN = "2.60."
_STANDS_IN = ("--dashboard_agent_command", "--runtime_env_agent_command")


def start_private_ray(cpus: int, path: str, folder: str | None) -> None:
    """Ray on this machine for this process alone, not a cluster that somebody has started here.

    Its processes inherit PYTHONPATH: with a `runtime_env` each worker would be made by way of two further processes.
    Nor are there workers before they are needed.

    Args: path, PYTHONPATH of its workers; folder, of its session, or None for Ray's own choice.
    """
    import ray

    known = ray.__version__.startswith(_KNOWN)
    with _variable("PYTHONPATH", path), _few_processes() if known else contextlib.nullcontext():
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
            _system_config={
                # else Ray answers its driver once its first workers are there, and never if one of them dies as it
                # starts
                "prestart_worker_first_driver": False,
                # by which the stand-ins see the end of the server that started them
                **({"enable_pipe_based_agent_to_parent_health_check": True} if known else {}),
            },
        )


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Have Ray's own functions start the two servers, `gcs_server` and `raylet`, and nothing beside them."""
    from ray._private import node, parameter, services

    start = services.start_ray_process

    def without_agents(command: list[str], *args: Any, **options: Any) -> Any:
        named = dict(word.split("=", 1) for word in command if word.startswith("--") and "=" in word)
        if _STANDS_IN[0] in named:
            _say_no_agents(named["--session_dir"], named["--node_id"])
            command = [f"{word.split('=')[0]}=cat" if word.startswith(_STANDS_IN) else word for word in command]
        return start(command, *args, **options)

    def no_dashboard(ray_node: Any, **_: Any) -> None:
        ray_node._webui_url = ""

    with (
        _replaced(
            parameter, "RayParams", functools.partial(parameter.RayParams, no_monitor=True, include_log_monitor=False)
        ),
        _replaced(services, "start_ray_process", without_agents),
        _replaced(node.Node, "start_api_server", no_dashboard),
    ):
        yield


def _say_no_agents(session: str, node: str) -> None:
    """Write down, for the raylet that waits for it, that no agent listens: Ray's own do so where they offer nothing."""
    import ray._raylet

    raylet: Any = ray._raylet

    for agent in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN", "RUNTIME_ENV_AGENT"):
        raylet.persist_port(session, node, getattr(raylet, f"{agent}_PORT_NAME"), -1)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """A variable of the environment for the length of a block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
