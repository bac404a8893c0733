"""MLflow's model registry: a version for each exported model, where its files are, without a copy of its weights.

Enters: a server, the header of an export's run, and a `Model`. Leaves: a version of the registered model that is called
after the export, with its lineage; and beside the exported files an `MLmodel`, by which MLflow's `load_model` of
transformers loads them.

    tracking beside the store (SQLite)   the version names the export's folder
    a store in a bucket                  the version names the export's folder in it
    a server, and a store in a folder    the server takes no folder of another machine: `MLmodel` and tokenizer go to
                                         the run's files, and name the folder that holds the weights

`MLmodel` is written by hand: MLflow's own `log_model` copies the weights. Its form is that of MLflow's flavour
`transformers` (its modules `flavor_config` and `model_io`). The same export again is the same version; one made anew is
another, and the one before is marked, since its files are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from pipelines.display.progress import say
from pipelines.store.opening import open_storage
from pipelines.store.storage import FolderStorage, Storage
from pipelines.tracking.links import address, model_page
from pipelines.tracking.place import database_of

FINGERPRINT, STORE, ARTIFACT, REPLACED = (
    f"trunkline.{name}" for name in ("fingerprint", "store", "artifact", "replaced_by")
)
CURRENT = "current"  # the alias of the newest version
_MLMODEL, _TOKENIZER = "MLmodel", "components/tokenizer"
_RECORD = "registered.json"  # beside the export
_LONGEST = 5000  # characters of a description or a tag


class HasClient(Protocol):
    """A server: MLflow's client."""

    client: Any


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is registered.

    Attributes: folder, kind/name. tags and description, its lineage in words. flavour, of `transformers_flavour`; None
    where transformers does not load the format.
    """

    folder: str
    fingerprint: str
    tags: Mapping[str, str]
    description: str
    flavour: Mapping[str, Any] | None = None

    @property
    def item(self) -> dict[str, Any]:
        """As a spool keeps it."""
        return {"model": asdict(self)}


def transformers_flavour(storage: Storage, folder: str, files: Mapping[str, Any]) -> dict[str, Any] | None:
    """What MLflow has to know to load an exported folder; None where transformers needs code of others, or cannot.

    Args: files, the names of those in the folder, and their sizes.
    """
    if not {"config.json", "tokenizer_config.json"} <= set(files):
        return None
    if not any(name.endswith(".safetensors") for name in files):
        return None
    config = json.loads(storage.read(f"{folder}/config.json"))
    tokenizer = json.loads(storage.read(f"{folder}/tokenizer_config.json"))
    if "auto_map" in config or not config.get("architectures") or "tokenizer_class" not in tokenizer:
        return None
    return {
        "architecture": config["architectures"][0],
        "dtype": config.get("dtype") or config.get("torch_dtype") or "float32",
        "tokenizer": tokenizer["tokenizer_class"],
        "tokenizer_files": sorted(name for name in files if "token" in name or name.endswith(".jinja")),
    }


def register(server: HasClient, run: Mapping[str, Any], told_of: Mapping[str, Any]) -> None:
    """Have the registry hold an export. Args: run, the header of its MLflow run; told_of, `Model.item`'s content.

    Raises: whatever a server that is away makes MLflow's client raise.
    """
    model = Model(**told_of)
    storage, client, name = open_storage(run["store"]), server.client, model.folder.split("/", 1)[1]
    if _fingerprint(storage, model.folder) != model.fingerprint:
        return  # it was made anew since: that one registers itself
    ours = [one for one in _versions(client, name) if one.tags.get(STORE) == run["store"]]
    same = [one for one in ours if one.tags.get(FINGERPRINT) == model.fingerprint and one.run_id == run["run_id"]]
    if same:
        _note(storage, model, run, same[0].version)
        return
    source = _place(server, storage, run, model)
    tags = {**model.tags, ARTIFACT: model.folder, FINGERPRINT: model.fingerprint, STORE: run["store"]}
    made = client.create_model_version(
        name,
        source,
        run_id=run["run_id"],
        tags={key: value[:_LONGEST] for key, value in tags.items() if value},
        description=model.description[:_LONGEST],
    )
    client.set_registered_model_alias(name, CURRENT, made.version)
    for before in ours:
        if REPLACED not in before.tags:
            _mark(client, before, str(made.version))
    _note(storage, model, run, made.version)
    page = address(run["uri"])
    where = f": {model_page(page, name, made.version)}" if page else ""
    say(f"   MLflow's registry holds {model.folder} as {name}, version {made.version}{where}")


def is_registered(storage: Storage, folder: str, fingerprint: str, uri: str) -> bool:
    """Whether an export has a version at this server, as the store knows it: MLflow is not asked."""
    record = json.loads(storage.find(f"{folder}/{_RECORD}") or b"{}")
    return bool(record.get("uri") == uri and record.get("fingerprint") == fingerprint)


def _note(storage: Storage, model: Model, run: Mapping[str, Any], version: str) -> None:
    record = {"uri": run["uri"], "version": str(version), "fingerprint": model.fingerprint}
    storage.write(f"{model.folder}/{_RECORD}", json.dumps(record).encode())


def _versions(client: Any, name: str) -> list[Any]:
    """The versions of a registered model, which is made where there is none."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, tags={"trunkline": "export"})
    versions: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        versions += page
        token = page.token
        if not token:
            return versions


