"""Windows of another length at a branch: rotary positions that reach further, and where the branch reads on.

Enters: the parent's architecture and the stage's config. Leaves: the branch's architecture, and two lines of the
announcement. One tells what changes in the architecture. The other tells, for each source, where reading goes on:
windows of another length are cut elsewhere, so a part of the source stays unread or is read again, and the line says
how much.

A branch with longer windows meets positions that its parent never saw. NTK-aware scaling raises the base of the rotary
frequencies. The slowest frequency then turns, over a window s times as long, as far as it turned before. The fastest
frequencies, which tell neighbours apart, hardly change:

    base' = base · s^(d / (d - 2))        d head width, s = new length / trained length

Source: bloc97, "NTK-Aware Scaled RoPE" (2023), as written down by Peng et al., YaRN (arXiv 2309.00071) eq. 16. A number
instead of `ntk` sets the base itself, as long-context continuations of Llama-shaped models do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.data.stream.source_stream import Carried
from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig, RopeBase


def ntk_base(base: float, factor: float, d_head: int) -> float:
    """The rotary base for windows `factor` times as long as the trained ones."""
    return float(base * factor ** (d_head / (d_head - 2)))


def extend(parent: ModelConfig, trained: int, length: int, rope_base: RopeBase) -> ModelConfig:
    """The parent's architecture for windows of `length` tokens.

    Args: trained, the parent's window length.
    Raises: ConfigError for a base that is no number above 1, or for `ntk` without longer windows.
    """
    if rope_base == "ntk":
        if length <= trained:
            raise ConfigError(
                f"rope_base=ntk with batch.sequence_length={length}, but the parent was trained on {trained}: it "
                "stretches positions for longer windows: set rope_base=keep, or a longer batch.sequence_length"
            )
        base = ntk_base(parent.rope_base, length / trained, parent.d_head)
    elif rope_base == "keep":
        base = parent.rope_base
    elif rope_base > 1:
        base = rope_base
    else:
        raise ConfigError(f"rope_base is {rope_base:g}; expected keep, ntk or a number above 1, e.g. 500000")
    return dataclasses.replace(parent, rope_base=base, max_positions=max(parent.max_positions, length))


def describe(parent: ModelConfig, trained: int, child: ModelConfig, length: int) -> str:
    """E.g. `windows of 256 -> 1,024 tokens, rope_base 10,000 -> 43,870, max_positions 512 -> 1,024`."""
    parts = [f"windows of {trained:,} -> {length:,} tokens"]
    for name in ("rope_base", "max_positions"):
        before, after = getattr(parent, name), getattr(child, name)
        parts.append(f"{name} {before:,.6g} -> {after:,.6g}" if before != after else f"{name} stays {before:,.6g}")
    if length > trained and child.rope_base == parent.rope_base:
        parts.append(f"positions from {trained:,} on are new to the model: rope_base=ntk turns them slower")
    return ", ".join(parts)


def describe_stream(carried: Sequence[Carried]) -> str:
    """Where each source goes on, and what stays unread or is read again."""
    places = []
    for source in carried:
        if not source.epoch and not source.group:
            places.append(f"{source.source} from its beginning")
            continue
        place = f"group {source.group + 1} of {source.groups}" if source.group else "its beginning"
        again = f", epoch {source.epoch + 1}" if source.epoch else ""
        places.append(f"{source.source} from {place}{again} ({source.left_out:.0%} of an epoch left unread)")
    return "windows are cut anew, so sources go on at the next group of shards: " + "; ".join(places)
