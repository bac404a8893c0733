"""Corpus to token shards: train or reuse a tokenizer, encode every document, conversation and preference pair.

python -m workflows.tokenize name=demo data=corpus/demo
python -m workflows.tokenize name=mixed data=corpus/demo tokenizer.mixture=demo_stable     a sample by its weights
python -m workflows.tokenize name=ablation data=corpus/other tokenizer.reuse=tokens/demo
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipelines.config import WorkflowConfig, config_class, parse
from pipelines.data.stream.asked_mixture import AskedMixture
from pipelines.data.stream.mixture import foreseen
from pipelines.data.tokens.encode import corpus_files
from pipelines.data.tokens.sample import sample_shares, sample_texts
from pipelines.data.tokens.sidecars import known
from pipelines.data.tokens.tokenize import compression, encode_shard, plan_shards, statistics
from pipelines.data.tokens.tokenizer import (
    Encoder,
    LongRuns,
    TokenizerConfig,
    tokenizer_files,
    train_tokenizer,
)
from pipelines.data.tokens.vocabulary import ids_for
from pipelines.display.progress import duration, human, say, table
from pipelines.errors import ConfigError, DataError
from pipelines.identity import decisive
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules
from pipelines.store.draft import Draft
from workflows.command_line import places
from workflows.entry import entry
from workflows.running import onward
from workflows.running.session import Session

CODE = tuple(
    f"pipelines.data.{module}"
    for module in (
        "text.code_points",
        "text.packed",
        "tokens.tokenizer",
        "tokens.codepoints",
        "tokens.chat",
        "tokens.blocks",
        "tokens.encode",
        "tokens.megatron",
        "tokens.sample",
        "tokens.token_shards",
        "tokens.tokenize",
    )
)


@config_class
class TokenizeConfig(WorkflowConfig):
    """Which corpus becomes tokens, and with which tokenizer."""

    data: str  # corpus/<name>; not called corpus, which is a config group and so cannot be set to a reference
    tokenizer: TokenizerConfig
    sidecars: tuple[str, ...] = ()  # what else is written beside the ids: names of pipelines/data/tokens/sidecars


def run(config: TokenizeConfig, session: Session) -> Artifact:
    """Make `tokens/<name>`, or find it finished."""
    corpus = session.store.get_kind("data", "corpus", session.resolve(config.data))
    config = dataclasses.replace(config, tokenizer=_sized(_with_shares(config.tokenizer), corpus))
    reuse = config.tokenizer.reuse and session.resolve(config.tokenizer.reuse)
    reused = session.store.get_kind("tokenizer.reuse", "tokens", reuse) if reuse else None
    inputs = [corpus, reused] if reused else [corpus]

    shares = {} if reused else sample_shares(corpus, config.tokenizer)
    sidecars = known(config.sidecars, "sidecars")
    # ── announce ──
    sources = corpus.statistics["sources"]
    text_bytes = sum(figures[split]["bytes"] for figures in sources.values() for split in ("train", "heldout"))
    files = sum(len(corpus_files(corpus, split, name)) for name in sources for split in ("train", "heldout"))
    if text_bytes == 0:
        raise DataError(f"{corpus.folder} holds no text: rebuild it with other filters or sources")
    draft = session.begin(
        "tokens",
        config,
        _announcement(config, corpus, reused, text_bytes, files),
        inputs,
        (*CODE, *chosen_modules("pipelines.data.tokens.sidecars", sidecars)),
        on_ray=True,
    )
    if isinstance(draft, Artifact):
        return session.reused(draft, *onward.after_tokenize(session, config.name))

    # a rebuild takes nothing down before the cluster is there
    reach = (lambda: session.compare(inputs, draft.folder)) if draft.replaces else None
    with session.track(draft, config, inputs, reach) as tracker:
        # ── tokenizer ──
        encoder = Encoder(_make_tokenizer(draft, config, corpus, reused, shares))
        if encoder.reason:
            say(f"   encoding with {encoder.backend}: {encoder.reason}")

        # ── shards ──
        map_shards = session.map_shards  # starts Ray, which the rate below is not to include
        began, done = time.monotonic(), {"bytes": 0, "tokens": 0}

        def describe(receipt: Mapping[str, Any]) -> dict[str, str]:
            done["bytes"] += receipt["bytes"]
            done["tokens"] += receipt["tokens"]
            rate = done["bytes"] / max(1e-9, time.monotonic() - began)
            return {"tokens": human(done["tokens"]), "read": human(done["bytes"], "B"), "rate": human(rate, "B/s")}

        receipts = map_shards(encode_shard, plan_shards(corpus, draft, sidecars), "encode", describe)
        figures = {**statistics(corpus, receipts, encoder.vocabulary_size), **_sample_facts(draft)}
        tracker.metrics(_metrics(figures), step=0)
        artifact = draft.commit(config=decisive(config), statistics=figures, licences=corpus.manifest["licences"])
    say(_table(figures))
    for line in _losses(figures):
        say(f"   {line}")
    header, rows = compression(figures)
    if rows:
        say(
            f"\n   compression of {figures['vocabulary_size']:,} ids over documents, </s> counted; MiniCPM's over its "
            "own held-out documents:"
        )
        say(table(header, rows))
    return session.done(artifact, *onward.after_tokenize(session, config.name))


def _with_shares(chosen: TokenizerConfig) -> TokenizerConfig:
    """The same, a mixture's name replaced by its weights: they decide the tokenizer, not the name."""
    if chosen.mixture is None:
        return chosen
    file = places.find(f"mixture/{chosen.mixture}.yaml")
    if file is None:
        there = ", ".join(places.choices("mixture"))
        raise ConfigError(f"tokenizer.mixture={chosen.mixture}: no such mixture; there are {there} (conf/mixture)")
    from omegaconf import OmegaConf

    recipe: Any = OmegaConf.to_container(OmegaConf.load(file))
    asked = parse(AskedMixture, recipe, "mixture")
    if not isinstance(asked.weights, dict):
        raise ConfigError(
            f"tokenizer.mixture={chosen.mixture} has weights: auto, which follow from the tokens, and these from the "
            "tokenizer: set tokenizer.balance=size, which draws the sample by the text of each source"
        )
    weights, _ = foreseen(asked.stated(1))
    return dataclasses.replace(chosen, mixture=None, shares=weights)


