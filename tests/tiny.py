"""A token store small enough to train on in seconds: random walks over 128 ids, written by the real rooms.

Two document sources, one of conversations (masked) and one of preference pairs, with their held-out splits, and two
mixtures over them. Sequences are learnable (each id is followed by one of four others), so a falling loss means
learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.data.stream.mixture import MixtureRecipe, plan_mixture
from pipelines.data.tokens.token_shards import TokenShardWriter
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

VOCABULARY = 128
_SUMS = ("sums",)  # of blocks; stores of older versions have none


def build(store_uri: str, seed: int = 0) -> ArtifactStore:
    """Commit `tokens/tiny`, `mixture/tiny_stable` and `mixture/tiny_decay` to the store."""
    store = ArtifactStore(store_uri)
    tokens = _tokens(store, np.random.default_rng(seed))
    for name, weights in (
        ("tiny_stable", {"walks": 0.7, "jumps": 0.3}),
        ("tiny_decay", {"walks": 0.4, "jumps": 0.2, "chat": 0.4}),
    ):
        recipe = MixtureRecipe(weights=weights, budget_tokens=20_000, max_epochs=100)
        draft = store.begin("mixture", name, {"weights": weights}, [tokens])
        if isinstance(draft, Draft):
            plan = plan_mixture(recipe, tokens.folder, tokens.fingerprint, tokens.statistics)
            path = draft.scratch("mixture.json")
            import json

            path.write_text(json.dumps(plan.to_json()))
            draft.publish("mixture", {"mixture.json": path})
            draft.commit({}, {})
    return store


def _tokens(store: ArtifactStore, rng: np.random.Generator) -> Artifact:
    draft = store.begin("tokens", "tiny", {"seed": 0})
    if not isinstance(draft, Draft):
        return draft
    sources: dict[str, Any] = {}
    for name, kind, documents, length in (
        ("walks", "documents", 400, 60),
        ("jumps", "documents", 200, 90),
        ("chat", "conversations", 300, 24),
        ("pairs", "preferences", 120, 20),
    ):
        facts: dict[str, Any] = {"kind": kind, "language": "none", "licence": "none"}
        for split, count in (("train", documents), ("heldout", 20)):
            facts[split] = _shards(draft, rng, f"{split}/{name}/00000", kind, count, length)
        sources[name] = facts
    return draft.commit({}, {"sources": sources, "vocabulary_size": VOCABULARY})


def _shards(
    draft: Draft, rng: np.random.Generator, prefix: str, kind: str, documents: int, length: int
) -> dict[str, Any]:
    masked = kind != "documents"
    total: dict[str, Any] = {
        "shards": [prefix],
        "shard_tokens": [],
        "tokens": 0,
        "loss_tokens": 0,
        "documents": documents,
    }
    starts = rng.integers(3, VOCABULARY, documents)
    sides = [".chosen", ".rejected"] if kind == "preferences" else [""]
    for side in sides:
        suffixes = ["bin", "idx", "bytes", *_SUMS, *(["mask"] if masked else [])]
        paths = {suffix: draft.scratch(f"{prefix}{side}.{suffix}") for suffix in suffixes}
        writer = TokenShardWriter(paths, VOCABULARY)
        for start in starts:
            # chosen answers and documents walk by small steps, rejected ones by large
            ids = np.append(_walk(rng, int(start), length, 16 if side == ".rejected" else 1), 0).astype(np.uint16)
            mask = (np.arange(len(ids)) >= length // 3).astype(np.uint8) if masked else None
            writer.add(ids, np.array([len(ids)]), bytes=np.array([2 * len(ids)]), mask=mask)
        writer.close()
        draft.publish(f"{prefix}{side}", {f"{prefix}{side}.{suffix}": path for suffix, path in paths.items()})
        total["tokens"] += writer.tokens
        total["loss_tokens"] += writer.loss_tokens
    total["shard_tokens"] = [total["tokens"] // len(sides)]
    total["bytes"] = total["loss_bytes"] = 2 * total["tokens"]
    return total


def _walk(rng: np.random.Generator, start: int, length: int, stride: int) -> np.ndarray[Any, Any]:
    steps = rng.integers(1, 5, length) * stride
    return 3 + (start - 3 + np.cumsum(steps)) % (VOCABULARY - 3)
