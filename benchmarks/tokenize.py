"""Encoding against Hugging Face tokenizers, on the same text and the same tokenizer, in one run; ids compared.

    python -m benchmarks.tokenize --megabytes 20

Trains a 4,096-id byte-level BPE on one part of the text and encodes another. Printed: MB/s of CPU time, medians over
`--rounds` turns, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from benchmarks.texts import documents
from pipelines.data.tokenizer import Encoder, TokenizerConfig, train_tokenizer
from pipelines.progress import table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = documents(options.megabytes)
    half = len(texts) // 2
    began = time.process_time()
    tokenizer = train_tokenizer(iter(texts[:half]), TokenizerConfig(vocabulary_size=4096))
    print(
        f"trained on {sum(len(t.encode()) for t in texts[:half]) / 1e6:.1f} MB in {time.process_time() - began:.1f} CPU-s"
    )
    size = sum(len(text.encode()) for text in texts[half:]) / 1e6
    encoders = {"ours": Encoder(tokenizer), "tokenizers": Encoder(tokenizer, fast=False)}
    print(f"ours encodes with {encoders['ours'].backend}")
    speeds: dict[str, list[float]] = {name: [] for name in encoders}
    ids: dict[str, list[np.ndarray]] = {}
    for _ in range(options.rounds):
        for name, encoder in encoders.items():
            began = time.process_time()
            tokens, lengths = encoder.encode(texts[half:])
            speeds[name].append(size / (time.process_time() - began))
            ids[name] = [np.asarray(tokens), np.asarray(lengths)]
    same = all(np.array_equal(a, b) for a, b in zip(ids["ours"], ids["tokenizers"], strict=True))
    base = statistics.median(speeds["tokenizers"])
    rows = [
        [n, statistics.median(v), f"{min(v):.1f}–{max(v):.1f}", f"{statistics.median(v) / base:.1f}×"]
        for n, v in speeds.items()
    ]
    print(table(["text to ids", "MB/s CPU", "range", "ratio"], rows))
    print(f"   ids equal: {same} ({len(ids['ours'][0]):,} tokens)")


if __name__ == "__main__":
    main()