def _sized(chosen: TokenizerConfig, corpus: Artifact) -> TokenizerConfig:
    """The same with a number of ids."""
    if chosen.vocabulary_size != "auto":
        return chosen
    sources = corpus.statistics["sources"].values()
    text_bytes = sum(source["train"]["bytes"] for source in sources if source["kind"] != "preferences")
    return dataclasses.replace(chosen, vocabulary_size=ids_for(text_bytes))


def _announcement(
    config: TokenizeConfig, corpus: Artifact, reused: Artifact | None, text_bytes: int, files: int
) -> dict[str, Any]:
    chosen = config.tokenizer
    balance = "tokenizer.shares (bytes of each source)" if chosen.shares else chosen.balance
    trained = f"train {chosen.ids:,} ids on {human(chosen.sample_bytes, 'B')} at most, balanced by {balance}"
    size = f"{len(corpus.statistics['sources'])} sources, {files} files, {human(text_bytes, 'B')}"
    return {
        "corpus": f"{corpus.folder}  {size}",
        "tokenizer": f"reuse {reused.folder}" if reused else trained,
        "expected": f"about {human(round(text_bytes / 3.3))} tokens (at 3.3 bytes per token)",
    }


def _make_tokenizer(
    draft: Draft, config: TokenizeConfig, corpus: Artifact, reused: Artifact | None, shares: Mapping[str, float]
) -> str:
    """Publish `tokenizer/`, or find it published by an earlier run; returns the content of `tokenizer.json`."""
    if draft.receipt("tokenizer") is None:
        began, runs = time.monotonic(), LongRuns()
        if reused is not None:
            text = reused.path("tokenizer/tokenizer.json").read_text(encoding="utf-8")
        else:
            say(f"   sample: {'  '.join(f'{name} {share:.0%}' for name, share in shares.items())}")
            text = train_tokenizer(sample_texts(corpus, config.tokenizer), config.tokenizer, runs)
            if runs.runs:
                say(f"   {runs.describe()}")
            say(f"   tokenizer trained in {duration(time.monotonic() - began)}")
        paths = {}
        for name, content in tokenizer_files(text).items():
            paths[f"tokenizer/{name}"] = draft.scratch(f"tokenizer/{name}")
            paths[f"tokenizer/{name}"].write_bytes(content)
        draft.publish("tokenizer", paths, {} if reused else {"sample_long_runs": dataclasses.asdict(runs)})
    return draft.read("tokenizer", "tokenizer/tokenizer.json").decode()


def _sample_facts(draft: Draft) -> dict[str, Any]:
    """What was counted while the tokenizer was trained, by this process or an earlier one."""
    return dict((draft.receipt("tokenizer") or {}).get("statistics", {}))


def _table(figures: Mapping[str, Any]) -> str:
    header = (
        "source",
        "kind",
        "language",
        "documents",
        "tokens",
        "in loss",
        "held-out tokens",
        "bytes/token",
        "dropped",
    )
    rows = []
    for name, source in figures["sources"].items():
        train, heldout = source["train"], source["heldout"]
        dropped = sum(sum(part["dropped"].values()) for part in (train, heldout))
        rate = round(train["bytes"] / train["tokens"], 2) if train["tokens"] else None
        counts = [train["documents"], train["tokens"], train["loss_tokens"], heldout["tokens"]]
        rows.append([name, source["kind"], source["language"], *counts, rate, dropped])
    return table(header, rows)


def _losses(figures: Mapping[str, Any]) -> list[str]:
    """What was dropped or cut of each source, by reason."""
    lines = []
    for name, source in figures["sources"].items():
        for fate in ("dropped", "cut"):
            rows = sum((Counter(source[split][fate]) for split in ("train", "heldout")), Counter())
            if rows:
                lines.append(
                    f"{name}: {fate} {', '.join(f'{count:,} {reason}' for reason, count in sorted(rows.items()))}"
                )
    return lines


def _metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    values = {f"bytes_per_token.{language}": float(rate) for language, rate in figures["bytes_per_token"].items()}
    for name, source in figures["sources"].items():
        values[f"tokens.{name}"] = float(source["train"]["tokens"])
    return values


main = entry(TokenizeConfig, run, "tokenize")

if __name__ == "__main__":
    main()
