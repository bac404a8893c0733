"""Token artifacts to measure on: random ids in documents of realistic lengths, committed as the tokenize workflow
would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.data.stream.mixture import MixtureRecipe, plan_mixture
from pipelines.data.tokens.token_shards import TokenShardWriter
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

VOCABULARY = 4096


def commit_tokens(store: ArtifactStore, weights: Mapping[str, float], shards: int, shard_tokens: int) -> Artifact:
    """`tokens/bench` with a document source for each weight, and `mixture/bench` over them."""
    draft, sources, rng = store.begin("tokens", "bench", {}), {}, np.random.default_rng(0)
    assert isinstance(draft, Draft)
    for name in weights:
        train: dict[str, Any] = {"shards": [], "shard_tokens": [], "tokens": 0}
        for i in range(shards):
            prefix = f"train/{name}/{i:05d}"
            files = {suffix: f"{prefix}.{suffix}" for suffix in ("bin", "idx", "bytes", "sums")}
            paths = {suffix: draft.scratch(file) for suffix, file in files.items()}
            lengths = rng.integers(50, 2000, shard_tokens // 1000)
            writer = TokenShardWriter(paths, VOCABULARY)
            writer.add(rng.integers(0, VOCABULARY, int(lengths.sum())), lengths, bytes=lengths)
            writer.close()
            draft.publish(prefix, {files[suffix]: path for suffix, path in paths.items()})
            train["shards"].append(prefix)
            train["shard_tokens"].append(writer.tokens)
            train["tokens"] += writer.tokens
        nothing: dict[str, Any] = {"shards": [], "shard_tokens": [], "tokens": 0}
        sources[name] = {"kind": "documents", "language": "none", "licence": "none", "train": train, "heldout": nothing}
    tokens = draft.commit({}, {"sources": sources, "vocabulary_size": VOCABULARY})
    recipe = MixtureRecipe(weights=dict(weights), budget_tokens=1_000, max_epochs=10**6)
    mixture = store.begin("mixture", "bench", {}, [tokens])
    assert isinstance(mixture, Draft)
    path = mixture.scratch("mixture.json")
    path.write_text(
        json.dumps(plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics).to_json()),
        encoding="utf-8",
    )
    mixture.publish("mixture", {"mixture.json": path})
    mixture.commit({}, {})
    return tokens
