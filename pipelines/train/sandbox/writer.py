"""Write the experiment that a wind tunnel proposes for a larger model: each value under a comment that says why.

Enters: `results.json` of a sandbox, a model of conf/model, where to write. Leaves: `experiment/<name>/pretrain.yaml`
and `anneal.yaml`, and `mixture/<name>_decay.yaml` where weights were found: files that `+experiment=<name>` takes.
Steps follow from tokens and batch. Where no study says how long the decay is, it takes a tenth (arXiv 2404.06395,
§4.2).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, StorageError
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.sandbox.values import Target, Value, listed_runs, values_for

_DECAY_FRACTION = 0.1
_GLOBAL_BATCH = 960
# proposals that stand in the config under another key, and are written by hand below
_OWN_PLACE = ("tokens", "batch_tokens", "decay_fraction", "schedule.decay", "mixture.weights", "sft_in_decay")
_GROUPS = ("model", "schedule", "optimizer")


@dataclass(frozen=True)
class Written:
    """What was written. Attributes: lines, of the announcement; warnings, what could not be taken."""

    name: str
    files: tuple[Path, ...]
    lines: dict[str, str]
    warnings: tuple[str, ...]


def write_experiment(
    results: Mapping[str, Any],
    recipe: str,
    model_name: str,
    model: ModelConfig,
    *,
    name: str,
    sequence_length: int,
    tokens: float | None,
    beyond: bool,
    into: Path,
    replace: bool,
) -> Written:
    """Write the experiment.

    Args: recipe, how the sandbox is called; sequence_length, of the windows; tokens, to train on, None: the law's;
        beyond, whether a target far outside all data is allowed; into, a folder as conf/; replace, what is there.
    Raises: ConfigError for a target outside the laws, for nothing to propose, for a name that is taken.
    """
    target = Target(parameter_counts(model)["non_embedding"], model.d_model, tokens)
    values, notes = values_for(results, target)
    _check_reach(values, model_name, target, beyond)
    by_key = {value.key: value for value in values}
    batch = _global_batch(by_key.get("batch_tokens"), sequence_length)
    steps = max(2, math.ceil(float(by_key["tokens"].value) / (batch * sequence_length)))
    decay = by_key.get("decay_fraction")
    fraction = float(decay.value) if decay else _DECAY_FRACTION
    if not 0 < fraction < 1:
        raise ConfigError(f"the recipe proposes decay_fraction {fraction:g}; expected a share between 0 and 1")
    decay_steps = min(steps - 1, max(1, round(fraction * steps)))
    folder = into / "experiment" / name
    files = {
        folder / "pretrain.yaml": _trunk(name, recipe, model_name, by_key, batch, sequence_length, steps - decay_steps)
    }
    mixture = f"{name}_decay" if "mixture.weights" in by_key else "minicpm_decay"
    files[folder / "anneal.yaml"] = _anneal(
        name, recipe, by_key, batch, sequence_length, steps - decay_steps, decay_steps, mixture
    )
    if weights := by_key.get("mixture.weights"):
        budget = decay_steps * batch * sequence_length
        files[into / "mixture" / f"{mixture}.yaml"] = _mixture(mixture, recipe, weights, budget)
    unplaced = [key for key in by_key if key not in _OWN_PLACE and key.split(".")[0] not in _GROUPS]
    notes += [f"{key} has no place in a config: {by_key[key].value} is not written" for key in unplaced]
    if (sft := by_key.get("sft_in_decay")) is not None:
        notes.append(f"SFT data in the decay: {sft.value}; the mixture of the anneal decides it")
    _write(files, replace)
    lines = {
        "target": f"{model_name}: {target.parameters:,} non-embedding parameters",
        "tokens": f"{steps * batch * sequence_length:,} = {steps - decay_steps:,} + {decay_steps:,} steps of {batch} × "
        f"{sequence_length}",
        **{value.key: f"{_shown(value.value)}  ({value.comment[-1]})" for value in values if value.key != "tokens"},
    }
    return Written(name, tuple(files), lines, tuple(notes))


def _check_reach(values: Sequence[Value], model_name: str, target: Target, beyond: bool) -> None:
    """Refuse a target far outside everything that was tried."""
    far = {value.key: value.beyond for value in values if value.beyond is not None}
    if far and not beyond:
        times = max(far.values())
        raise ConfigError(
            f"{model_name} ({target.parameters:,} non-embedding parameters) is {times:,.0f} times larger than "
            f"the largest that {', '.join(far)} were measured at, outside any law's reach (10 times): run the studies "
            f"up to {human_size(target.parameters / 10)} parameters, choose a smaller target, or say beyond=allow, "
            "which writes each value with its wider interval"
        )


def human_size(parameters: float) -> str:
    """`240000000` as `240M`."""
    return f"{parameters / 1e9:.3g}B" if parameters >= 1e9 else f"{parameters / 1e6:.3g}M"


def _global_batch(value: Value | None, sequence_length: int) -> int:
    """Windows a step: a multiple of 8 where there are so many, since machines have eight GPUs."""
    if value is None:
        return _GLOBAL_BATCH
    windows = float(value.value) / sequence_length
    return max(1, round(windows)) if windows < 16 else 8 * round(windows / 8)


def _trunk(
    name: str, recipe: str, model_name: str, values: Mapping[str, Value], batch: int, length: int, steps: int
) -> str:
    lines = _header(f"the trunk that {recipe} proposes for {model_name}", "pretrain", name)
    lines += [
        "defaults:", f"  - override /model: {model_name}", "  - override /cluster: gpu", f"name: {name}",
        "data: mixture/minicpm_stable",
    ]  # fmt: skip
    lines += _batch(values, batch, length)
    lines += [*_comment(values["tokens"]), f"steps: {steps}"]
    for group in _GROUPS:
        inside = [value for key, value in values.items() if key.split(".")[0] == group and key not in _OWN_PLACE]
        if inside:
            lines.append(f"{group}:")
            for value in inside:
                lines += _comment(value, 2)
                lines.append(f"  {value.key.partition('.')[2]}: {_shown(value.value)}")
    return "\n".join(lines) + "\n"


def _anneal(
    name: str, recipe: str, values: Mapping[str, Value], batch: int, length: int, trunk_steps: int, steps: int,
    mixture: str,
) -> str:  # fmt: skip
    lines = _header(f"the decay that {recipe} proposes", "anneal", name)
    lines += ["defaults:", "  - override /cluster: gpu", f"name: {name}", f"parent: pretrain/{name}@step-{trunk_steps}"]
    if "mixture.weights" in values:
        lines.append(f"# conf/mixture/{mixture}.yaml says where its weights come from")
    lines.append(f"data: mixture/{mixture}")
    lines += _batch(values, batch, length)
    if decay := values.get("decay_fraction"):
        lines += _comment(decay)
    else:
        lines.append("# no study says how long the decay is: a tenth of all steps (arXiv 2404.06395, §4.2)")
    lines.append(f"steps: {steps}")
    if shape := values.get("schedule.decay"):
        lines += ["schedule:", *_comment(shape, 2), f"  decay: {_shown(shape.value)}"]
    return "\n".join(lines) + "\n"


def _mixture(name: str, recipe: str, value: Value, budget_tokens: int) -> str:
    weights = {source: float(weight) for source, weight in value.value.items()}
    total = math.fsum(weights.values())
    lines = [f"# The decay mixture that {recipe} proposes.", *_comment(value), f"name: {name}"]
    lines += [f"budget_tokens: {budget_tokens}", "max_epochs: 4", "missing: refuse", "weights:"]
    shares = {source: round(weight / total, 6) for source, weight in weights.items()}
    heaviest = max(shares, key=lambda source: shares[source])
    shares[heaviest] = round(shares[heaviest] + 1 - math.fsum(shares.values()), 6)
    lines += [f"  {source}: {share:g}" for source, share in shares.items()]
    return "\n".join(lines) + "\n"


def _header(purpose: str, workflow: str, name: str) -> list[str]:
    return [
        "# @package _global_",
        f"# Purpose: {purpose}.",
        "# Written by `python -m workflows.plan recipe=…`; change it as any other.",
        f"# Command: python -m workflows.{workflow} +experiment={name}",
        f"# Hardware, hours and money: python -m workflows.plan +experiment={name} gpus=… gpu=…",
    ]


def _batch(values: Mapping[str, Value], batch: int, length: int) -> list[str]:
    value = values.get("batch_tokens")
    said = _comment(value) if value else ["# no study says how large a batch is best: MiniCPM's (arXiv 2404.06395)"]
    return [*said, f"batch: {{sequence_length: {length}, global_batch: {batch}, micro_batch: 1}}"]


def _comment(value: Value, indent: int = 0) -> list[str]:
    """Why, law, interval, runs; and that it lies beyond what was tried."""
    sentences = [*value.comment, f"runs: {listed_runs(value.runs)}"]
    if value.beyond is not None:
        sentences.append(f"BEYOND: {value.beyond:,.0f} times the largest size that was tried")
    lead = " " * indent + "# "
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(
            sentence, 118, initial_indent=lead, subsequent_indent=lead + "  ", break_long_words=False
        )
    ]


def _shown(value: Any) -> str:
    """As YAML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}" if "e" not in f"{value:.6g}" or "." in f"{value:.6g}" else f"{value:.1e}"
    return str(value)


def _write(files: Mapping[Path, str], replace: bool) -> None:
    taken = [str(path) for path in files if path.exists()]
    if taken and not replace:
        raise ConfigError(
            f"{', '.join(taken)} is there already: give another name=, or replace it with on_change=rebuild"
        )
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the experiment cannot be written: {error}: name another folder with into=") from error
