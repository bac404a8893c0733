"""A delivered model sent to a folder, and to a server that speaks as the Hub does; what is refused, what is left."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import StorageError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.store.storage import FolderStorage
from pipelines.train.results import hub as hub_room
from pipelines.train.results.publication import RECORD, SUMS
from tests.commands import Ended, run_here
from tests.hub_server import READER, TOKEN, Hub, hub_server

WEIGHTS = os.urandom(300_000)
ASKED = [
    {"runtime": "transformers 5", "not_asked": ""},
    {"runtime": "llama_cpp", "not_asked": "pip install llama-cpp-python"},
]


def commit_export(
    store: ArtifactStore, name: str = "e", weights: bytes = WEIGHTS, licences: dict[str, str] | None = None,
    more: dict[str, bytes] | None = None,
) -> Artifact:  # fmt: skip
    """A made-up `export/<name>`."""
    content = {"model.safetensors": weights, "config.json": b"{}", "README.md": b"# card\n", "LICENSE.md": b"terms\n"}
    draft = store.begin("export", name, {"parent": "dpo/d", "weights": len(weights)})
    assert isinstance(draft, Draft)
    paths = {}
    for file, data in {**content, **(more or {})}.items():
        paths[file] = draft.scratch(file)
        paths[file].write_bytes(data)
    draft.publish("model", paths)
    recorded = {"format": "llama", "dtype": "float32", "parent": "dpo/d@step-1"}
    named = {"prose": "MIT"} if licences is None else licences
    return draft.commit(recorded, {"parent": "dpo/d@step-1", "asked": ASKED}, named)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path / "store"))
    commit_export(store)
    return store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def publish(store: ArtifactStore, *arguments: str) -> Ended:
    return run_here("publish", "parent=export/e", f"store={store.uri}", "tracking.enabled=false", *arguments)


def published(store: ArtifactStore, *arguments: str) -> str:
    ended = publish(store, *arguments)
    assert ended.code == 0, ended.output
    return ended.out


def record(place: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((place / RECORD).read_text(encoding="utf-8"))
    return content


# ── A folder ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_files_arrive_with_their_sums_and_a_record(store: ArtifactStore, place: Path) -> None:
    out = published(store, f"to={place}")
    assert (place / "model.safetensors").read_bytes() == WEIGHTS
    assert {path.name for path in place.iterdir()} == {
        "model.safetensors", "config.json", "README.md", "LICENSE.md", SUMS, RECORD,
    }  # fmt: skip
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=place, check=True, capture_output=True)
    assert record(place)["finished"] is True
    assert record(place)["model"] == "export/e"
    assert record(place)["fingerprint"] == store.get("export/e").fingerprint
    assert f"it lies in: {place}" in out
    assert "checked   with transformers 5; NOT ASKED: llama_cpp: pip install llama-cpp-python" in out
    made = next(store.get(f"publish/{name}") for name in store.storage.folders("publish"))
    told = made.json("publication.json")
    assert (told["model"], told["to"]) == ("export/e", str(place))
    assert set(told["files"]) == {path.name for path in place.iterdir()} - {RECORD}
    assert made.manifest["licences"] == {"prose": "MIT"}


def test_the_same_command_again_finds_it_done_and_compares_it(store: ArtifactStore, place: Path) -> None:
    published(store, f"to={place}")
    before = {path.name: path.stat().st_mtime_ns for path in place.iterdir()}
    out = published(store, f"to={place}")
    assert "finished already" in out
    assert "it lies there whole" in out
    assert {path.name: path.stat().st_mtime_ns for path in place.iterdir()} == before


def test_what_was_changed_there_since_is_told_and_sent_again(store: ArtifactStore, place: Path) -> None:
    published(store, f"to={place}")
    (place / "config.json").unlink()
    (place / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    ended = publish(store, f"to={place}")
    assert ended.code == 2
    assert "would replace export/e" in ended.err
    assert "changed there: model.safetensors)" in ended.err
    (place / "model.safetensors").write_bytes(WEIGHTS)
    ended = publish(store, f"to={place}")
    assert "does not lie there as it was sent (missing: config.json): pass on_change=rebuild" in ended.err
    out = published(store, f"to={place}", "on_change=rebuild")
    assert "sent 2 B in 1 files; 4 lay there already" in out
    assert (place / "config.json").exists()


def test_a_killed_one_goes_on_and_half_of_it_says_so(
    store: ArtifactStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file cannot be written: the first is not sent again."""
    real = FolderStorage.send
    sent: list[str] = []

    def send(self: FolderStorage, source: Path, key: str, *told: Any) -> None:
        sent.append(key)
        if key == "config.json" and sent.count(key) == 1:
            raise StorageError("the disk is full")
        real(self, source, key, *told)

    monkeypatch.setattr(FolderStorage, "send", send)
    ended = publish(store, f"to={place}")
    assert ended.code == 3
    assert record(place)["finished"] is False
    assert not (place / "README.md").exists()
    assert not (place / "LICENSE.md").exists()
    (place / ".partial-0a1b2c3d-config.json").write_bytes(b"left")
    published(store, f"to={place}")
    assert sent == ["model.safetensors", "config.json", "config.json", "LICENSE.md", "README.md"]
    assert record(place)["finished"] is True
    assert not list(place.glob(".partial-*"))


