"""An exported model as MLflow's registry holds it: its lineage as tags and in Markdown.

Enters: a finished export, what it was made of, and the evaluation of its checkpoint. Leaves: a `Model` of
`pipelines/tracking/registry.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.display import evaluation as shown
from pipelines.display.progress import human
from pipelines.store.artifact import Artifact
from pipelines.tracking.registry import Model, transformers_flavour
from pipelines.train.checkpoint.lineage import Link
from pipelines.train.formats import FORMATS
from pipelines.train.formats.contract import Source
from pipelines.train.results.evaluate import read_results
from pipelines.train.results.heldout import heldout_of
from pipelines.train.results.model_card import licences_of


def registered(export: Artifact, source: Source, links: Sequence[Link], evaluation: Artifact | None) -> Model:
    """What the registry is told of an export. Args: links, of the lineage of its source, the source last."""
    format_, dtype = str(export.config["format"]), str(export.config["dtype"])
    flavour = None
    if "transformers" in FORMATS[format_].runtimes:
        flavour = transformers_flavour(export.storage, export.folder, export.manifest["files"])
    values = shown.values(read_results(evaluation)) if evaluation else {}
    numbers = {name: f"{value:.4f}" for name, value in values.items() if value is not None}
    known = licences_of(source.tokens.manifest)
    licences = "; ".join(f"{name}: {licence or 'none recorded'}" for name, licence in known.items())
    kinds = {kind: ", ".join(link.folder for link in links if link.folder.startswith(f"{kind}/")) for kind in _DATA}
    tags = {
        "trunkline.parent": source.name,
        "trunkline.format": format_,
        "trunkline.dtype": dtype,
        "trunkline.licences": licences,
        "trunkline.tokens_trained": str(source.run.state["tokens"]),
        **{f"trunkline.{kind}": folders for kind, folders in kinds.items() if folders},
        **{name: value for name, value in numbers.items() if name in _NUMBERS},
        **({"trunkline.heldout": heldout_of(evaluation)} if evaluation else {}),
    }
    told = ", ".join(f"{words} {numbers[name]}" for name, words in _NUMBERS.items() if name in numbers)
    measured = f"{told} on `{heldout_of(evaluation)}` (`{evaluation.folder}`)" if evaluation else "not evaluated"
    lines = {
        "Parent": f"`{source.name}`, {human(source.run.state['tokens'])} tokens trained on",
        "Lineage": " → ".join(f"`{link.folder}`" for link in links),
        "Evaluation": measured,
        "Licences": licences or "none recorded",
        "Format": f"{format_}, {dtype}",
        "Files": f"`{export.storage.uri}/{export.folder}`",
        "Load": f"`mlflow.transformers.load_model('models:/{export.folder.split('/')[1]}@current')`"
        if flavour
        else f"`python -m workflows.chat model={export.folder}`; MLflow has no flavour for this format",
        "Made by": f"`{export.manifest.get('command') or 'python -m workflows.export'}`",
    }
    description = "\n".join(f"- **{label}:** {line}" for label, line in lines.items())
    return Model(
        folder=export.folder, fingerprint=export.fingerprint, tags=tags, description=description, flavour=flavour
    )


_DATA = ("mixture", "tokens", "corpus")
_NUMBERS = {
    "bits_per_byte": "bits per byte",
    "assistant_loss": "assistant loss",
    "preference_accuracy": "share of pairs ordered right",
}
