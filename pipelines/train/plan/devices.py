"""What a training worker runs on: what it has is compared with what was asked for, before weights are loaded.

Enters: a `TrainSpec`. Leaves: which blocks compute again in the backward pass, the same on every rank, and the line
that says why. Refused, each with what is there: a GPU that is not, GPUs of different kinds in one group (the slowest
would set the pace of all, at the price of all), a micro-batch that does not fit into the smallest.

Only what looks at a device imports torch, which takes two seconds that a plan need not wait for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from pipelines.cluster.cluster import inside_job
from pipelines.config import ClusterConfig
from pipelines.errors import ConfigError
from pipelines.train.network.compute import ComputeConfig
from pipelines.train.objectives import OBJECTIVES
from pipelines.train.plan import memory
from pipelines.train.plan.memory import GIB, DeviceKind, Memory, Setup
from pipelines.train.spec import TrainSpec
from pipelines.train.update.zero import ZeroConfig

_WITH_FP8 = "of compute capability 8.9 or later (H100, H200, L40S, RTX 4090)"
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def machine_bytes() -> float:
    """The memory of this machine, or of this container where that is less."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in map(Path, _CGROUP_LIMITS):
        text = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if text.isdigit():
            total = min(total, float(text))
    return total


def budget(compute: ComputeConfig, device: DeviceKind, workers_here: int, index: int = 0) -> tuple[float, str]:
    """What one worker of this machine may take, and whose memory that is.

    Args: workers_here, how many share a machine's memory; index, of the GPU.
    """
    if compute.memory_gib is not None:
        return compute.memory_gib * GIB, f"compute.memory_gib={compute.memory_gib:g}"
    if device == "cuda":
        import torch

        gpu = torch.cuda.get_device_properties(index)
        return memory.usable_bytes(device, gpu.total_memory), f"the {gpu.name} of {gpu.total_memory / GIB:.0f} GiB"
    total = machine_bytes()
    shared = "this machine" if workers_here == 1 else f"each of the {workers_here} workers on this machine"
    return memory.usable_bytes(device, total, workers_here), f"{shared} of {total / GIB:.0f} GiB"


def check(compute: ComputeConfig, zero: ZeroConfig, device: DeviceKind) -> None:
    """Refuse what a device cannot compute. Raises: ConfigError naming the field."""
    if compute.attention in ("varlen", "cudnn") and device == "cpu":
        name = "FlashAttention" if compute.attention == "varlen" else "cuDNN's"
        raise ConfigError(
            f"compute.attention={compute.attention} is {name}, which needs a GPU: set compute.attention=auto"
        )
    if compute.attention == "flex" and device == "cpu":
        raise ConfigError(
            "compute.attention=flex has no backward pass on a CPU: set compute.attention=auto (blocks), or train on "
            "GPUs"
        )
    if compute.attention in ("varlen", "cudnn") and zero.precision == "float32":
        raise ConfigError(
            f"compute.attention={compute.attention} takes 16-bit numbers, and zero.precision is float32: set "
            "compute.attention=auto (flex) or zero.precision=bfloat16"
        )
    if zero.precision == "fp8" and device == "cpu":
        raise ConfigError(
            f"zero.precision=fp8 needs a GPU {_WITH_FP8}: set zero.precision=bfloat16 (on a CPU float32 is faster), or "
            "train on such GPUs"
        )


def check_capability(zero: ZeroConfig, index: int = 0) -> None:
    """Refuse FP8 on a GPU without it. Args: index, of the GPU. Raises: ConfigError."""
    if zero.precision != "fp8":
        return
    import torch

    from pipelines.train.network import float8

    if torch.cuda.get_device_capability(index) < float8.LEAST_CAPABILITY:
        major, minor = torch.cuda.get_device_capability(index)
        raise ConfigError(
            f"zero.precision=fp8 needs a GPU {_WITH_FP8}; the {torch.cuda.get_device_name(index)} has "
            f"{major}.{minor}: set zero.precision=bfloat16"
        )


def here(cluster: ClusterConfig) -> bool:
    """Whether training will run on this very machine, in a private Ray."""
    return cluster.address is None and "RAY_ADDRESS" not in os.environ and not inside_job()


