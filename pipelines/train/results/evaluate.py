"""What a checkpoint knows: bits per byte, assistant loss, preference accuracy, sample completions.

Enters: a checkpoint and the held-out shards of its tokens. Leaves: `Results`, plain data.

    bits per byte        Σ nats / (ln 2 · bytes of the text that the counted tokens spell): comparable between tokenizers
    loss                 Σ nats / tokens predicted, in nats
    preference accuracy  share of pairs whose chosen answer has the higher *mean* log-probability per answer token (a sum
                         prefers short answers; the accuracy by sums is reported beside it). A tie is no preference.

What is counted, and how, is `scoring.py`'s. Everything is bounded: of each source, windows up to `max_tokens` tokens or
`max_pairs` pairs, drawn by `seed` alike for every checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.config import Amount, Count, Seed, Window, WorkflowConfig, config_class, plain
from pipelines.data.stream.preferences import NothingFits, PreferenceLoader, open_preferences
from pipelines.data.tokens.chat import EOS_ID
from pipelines.data.tokens.token_shards import open_sources
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifacts import Artifact, ArtifactStore
from pipelines.train.checkpoint import whole_model
from pipelines.train.checkpoint.lineage import Run, open_run, tokens_of, trained_length
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.plan.planning import tokenizer_of
from pipelines.train.results.generate import complete
from pipelines.train.results.scoring import PreferenceScore, TextScore, byte_lengths, score_preferences, score_text
from pipelines.train.update.engine import device

TOKENIZER = "tokenizer/tokenizer.json"
_NOTHING = "no token of its held-out documents counts"
_SMALL = 50_000_000  # parameters, below which a second thread costs a token more than it gives


@config_class
class Prompt:
    """What a sample completion continues."""

    text: str
    chat: bool = False  # a question in the chat format, instead of text to go on with


@config_class
class EvaluateConfig(WorkflowConfig):
    """What is measured, and on how much."""

    parent: str  # e.g. anneal/demo, pretrain/demo@step-240
    tokens: str | None = None  # null: the tokens that the parent was trained on
    sequence_length: Window | None = None  # window T; null: that of its trunk, or of the last anneal
    max_tokens: Count = 4000  # per source of documents or conversations
    max_pairs: Count = 200  # per source of preferences
    prompts: tuple[Prompt, ...] = ()  # sample completions; empty: none, and no tokenizer is needed
    max_new_tokens: Count = 48
    temperature: Amount = 0.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_tokens", "max_pairs", "max_new_tokens"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a positive whole number")
        if empty := [i for i, prompt in enumerate(self.prompts) if not prompt.text.strip()]:
            raise ConfigError(
                f"prompts[{empty[0]}].text is empty; expected text to go on with, or a question (chat: true)"
            )
        if self.temperature < 0 or self.sequence_length == 0:
            raise ConfigError(
                f"temperature is {self.temperature} and sequence_length {self.sequence_length}; expected a temperature "
                "of 0 (greedy) or more, and a positive length or null"
            )


@dataclass(frozen=True)
class Completion:
    """A prompt and what the model makes of it."""

    prompt: str
    chat: bool
    text: str
    tokens: int


@dataclass(frozen=True)
class Results:
    """The content of `results.json`."""

    parent: str
    step: int
    tokens_trained: int  # ancestors included
    tokens: str  # artifact that the held-out documents come from
    sequence_length: int
    text: dict[str, TextScore]
    preferences: dict[str, PreferenceScore]
    overall: dict[str, float | None]
    completions: tuple[Completion, ...]
    unmeasured: dict[str, str]  # source -> why none of it could be measured
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True)
class Plan:
    """An evaluation before anything is loaded."""

    run: Run
    tokens: Artifact
    model: ModelConfig
    sequence_length: int
    identity: dict[str, Any]
    facts: dict[str, Any]


def plan(config: EvaluateConfig, store: ArtifactStore, parent: str) -> Plan:
    """Find the checkpoint and its tokens, and refuse what cannot work.

    Args: parent, the resolved reference.
    Raises: ConfigError, ArtifactError or CheckpointError, each saying what exists or what to change.
    """
    run = open_run(store, parent)
    model = ModelConfig(**run.checkpoint.state["model"])
    tokens = _tokens(config, store, run)
    length = config.sequence_length or min(trained_length(store, run), model.max_positions)
    if not 0 < length <= model.max_positions:
        raise ConfigError(f"sequence_length is {length}; {run} has positions for 1 to {model.max_positions}: lower it")
    if config.prompts and TOKENIZER not in tokens.manifest["files"]:
        raise ArtifactError(
            f"{tokens.folder} holds no tokenizer ({TOKENIZER}), so prompts cannot be encoded: pass prompts=[] to go "
            "without sample completions, or tokens=tokens/<name> of one that has it"
        )
    nothing = _check_heldout(tokens, length, bool(config.prompts))
    kinds = [facts["kind"] for facts in tokens.statistics["sources"].values() if facts["heldout"]["documents"]]
    what = plain(config)
    for name in ("name", "store", "on_change", "dry_run", "cluster", "tracking"):
        del what[name]
    what.update(parent=str(run), tokens=tokens.folder, sequence_length=length)
    facts = {
        "checkpoint": f"{run}, {run.checkpoint.state['tokens']:,} tokens trained on",
        "held out": f"{tokens.folder}: "
        + ", ".join(f"{kinds.count(kind)} sources of {kind}" for kind in ("documents", "conversations", "preferences")),
        "bounds": f"per source {config.max_tokens:,} tokens, or {config.max_pairs:,} pairs; windows of {length}",
        "completions": f"{len(config.prompts)}, {'greedy' if not config.temperature else f'temperature {config.temperature:g}'}",
    }
    if nothing:
        facts["not measured"] = "; ".join(f"{name}: {why}" for name, why in nothing.items())
    return Plan(run, tokens, model, length, what, facts)


def _check_heldout(tokens: Artifact, length: int, prompts: bool) -> dict[str, str]:
    """Sources of which nothing can be measured, with the reason. Args: prompts, whether there are completions to show.

    Raises: ConfigError when that is every source, or there is none: an evaluation without a number is none.
    """
    sources = tokens.statistics["sources"]
    there = [name for name, facts in sources.items() if facts["heldout"]["documents"]]
    nothing = {name: _NOTHING for name in there if sources[name]["heldout"].get("loss_tokens", 1) == 0}
    for name, sides in open_preferences(tokens, "heldout").items():
        try:
            PreferenceLoader({name: sides}, 0, length)
        except NothingFits as error:
            nothing[name] = str(error).replace("batch.sequence_length", "sequence_length")
    if len(nothing) == len(there) and (there or not prompts):
        told = "; ".join(f"{name}: {why}" for name, why in nothing.items())
        raise ConfigError(
            f"nothing that {tokens.folder} holds out can be measured ({told or 'it holds nothing out'}): "
            "set sequence_length, or hold documents out in the corpus (conf/corpus/<name>.yaml)"
        )
    return nothing


def evaluate(config: EvaluateConfig, planned: Plan) -> Results:
    """Load the checkpoint (checksums verified) and measure it; one process, on a GPU where there is one.

    Raises: CheckpointError when a file is damaged, naming the checkpoint before it.
    """
    began = time.monotonic()
    model = whole_model(planned.run.checkpoint).to(device())
    held, sources = planned.tokens, planned.tokens.statistics["sources"]
    sizes = byte_lengths(held.path(TOKENIZER).read_text("utf-8")) if TOKENIZER in held.manifest["files"] else None
    text = {
        name: score_text(model, source, sources[name], planned.sequence_length, config.max_tokens, config.seed, sizes)
        for name, source in open_sources(held, "heldout").items()
        if sources[name]["heldout"]["documents"]
    }
    preferences = {
        name: score_preferences(model, *sides, planned.sequence_length, config.max_pairs, config.seed)
        for name, sides in open_preferences(planned.tokens, "heldout").items()
    }
    no_pair = f"no pair leaves room for its answers in {planned.sequence_length + 1} tokens: raise sequence_length"
    unmeasured = {name: _NOTHING for name, score in text.items() if score is None}
    unmeasured.update((name, no_pair) for name, score in preferences.items() if score is None)
    scored = {name: score for name, score in text.items() if score is not None}
    compared = {name: score for name, score in preferences.items() if score is not None}
    return Results(
        parent=str(planned.run), step=planned.run.checkpoint.step, tokens_trained=planned.run.checkpoint.state["tokens"],
        tokens=planned.tokens.folder, sequence_length=planned.sequence_length, text=scored, preferences=compared,
        overall=overall(scored, compared), completions=_completions(model, planned.tokens, config),
        unmeasured=unmeasured, seconds=round(time.monotonic() - began, 2),
    )  # fmt: skip


def overall(text: Mapping[str, TextScore], preferences: Mapping[str, PreferenceScore]) -> dict[str, float | None]:
    """One number each: bits per byte as the plain mean over document sources, so that no source's size decides;
    assistant loss over all tokens and preference accuracy over all pairs."""
    documents = [s.bits_per_byte for s in text.values() if s.kind == "documents" and s.bits_per_byte is not None]
    answers = [s for s in text.values() if s.kind == "conversations"]
    answer_bytes = sum(s.bytes for s in answers if s.bits_per_byte is not None)
    bits = sum(s.bits_per_byte * s.bytes for s in answers if s.bits_per_byte is not None)
    pairs = sum(s.pairs for s in preferences.values())
    return {
        "bits_per_byte": sum(documents) / len(documents) if documents else None,
        "assistant_loss": sum(s.loss * s.tokens for s in answers) / sum(s.tokens for s in answers) if answers else None,
        "assistant_bits_per_byte": bits / answer_bytes if answer_bytes else None,
        "preference_accuracy": sum(s.accuracy * s.pairs for s in preferences.values()) / pairs if pairs else None,
        "preference_summed_accuracy": sum(s.summed_accuracy * s.pairs for s in preferences.values()) / pairs
        if pairs
        else None,
    }


def _tokens(config: EvaluateConfig, store: ArtifactStore, run: Run) -> Artifact:
    if config.tokens is None:
        return tokens_of(store, run)
    named = store.get_kind("tokens", "tokens", config.tokens)
    size = max(
        named.statistics.get("vocabulary_size", 0), named.statistics.get("tokenizer", {}).get("vocabulary_size", 0)
    )
    if size > run.checkpoint.state["model"]["vocabulary"]:
        raise ConfigError(
            f"tokens={config.tokens} has {size} ids, {run} knows {run.checkpoint.state['model']['vocabulary']}: "
            "encode the corpus with the model's own tokenizer (tokenizer.reuse=tokens/<name>)"
        )
    if tokenizer_of(named) != run.checkpoint.state.get("tokenizer"):
        raise ConfigError(
            f"tokens={config.tokens} was encoded with another tokenizer than {run} was trained on: "
            "encode the corpus with the model's own (tokenizer.reuse=tokens/<name>)"
        )
    return named


def _completions(model: Transformer, tokens: Artifact, config: EvaluateConfig) -> tuple[Completion, ...]:
    if not config.prompts:
        return ()
    encoder = Encoder(tokens.path(TOKENIZER).read_text(encoding="utf-8"), fast=False)
    asked = [
        encoder.encode_prompt([{"role": "user", "content": prompt.text}])
        if prompt.chat
        else encoder.encode([prompt.text])[0]
        for prompt in config.prompts
    ]
    before = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < _SMALL
    torch.set_num_threads(1 if small else before)
    try:
        made = complete(model, asked, config.max_new_tokens, EOS_ID, config.temperature, config.seed)
    finally:
        torch.set_num_threads(before)
    return tuple(
        Completion(prompt.text, prompt.chat, encoder.decode(ids), len(ids))
        for prompt, ids in zip(config.prompts, made, strict=True)
    )