def test_a_damaged_export_is_not_sent(store: ArtifactStore, place: Path) -> None:
    path = store.storage.root / "export/e/model.safetensors"  # type: ignore[attr-defined]
    path.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 4]))
    ended = publish(store, f"to={place}")
    assert ended.code == 2
    assert "model.safetensors does not match its checksum" in ended.err
    assert not place.exists()


def test_another_model_is_replaced_only_when_told(store: ArtifactStore, place: Path) -> None:
    commit_export(store, "other", WEIGHTS[:1000], more={"tokenizer.json": b"[]"})
    published(store, "parent=export/other", f"to={place}")
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    ended = publish(store, f"to={place}")
    assert ended.code == 2
    fingerprint = store.get("export/other").fingerprint
    assert f"would replace export/other, fingerprint {fingerprint} " in ended.err
    assert "export/e (5 files, 300 kB)" in ended.err
    assert "pass replace=true" in ended.err
    assert (place / "model.safetensors").read_bytes() == WEIGHTS[:1000]
    out = published(store, f"to={place}", "replace=true")
    assert re.search(r"stays there +notes\.txt\n", out)
    assert (place / "model.safetensors").read_bytes() == WEIGHTS
    assert not (place / "tokenizer.json").exists()
    assert (place / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert "replaced" not in record(place)


def test_a_killed_replacement_leaves_no_card_and_knows_what_is_to_go(
    store: ArtifactStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_export(store, "other", WEIGHTS[:1000], more={"vocabulary.txt": b"a", "README.md": b"# other\n"})
    published(store, "parent=export/other", f"to={place}")

    def send(*_: Any) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(FolderStorage, "send", send)
        real = FolderStorage.delete
        patched.setattr(FolderStorage, "delete", lambda self, key: key == "vocabulary.txt" or real(self, key))
        assert publish(store, f"to={place}", "replace=true").code == 3
    assert not (place / "README.md").exists()
    assert record(place)["replaced"] == ["vocabulary.txt"]
    ended = publish(store, f"to={place}")
    assert "would replace what export/e, half sent, was to replace (" in ended.err
    published(store, f"to={place}", "replace=true")
    assert not (place / "vocabulary.txt").exists()
    assert record(place)["finished"] is True


def test_files_of_nobodys_publication_are_not_lain_upon(store: ArtifactStore, place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    ended = publish(store, f"to={place}")
    assert ended.code == 2
    assert "holds notes.txt, which no publication put there" in ended.err
    (place / "config.json").write_text("theirs", encoding="utf-8")
    assert (
        "what lies there and names no model of Trunkline (other contents: config.json)"
        in publish(store, f"to={place}").err
    )
    published(store, f"to={place}", "replace=true")
    assert (place / "notes.txt").read_text(encoding="utf-8") == "mine"


# ── Licences ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("licences", "named"),
    [
        ({"web": "unclear-upstream (no terms)", "prose": "MIT"}, "web (unclear-upstream (no terms))"),
        ({"web": "", "prose": "MIT"}, "web (no licence recorded)"),
        ({}, "records no licence of any source"),
    ],
)
def test_unclear_licences_are_refused_until_somebody_answers_for_them(
    store: ArtifactStore, place: Path, licences: dict[str, str], named: str
) -> None:
    commit_export(store, "u", licences=licences)
    ended = publish(store, "parent=export/u", f"to={place}")
    assert ended.code == 2
    assert named in ended.err
    assert "prose" not in ended.err
    assert not place.exists()
    assert not store.storage.folders("publish")
    published(store, "parent=export/u", f"to={place}", "unclear_licences=allow")


# ── Wrong arguments, and what a dry run shows ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["to=org/name"], "names no scheme.*is it to=hf://org/name or to=./org/name"),
        (["to="], "to is empty; expected hf://org/name, s3://bucket/prefix, or a folder"),
        (["to=gs://a/b"], "of an unknown kind; expected hf://"),
        (["to=https://huggingface.co/a/b"], "of an unknown kind"),
        (["to=s3:/bucket/x"], "of an unknown kind"),
        (["to=s3://"], "names no bucket"),
        (["to=hf://demo"], "no repository of models; expected hf://org/name"),
        (["to=hf://datasets/a/b"], "no repository of models"),
        (["to=hf://a/b..c"], "cannot be a repository's name"),
        (["to=s3://me:secret@bucket/x"], "to holds a password"),
        (["to=/etc/passwd"], "is a file; expected a folder"),
        (["parent=dpo/d", "to=./x"], "is a checkpoint.*workflows.export parent=dpo/d"),
        (["parent=corpus/c", "to=./x"], "of kind corpus; expected export/<name> or quantize/<name>"),
        (["parent=export/e@step-3", "to=./x"], "names a step"),
        (["parent=export/nothing", "to=./x"], r"does not exist.*there is export/\{e\}"),
        (["to=./x", "unclear_licences=yes"], "unclear_licences is"),
    ],
)
def test_what_names_no_place_or_no_model_is_refused(store: ArtifactStore, arguments: list[str], message: str) -> None:
    ended = publish(store, *arguments)
    assert ended.code == 2
    assert re.search(message, ended.err), ended.err
    assert not store.storage.folders("publish")
    assert "secret" not in ended.output


