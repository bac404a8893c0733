"""The loader from page cache: tokens per second of one process, in order and after a jump to any sample.

    python -m benchmarks.loader --sequence-length 256
    python -m benchmarks.loader --s3 [--latency 0.02 ...]     waits per step of a stream from S3: see
    benchmarks/stream.py

    python -m benchmarks.loader --shuffle       how well the block shuffle mixes a source

Named peer: a plain `numpy.memmap` reader that slices random windows without mixing, order, positions or masks, i.e. the
least that any loader has to do. Printed: million tokens per second of CPU time, medians over `--rounds` turns, and the
ratio.
A second table: a whole epoch from newly opened shards, in which every block is compared with its sum, beside one
without sums.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np

from benchmarks import stream
from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixturePlan, MixtureRecipe, plan_mixture
from pipelines.data.tokens.token_shards import TokenShardWriter, shard_paths
from pipelines.data.tokens.token_sources import TokenSource
from pipelines.display.progress import table


def main() -> None:
    """Measure and print."""
    if "--s3" in sys.argv:
        stream.main([argument for argument in sys.argv[1:] if argument != "--s3"])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shuffle", action="store_true")
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--million-tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.shuffle:
        print(table(*shuffle_quality()))
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources, facts = {}, {}
        for source in ("a", "b", "c"):
            writer = TokenShardWriter(
                {suffix: folder / f"{source}.{suffix}" for suffix in ("bin", "idx", "bytes", "sums")}, 4096
            )
            lengths = rng.integers(50, 2000, options.million_tokens * 1000 // 3)
            lengths = lengths[: np.searchsorted(np.cumsum(lengths), options.million_tokens * 1e6 / 3)]
            writer.add(rng.integers(0, 4096, int(lengths.sum())).astype(np.uint16), lengths, bytes=lengths)
            writer.close()
            total = np.array([writer.tokens])
            sources[source] = TokenSource(
                source, "documents", (source,), total, lambda prefix: shard_paths(folder, prefix)
            )
            facts[source] = {"kind": "documents", "train": {"tokens": writer.tokens, "loss_tokens": writer.tokens}}
        recipe = MixtureRecipe(weights={"a": 0.5, "b": 0.3, "c": 0.2}, budget_tokens=1000, max_epochs=100)
        plan = plan_mixture(recipe, "tokens/x", "0", {"sources": facts})
        loader = Loader(sources, [Segment(0, plan)], 0, options.sequence_length)
        flat = np.memmap(folder / "a.bin", np.uint16, "r")
        T, B, batches = (
            options.sequence_length,
            options.batch,
            max(1, 4_000_000 // (options.sequence_length * options.batch)),
        )
        speeds: dict[str, list[float]] = {"ours, in order": [], "ours, anywhere": [], "memmap slices": []}
        for round_ in range(options.rounds + 1):
            starts = {"ours, in order": round_ * batches * B, "ours, anywhere": int(rng.integers(0, 10**9))}
            for label, first in starts.items():
                began = time.process_time()
                for k in range(batches):
                    loader.batch(np.arange(first + k * B, first + (k + 1) * B))
                speeds[label].append(batches * B * T / (time.process_time() - began) / 1e6)
            began = time.process_time()
            for _ in range(batches):
                at = rng.integers(0, len(flat) - T - 1, B)
                np.stack([flat[i : i + T + 1] for i in at]).astype(np.int32)
            speeds["memmap slices"].append(batches * B * T / (time.process_time() - began) / 1e6)
        first = first_reads(folder, sources, plan, options)
    base = statistics.median(speeds["memmap slices"][1:])
    rows = [
        [
            label,
            statistics.median(v[1:]),
            f"{min(v[1:]):.0f}–{max(v[1:]):.0f}",
            f"{statistics.median(v[1:]) / base:.2f}×",
        ]
        for label, v in speeds.items()  # the first turn warms caches and is not counted
    ]
    print(table([f"windows of {T}, batches of {B}", "M tokens/s", "range", "ratio"], rows))
    print()
    print(table(["an epoch of newly opened shards", "M tokens/s", "range", "ratio"], first))


def first_reads(
    folder: Path, sources: dict[str, TokenSource], plan: MixturePlan, options: argparse.Namespace
) -> list[list[object]]:
    """What it costs to compare every block once: epochs with and without sums, in turn."""

    def located(sums: bool, prefix: str) -> dict[str, Path]:
        return {suffix: path for suffix, path in shard_paths(folder, prefix).items() if sums or suffix != "sums"}

    speeds: dict[str, list[float]] = {"without sums": [], "blocks compared": []}
    batches = int(options.million_tokens * 1e6 / (options.sequence_length * options.batch))
    for _ in range(options.rounds + 1):
        for label, held in speeds.items():
            opened = {
                name: dataclasses.replace(
                    source, locate=functools.partial(located, label == "blocks compared"), _open=OrderedDict()
                )
                for name, source in sources.items()
            }
            loader = Loader(opened, [Segment(0, plan)], 0, options.sequence_length)
            began = time.process_time()
            for k in range(batches):
                loader.batch(np.arange(k * options.batch, (k + 1) * options.batch))
            held.append(batches * options.batch * options.sequence_length / (time.process_time() - began) / 1e6)
    base = statistics.median(speeds["without sums"][1:])
    return [
        [
            label,
            statistics.median(v[1:]),
            f"{min(v[1:]):.0f}–{max(v[1:]):.0f}",
            f"{statistics.median(v[1:]) / base:.3f}×",
        ]
        for label, v in speeds.items()
    ]


def shuffle_quality(shards: int = 256, windows: int = 500) -> tuple[list[str], list[list[object]]]:
    """How much a window's place in its source tells of the next one's, by the number of shards shuffled together.

    Position is the window's place in the source as it was written, from 0 to 1. Serial correlation at lag 1 over one
    epoch: 1 in order, 0 after a full shuffle. Groups of g among S shards leave (1/g - 1/S) of the variance between
        groups, and no
    correlation inside a group: both are shown. Neighbours: the next window is one of the 16 around this one.
    """
    plan = plan_mixture(
        MixtureRecipe(weights={"a": 1.0}, budget_tokens=1, max_epochs=1), "tokens/x", "0",
        {"sources": {"a": {"kind": "documents", "train": {"tokens": shards * windows}}}},
    )  # fmt: skip
    prefixes, tokens = tuple(map(str, range(shards))), np.full(shards, windows + 1)
    rows: list[list[object]] = []
    for group in (1, 2, 4, 8, 16, 32, shards):
        source = TokenSource("a", "documents", prefixes, tokens, lambda prefix: {})
        loader = Loader({"a": source}, [Segment(0, plan)], 0, 1, shards_per_group=group)
        _, shard, item = loader.addresses(np.arange(shards * windows))
        place = (shard * windows + item) / (shards * windows)
        inside = place - np.repeat(place.reshape(-1, group * windows).mean(axis=1), group * windows)
        near = (np.abs(np.diff(shard * windows + item)) <= 8).mean()
        expected = (1 / group - 1 / shards) * shards / (shards - 1)
        rows.append(
            [group, _serial(place), expected, _serial(inside), f"{near:.3%}", f"{(np.diff(shard) == 0).mean():.2%}"]
        )
    full = np.random.default_rng(0).permutation(shards * windows)
    near = (np.abs(np.diff(full)) <= 8).mean()
    same = (np.diff(full // windows) == 0).mean()
    rows.append(["a full shuffle", _serial(full), 0.0, _serial(full), f"{near:.3%}", f"{same:.2%}"])
    header = [
        "shards shuffled together",
        "serial correlation",
        "expected",
        "inside a group",
        "neighbours",
        "same shard",
    ]
    return header, [[f"{cell:+.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]


def _serial(values: np.ndarray) -> float:
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


if __name__ == "__main__":
    main()