def _mark(client: Any, marked: Any, replacing: str) -> None:
    """Say on a version that its files are another's now."""
    client.set_model_version_tag(marked.name, marked.version, REPLACED, replacing)
    line = (
        f"**Replaced by version {replacing}**: the export was made anew, in the same folder, so that what this version "
        f"names are the files of version {replacing}."
    )
    told = f"{line}\n\n{marked.description or ''}"[:_LONGEST]
    client.update_model_version(marked.name, marked.version, told)


def _place(server: HasClient, storage: Storage, run: Mapping[str, Any], model: Model) -> str:
    """Put what MLflow loads the model by where it looks for it. Returns: the version's source."""
    here = database_of(run["uri"]) is not None
    if isinstance(storage, FolderStorage) and not here:
        return _in_the_run(server.client, storage, run, model)
    for name, content in _files(storage, model, "."):
        storage.write(f"{model.folder}/{name}", content)
    return f"{storage.root if isinstance(storage, FolderStorage) else storage.uri.rstrip('/')}/{model.folder}"


def _in_the_run(client: Any, storage: FolderStorage, run: Mapping[str, Any], model: Model) -> str:
    """Files of the run that name the folder of the weights; whoever loads them needs that folder at the same path."""
    weights = str(storage.root / model.folder)
    with TemporaryDirectory() as scratch:
        for name, content in _files(storage, model, weights):
            path = Path(scratch, *name.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run["run_id"], scratch, "model")
    return f"runs:/{run['run_id']}/model"


def _files(storage: Storage, model: Model, weights: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of what MLflow reads beside the weights. Args: weights, where they are, seen from there."""
    if model.flavour is None:
        return
    for name in model.flavour["tokenizer_files"]:
        yield f"{_TOKENIZER}/{name}", storage.read(f"{model.folder}/{name}")
    # JSON is YAML; last, so that what is there is whole
    yield _MLMODEL, json.dumps(mlmodel(model.flavour, model.folder, weights), indent=1).encode()


def mlmodel(flavour: Mapping[str, Any], folder: str, weights: str) -> dict[str, Any]:
    """The content of `MLmodel`."""
    return {
        "flavors": {
            "transformers": {
                "transformers_version": version("transformers"),
                "code": None,
                "task": "text-generation",
                "instance_type": "TextGenerationPipeline",
                "framework": "pt",
                "torch_dtype": f"torch.{flavour['dtype']}",
                "source_model_name": folder,
                "pipeline_model_type": flavour["architecture"],
                "model_binary": weights,
                "components": ["tokenizer"],
                "tokenizer_type": flavour["tokenizer"],
            }
        },
        "mlflow_version": version("mlflow"),
        "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}",
    }


def _fingerprint(storage: Storage, folder: str) -> str | None:
    claim = json.loads(storage.find(f"{folder}/claim.json") or b"{}")
    return str(claim["fingerprint"]) if claim else None