def test_a_place_in_the_store_is_refused(store: ArtifactStore) -> None:
    for to in (f"{store.uri}/export/e", str(Path(store.uri).parent)):
        ended = publish(store, f"to={to}")
        assert ended.code == 2
        assert "lie one within the other" in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    ended = publish(store, f"to={tmp_path}/locked/inside")
    assert ended.code == 3
    assert "is not yours to write to" in ended.err


def test_a_folder_that_cannot_be_looked_at_is_told(
    store: ArtifactStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.exists

    def exists(self: Path) -> bool:
        if self == place:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "exists", exists)
    ended = publish(store, f"to={place}")
    assert ended.code == 3
    assert f"cannot look at {place}: Permission denied" in ended.err


def test_a_dry_run_shows_card_files_place_and_refusals_and_sends_nothing(store: ArtifactStore, place: Path) -> None:
    commit_export(store, "u", licences={"web": "unknown"})
    place.mkdir()
    (place / "config.json").write_text("theirs", encoding="utf-8")
    out = published(store, "parent=export/u", f"to={place}", "dry_run=true")
    assert "# card" in out
    assert "model.safetensors  300,000" in out
    assert "config.json" in out
    assert "replaces another" in out
    assert "refused      export/u was trained on sources whose licence is not clear: web (unknown)" in out
    assert "refused (2)  export/u (5 files, 300 kB) would replace" in out
    assert [path.name for path in place.iterdir()] == ["config.json"]
    assert not store.storage.folders("publish")


