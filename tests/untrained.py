"""A finished training run without the training, and the tokens it would have had: for tests of what reads them.

Checkpoints are those of one rank, in the format of the real saver; corpus and tokens are made by the real rooms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file
from torch import Tensor

from pipelines.cluster.cluster import serial_map
from pipelines.config import plain
from pipelines.data.tokens.sample import sample_texts
from pipelines.data.tokens.sidecars import FOUNDING
from pipelines.data.tokens.tokenize import encode_shard, plan_shards, statistics
from pipelines.data.tokens.tokenizer import TokenizerConfig, tokenizer_files, train_tokenizer
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.sealed import sealed
from pipelines.store.storage import sha256
from pipelines.train.checkpoint.lineage import tokenizer_of
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer


def commit_run(
    store: ArtifactStore, run: str, model: ModelConfig, tokens: Artifact, parent: Artifact | None = None,
    weights: dict[str, Tensor] | None = None, steps: tuple[int, ...] = (1,), sequence_length: int = 16,
    segments: Sequence[Mapping[str, Any]] = (),
) -> Artifact:  # fmt: skip
    """Commit `run` (kind/name) with checkpoints at `steps`, holding `weights` or those drawn from seed 0.

    Args: segments, of a stream that a stage may go on with; without them only the tokens are named.
    """
    kind, name = run.split("/")
    held = weights or {key: value.detach() for key, value in Transformer(model).initialise(0).named_parameters()}
    config: dict[str, Any] = {"data": tokens.folder, "batch": {"sequence_length": sequence_length}}
    if parent is not None:
        config["parent"] = f"{parent.folder}@step-1"
    draft = store.begin(kind, name, config, [*([parent] if parent else []), tokens])
    assert isinstance(draft, Draft)
    named = [] if kind == "dpo" else [{"plan": {"tokens": tokens.folder, "tokens_fingerprint": tokens.fingerprint}}]
    for step in steps:
        folder = f"{run}/checkpoints/step-{step:06d}"
        path = store.storage.scratch(f"{folder}/rank-00000.safetensors")
        save_file({f"{key}@fp32@0": value.reshape(-1).contiguous() for key, value in held.items()}, path)
        files = {"rank-00000.safetensors": {"bytes": path.stat().st_size, "sha256": sha256(path)}}
        store.storage.put(path, f"{folder}/rank-00000.safetensors")
        state = {
            "model": plain(model),
            "segments": list(segments) or named,
            "updates": step,
            "tokens": 1000 * step,
            "sequence_length": sequence_length,
            "tokenizer": tokenizer_of(tokens),
            "shapes": {key: list(value.shape) for key, value in held.items()},
            "schedule": {"peak_lr": 0.01},
            "seed": 0,
            "samples": 0,
            "learning_rate": 0.01,
        }
        manifest = {"step": step, "files": files, "state": state}
        store.storage.write(f"{folder}/manifest.json", sealed(manifest))
    return draft.commit(config, {"steps": steps[-1], "tokens": 1000 * steps[-1], "train_seconds": 1.0})


def commit_tokens(
    store: ArtifactStore, texts: dict[str, list[str]], turns: list[tuple[str, str]], pairs: list[tuple[str, str, str]],
    vocabulary: int = 320, sidecars: tuple[str, ...] = FOUNDING,
) -> Artifact:  # fmt: skip
    """Commit `corpus/c` and `tokens/t`: text sources, conversations (question, answer), pairs (question, chosen,
    rejected).

    Training and held-out split hold the same; made by the real rooms, tokenizer included.
    """
    records: dict[str, tuple[str, list[dict[str, Any]]]] = {
        name: ("documents", [{"id": str(i), "text": text} for i, text in enumerate(found)])
        for name, found in texts.items()
    }
    chat = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in turns]
    records["chat"] = ("conversations", [{"id": str(i), "messages": messages} for i, messages in enumerate(chat)])
    asked = [
        {"id": str(i), "prompt": [{"role": "user", "content": q}], "chosen": c, "rejected": r}
        for i, (q, c, r) in enumerate(pairs)
    ]
    records["pairs"] = ("preferences", asked)
    draft = store.begin("corpus", "c", {})
    assert isinstance(draft, Draft)
    facts: dict[str, Any] = {}
    for name, (kind, rows) in records.items():
        facts[name] = {
            "kind": kind,
            "language": "en",
            "licence": "unclear-upstream (test)" if kind == "preferences" else "MIT",
        }
        for split in ("train", "heldout"):
            facts[name][split] = {"documents": len(rows), "bytes": sum(len(json.dumps(row)) for row in rows)}
            file = f"{split}/{name}/00000.parquet"
            path = draft.scratch(file)
            pq.write_table(pa.Table.from_pylist(rows), path)
            draft.publish(file, {file: path})
    licences = {name: source["licence"] for name, source in facts.items()}
    corpus = draft.commit({}, {"sources": facts}, licences)
    config = TokenizerConfig(vocabulary_size=vocabulary, sample_bytes=10_000_000)
    draft = store.begin("tokens", "t", {}, [corpus])
    assert isinstance(draft, Draft)
    paths = {}
    for name, content in tokenizer_files(train_tokenizer(sample_texts(corpus, config), config)).items():
        paths[f"tokenizer/{name}"] = draft.scratch(f"tokenizer/{name}")
        paths[f"tokenizer/{name}"].write_bytes(content)
    draft.publish("tokenizer", paths)
    receipts = serial_map(encode_shard, plan_shards(corpus, draft, sidecars), "encode")
    return draft.commit({}, statistics(corpus, receipts, vocabulary), licences)
