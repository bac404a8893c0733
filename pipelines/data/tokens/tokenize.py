"""From a corpus to token shards: the tokenizer's sample, one shard function per corpus file, the statistics.

Enters: a `corpus` artifact, Parquet files `<split>/<source>/<shard>.parquet` of documents (id, text), conversations
(id, messages) or preferences (id, prompt, chosen, rejected). Leaves: pieces of a `tokens` artifact: `tokenizer/`,
`<split>/<source>/<shard>.{bin,idx,bytes,sums[,mask]}`, for preferences `<shard>.chosen.*` and `<shard>.rejected.*`.

Each file is encoded on its own, in batches of rows, so memory is bounded and results do not depend on the number of
workers. A row that cannot be learnt from is dropped by a named reason and counted.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.data.tokens.chat import ends_open, exchanges
from pipelines.data.tokens.encode import ENCODE, corpus_files, read_rows
from pipelines.data.tokens.sidecars import FOUNDING, SIDECARS, written
from pipelines.data.tokens.token_shards import TokenShardWriter, suffixes
from pipelines.data.tokens.tokenizer import MINICPM_BYTES_PER_TOKEN, Encoder, load_encoder
from pipelines.errors import DataError
from pipelines.store.artifact import Artifact
from pipelines.store.draft import Draft

SPLITS = ("train", "heldout")
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


def plan_shards(corpus: Artifact, draft: Draft, sidecars: tuple[str, ...] = FOUNDING) -> list[EncodeShard]:
    """One shard per corpus file, sources in order, training before held-out.

    Args: sidecars, what is written beside the ids.
    """
    told: dict[str, Any] = {key: corpus.manifest[key] for key in ("created", "command") if key in corpus.manifest}

    def alone(file: str) -> Artifact:
        return dataclasses.replace(corpus, manifest={**told, "files": {file: corpus.manifest["files"][file]}})

    return [
        EncodeShard(alone(file), draft, file, name, source["kind"], split, sidecars)
        for name, source in corpus.statistics["sources"].items()
        for split in SPLITS
        for file in corpus_files(corpus, split, name)
    ]


def encode_shard(shard: EncodeShard) -> dict[str, Any]:
    """Encode one corpus file and commit its token shard, or return what an earlier run committed.

    A shard in which gigatoken is caught disagreeing is encoded anew by `tokenizers`, the whole of it; the next one
    starts with gigatoken again, so that no shard depends on which others the same process encoded.

    Returns: source, split, prefix, tokens, loss_tokens, documents, bytes and characters (all text), loss_bytes (text
        that counts in the loss), dropped (reason -> rows), cut (reason -> rows that lose a part), encoder. Of
        preferences, the tokens and bytes are those of both sides.
    """
    if (receipt := shard.draft.receipt(shard.prefix)) is not None:
        return dict(receipt["statistics"])
    encoder = load_encoder(shard.draft.read("tokenizer", _TOKENIZER).decode())
    began_with = encoder.backend
    files, counts = _write_shard(shard, encoder)
    if encoder.backend != began_with:
        files, counts = _write_shard(shard, encoder)
        load_encoder.cache_clear()
    shard.draft.publish(shard.prefix, files, counts)
    return counts


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
        for rows in read_rows(shard.corpus, shard.file, shard.kind, columns):
            encoded, texts = ENCODE[shard.kind](rows, encoder, dropped)
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
    counts = {
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
    return {files[side][suffix]: path for side in sides for suffix, path in paths[side].items()}, counts


def compression(measured: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: bytes and characters per token by language, beside MiniCPM's published tokenizers.

    Args: measured, what `statistics` returned.
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
            measured["characters_per_token"][name],
            *(table.get(name) for table in MINICPM_BYTES_PER_TOKEN.values()),
        ]
        for name, rate in measured["bytes_per_token"].items()
    ]
    return header, rows


def statistics(corpus: Artifact, receipts: Iterable[Mapping[str, Any]], vocabulary_size: int) -> dict[str, Any]:
    """The statistics of the finished artifact.

    Returns: `sources`: name -> kind, language, licence, sidecars and, per split, tokens, loss_tokens, documents, bytes,
        characters, loss_bytes, `shards` (prefixes), `shard_tokens`, `dropped`, `cut`; `bytes_per_token` and
        `characters_per_token` by language over text documents (`</s>` counted); `vocabulary_size`; `encoder`: which one
        -> shards.
    """
    receipts = list(receipts)
    sources: dict[str, Any] = {}
    for name, in_corpus in corpus.statistics["sources"].items():
        sources[name] = {key: in_corpus.get(key) for key in ("kind", "language", "licence")}
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
    for source in sources.values():
        if source["kind"] == "documents":
            counts = by_language.setdefault(str(source["language"]), Counter())
            for split in SPLITS:
                counts.update({key: source[split][key] for key in ("bytes", "characters", "tokens")})
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
            f"of the files of source {source} some have "
            f"{' and some have '.join(', '.join(names) for names in different)} beside their text: give all of them "
            "the columns that a sidecar reads, or split the source"
        )
    return list(*different)
