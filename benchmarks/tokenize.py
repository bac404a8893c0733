"""Encoding against Hugging Face tokenizers, on the same text and the same tokenizer, in one run; ids compared.

    python -m benchmarks.tokenize --megabytes 20
    python -m benchmarks.tokenize --store store --tokens tokens/demo      every text of a finished corpus, with its own
    tokenizer

Without a store: trains a 4,096-id byte-level BPE on one part of the installed packages' prose and encodes another.
Printed:
MB/s of CPU time, medians over `--rounds` turns, and their ratio; whether the ids are equal; and the speed of a whole
shard, Parquet read to token shard committed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np
import pyarrow.parquet as pq

from benchmarks.texts import documents
from pipelines.data.tokens.tokenize import encode_shard, plan_shards
from pipelines.data.tokens.tokenizer import Encoder, TokenizerConfig, load_encoder, train_tokenizer
from pipelines.display.progress import table
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", help="a store that holds --tokens and their corpus")
    parser.add_argument("--tokens", default="tokens/demo")
    options = parser.parse_args()
    if options.store:
        tokens = ArtifactStore(options.store).get(options.tokens)
        corpus = ArtifactStore(options.store).get(next(iter(tokens.manifest["identity"]["inputs"])))
        tokenizer, texts = tokens.path("tokenizer/tokenizer.json").read_text(encoding="utf-8"), corpus_texts(corpus)
        _measure_shards(tokenizer, corpus)
    else:
        held = documents(options.megabytes)
        half = len(held) // 2
        began = time.process_time()
        tokenizer, texts = train_tokenizer(iter(held[:half]), TokenizerConfig(vocabulary_size=4096)), held[half:]
        trained = sum(len(t.encode()) for t in held[:half]) / 1e6
        print(f"trained on {trained:.1f} MB in {time.process_time() - began:.1f} CPU-s")
    size = sum(len(text.encode()) for text in texts) / 1e6
    encoders = {"ours": Encoder(tokenizer), "tokenizers": Encoder(tokenizer, fast=False)}
    print(f"ours encodes with {encoders['ours'].backend}")
    speeds: dict[str, list[float]] = {name: [] for name in encoders}
    ids: dict[str, list[np.ndarray]] = {}
    for _ in range(options.rounds):
        for name, encoder in encoders.items():
            began = time.process_time()
            tokens, lengths = encoder.encode(texts)
            speeds[name].append(size / (time.process_time() - began))
            ids[name] = [np.asarray(tokens), np.asarray(lengths)]
    same = all(np.array_equal(a, b) for a, b in zip(ids["ours"], ids["tokenizers"], strict=True))
    base = statistics.median(speeds["tokenizers"])
    rows = [
        [n, statistics.median(v), f"{min(v):.1f}–{max(v):.1f}", f"{statistics.median(v) / base:.1f}×"]
        for n, v in speeds.items()
    ]
    print(table(["text to ids", "MB/s CPU", "range", "ratio"], rows))
    print(f"   ids equal: {same} ({len(ids['ours'][0]):,} ids of {len(texts):,} texts, {size:.1f} MB)")


def corpus_texts(corpus: Artifact) -> list[str]:
    """Every text of a corpus that is encoded: documents, and all sides of conversations and preference pairs."""
    texts = []
    for file in (file for file in corpus.manifest["files"] if file.startswith(("train/", "heldout/"))):
        for row in pq.read_table(corpus.path(file)).to_pylist():
            messages = [*(row.get("messages") or []), *(row.get("prompt") or [])]
            texts += [message["content"] for message in messages]
            texts += [row[key] for key in ("chosen", "rejected") if key in row]
            texts += [row["text"]] if "text" in row and not messages else []
    return texts


def _measure_shards(tokenizer: str, corpus: Artifact) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draft = ArtifactStore(folder).begin("tokens", "bench", {}, [corpus])
        assert isinstance(draft, Draft)
        path = draft.scratch("tokenizer/tokenizer.json")
        path.write_text(tokenizer, encoding="utf-8")
        draft.publish("tokenizer", {"tokenizer/tokenizer.json": path})
        load_encoder(tokenizer)  # loading it is paid once per process
        began, size = time.process_time(), 0
        for shard in plan_shards(corpus, draft):
            size += encode_shard(shard)["bytes"]
        print(f"   Parquet to committed token shards: {size / 1e6 / (time.process_time() - began):.1f} MB/s of CPU")


if __name__ == "__main__":
    main()
