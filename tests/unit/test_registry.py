"""MLflow's registry holds what was exported: once, with its lineage, where its files are; also where a server was away.

That the versions load in `mlflow.transformers` is tested with a whole recipe (`tests/integration/test_recipe.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.config import TrackingConfig
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.tracking import tracker as tracking
from pipelines.tracking.place import own_uri
from pipelines.tracking.registry import CURRENT, Model, transformers_flavour
from pipelines.tracking.tracker import delivering, open_tracker, register_again
from tests.ports import free_port
from tests.waits import wait_until

CONFIG = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
FILES = {
    "config.json": json.dumps(CONFIG),
    "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}),
    "tokenizer.json": "{}",
    "model.safetensors": "weights",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))


def exported(store: ArtifactStore, seed: int = 0) -> Artifact:
    """`export/a`, made of `seed`; another seed makes it anew."""
    if seed:
        store.storage.delete("export/a")
    draft = store.begin("export", "a", {"seed": seed})
    assert isinstance(draft, Draft)
    folder = draft.scratch("model")
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_text(content)
    draft.publish("model", {path.name: path for path in sorted(folder.iterdir())})
    return draft.commit({}, {})


def model_of(export: Artifact) -> Model:
    flavour = transformers_flavour(export.storage, export.folder, export.manifest["files"])
    return Model(
        folder=export.folder,
        fingerprint=export.fingerprint,
        tags={"trunkline.parent": "dpo/a@step-3", "bits_per_byte": "1.5000"},
        description="- **Parent:** `dpo/a@step-3`",
        flavour=flavour,
    )


def export_tracked(config: TrackingConfig, store: ArtifactStore, seed: int = 0) -> Artifact:
    """What the command does."""
    tracker = open_tracker(config, store, "export/a", {}, {})
    export = exported(store, seed)
    tracker.register(model_of(export))
    tracker.end("FINISHED")
    return export


def versions(client: Any) -> list[Any]:
    return sorted(client.search_model_versions("name = 'a'"), key=lambda version: int(version.version))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"config.json": None}, "a GGUF file alone"),
        ({"model.safetensors": None}, "no weights that transformers reads"),
        ({"config.json": json.dumps({**CONFIG, "auto_map": {}})}, "code of others"),
    ],
)
def test_only_what_transformers_loads_has_its_flavour(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    files = {name: content for name, content in {**FILES, **change}.items() if content is not None}
    store = ArtifactStore(str(tmp_path / "store"))
    for name, content in files.items():
        store.storage.write(f"export/a/{name}", content.encode())
    assert transformers_flavour(store.storage, "export/a", files) is None, why


@pytest.mark.slow
def test_an_export_is_one_version_and_one_made_anew_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    export = export_tracked(config, store)
    client = MlflowClient(own_uri(tmp_path / "store"))
    (version,) = versions(client)
    assert version.source == str(tmp_path / "store/export/a")
    assert version.tags["trunkline.parent"] == "dpo/a@step-3"
    assert version.tags["bits_per_byte"] == "1.5000"
    assert client.get_run(version.run_id).data.tags["trunkline.artifact"] == "export/a"
    assert "as a, version 1: http://127.0.0.1:5000/#/models/a/versions/1" in capsys.readouterr().out
    about = json.loads((tmp_path / "store/export/a/MLmodel").read_text())["flavors"]["transformers"]
    assert about["pipeline_model_type"] == "LlamaForCausalLM"
    assert about["torch_dtype"] == "torch.bfloat16"
    assert (tmp_path / "store/export/a" / about["model_binary"] / "model.safetensors").exists()
    assert (tmp_path / "store/export/a/components/tokenizer/tokenizer.json").read_text() == "{}"
    export.compare()  # what was put beside it is no damage
    # again: by the command that finds it finished, and by one that tells of it once more
    register_again(config, store, lambda: pytest.fail("it is registered"), export)
    (tmp_path / "store/export/a/registered.json").unlink()
    register_again(config, store, lambda: model_of(export), export)
    assert [one.version for one in versions(client)] == [version.version]
    # anew
    export_tracked(config, store, seed=1)
    old, new = versions(client)
    assert old.tags["trunkline.replaced_by"] == str(new.version)
    assert old.description.startswith(f"**Replaced by version {new.version}**")
    assert "trunkline.replaced_by" not in new.tags
    assert client.get_model_version_by_alias("a", CURRENT).version == new.version


@pytest.mark.slow
def test_a_server_that_is_away_registers_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    real: Callable[[str], Any] = tracking._client
    monkeypatch.setattr(tracking, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(tracking, "_LAST_TRY_SECONDS", 1.0)
    monkeypatch.setattr(tracking, "_client", lambda uri: real("http://127.0.0.1:9"))  # nothing listens there
    export = export_tracked(config, store)
    assert "have not reached MLflow" in capsys.readouterr().out
    monkeypatch.setattr(tracking, "_client", real)
    monkeypatch.setattr(tracking, "_LAST_TRY_SECONDS", 120.0)
    with delivering(config, store):  # what every command does
        pass
    (version,) = versions(MlflowClient(own_uri(tmp_path / "store")))
    assert version.tags["trunkline.fingerprint"] == export.fingerprint


@pytest.mark.slow
def test_versions_of_a_store_that_was_moved_name_it_where_it_is(tmp_path: Path) -> None:
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig()
    export_tracked(config, store)
    (tmp_path / "store").rename(tmp_path / "moved")
    moved = ArtifactStore(str(tmp_path / "moved"))
    register_again(config, moved, lambda: model_of(moved.get("export/a")), moved.get("export/a"))
    (version,) = versions(MlflowClient(own_uri(tmp_path / "moved")))
    assert version.source == str(tmp_path / "moved/export/a")
    assert version.tags["trunkline.store"] == str(tmp_path / "moved")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A tracking server of its own."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/files"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *places], stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until(lambda: _answers(port), "MLflow's server answers")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(
                process.pid, signal.SIGKILL
            )  # its workers as well; asked to end, it takes a minute of a busy machine
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
def test_a_server_gets_what_loads_the_weights_from_the_store(tmp_path: Path, server: str) -> None:
    """It takes no folder of another machine as a version's, and its copy of the weights would be another one."""
    store, config = ArtifactStore(str(tmp_path / "store")), TrackingConfig(uri=server)
    export = export_tracked(config, store)
    client = MlflowClient(server)
    (version,) = versions(client)
    assert version.source == f"runs:/{version.run_id}/model"
    local = Path(client.download_artifacts(version.run_id, "model", str(tmp_path)))
    about = json.loads((local / "MLmodel").read_text())["flavors"]["transformers"]
    assert Path(about["model_binary"]) == tmp_path / "store/export/a"
    assert (local / "components/tokenizer/tokenizer_config.json").exists()
    assert not list(local.rglob("*.safetensors"))
    assert not (tmp_path / "store" / export.folder / "MLmodel").exists()
    shutil.rmtree(local)
