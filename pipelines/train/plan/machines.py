"""Whether the machines of a cluster fit a training stage: asked before anything is uploaded or paid.

Enters: a stage's config, the type of the cluster's machines and how many of them there may be. Leaves: the number of
machines, and lines of the announcement. What the store alone knows (tokens, parents) is checked on the cluster.
"""

from __future__ import annotations

import math

from pipelines.cluster.outside.instances import Instance, with_gpus
from pipelines.config import ClusterConfig
from pipelines.errors import ConfigError
from pipelines.train.plan import memory
from pipelines.train.plan.checked import check_division, chosen_objective, setup_of_config
from pipelines.train.plan.memory import GIB
from pipelines.train.spec import TrainConfig


def workers_per_machine(cluster: ClusterConfig, instance: Instance) -> int:
    """How many workers a machine of this type holds. Raises: ConfigError when not even one."""
    gpus, cpus = cluster.gpus_per_worker, cluster.cpus_per_worker
    if gpus and not instance.gpus:
        fitting = [str(other) for other in with_gpus() if other.gpus >= gpus][:4]
        raise ConfigError(
            f"instance_type={instance.type} has no GPU, and each of cluster.workers={cluster.workers} takes {gpus:g}: "
            f"choose one that has, e.g. {', '.join(fitting)}, or cluster=local to train on CPUs"
        )
    if gpus > instance.gpus or (instance.cpus and cpus > instance.cpus):
        raise ConfigError(
            f"a worker takes {gpus:g} GPUs and {cpus:g} CPUs (cluster.gpus_per_worker, cluster.cpus_per_worker); "
            f"{instance} has not so many: lower them, or choose a larger instance_type"
        )
    if cluster.accelerator and instance.accelerator and cluster.accelerator != instance.accelerator:
        raise ConfigError(
            f"cluster.accelerator={cluster.accelerator}, but instance_type={instance.type} has {instance.accelerator}: "
            "make them agree"
        )
    by_gpu = instance.gpus / gpus if gpus else math.inf
    by_cpu = instance.cpus / cpus if cpus and instance.cpus else math.inf
    return math.floor(min(by_gpu, by_cpu, cluster.workers))


def check(cluster: ClusterConfig, instance: Instance | None, max_nodes: int | None) -> dict[str, str]:
    """Compare the workers with the machines.

    Returns: lines of the announcement. Raises: ConfigError naming what to change.
    """
    if instance is None:
        return {"machines": "not checked: instance_type=… and max_nodes=… say what the cluster is made of"}
    workers = workers_per_machine(cluster, instance)
    nodes = math.ceil(cluster.workers / workers)
    if max_nodes is not None and nodes > max_nodes:
        raise ConfigError(
            f"cluster.workers={cluster.workers} takes {nodes} × {instance}; this cluster has at most {max_nodes} "
            f"(max_nodes): set cluster.workers={max_nodes * workers} or less, or raise the most workers in Terraform"
        )
    price = f", about ${nodes * instance.usd_per_hour:,.2f} an hour on demand" if instance.usd_per_hour else ""
    return {"machines": f"{cluster.workers} workers on {nodes} × {instance}{price}"}


def check_stage(stage: str, config: TrainConfig, instance: Instance | None, max_nodes: int | None) -> dict[str, str]:
    """`check`, and whether the stage's batch divides over its workers and its micro-batch fits into a GPU.

    Args: stage, a name in `STAGES`.
    Raises: ConfigError naming what to change.
    """
    cluster, batch = config.cluster, config.batch
    if config.sized_by_data:  # which only the store knows: the job itself works them out
        return {**check(cluster, instance, max_nodes), "batch": "worked out from the data, where the job runs"}
    micro_batches = batch.global_batch // max(batch.micro_batch, 1)
    if cluster.workers > micro_batches:
        smaller = f", or batch.micro_batch={batch.global_batch // cluster.workers}"
        raise ConfigError(
            f"cluster.workers={cluster.workers}, but a step has batch.global_batch / batch.micro_batch = "
            f"{batch.global_batch} / {batch.micro_batch} = {micro_batches} micro-batches: "
            f"set cluster.workers={micro_batches} or less{smaller if batch.global_batch % cluster.workers == 0 else ''}"
        )
    check_division(batch, cluster.workers)
    lines = check(cluster, instance, max_nodes)
    if instance is not None and cluster.gpus_per_worker and config.model is not None:  # children have their parent's
        rows_per_unit = chosen_objective(stage, config).batches.rows_per_unit
        setup = setup_of_config(stage, config, config.model)
        limit = memory.usable_bytes("cuda", instance.gpu_gib * GIB)
        if config.compute.memory_gib is not None:
            limit = min(limit, config.compute.memory_gib * GIB)
        whose = f"the {instance.accelerator} of {instance.type}"
        predicted = memory.check(setup, limit, whose, rows_per_unit, batch.global_batch // cluster.workers)
        lines["memory"] = predicted.of(limit, whose)
    return lines