def test_two_places_are_two_publications(store: ArtifactStore, tmp_path: Path) -> None:
    published(store, f"to={tmp_path}/a")
    published(store, f"to={tmp_path}/b")
    assert len(store.storage.folders("publish")) == 2


# ── The Hub ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A server on the loopback; large files go by the LFS protocol, as the Hub's own storage is not spoken there."""
    from huggingface_hub import constants

    with hub_server() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        address = f"{running.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # which `make test` sets
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


def test_a_repository_gets_everything_in_one_commit(store: ArtifactStore, hub: Hub) -> None:
    out = published(store, "to=hf://me/demo")
    repository = hub.repositories["me/demo"]
    assert repository.private
    assert repository.commits == ["first", "Publish export/e"]
    assert repository.files["model.safetensors"] == WEIGHTS
    assert set(repository.files) == {
        ".gitattributes", "model.safetensors", "config.json", "README.md", "LICENSE.md", SUMS, RECORD,
    }  # fmt: skip
    assert f"{hub.endpoint}/me/demo (private)" in out
    (name,) = store.storage.folders("publish")
    assert store.get(f"publish/{name}").json("publication.json")["version"] == repository.head
    assert TOKEN not in out + json.dumps(store.get(f"publish/{name}").manifest)
    assert "it lies there whole" in published(store, "to=hf://me/demo")
    assert len(repository.commits) == 2


def test_a_file_that_the_hub_has_is_not_sent_again(
    store: ArtifactStore, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit fails after the weights arrived; nobody sees half a model."""
    monkeypatch.setattr(hub_room, "_SENT_ALONE", 1000)
    hub.breaks_at = "/commit/"
    ended = publish(store, "to=hf://me/demo")
    assert ended.code == 3
    assert "run the same command again" in ended.err
    assert set(hub.repositories["me/demo"].files) == {".gitattributes"}
    assert len(hub.uploads()) == 1
    hub.breaks_at = None
    published(store, "to=hf://me/demo")
    assert len(hub.uploads()) == 1
    assert hub.repositories["me/demo"].files["model.safetensors"] == WEIGHTS


def test_another_model_of_the_hub_is_replaced_only_when_told(store: ArtifactStore, hub: Hub) -> None:
    commit_export(store, "other", WEIGHTS[:1000], more={"tokenizer.json": b"[]"})
    published(store, "parent=export/other", "to=hf://me/demo", "private=false")
    repository = hub.repositories["me/demo"]
    assert not repository.private
    ended = publish(store, "to=hf://me/demo", "private=false")
    assert "would replace export/other, fingerprint" in ended.err
    assert "private=true asks for one that is private" in publish(store, "to=hf://me/demo", "replace=true").err
    published(store, "to=hf://me/demo", "private=false", "replace=true")
    assert repository.files["model.safetensors"] == WEIGHTS
    assert "tokenizer.json" not in repository.files
    assert len(repository.commits) == 3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"HF_TOKEN": ""}, "without a token of yours: give it by HF_TOKEN"),
        ({"HF_TOKEN": "hf_nobody"}, "cannot look at hf://me/demo.*token"),
        ({"HF_TOKEN": READER}, "cannot write to hf://me/demo.*may not do that.*make one that may write to me/demo"),
    ],
)
def test_who_may_not_write_is_told_so(
    store: ArtifactStore, hub: Hub, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ended = publish(store, "to=hf://me/demo")
    assert ended.code == 3
    assert re.search(message, ended.err), ended.err
    assert all(value not in ended.output for value in variables.values() if value)
    assert not hub.repositories


def test_a_server_that_does_not_answer_is_told(store: ArtifactStore, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ended = publish(store, "to=hf://me/demo")
    assert ended.code == 3
    assert "is HF_ENDPOINT right" in ended.err
    assert "refused" in published(store, "to=hf://me/demo", "dry_run=true")
