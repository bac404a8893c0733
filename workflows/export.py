"""A checkpoint as a plain Llama-format Hugging Face folder, checked against the checkpoint before it is committed.

    python -m workflows.export parent=dpo/demo name=demo
    python -m workflows.export parent=dpo/demo name=demo-bf16 dtype=bfloat16

Runs in this process, without Ray. Memory: about 12 bytes per parameter.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict

from pipelines.display.progress import human, say
from pipelines.identity import decisive, identity
from pipelines.store.artifacts import Artifact
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint.lineage import lineage, open_run, tokens_of
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.results.export import ExportConfig, tokenizer_settings, verify, write_model
from pipelines.train.results.model_card import find_evaluation, licence_note, model_card, snippet, unclear_licences
from workflows.session import Session, entry

CODE = (
    *(f"pipelines.train.results.{module}" for module in ("export", "model_card", "evaluate")),
    "pipelines.train.checkpoint.weights",
    *(f"pipelines.train.network.{module}" for module in ("architecture", "roles", "model")),
    *(f"pipelines.data.tokens.{module}" for module in ("tokenizer", "chat")),
)


def run(config: ExportConfig, session: Session) -> Artifact:
    """Make `export/<name>`, or find it finished."""
    source = open_run(session.store, session.resolve(config.parent))
    tokens = tokens_of(session.store, source)
    tokenizer_settings(source, tokens)
    evaluation = find_evaluation(session.store, source)

    # ── announce ──
    model = ModelConfig(**source.checkpoint.state["model"])
    counts, unclear = parameter_counts(model), unclear_licences(tokens)
    size = (counts["total"] + counts["embedding"]) * (2 if config.dtype == "bfloat16" else 4)
    facts = {
        "checkpoint": f"{source}, {source.checkpoint.state['tokens']:,} tokens trained on",
        "format": f"Llama, scalings folded in, {config.dtype}, {human(size, 'B')}",
        "evaluation": evaluation.folder if evaluation else "none found; the model card will say so",
        "licences": f"unclear for {', '.join(unclear)}: the model card says so"
        if unclear
        else "named for every source",
    }
    # the evaluation is quoted in the model card and changes no weight, so a later one does not make this export stale
    inputs = [source.artifact, tokens]
    what = {**identity(config), "parent": str(source)}
    held = session.begin("export", config, facts, inputs, CODE, identity=what)
    if isinstance(held, Artifact):
        held.compare()
        return held

    reach = source.checkpoint.verify if held.replaces else None
    with session.track(held, config, [*inputs, *([evaluation] if evaluation else [])], reach) as tracker:
        # ── write, check, then publish ──
        folder = held.scratch("model")
        folder.mkdir(parents=True)
        try:
            folded = write_model(source, tokens, folder, config.dtype)
            check = verify(folder, source, tokens, folded)
            del folded
            say(
                f"   checked with transformers on {check.tokens:,} held-out tokens: logits within {check.largest_difference:.1e} (float32), {check.stored_difference:.1e} as stored"
            )
            results = evaluation.json("results.json") if evaluation else None
            links = lineage(session.store, source.artifact)
            card = model_card(config.name, source, tokens, links, config.dtype, check.largest_difference, results)
            (folder / "README.md").write_text(card, encoding="utf-8")
            (folder / "LICENSE.md").write_text(licence_note(tokens), encoding="utf-8")
            held.publish("model", {path.name: path for path in sorted(folder.iterdir())})
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        tracker.metrics({"logit_difference": check.largest_difference}, source.checkpoint.step)
        tracker.file(held.storage.fetch(f"{held.folder}/README.md"))
        artifact = held.commit(
            {**decisive(config), "parent": str(source)},
            {"parent": str(source), **asdict(check)},
            tokens.manifest["licences"],
        )
    storage = session.store.storage
    place = (
        str(storage.root / held.folder)
        if isinstance(storage, FolderStorage)
        else f"a local copy of {storage.uri}/{held.folder}"
    )
    say(f"\n   load it anywhere:\n\n{snippet(place)}")
    return session.done(artifact)


main = entry(ExportConfig, run, "export")

if __name__ == "__main__":
    main()
