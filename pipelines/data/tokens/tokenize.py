"""From a corpus to token shards: the tokenizer's sample, one shard function per corpus file, the statistics.

Enters: a `corpus` artifact, Parquet files `<split>/<source>/<shard>.parquet` of documents (id, text), conversations
(id, messages) or preferences (id, prompt, chosen, rejected). Leaves: pieces of a `tokens` artifact: `tokenizer/`,
`<split>/<source>/<shard>.{bin,idx,bytes,sums[,mask]}`, for preferences `<shard>.chosen.*` and `<shard>.rejected.*`.

Each file is encoded on its own, in batches of rows, so memory is bounded and results do not depend on the number of
workers. A row that cannot be learnt from is dropped by a named reason and counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines.data.tokens.chat import EOS_ID, assemble, ends_open, exchanges
from pipelines.data.tokens.sidecars import FOUNDING, SIDECARS, written
from pipelines.data.tokens.sidecars.layouts import EncodedDocuments
from pipelines.data.tokens.token_shards import TokenShardWriter, suffixes
from pipelines.data.tokens.tokenizer import MINICPM_BYTES_PER_TOKEN, Encoder, TokenizerConfig, load_encoder
from pipelines.errors import DataError
from pipelines.store.artifacts import Artifact, Draft

SPLITS = ("train", "heldout")
_ROWS = 1024  # rows encoded at once: a few MB of text
_SAMPLE_FILES = 64  # files per source that the tokenizer's sample is drawn from, evenly spaced
_TOKENIZER = "tokenizer/tokenizer.json"


@dataclass(frozen=True)
class EncodeShard:
    """One corpus file to encode. `corpus` knows this file alone, so the shard is small to send to a worker."""

    corpus: Artifact
    draft: Draft
    file: str
    source: str
    kind: str
    split: str
    sidecars: tuple[str, ...] = FOUNDING

    @property
    def in_words(self) -> str:
        """The file that it reads, for an error."""
        return f"{self.corpus.folder}/{self.file}"

    @property
    def prefix(self) -> str:
        """Name of the token shard inside the artifact, and of its receipt."""
        return self.file.removesuffix(".parquet")


def corpus_files(corpus: Artifact, split: str, source: str) -> list[str]:
    """The Parquet files of one source, sorted."""
    return sorted(
        file for file in corpus.manifest["files"] if file.startswith(f"{split}/{source}/") and file.endswith(".parquet")
    )


def plan_shards(corpus: Artifact, draft: Draft, sidecars: tuple[str, ...] = FOUNDING) -> list[EncodeShard]:
    """One shard per corpus file, sources in order, training before held-out. Args: sidecars, to be written beside the ids."""
    told: dict[str, Any] = {key: corpus.manifest[key] for key in ("created", "command") if key in corpus.manifest}

    def alone(file: str) -> Artifact:
        return dataclasses.replace(corpus, manifest={**told, "files": {file: corpus.manifest["files"][file]}})

    return [
        EncodeShard(alone(file), draft, file, source, facts["kind"], split, sidecars)
        for source, facts in corpus.statistics["sources"].items()
        for split in SPLITS
        for file in corpus_files(corpus, split, source)
    ]


def encode_shard(shard: EncodeShard) -> dict[str, Any]:
    """Encode one corpus file and commit its token shard, or return what an earlier run committed.

    A shard in which gigatoken is caught disagreeing is encoded anew by `tokenizers`, the whole of it; the next one starts
    with gigatoken again, so that no shard depends on which others the same process encoded.

    Returns: source, split, prefix, tokens, loss_tokens, documents, bytes and characters (all text), loss_bytes (text that
        counts in the loss), dropped (reason -> rows), cut (reason -> rows that lose a part), encoder. Of preferences, the tokens and bytes are those of both sides.
    """
    if (held := shard.draft.receipt(shard.prefix)) is not None:
        return dict(held["statistics"])
    encoder = load_encoder(shard.draft.read("tokenizer", _TOKENIZER).decode())
    began_with = encoder.backend
    written, facts = _write_shard(shard, encoder)
    if encoder.backend != began_with:
        written, facts = _write_shard(shard, encoder)
        load_encoder.cache_clear()
    shard.draft.publish(shard.prefix, written, facts)
    return facts


def _write_shard(shard: EncodeShard, encoder: Encoder) -> tuple[dict[str, Path], dict[str, Any]]:
    """Encode every row into scratch files; name inside the artifact -> file, and the receipt's statistics."""
    sides = ("chosen", "rejected") if shard.kind == "preferences" else ("",)
    parquet = pq.ParquetFile(shard.corpus.path(shard.file))
    sidecars = written(shard.sidecars, shard.kind, parquet.schema_arrow.names)
    columns = {column for name in sidecars for column in SIDECARS[name].columns}
    files = {
        side: {suffix: ".".join(part for part in (shard.prefix, side, suffix) if part) for suffix in suffixes(sidecars)}
        for side in sides
    }
    paths = {side: {suffix: shard.draft.scratch(file) for suffix, file in files[side].items()} for side in sides}
    writers = {side: TokenShardWriter(paths[side], encoder.vocabulary_size) for side in sides}
    dropped: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    text_bytes = characters = 0
    try:
        for rows in _rows(shard.corpus, shard.file, shard.kind, columns):
            encoded, texts = _ENCODE[shard.kind](rows, encoder, dropped)
            if shard.kind == "conversations":
                kept = (row["messages"] for row in rows if isinstance(exchanges(row["messages"]), list))
                cut["chat.last_question_unanswered"] += sum(map(ends_open, kept))
            text_bytes += sum(len(text.encode()) for text in texts)
            characters += sum(map(len, texts))
            for side, documents in zip(sides, encoded, strict=True):
                entries = {name: SIDECARS[name].encode(documents) for name in sidecars}
                writers[side].add(documents.tokens, documents.lengths, **entries)
        for writer in writers.values():
            writer.close()
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    facts = {
        "source": shard.source,
        "split": shard.split,
        "prefix": shard.prefix,
        "tokens": sum(writer.tokens for writer in writers.values()),
        "loss_tokens": sum(writer.loss_tokens for writer in writers.values()),
        "documents": writers[sides[0]].documents,
        "bytes": text_bytes,
        "characters": characters,
        "loss_bytes": sum(writer.loss_bytes for writer in writers.values()),
        "dropped": {reason: rows for reason, rows in sorted(dropped.items()) if rows},
        "cut": {reason: rows for reason, rows in sorted(cut.items()) if rows},
        "encoder": encoder.backend + (f" ({encoder.reason})" if encoder.reason else ""),
        "sidecars": list(sidecars),
    }
    return {files[side][suffix]: path for side in sides for suffix, path in paths[side].items()}, facts


