"""Windows of a mixture: fixed windows across documents, or whole conversations packed into them.

Enters: a mixture over a tokens artifact, or a tokens artifact whose conversations are all read. Leaves: `Batches` of
rows of T + 1 ids (`pipelines/data/stream/loader.py`). A stream is a list of segments, each a mixture from one sample
on; so a branch is one more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.data.stream.cuts import Cut
from pipelines.data.stream.loader import Loader, Segment
from pipelines.data.stream.mixture import MixturePlan, plan_conversations
from pipelines.data.tokens.sidecars import in_batches
from pipelines.data.tokens.token_sources import open_sources
from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.batches import Arrays, Continuation

_UNEVEN = 1.25  # times as often as another source: packing alone makes small sources differ by some percent


class Windows:
    """See `Batches`."""

    unit: ClassVar[str] = "windows"
    rows_per_unit: ClassVar[int] = 1
    alike: ClassVar[bool] = True

    def __init__(self, tokens: Artifact, segments: Sequence[dict[str, Any]], seed: int, sequence_length: int):
        self.tokens, self.segments = tokens, tuple(segments)
        self.seed, self.sequence_length = seed, sequence_length
        self.loader: Loader = _open(tokens, segments, seed, sequence_length)
        self.names = self.loader.names
        self.mixture = MixturePlan.from_json(segments[-1]["plan"])  # what is read now

    @classmethod
    def of_data(cls, data: Artifact, tokens: Artifact, seed: int, sequence_length: int, epochs: float) -> Windows:
        """See `Batches.of_data`.

        Raises: ConfigError for a source of which no token is marked to count; DataError for one that is shorter than a
            window, or of which nothing counts in windows of this length.
        """
        if data.folder.startswith("mixture/"):
            mixture = MixturePlan.from_json(data.json("mixture.json"))
        else:
            mixture = plan_conversations(data.folder, data.fingerprint, data.statistics, epochs)
        recorded = tokens.statistics["sources"]
        train = {source.name: recorded.get(source.name, {}).get("train", {}) for source in mixture.sources}
        if nothing := sorted(name for name, counts in train.items() if counts.get("loss_tokens", 1) == 0):
            raise ConfigError(
                f"no token of {', '.join(nothing)} counts in the loss, by the statistics of {tokens.folder}: leave it "
                f"out of {data.folder}, or encode its corpus anew"
            )
        return cls(tokens, [{"from_sample": 0, "plan": mixture.to_json()}], seed, sequence_length)

    @property
    def cuts(self) -> Mapping[str, Cut]:
        return self.loader.cuts

    @property
    def epoch_samples(self) -> int:
        return sum(self.loader.epoch_samples(name) for name in self.names)

    def read(self, indices: NDArray[np.int64]) -> Arrays:
        return dict(self.loader.batch(indices))

    def tokens_in(self, first: int, last: int) -> int:
        return (last - first) * self.sequence_length

    def tokens_by_source(self, first: int, last: int) -> dict[str, int]:
        return {name: samples * self.sequence_length for name, samples in self.delivered(first, last).items()}

    def delivered(self, first: int, last: int) -> dict[str, int]:
        before, after = self.loader.delivered(first), self.loader.delivered(last)
        return {name: after[name] - before.get(name, 0) for name in after if after[name] - before.get(name, 0)}

    def check_epochs(self, data: Artifact, global_batch: int, steps: int) -> None:
        limit = data.config.get("mixture", {}).get("max_epochs", math.inf)
        step_tokens = global_batch * self.sequence_length
        # the source that is read most often
        source = max(self.mixture.sources, key=lambda planned: planned.weight / planned.available_tokens)
        epochs = source.weight * steps * step_tokens / source.available_tokens
        if epochs > limit:
            allowed = int(limit * source.available_tokens / source.weight)
            fewer = f"steps={allowed // step_tokens}"
            if allowed < step_tokens:
                rows = allowed // self.sequence_length
                fewer = f"batch.global_batch={rows // steps or rows}"
            raise ConfigError(
                f"{steps} step{'s' * (steps > 1)} would read {source.name} {epochs:.1f} times; {data.folder} allows "
                f"mixture.max_epochs={limit:g}: set {fewer} or less, lower its weight, or raise mixture.max_epochs"
            )

    def unevenness(self, samples: int) -> str:
        return uneven(self.mixture, self.loader, samples)

    def never_read(self, samples: int) -> list[str]:
        return [
            f"{source.name} has the weight {source.weight:.2g}, less than one of this run's {samples:,} samples"
            for source in self.mixture.sources
            if source.weight * samples < 1
        ]

    def go_on(self, parent: Mapping[str, Any], seed: int) -> Continuation:
        """In the same tokens, where the parent stood; in other tokens, at their beginning.

        Under windows of another length each source goes on at its next group of shards (`Loader.carry_on`).
        """
        if parent["seed"] != seed:
            raise ConfigError(
                f"seed is {seed}, the trunk's is {parent['seed']}: a branch reads on in the trunk's stream, so set "
                f"seed={parent['seed']}"
            )
        now, samples = self.mixture.to_json(), parent["samples"]
        before = [segment for segment in parent["segments"] if segment["from_sample"] < samples]
        # other shards: the parent's place in its stream means nothing here
        if any(segment["plan"]["tokens_fingerprint"] != self.mixture.tokens_fingerprint for segment in before):
            return Continuation(0, ({"from_sample": 0, "plan": now},))
        if parent["sequence_length"] == self.sequence_length:
            return Continuation(samples, (*before, {"from_sample": samples, "plan": now}))
        loader = _open(self.tokens, parent["segments"], seed, parent["sequence_length"])
        carried = loader.carry_on(samples, self.sequence_length)
        begin = [(source.source, source.packing, source.begin) for source in carried]
        return Continuation(0, ({"from_sample": 0, "plan": now, "begin": begin},), carried)


def uneven(mixture: MixturePlan, loader: Loader, samples: int) -> str:
    """How often each source of conversations is read that no mixture weighs, where that differs; or "".

    The weights are shares of the tokens, so that all sources are read equally often. But a share counts also the tokens
    that the window cuts off.
    """
    epochs = {source.name: source.weight * samples / loader.epoch_samples(source.name) for source in mixture.sources}
    if max(epochs.values()) <= _UNEVEN * min(epochs.values()):
        return ""
    told = ", ".join(f"{name} {count:.2g} times" for name, count in sorted(epochs.items(), key=lambda item: item[1]))
    return (
        f"{told}: a source's weight counts also the tokens that the window cuts off; a mixture sets other weights "
        "(data=mixture/<name>)"
    )


def _open(tokens: Artifact, segments: Sequence[dict[str, Any]], seed: int, sequence_length: int) -> Loader:
    parsed = [Segment(segment["from_sample"], MixturePlan.from_json(segment["plan"])) for segment in segments]
    begin = {(source, packing): first for source, packing, first in segments[0].get("begin", ())}
    return Loader(open_sources(tokens, sidecars=in_batches()), parsed, seed, sequence_length, begin=begin)
