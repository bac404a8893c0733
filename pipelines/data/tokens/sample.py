"""The text that a tokenizer is trained on.

Enters: a `corpus` artifact and how its sources share the sample. Leaves: texts, chosen by a hash of their ids, so alike
in every run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

from pipelines.data.tokens.encode import corpus_files, read_rows
from pipelines.data.tokens.tokenizer import TokenizerConfig
from pipelines.errors import DataError
from pipelines.store.artifact import Artifact

_SAMPLE_FILES = 64  # files per source that the tokenizer's sample is drawn from, evenly spaced


def sample_shares(corpus: Artifact, config: TokenizerConfig) -> dict[str, float]:
    """Source -> share of its training text that the tokenizer's sample takes, between 0 and 1.

    Equal bytes per source (or language, or by `shares`); what a small source cannot give is taken from the others.

    Raises: DataError when a source in `shares` is not in the corpus.
    """
    sources = corpus.statistics["sources"]
    sizes = {
        name: source["train"]["bytes"]
        for name, source in sources.items()
        if source["kind"] != "preferences" and source["train"]["bytes"]
    }
    if config.shares is not None:
        if unknown := sorted(set(config.shares) - set(sizes)):
            raise DataError(f"tokenizer.shares names {', '.join(unknown)}; the corpus holds {', '.join(sorted(sizes))}")
        weights = {name: float(config.shares.get(name, 0)) for name in sizes}
    elif config.balance == "language":
        per_language = Counter(str(sources[name]["language"]) for name in sizes)
        weights = {name: 1 / per_language[str(sources[name]["language"])] for name in sizes}
    else:
        weights = {name: 1.0 if config.balance == "source" else float(sizes[name]) for name in sizes}
    taken = dict.fromkeys(sizes, 0.0)
    open_names, left = [name for name in sizes if weights[name] > 0], float(config.sample_bytes)
    while open_names and left > 1:  # water-filling: ends after at most one round per source
        unit = left / sum(weights[name] for name in open_names)
        for name in open_names:
            taken[name] = min(sizes[name], taken[name] + unit * weights[name])
        left = config.sample_bytes - sum(taken.values())
        open_names = [name for name in open_names if taken[name] < sizes[name]]
    return {name: taken[name] / sizes[name] for name in sizes}


def sample_texts(corpus: Artifact, config: TokenizerConfig) -> Iterator[str]:
    """The tokenizer's training texts: documents chosen by a hash of their id, alike in every run."""
    sources = corpus.statistics["sources"]
    for name, share in sample_shares(corpus, config).items():
        files = corpus_files(corpus, "train", name)
        chosen = (
            files
            if len(files) <= _SAMPLE_FILES
            else [files[i * len(files) // _SAMPLE_FILES] for i in range(_SAMPLE_FILES)]
        )
        bound = min(1.0, share * len(files) / max(1, len(chosen))) * 2.0**64
        for file in chosen:
            for rows in read_rows(corpus, file, sources[name]["kind"]):
                for row in rows:
                    if int.from_bytes(hashlib.blake2b(str(row["id"]).encode(), digest_size=8).digest(), "big") < bound:
                        yield row["text"] if "text" in row else "\n".join(m["content"] or "" for m in row["messages"])