def compression(facts: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: bytes and characters per token by language, beside MiniCPM's published tokenizers.

    Args: facts, what `statistics` returned.
    """
    header = [
        "language",
        "bytes/token",
        "characters/token",
        *(f"MiniCPM {ids:,} ids" for ids in MINICPM_BYTES_PER_TOKEN),
    ]
    rows = [
        [
            name,
            rate,
            facts["characters_per_token"][name],
            *(table.get(name) for table in MINICPM_BYTES_PER_TOKEN.values()),
        ]
        for name, rate in facts["bytes_per_token"].items()
    ]
    return header, rows


def statistics(corpus: Artifact, receipts: Iterable[Mapping[str, Any]], vocabulary_size: int) -> dict[str, Any]:
    """The statistics of the finished artifact.

    Returns: `sources`: name -> kind, language, licence, sidecars and, per split, tokens, loss_tokens, documents, bytes,
        characters, loss_bytes, `shards` (prefixes), `shard_tokens`, `dropped`, `cut`; `bytes_per_token` and `characters_per_token`
        by language over text documents (`</s>` counted); `vocabulary_size`; `encoder`: which one -> shards.
    """
    receipts = list(receipts)
    sources: dict[str, Any] = {}
    for name, facts in corpus.statistics["sources"].items():
        sources[name] = {key: facts.get(key) for key in ("kind", "language", "licence")}
        sources[name]["sidecars"] = _sidecars(name, [r["sidecars"] for r in receipts if r["source"] == name])
        for split in SPLITS:
            own = sorted(
                (r for r in receipts if (r["source"], r["split"]) == (name, split)), key=lambda r: str(r["prefix"])
            )
            sources[name][split] = {
                **{
                    key: sum(r[key] for r in own)
                    for key in ("tokens", "loss_tokens", "documents", "bytes", "characters", "loss_bytes")
                },
                "shards": [r["prefix"] for r in own],
                "shard_tokens": [r["tokens"] for r in own],
                **{key: dict(sum((Counter(r[key]) for r in own), Counter())) for key in ("dropped", "cut")},
            }
    by_language: dict[str, Counter[str]] = {}
    for facts in sources.values():
        if facts["kind"] == "documents":
            counts = by_language.setdefault(str(facts["language"]), Counter())
            for split in SPLITS:
                counts.update({key: facts[split][key] for key in ("bytes", "characters", "tokens")})
    measured = {language: counts for language, counts in sorted(by_language.items()) if counts["tokens"]}
    return {
        "vocabulary_size": vocabulary_size,
        "bytes_per_token": {name: round(counts["bytes"] / counts["tokens"], 4) for name, counts in measured.items()},
        "characters_per_token": {name: round(c["characters"] / c["tokens"], 4) for name, c in measured.items()},
        "encoder": dict(Counter(r["encoder"] for r in receipts)),
        "sources": sources,
    }


def _sidecars(source: str, of_shards: Sequence[Sequence[str]]) -> list[str]:
    """What stands beside the ids of all shards of a source. Raises: DataError when they differ."""
    different = {tuple(names) for names in of_shards}
    if len(different) > 1:
        raise DataError(
            f"of the files of source {source} some have {' and some have '.join(', '.join(names) for names in different)} "
            "beside their text: give all of them the columns that a sidecar reads, or split the source"
        )
    return list(*different)


def sample_shares(corpus: Artifact, config: TokenizerConfig) -> dict[str, float]:
    """Source -> share of its training text that the tokenizer's sample takes, between 0 and 1.

    Equal bytes per source (or language, or by `shares`); what a small source cannot give is taken from the others.

    Raises: DataError when a source in `shares` is not in the corpus.
    """
    found = corpus.statistics["sources"]
    sizes = {
        name: facts["train"]["bytes"]
        for name, facts in found.items()
        if facts["kind"] != "preferences" and facts["train"]["bytes"]
    }
    if config.shares is not None:
        if unknown := sorted(set(config.shares) - set(sizes)):
            raise DataError(f"tokenizer.shares names {', '.join(unknown)}; the corpus holds {', '.join(sorted(sizes))}")
        weights = {name: float(config.shares.get(name, 0)) for name in sizes}
    elif config.balance == "language":
        per_language = Counter(str(found[name]["language"]) for name in sizes)
        weights = {name: 1 / per_language[str(found[name]["language"])] for name in sizes}
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
    found = corpus.statistics["sources"]
    for name, share in sample_shares(corpus, config).items():
        files = corpus_files(corpus, "train", name)
        chosen = (
            files
            if len(files) <= _SAMPLE_FILES
            else [files[i * len(files) // _SAMPLE_FILES] for i in range(_SAMPLE_FILES)]
        )
        bound = min(1.0, share * len(files) / max(1, len(chosen))) * 2.0**64
        for file in chosen:
            for rows in _rows(corpus, file, found[name]["kind"]):
                for row in rows:
                    if int.from_bytes(hashlib.blake2b(str(row["id"]).encode(), digest_size=8).digest(), "big") < bound:
                        yield row["text"] if "text" in row else "\n".join(m["content"] or "" for m in row["messages"])


def _rows(corpus: Artifact, file: str, kind: str, more: Collection[str] = ()) -> Iterator[list[dict[str, Any]]]:
    """The rows of a file of the corpus. Args: more, columns to read beside those of every file of the kind."""
    columns = {
        "documents": ["id", "text"],
        "conversations": ["id", "messages"],
        "preferences": ["id", "prompt", "chosen", "rejected"],
    }
    if kind not in columns:
        raise DataError(f"{corpus.folder}/{file} is of kind {kind}; expected {', '.join(columns)}")
    parquet = pq.ParquetFile(corpus.path(file))
    if absent := [column for column in columns[kind] if column not in parquet.schema_arrow.names]:
        raise DataError(
            f"{corpus.folder}/{file} has no column {', '.join(absent)}; it has {', '.join(parquet.schema_arrow.names)}"
        )
    for batch in parquet.iter_batches(batch_size=_ROWS, columns=[*columns[kind], *sorted(more)]):
        yield batch.to_pylist()


def _encode_documents(
    rows: list[dict[str, Any]], encoder: Encoder, dropped: Counter[str]
) -> tuple[list[EncodedDocuments], list[str]]:
    kept = [row for row in rows if row["text"]]
    texts = [row["text"] for row in kept]
    dropped["text.empty"] += len(rows) - len(texts)
    ids, lengths = encoder.encode(texts)
    sizes = np.array([len(text.encode()) for text in texts], np.int64)
    closed = np.insert(ids, np.cumsum(lengths), np.uint32(EOS_ID))
    return [EncodedDocuments(closed, lengths + 1, kept, sizes)], texts


def _encode_conversations(
    rows: list[dict[str, Any]], encoder: Encoder, dropped: Counter[str]
) -> tuple[list[EncodedDocuments], list[str]]:
    readable: list[tuple[dict[str, Any], list[tuple[str, str]]]] = []
    for row in rows:
        pairs = exchanges(row["messages"])
        if isinstance(pairs, str):
            dropped[pairs] += 1
        else:
            readable.append((row, pairs))
    kept = [pairs for _, pairs in readable]
    encoded = _encode_exchanges([row for row, _ in readable], kept, encoder, last_only=False)
    return [encoded], [text for pairs in kept for pair in pairs for text in pair]


def _encode_preferences(
    rows: list[dict[str, Any]], encoder: Encoder, dropped: Counter[str]
) -> tuple[list[EncodedDocuments], list[str]]:
    kept, both = [], []
    for row in rows:
        sides = [
            exchanges([*row["prompt"], {"role": "assistant", "content": row[side]}]) for side in ("chosen", "rejected")
        ]
        reason = next(
            (side for side in sides if isinstance(side, str)),
            "preference.same_answers" if sides[0] == sides[1] else None,
        )
        if reason is None:
            kept.append(row)
            both.append(sides)
        else:
            dropped[reason] += 1
    documents = [[pair for pair in side if not isinstance(pair, str)] for sides in both for side in sides]
    encoded = [_encode_exchanges(kept, documents[side::2], encoder, last_only=True) for side in (0, 1)]
    return encoded, [text for pairs in documents for pair in pairs for text in pair]


def _encode_exchanges(
    rows: list[dict[str, Any]], documents: list[list[tuple[str, str]]], encoder: Encoder, last_only: bool
) -> EncodedDocuments:
    ids, lengths = encoder.encode([text for pairs in documents for pair in pairs for text in pair])
    tokens, document_lengths, mask = assemble(
        ids, lengths, np.array([len(pairs) for pairs in documents], np.int64), last_only
    )
    learnt = [pairs[-1:] if last_only else pairs for pairs in documents]
    sizes = np.array([sum(len(answer.encode()) for _, answer in pairs) for pairs in learnt], np.int64)
    return EncodedDocuments(tokens, document_lengths, rows, sizes, mask)


_ENCODE: dict[
    str, Callable[[list[dict[str, Any]], Encoder, Counter[str]], tuple[list[EncodedDocuments], list[str]]]
] = {
    "documents": _encode_documents,
    "conversations": _encode_conversations,
    "preferences": _encode_preferences,
}
