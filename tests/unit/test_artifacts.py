"""The artifact contract: claims, receipts, commits, refusals."""

from pathlib import Path

import pytest

from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.references import Reference
from pipelines.store.storage import FolderStorage


def make(store: ArtifactStore, name: str = "a", config: object = None, **options: object) -> Artifact:
    draft = store.begin("corpus", name, {"size": 1} if config is None else config, **options)  # type: ignore[arg-type]
    assert isinstance(draft, Draft)
    path = draft.scratch("part.txt")
    path.write_text("hello")
    draft.publish("part", {"part.txt": path}, {"documents": 1})
    return draft.commit({"size": 1}, {"documents": 1})


def test_nothing_is_readable_before_the_commit(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    draft = store.begin("corpus", "a", {"size": 1})
    assert isinstance(draft, Draft)
    with pytest.raises(ArtifactError, match="corpus/a has begun but is not finished"):
        store.get("corpus/a")
    draft.commit({}, {})
    assert store.get("corpus/a").manifest["kind"] == "corpus"


def test_a_finished_result_is_reused_and_an_unfinished_one_resumed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    draft = store.begin("corpus", "a", {"size": 1})
    assert isinstance(draft, Draft)
    assert draft.receipt("part") is None
    path = draft.scratch("part.txt")
    path.write_text("hello")
    draft.publish("part", {"part.txt": path}, {"documents": 1})
    again = store.begin("corpus", "a", {"size": 1})
    assert isinstance(again, Draft)
    receipt = again.receipt("part")
    assert receipt is not None
    assert receipt["statistics"] == {"documents": 1}
    committed = again.commit({}, {})
    assert committed.path("part.txt").read_text() == "hello"
    assert isinstance(store.begin("corpus", "a", {"size": 1}), Artifact)


def test_another_config_under_the_same_name_is_refused_with_the_diff(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    with pytest.raises(ArtifactError) as caught:
        store.begin("corpus", "a", {"size": 2})
    assert "config.size: 1 -> 2" in str(caught.value)
    assert "name=..." in str(caught.value)
    assert "on_change=rebuild" in str(caught.value)
    assert store.get("corpus/a").path("part.txt").exists()


def test_a_changed_input_changes_the_fingerprint(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    first, second = make(store, "one"), make(store, "two", {"size": 2})
    store.begin("tokens", "t", {}, [first])
    changed = Artifact(second.storage, first.folder, second.manifest)
    with pytest.raises(ArtifactError, match="inputs.corpus/one"):
        store.begin("tokens", "t", {}, [changed])


def test_rebuild_starts_over_and_keep_goes_on(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    kept = store.begin("corpus", "a", {"size": 2}, on_change="keep")
    assert isinstance(kept, Artifact)
    rebuilt = store.begin("corpus", "a", {"size": 2}, on_change="rebuild")
    assert isinstance(rebuilt, Draft)
    assert rebuilt.receipt("part") is None
    assert not (tmp_path / "corpus/a/part.txt").exists()


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    artifact = make(ArtifactStore(str(tmp_path)))
    (tmp_path / "corpus/a/part.txt").write_text("hullo")
    with pytest.raises(ArtifactError, match="does not match its checksum") as caught:  # of the same size
        artifact.path("part.txt")
    assert f"{tmp_path}/corpus/a/part.txt" in str(caught.value)
    assert f"make it anew: python -m workflows.corpus name=a store={tmp_path} on_change=rebuild" in str(caught.value)
    (tmp_path / "corpus/a/part.txt").write_text("hello!")
    with pytest.raises(ArtifactError, match="has 6 bytes, its manifest says 5"):
        artifact.path("part.txt")
    (tmp_path / "corpus/a/part.txt").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        artifact.path("part.txt")


def test_a_missing_artifact_names_what_is_there_and_how_to_make_it(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store, "one")
    with pytest.raises(ArtifactError) as caught:
        store.get("corpus/none")
    assert "there is corpus/{one}" in str(caught.value)
    assert "python -m workflows.corpus name=none" in str(caught.value)


def test_references() -> None:
    assert Reference.parse("pretrain/demo@step-200") == Reference("pretrain", "demo", "step-200")
    assert str(Reference.parse("pretrain/demo@latest")) == "pretrain/demo@latest"
    for wrong in ("demo", "pretrain/", "pretrain/demo@200", "a/b/c", "pretrain/../x"):
        with pytest.raises(ConfigError, match="not a reference"):
            Reference.parse(wrong)


def test_a_half_written_file_is_never_a_key(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    path = storage.scratch("folder/data.bin")
    path.write_bytes(b"half")
    assert storage.keys() == []
    assert not storage.exists("folder/data.bin")
    storage.put(path, "folder/data.bin")
    assert storage.keys() == ["folder/data.bin"]
    assert storage.keys("folder") == ["folder/data.bin"]


def test_another_version_of_the_code_is_told_in_one_line(tmp_path: Path) -> None:
    """A release moves dozens of modules, and what the config says otherwise must be seen beside them."""
    modules = [f"pipelines.{name}" for name in ("config", "errors", "identity", "uris")]
    more = [f"pipelines.store.{name}" for name in ("cache", "code", "lease")]
    store = ArtifactStore(str(tmp_path))
    store.begin("corpus", "demo", {"size": 1}, code=modules)
    with pytest.raises(ArtifactError) as few:
        store.begin("corpus", "demo", {"size": 1}, code=modules[1:])
    assert "code.pipelines.config: " in str(few.value)
    with pytest.raises(ArtifactError) as many:
        store.begin("corpus", "demo", {"size": 2}, code=more)
    lines = str(many.value).splitlines()[1:-1]
    assert [line.split(":")[0].strip() for line in lines] == ["config.size", "code"]
    assert lines[1].endswith("7 modules differ: pipelines.config, pipelines.errors, pipelines.identity and 4 more")
    kept = store.begin("corpus", "demo", {"size": 2}, code=more, on_change="keep")
    assert isinstance(kept, Draft)
    assert len(kept.claim["kept_despite"]) == 8