def known(cluster: ClusterConfig, device: DeviceKind) -> bool:
    """Whether this process can ask the device that training will run on how much memory it has."""
    if not here(cluster) or device == "cpu":
        return here(cluster)
    import torch

    return torch.cuda.is_available()


def check_gpus(cluster: ClusterConfig) -> None:
    """Refuse GPUs that this machine does not have, before a private Ray is started. Raises: ConfigError."""
    asked = cluster.workers * cluster.gpus_per_worker
    if not asked or not here(cluster):
        return
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < asked:
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is a build without CUDA)"
        raise ConfigError(
            f"cluster.workers={cluster.workers} × cluster.gpus_per_worker={cluster.gpus_per_worker:g} asks for "
            f"{asked:g} GPUs; this machine has {there}{build}: set cluster=local to train on its CPUs, "
            + (f"cluster.workers={there} to train on those, " if there else "")
            + "or cluster.address=… (or `ray job submit`) to train on a Ray cluster"
        )


def setup_of(spec: TrainSpec, workers: int, device: DeviceKind) -> Setup:
    """What decides the memory of a worker of this run."""
    batch = spec.batch
    return Setup(
        model=spec.model, rows=batch.micro_batch * rows_per_unit(spec), sequence_length=batch.sequence_length,
        accumulates=batch.global_batch > batch.micro_batch * workers, zero=spec.zero, compute=spec.compute,
        workers=workers, device=device, optimizer=spec.optimizer, trains=spec.trains,
    )  # fmt: skip


def rows_per_unit(spec: TrainSpec) -> int:
    """Rows that one sample of a batch is: a pair is two."""
    return OBJECTIVES[spec.objective.name].batches.rows_per_unit


def agree(spec: TrainSpec) -> tuple[Memory, str]:
    """Compare what this rank's group runs on with what was asked for; all ranks call it together.

    Returns: the prediction, with the policy that all ranks take, and the line about it.
    Raises: ConfigError, on every rank.
    """
    import torch
    import torch.distributed as dist

    gpus = float(spec.config.get("cluster", {}).get("gpus_per_worker", 0))
    device: DeviceKind = "cuda" if torch.cuda.is_available() else "cpu"
    index = torch.cuda.current_device() if device == "cuda" else 0
    if device == "cuda":
        check_capability(spec.zero, index)
    name = torch.cuda.get_device_name(index) if device == "cuda" else "CPU"
    workers: list[tuple[str, str]] = [("", "")] * dist.get_world_size()
    dist.all_gather_object(workers, (socket.gethostname(), name))
    if gpus and any(kind == "CPU" for _, kind in workers):
        without = sorted({node for node, kind in workers if kind == "CPU"})
        raise ConfigError(
            f"cluster.gpus_per_worker is {gpus:g}, but torch {torch.__version__} sees no GPU on {', '.join(without)}: "
            "set cluster=local to train on CPUs, or look at `nvidia-smi` and install a CUDA build of torch there"
        )
    check_alike(workers)
    workers_here = sum(node == socket.gethostname() for node, _ in workers)
    limit, whose = budget(spec.compute, device, workers_here, index)
    limits: list[tuple[float, str]] = [(0.0, "")] * len(workers)
    dist.all_gather_object(limits, (limit, whose))
    limit, whose = min(limits)
    predicted = memory.check(
        setup_of(spec, len(workers), device), limit, whose, rows_per_unit(spec), spec.batch.global_batch // len(workers)
    )
    return predicted, f"memory: {predicted.of(limit, whose)}"


def check_alike(workers: Iterable[tuple[str, str]]) -> None:
    """Refuse GPUs of different kinds in one group. Args: workers, (node, kind) of every worker. Raises: ConfigError."""
    nodes: dict[str, set[str]] = {}
    for node, kind in workers:
        nodes.setdefault(kind, set()).add(node)
    if len(nodes) > 1:
        listed = "; ".join(f"{kind} on {', '.join(sorted(where))}" for kind, where in sorted(nodes.items()))
        raise ConfigError(
            f"the workers have devices of {len(nodes)} kinds: {listed}: one group takes one kind, since its slowest "
            "sets the pace: start the workers on nodes of one kind (on a Ray cluster: cluster.accelerator=<kind>)"
        )
