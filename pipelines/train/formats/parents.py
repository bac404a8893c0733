"""What is exported, by its reference: a trained checkpoint, or what `workflows.quantize` made of one."""

from __future__ import annotations

from pipelines.errors import ArtifactError, CheckpointError, ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.references import Reference
from pipelines.train.checkpoint.lineage import Run, open_run, tokens_of
from pipelines.train.formats.contract import Source
from pipelines.train.stages import TRAINED

QUANTIZED = "quantize"  # the kind of what workflows.quantize leaves


def open_source(store: ArtifactStore, reference: str) -> Source:
    """The checkpoint, the tokens and, for `quantize/<name>`, the small numbers that a reference names.

    Raises: ConfigError for a kind that holds no model; ArtifactError or CheckpointError for what is not there, or was
        made anew since.
    """
    kind = Reference.parse(reference).kind
    if kind != QUANTIZED:
        if kind not in TRAINED:
            raise ConfigError(
                f"parent={reference} is of kind {kind}, which holds no model that Trunkline trained; expected a "
                f"checkpoint ({', '.join(f'{trained}/<name>' for trained in TRAINED)}) or what was made of one "
                f"({QUANTIZED}/<name>)"
            )
        run = open_run(store, reference)
        return Source(run, tokens_of(store, run))
    quantized = store.get(reference)
    parent = quantized.statistics.get("parent")
    if not parent:
        raise ArtifactError(
            f"{quantized.folder} does not say which checkpoint it was made of: make it anew with `python -m "
            f"workflows.quantize parent=<stage>/<name> name={quantized.folder.partition('/')[2]} on_change=rebuild`"
        )
    again = (
        f"make it anew with `python -m workflows.quantize parent={parent.partition('@')[0]} "
        f"name={quantized.folder.partition('/')[2]} on_change=rebuild`"
    )
    try:
        run = open_run(store, parent)
    except (ArtifactError, CheckpointError) as error:
        raise ArtifactError(
            f"{quantized.folder} was made of {parent}, which is no longer there, so nothing can be compared with it: "
            f"{error}; bring it back, or train it again and then {again}"
        ) from error
    _refuse_another_version(quantized.manifest["identity"]["inputs"], run, quantized.folder, again)
    return Source(run, tokens_of(store, run), quantized)


def _refuse_another_version(inputs: dict[str, str], run: Run, folder: str, again: str) -> None:
    """Raises: ArtifactError when the run was trained anew since."""
    recorded = inputs.get(run.artifact.folder)
    if recorded != run.artifact.fingerprint:
        raise ArtifactError(
            f"{folder} was made of another version of {run.artifact.folder} (fingerprint {recorded}, now "
            f"{run.artifact.fingerprint}): {again}"
        )
