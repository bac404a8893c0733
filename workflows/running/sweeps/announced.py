"""What a sweep of a training stage says before it starts: the runs, and their tokens, memory, hours and money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.config import ClusterConfig
from pipelines.display.progress import announce, duration, human, say
from pipelines.train.network.architecture import ModelConfig, flops_per_token
from pipelines.train.plan import memory
from pipelines.train.plan.checked import setup_of_config
from pipelines.train.sharing.tree import Tree, TreeRun
from workflows.command_line.devices import device_names, read_device
from workflows.command_line.turns import Turn
from workflows.running.arms import planned_table
from workflows.running.session import Session
from workflows.running.sweeps.planned import Arm


def announce_runs(stage: str, tree: Tree, turns: Sequence[Turn], arms: Sequence[Arm], session: Session) -> None:
    """Print the plan: what all runs take together, and a row for each. Args: arms, of the turns that can be run."""
    plans = {arm.turn.config.name: arm for arm in arms}
    models = {name: arm.planned.spec.model for name, arm in plans.items()}
    device = _device(turns[0].config.cluster)
    header = [*([] if "steps" in turns[0].varied else ["steps"]), "begins at", "tokens to train", "hours"]
    rows, all_tokens, all_flops = [], 0, 0.0
    for turn in turns:
        run = tree.path(turn.config.name)[-1]
        arm = plans.get(turn.config.name)
        steps = arm.planned.spec.steps if arm else run.steps
        tokens = max(0, (steps or 0) - run.first) * run.trajectory.step_tokens
        model = models.get(turn.config.name) or turn.config.model
        flops = 0.0 if model is None else tokens * flops_per_token(model, turn.config.batch.sequence_length)
        all_tokens, all_flops = all_tokens + tokens, all_flops + flops
        hours = None if device is None or model is None else duration(flops / (device.peak * device.mfu.value))
        row = [_begins(run, arm), tokens, hours]
        rows.append(row if "steps" in turn.varied else [steps, *row])
    if device is None:
        header, rows = header[:-1], [row[:-1] for row in rows]
    if tree.shares:
        all_tokens, all_flops = tree.trained_tokens, _flops(tree, models)
    lines = {**_announcement(tree, plans, all_tokens), **_costs(tree, models, all_flops)}
    lines["MLflow"] = f"group {session.group}"
    announce(f"{stage}: {len(turns)} runs", {**lines, "store": session.store.uri})
    say(planned_table(turns, header, rows, stage))


def _announcement(tree: Tree, plans: Mapping[str, Arm], tokens: int) -> dict[str, str]:
    naive = tree.naive_tokens
    begun = [run for run in tree.runs.values() if run.committed]
    lines = {"tokens": f"{human(tokens)} to train"}
    if tree.shares:
        saved = f" ({1 - tokens / naive:.0%} saved)" if tokens < naive and not begun else ""
        lines["edges"] = f"{sum(1 for _ in tree.edges())}, each trained once"
        lines["tokens"] += f"; {human(naive)} if each run were trained by itself{saved}"
    if begun:
        there = sum(run.first * run.trajectory.step_tokens for run in begun)
        lines["there already"] = f"{human(there)} tokens of {len(begun)} runs"
    if replaced := sum(1 for arm in plans.values() if arm.replaces):
        lines["rebuild"] = f"replaces {replaced} of them, each when its work begins"
    return lines


def _known(tree: Tree, models: Mapping[str, ModelConfig]) -> dict[TreeRun, ModelConfig]:
    """The models of the runs. Args: models, of those whose plan is known; others have their own configs' or, as long as
    only the store knows it, none.
    """
    found = {run: models.get(run.config.name) or run.config.model for run in tree.runs.values()}
    return {run: model for run, model in found.items() if model is not None}


def _flops(tree: Tree, models: Mapping[str, ModelConfig]) -> float:
    """What the edges of runs that share steps take."""
    known = _known(tree, models)
    edges = (edge for edge in tree.edges() if edge.run in known)
    return sum(edge.tokens * flops_per_token(known[edge.run], edge.run.config.batch.sequence_length) for edge in edges)


def _costs(tree: Tree, models: Mapping[str, ModelConfig], flops: float) -> dict[str, str]:
    """Memory, hours and money of what is to be trained."""
    known = _known(tree, models)
    if len(known) < len(tree.runs):
        return {}
    setups = [setup_of_config(run.stage, run.config, model) for run, model in known.items()]
    largest = max((memory.predict(setup, memory.plan_keep(setup, math.inf)) for setup in setups), key=lambda m: m.total)
    lines = {"memory": f"{largest.total / memory.GIB:.3g} GiB in each process of a lane, at most"}
    cluster = next(iter(known)).config.cluster
    device = _device(cluster)
    if device is None:
        return {**lines, "hours": "not known of this GPU: cluster.accelerator names a file of conf/device"}
    name, hours = _device_name(cluster), flops / (device.peak * device.mfu.value) / 3600
    price = "" if device.usd_per_hour is None else f", ${hours * device.usd_per_hour:.2f}"
    how = f"of one {name}{price}, at an MFU of {device.mfu.value:.0%} (conf/device/{name}.yaml)"
    return {**lines, "hours": f"{duration(hours * 3600)} {how}"}


def _device(cluster: ClusterConfig) -> Any:
    """What is known of the device that these lanes train on; None where it is not."""
    name = _device_name(cluster)
    return read_device(name) if name in device_names() else None


def _device_name(cluster: ClusterConfig) -> str:
    return (cluster.accelerator or "").lower() if cluster.gpus_per_worker else "cpu"


def _begins(run: TreeRun, arm: Arm | None) -> str:
    if arm is not None and arm.finished:
        return "finished already"
    if run.committed:
        return f"its own step {run.first}"
    if run.adopted is not None:
        return str(run.adopted)
    return "its beginning" if arm is None or not arm.replaces else "its beginning, anew"
