"""A checkpoint as a folder that other programs read, checked against the checkpoint before it is committed.

    python -m workflows.export parent=dpo/demo name=demo                          Llama's format: loads anywhere
    python -m workflows.export parent=dpo/demo name=demo-bf16 dtype=bfloat16
    python -m workflows.export parent=dpo/demo name=demo-cpm format=minicpm       the architecture's own

Runs in this process, without Ray. Memory: that of the largest tensors and of some logits, not that of the model.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.config import WorkflowConfig, changed, config_class, plain
from pipelines.display.progress import human, say
from pipelines.errors import ConfigError
from pipelines.identity import decisive, identity
from pipelines.store.artifact import Artifact
from pipelines.store.code import chosen_modules
from pipelines.store.draft import Draft
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint.lineage import lineage
from pipelines.train.formats import FORMATS
from pipelines.train.formats.contract import Check, Source
from pipelines.train.formats.folder import tokenizer_settings
from pipelines.train.formats.parents import open_source
from pipelines.train.results.model_card import find_evaluation, licence_note, model_card, unclear_licences
from workflows.entry import entry
from workflows.session import Session

# the modules that decide what is written, beside those of the format
CODE = (
    "pipelines.train.results.model_card",
    *(f"pipelines.train.checkpoint.{module}" for module in ("weights", "snapshot")),
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "model")),
    *(f"pipelines.data.tokens.{module}" for module in ("tokenizer", "chat")),
)


@config_class
class ExportConfig(WorkflowConfig):
    """What is exported, and how."""

    parent: str  # e.g. dpo/demo, anneal/demo@step-80
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
    tokenizer_settings(source)
    evaluation = find_evaluation(session.store, source.run)

    # ── announce ──
    described, unclear = FORMATS[config.format].describe(source, config.stored), unclear_licences(source.tokens)
    announcement = {
        "checkpoint": f"{source.run}, {source.run.checkpoint.state['tokens']:,} tokens trained on",
        "format": f"{described.announcement}, {config.stored}, {human(described.size_bytes, 'B')}",
        "evaluation": evaluation.folder if evaluation else "none found; the model card will say so",
        "licences": f"unclear for {', '.join(unclear)}: the model card says so"
        if unclear
        else "named for every source",
    }
    # the evaluation is quoted in the model card and changes no weight, so a later one does not make this export stale
    inputs = [source.run.artifact, source.tokens]
    decided = {**identity(config), "parent": str(source.run)}
    draft = session.begin("export", config, announcement, inputs, code_of(config.format), identity=decided)
    if isinstance(draft, Artifact):
        draft.compare()
        return draft

    reach = source.run.checkpoint.verify if draft.replaces else None
    with session.track(draft, config, [*inputs, *([evaluation] if evaluation else [])], reach) as tracker:
        # ── write, check, then publish ──
        folder = draft.scratch("model")
        folder.mkdir(parents=True)
        try:
            check = write_and_check(config, source, folder)
            card = describe(config, session, source, check, evaluation)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / "LICENSE.md").write_text(licence_note(source.tokens), encoding="utf-8")
            draft.publish("model", {path.name: path for path in sorted(folder.iterdir())})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if check.largest_difference is not None:
            tracker.metrics({"logit_difference": check.largest_difference}, source.run.checkpoint.step)
        tracker.file(draft.storage.fetch(f"{draft.folder}/README.md"))
        statistics = {"parent": str(source.run), **plain(check)}
        recorded = {**decisive(config), "parent": str(source.run)}
        artifact = draft.commit(recorded, statistics, source.tokens.manifest["licences"])
    say(f"\n   run it:\n\n{FORMATS[config.format].run(place(draft))[0].text}")
    return session.done(artifact)


def write_and_check(config: ExportConfig, source: Source, folder: Path) -> Check:
    """Write the model's files, and compare them with the checkpoint. Raises: ArtifactError when they differ."""
    format_ = FORMATS[config.format]
    format_.write(source, folder, config.stored)
    check = format_.verify(source, folder, config.stored)
    say(f"   {check}")
    return check


def describe(config: ExportConfig, session: Session, source: Source, check: Check, evaluation: Artifact | None) -> str:
    """The model card."""
    links = lineage(session.store, source.quantized or source.run.artifact)
    results = evaluation.json("results.json") if evaluation else None
    return model_card(config.name, source, links, FORMATS[config.format], config.stored, check, results)


def place(draft: Draft) -> str:
    """Where the folder lies, for a command that is typed."""
    if isinstance(draft.storage, FolderStorage):
        return str(draft.storage.root / draft.folder)
    return f"a local copy of {draft.storage.uri}/{draft.folder}"


main = entry(ExportConfig, run, "export")

if __name__ == "__main__":
    main()
