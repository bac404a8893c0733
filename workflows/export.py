"""A checkpoint as a folder or file that other programs read, compared with the checkpoint before it is committed.

    python -m workflows.export parent=dpo/demo name=demo                          Llama's format: loads anywhere
    python -m workflows.export parent=dpo/demo name=demo-f32 dtype=float32
    python -m workflows.export parent=dpo/demo name=demo-cpm format=minicpm       the architecture's own
    python -m workflows.export parent=dpo/demo name=demo-gguf format=gguf         four bits, for llama.cpp
    python -m workflows.export parent=quantize/demo name=demo-q4 format=gguf      the same numbers as quantize left
    python -m workflows.export parent=dpo/demo name=demo-mlc format=mlc           for MLC-LLM on a phone

Each format says which parents it takes and how it stores weights (`dtype`; null is its first). Programs that load the
result are asked before anything is committed (`pipelines/train/formats/gate.py`); one that is not installed is named.

Runs in this process, without Ray. Memory: that of the largest tensors and of some logits, and of the model as it is
stored while a program that loads it is asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.config import WorkflowConfig, changed, config_class, plain
from pipelines.display.progress import human, say
from pipelines.errors import ConfigError
from pipelines.identity import decisive, identity
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules
from pipelines.store.draft import Draft
from pipelines.store.storage import FolderStorage
from pipelines.tracking.registry import Model
from pipelines.tracking.tracker import register_again
from pipelines.train.checkpoint.lineage import lineage
from pipelines.train.formats import FORMATS, questions
from pipelines.train.formats.contract import Asked, Check, Format, Source
from pipelines.train.formats.folder import tokenizer_settings
from pipelines.train.formats.parents import open_source
from pipelines.train.results.model_card import find_evaluation, licence_note, model_card, unclear_licences
from pipelines.train.results.registered import registered
from pipelines.train.results.sample_question import SampleQuestion, asking, sample_question
from pipelines.train.runtimes import RUNTIMES
from workflows.entry import entry
from workflows.running.session import Session, of_run

# the modules that decide what is written, beside those of the format
CODE = (
    "pipelines.train.results.model_card",
    *(f"pipelines.train.checkpoint.{module}" for module in ("weights", "snapshot")),
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "model")),
    *(f"pipelines.data.tokens.{module}" for module in ("tokenizer", "chat")),
    "pipelines.train.quantization.contract",  # what codes are, whose blocks a GGUF file takes
)


@config_class
class ExportConfig(WorkflowConfig):
    """What is exported, and how."""

    parent: str  # e.g. dpo/demo, anneal/demo@step-80, quantize/demo
    format: str = "llama"  # a row of FORMATS
    # how weights are stored, a name that the format knows; null: its first
    dtype: str | None = changed(None, founding="float32")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in FORMATS:
            raise ConfigError(f"format is {self.format!r}; expected one of {', '.join(FORMATS)}")
        dtypes = FORMATS[self.format].dtypes
        if self.dtype is None:
            object.__setattr__(self, "dtype", next(iter(dtypes)))
        elif self.dtype not in dtypes:
            raise ConfigError(f"dtype is {self.dtype!r}; format={self.format} stores weights as {', '.join(dtypes)}")

    @property
    def stored(self) -> str:
        """How weights are stored, once null is settled."""
        assert self.dtype is not None
        return self.dtype


def code_of(format_name: str) -> tuple[str, ...]:
    """All modules that decide what an export in this format holds."""
    return (*CODE, *chosen_modules("pipelines.train.formats", [format_name]))


def run(config: ExportConfig, session: Session) -> Artifact:
    """Make `export/<name>`, or find it finished."""
    source = open_source(session.store, session.resolve(config.parent))
    format_ = FORMATS[config.format]
    refuse_parent(config, source)
    tokenizer_settings(source)
    if (refuse := FORMATS[config.format].refuse) is not None:
        refuse(source, config.stored)
    evaluation = find_evaluation(session.store, source.run)

    question = sample_question(source.tokens, lineage(session.store, source.run.artifact))

    # ── announce ──
    described, unclear = format_.describe(source, config.stored), unclear_licences(source.tokens)
    announcement = {
        "checkpoint": f"{source.run}, {source.run.checkpoint.state['tokens']:,} tokens trained on",
        **({"quantized": source.name} if source.quantized else {}),
        "format": f"{described.announcement}, {config.stored}, {human(described.size_bytes, 'B')}",
        "checks": "; ".join(checks(format_, config.stored)),
        "asks": "; ".join(asks(format_)) or "no program runs this format here",
        "model card": f"shows how to run it, and asks {question}",
        "evaluation": evaluation.folder if evaluation else "none found; the model card will say so",
        "licences": f"unclear for {', '.join(unclear)}: the model card says so"
        if unclear
        else "named for every source",
    }
    # the evaluation is quoted in the model card and changes no weight, so a later one does not make this export stale
    inputs = [source.run.artifact, source.tokens, *([source.quantized] if source.quantized else [])]
    decided = {**identity(config), "parent": source.name}
    draft = session.begin("export", config, announcement, inputs, code_of(config.format), identity=decided)
    ready = any(RUNTIMES[runtime].missing() is None for runtime in format_.runtimes if runtime in RUNTIMES)
    following = (f"python -m workflows.chat model=export/{config.name}",) if ready else ()
    if isinstance(draft, Artifact):
        draft.compare()
        register_again(config.tracking, session.store, lambda: told_of(draft, session, source, evaluation), draft)
        return session.reused(draft, *following)

    reach = source.run.checkpoint.verify if draft.replaces else None
    with session.track(
        draft, config, [*inputs, *([evaluation] if evaluation else [])], reach, **of_run(source.run)
    ) as tracker:
        # ── write, check, then publish ──
        folder = draft.scratch("model")
        folder.mkdir(parents=True)
        try:
            check = write_and_check(config, source, folder)
            card = describe(config, session, source, check, evaluation, question)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / "LICENSE.md").write_text(licence_note(source.tokens), encoding="utf-8")
            size_bytes = sum(path.stat().st_size for path in folder.iterdir())
            draft.publish("model", {path.name: path for path in sorted(folder.iterdir())})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        tracker.metrics(measured(check, size_bytes), source.run.checkpoint.step)
        tracker.file(draft.storage.fetch(f"{draft.folder}/README.md"))
        statistics = {"parent": source.name, "bytes": size_bytes, **plain(check)}
        recorded = {**decisive(config), "parent": source.name}
        artifact = draft.commit(recorded, statistics, source.tokens.manifest["licences"])
        tracker.register(told_of(artifact, session, source, evaluation))
    for way in () if session.within_recipe else asking(format_, question).run(place(draft)):
        say(f"\n   ── {way.program} ──\n\n{way.text}")
    return session.done(artifact, *following)


def refuse_parent(config: ExportConfig, source: Source) -> None:
    """Raises: ConfigError for a parent that the format does not take, with the way to it."""
    if source.parent in FORMATS[config.format].parents:
        return
    takers = ", ".join(f"format={name}" for name, other in FORMATS.items() if source.parent in other.parents)
    if source.parent == "quantized":
        raise ConfigError(
            f"parent={config.parent} holds small numbers already, and format={config.format} stores the weights of a "
            f"trained checkpoint: pass parent={source.run}, or what keeps these numbers ({takers or 'no format'})"
        )
    raise ConfigError(
        f"format={config.format} stores what workflows.quantize made, and parent={config.parent} is a trained "
        f"checkpoint: run `python -m workflows.quantize parent={source.run.artifact.folder} name={config.name}` first, "
        f"then pass parent=quantize/{config.name}; a checkpoint is taken by {takers}"
    )


def checks(format_: Format, dtype: str) -> Iterator[str]:
    """What is compared before the commit."""
    stored = format_.dtypes[dtype]
    if stored.is_float:
        yield "every weight with the checkpoint's"
        if format_.read is not None:
            yield "hidden states after each block and logits on held-out tokens"
        return
    limits = []
    if stored.most_kl is not None:
        limits.append(f"at most {stored.most_kl:g} nats of KL per token to the full model")
    if stored.least_top1 is not None:
        limits.append(f"the same likeliest id at {stored.least_top1:.0%} of the places or more")
    yield f"on held-out tokens, {' and '.join(limits)}"


def asks(format_: Format) -> Iterator[str]:
    """Which programs will be asked, and which will not, with the line that installs them."""
    for name in format_.runtimes:
        line = RUNTIMES[name].missing()
        if line is None:
            yield (
                f"{name}: {questions.STRINGS:,} strings, {len(questions.conversations())} conversations, "
                f"{questions.GREEDY_TOKENS} greedy tokens on {questions.PROMPTS} prompts"
            )
        else:
            yield f"not {name}, which is not there: {line}"


def told(asked: Asked) -> str:
    """What one program was asked, in a line."""
    if asked.not_asked:
        return f"{asked.runtime} was not asked: {asked.not_asked}"
    parts = [f"{asked.strings:,} strings and {asked.conversations} conversations give the ids of training"]
    if asked.greedy_tokens:
        others = "" if asked.greedy_agreeing == asked.greedy_tokens else ", the others as likely within rounding"
        parts.append(
            f"{asked.greedy_agreeing:,} of {asked.greedy_tokens:,} greedy tokens on {asked.prompts} prompts are the "
            f"likeliest{others}"
        )
    return f"{asked.runtime}: {'; '.join([*parts, *asked.notes])}"


def measured(check: Check, size_bytes: int) -> dict[str, float]:
    """The numbers for MLflow, by their names there."""
    numbers = {
        "logit_difference": check.largest_difference,
        "stored_logit_difference": check.stored_difference,
        "block_difference": max(check.layer_differences, default=None),
        "kl": check.kl,
        "top1": check.top1,
        "bytes": size_bytes,
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}


def write_and_check(config: ExportConfig, source: Source, folder: Path) -> Check:
    """Write the model's files, and compare them with the checkpoint. Raises: ArtifactError when they differ."""
    format_ = FORMATS[config.format]
    format_.write(source, folder, config.stored)
    check = format_.verify(source, folder, config.stored)
    say(f"   {check}")
    for asked in check.asked:
        say(f"   {told(asked)}")
    return check


def describe(
    config: ExportConfig,
    session: Session,
    source: Source,
    check: Check,
    evaluation: Artifact | None,
    question: SampleQuestion,
) -> str:
    """The model card."""
    links = lineage(session.store, source.quantized or source.run.artifact)
    results = evaluation.json("results.json") if evaluation else None
    format_ = asking(FORMATS[config.format], question)
    return model_card(config.name, source, links, format_, config.stored, check, results)


def told_of(artifact: Artifact, session: Session, source: Source, evaluation: Artifact | None) -> Model:
    """What MLflow's registry is told."""
    return registered(artifact, source, lineage(session.store, source.quantized or source.run.artifact), evaluation)


def place(draft: Draft) -> str:
    """Where the folder lies, for a command that is typed."""
    if isinstance(draft.storage, FolderStorage):
        return str(draft.storage.root / draft.folder)
    return f"a local copy of {draft.storage.uri}/{draft.folder}"


main = entry(ExportConfig, run, "export")

if __name__ == "__main__":
    main()
