"""What is damaged, moved or taken down: nothing of it is read as something else, and nothing is lost before work
begins.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.config import TrackingConfig, WorkflowConfig
from pipelines.display import report
from pipelines.errors import ArtifactError, CheckpointError, ClusterError, ConfigError, DataError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft, Making
from pipelines.store.sealed import sealed, sealed_lines, unsealed, unsealed_lines
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint import committed_steps, open_checkpoint
from pipelines.train.checkpoint.retention import readers_of
from pipelines.train.network.architecture import ModelConfig
from tests import tiny
from tests.commands import run_here
from tests.integration.conftest import TINY_MODEL, train_config
from tests.unit.test_checkpoint import flip, trunk
from tests.untrained import commit_run
from workflows.checkpoints import CheckpointsConfig
from workflows.checkpoints import run as checkpoints
from workflows.running.session import DryRun, Session
from workflows.running.training import go_back, train_stage


def make(store: ArtifactStore, name: str = "a", text: str = "hello", **options: Any) -> Artifact:
    draft = store.begin("corpus", name, {"size": 1}, **options)
    assert isinstance(draft, Draft)
    path = draft.scratch("part.txt")
    path.write_text(text)
    draft.publish("part", {"part.txt": path}, {"documents": 1})
    return draft.commit({"size": 1}, {"documents": 1})


# ── A flipped bit ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_flipped_bit_of_a_sealed_document_is_seen() -> None:
    value = {"tokens": 96497, "named": {"Köln": [1, 2.5, None]}}
    text = sealed(value)
    assert unsealed(text, ()) == value
    for bit in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="own checksum|no JSON"):
            unsealed(bytes(damaged), value)
    assert unsealed(b'{"tokens": 1}', value) == {"tokens": 1}  # written before there were seals


@pytest.mark.parametrize("file", ["manifest.json", "part.txt"])
def test_a_flipped_bit_anywhere_in_an_artifact_is_refused_by_name(tmp_path: Path, file: str) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store, made_with="python -m workflows.corpus name=a sources=all")
    path = tmp_path / "corpus/a" / file
    for bit in random.Random(0).sample(range(8 * path.stat().st_size), 40):
        flip(path, bit)
        with pytest.raises(ArtifactError) as caught:
            store.get("corpus/a").path("part.txt")
        assert str(path) in str(caught.value)
        assert f"make it anew: python -m workflows.corpus name=a sources=all store={tmp_path} on_change=rebuild" in str(
            caught.value
        )
        flip(path, bit)
    assert store.get("corpus/a").path("part.txt").read_text() == "hello"


@pytest.mark.parametrize(
    "typed", ["python -m workflows.corpus name=a", "python -m workflows.corpus store=/data/first name=a"]
)
def test_damage_in_a_copied_store_is_mended_in_the_copy(tmp_path: Path, typed: str) -> None:
    """A rebuild in the original would delete what is whole there, and leave the damage."""
    make(ArtifactStore(str(tmp_path / "first")), made_with=typed)
    copy = tmp_path / "the 'copy'"
    shutil.copytree(tmp_path / "first", copy)
    (copy / "corpus/a/part.txt").write_text("jello")
    with pytest.raises(ArtifactError) as caught:
        ArtifactStore(str(copy)).get("corpus/a").path("part.txt")
    words = shlex.split(str(caught.value).partition("make it anew: ")[2])
    escaped = str(copy).replace("'", "\\'")
    assert words == ["python", "-m", "workflows.corpus", "name=a", f"store='{escaped}'", "on_change=rebuild"]


def test_a_damaged_manifest_of_a_run_does_not_cost_its_checkpoints(tmp_path: Path) -> None:
    storage = trunk(tmp_path)
    store = ArtifactStore(str(tmp_path))
    draft = store.begin("pretrain", "x", {}, on_change="keep", made_with="python -m workflows.pretrain name=x")
    assert isinstance(draft, Draft)
    draft.commit({}, {})
    flip(tmp_path / "pretrain/x/manifest.json", 900)
    with pytest.raises(ArtifactError) as caught:
        store.get("pretrain/x")
    assert f"delete this file, and it is written anew by python -m workflows.pretrain name=x store={tmp_path}" in str(
        caught.value
    )
    assert "rebuild" not in str(caught.value)
    assert committed_steps(storage, "pretrain/x")


def test_a_damaged_checkpoint_names_the_command_that_makes_it_anew(tmp_path: Path) -> None:
    """Whoever meets it may run another stage: that stage's `on_change=rebuild` would mend nothing."""
    storage = trunk(tmp_path)
    store, made = ArtifactStore(str(tmp_path)), f"python -m workflows.pretrain name=x store={tmp_path}"
    store.begin("pretrain", "x", {}, made_with=made)
    first, *_, last = committed_steps(storage, "pretrain/x")
    for step in (first, last):
        flip(tmp_path / f"pretrain/x/checkpoints/step-{step:06d}/manifest.json", 70)
    with pytest.raises(CheckpointError, match=re.escape(f"make this one anew from it: {made} checkpoint.resume=step-")):
        open_checkpoint(storage, "pretrain/x", f"step-{last}")
    with pytest.raises(CheckpointError, match=re.escape(f"make it anew: {made} on_change=rebuild")):
        open_checkpoint(storage, "pretrain/x", f"step-{first}")
    assert isinstance(store.begin("pretrain", "x", {}, on_change="rebuild", made_with=made), Draft)
    trunk(tmp_path)  # it has begun anew, and the same command would go on with it
    flip(tmp_path / f"pretrain/x/checkpoints/step-{first:06d}/manifest.json", 70)
    with pytest.raises(CheckpointError, match=re.escape(f"delete {tmp_path}/pretrain/x and make it anew: {made}")):
        open_checkpoint(storage, "pretrain/x", f"step-{first}")


@pytest.mark.parametrize("file", ["report.html", "manifest.json"])
def test_a_damaged_report_does_not_cost_the_stages_of_its_recipe(tmp_path: Path, file: str) -> None:
    store = ArtifactStore(str(tmp_path))
    draft = store.begin("recipe", "demo", {}, made_with="python -m workflows.recipe +experiment=demo")
    assert isinstance(draft, Draft)
    page = draft.scratch("report.html")
    page.write_text("the report, long enough to flip a bit of it")
    draft.publish("report", {"report.html": page})
    draft.commit({}, {})
    flip(tmp_path / "recipe/demo" / file, 300)
    with pytest.raises(ArtifactError) as caught:
        store.get("recipe/demo").compare()
    assert str(caught.value).endswith(
        f"delete {tmp_path}/recipe/demo and make it anew: python -m workflows.recipe +experiment=demo store={tmp_path}"
    )


def test_damage_in_an_unfinished_artifact_is_refused_by_name(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    draft = store.begin("corpus", "a", {"size": 1})
    assert isinstance(draft, Draft)
    path = draft.scratch("part.txt")
    path.write_text("hello")
    draft.publish("part", {"part.txt": path}, {"documents": 1})
    assert draft.read("part", "part.txt") == b"hello"
    for file, act in (
        ("part.txt", lambda: draft.read("part", "part.txt")),
        ("receipts/part.json", lambda: draft.receipt("part")),
        ("receipts/part.json", lambda: draft.commit({}, {})),
        ("claim.json", lambda: store.begin("corpus", "a", {"size": 1})),
    ):
        flip(tmp_path / "corpus/a" / file, 37)
        with pytest.raises(ArtifactError) as caught:
            act()
        assert f"corpus/a/{file}" in str(caught.value)
        assert "on_change=rebuild" in str(caught.value)
        flip(tmp_path / "corpus/a" / file, 37)
    assert draft.commit({}, {}).manifest["name"] == "a"


def test_a_damaged_claim_keeps_checkpoints_from_being_deleted(tmp_path: Path) -> None:
    storage = trunk(tmp_path)
    (tmp_path / "anneal/branch/claim.json").write_text('{"parent": "pretrain/x@st')
    with pytest.raises(ArtifactError, match=r"anneal/branch/claim.json is no JSON .* none is deleted"):
        readers_of(storage, "pretrain/x")


# ── Copied, renamed ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_artifact_under_another_name_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    shutil.copytree(tmp_path / "corpus/a", tmp_path / "corpus/b")
    shutil.copytree(tmp_path / "corpus/a", tmp_path / "tokens/a")
    for copy in ("corpus/b", "tokens/a"):
        with pytest.raises(ArtifactError, match=rf"{copy}/manifest.json is that of corpus/a: its folder was copied"):
            store.get(copy)
        (tmp_path / copy / "manifest.json").unlink()
        with pytest.raises(ArtifactError, match=rf"{copy}/claim.json is that of corpus/a"):
            store.claim(copy)


def test_a_checkpoint_under_another_step_or_run_is_refused_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = trunk(tmp_path)
    steps = tmp_path / "pretrain/x/checkpoints"
    shutil.rmtree(steps / "step-000100")
    shutil.copytree(steps / "step-000080", steps / "step-000100")
    with pytest.raises(
        CheckpointError, match=r"pretrain/x@step-100: manifest.json is that of pretrain/x@step-80"
    ) as one:
        open_checkpoint(storage, "pretrain/x")
    assert "the one before it is pretrain/x@step-90" in str(one.value)
    for action in ("verify", "list"):
        config = CheckpointsConfig(name="checkpoints", store=str(tmp_path), action=action, run="pretrain/x")
        try:
            with Session(config) as session:
                checkpoints(config, session)
        except CheckpointError as error:
            assert "damaged at step 100" in str(error)  # noqa: PT017
        assert "is that of pretrain/x@step-80: the folder was copied or renamed" in capsys.readouterr().out
    shutil.copytree(steps / "step-000090", steps / "step-000090.backup")  # no checkpoint, and nobody's trouble
    assert committed_steps(storage, "pretrain/x")[-2:] == [90, 100]


def test_a_checkpoints_folder_under_a_name_that_is_no_steps_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = trunk(tmp_path)
    steps = tmp_path / "pretrain/x/checkpoints"
    (steps / "old").mkdir()
    for step, name in ((70, "step-70"), (80, "step-0000080"), (90, "old/step-000090")):
        (steps / f"step-{step:06d}").rename(steps / name)
    said = "passed over, since no step is named so: old/step-000090, step-0000080, step-70"
    assert not {70, 80, 90} & set(committed_steps(storage, "pretrain/x"))
    with pytest.raises(CheckpointError, match=f"step-90 does not exist; .*{said}"):
        open_checkpoint(storage, "pretrain/x", "step-90")
    listed = CheckpointsConfig(name="checkpoints", store=str(tmp_path), action="list", run="pretrain/x")
    checkpoints(listed, Session(listed))
    assert said in capsys.readouterr().out
    for folder in (*steps.glob("step-0000??"), steps / "step-000100"):
        shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=f"no committed checkpoint .*{said}"):
        open_checkpoint(storage, "pretrain/x")
    everything = CheckpointsConfig(name="checkpoints", store=str(tmp_path), action="list")
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        checkpoints(everything, Session(everything))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path))
    commit_run(store, "pretrain/a", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"))
    manifest = tmp_path / "pretrain/a/checkpoints/step-000001/manifest.json"
    held = json.loads(manifest.read_text())
    held["state"].update(kind="pretrain", name="b", step=1)
    manifest.write_bytes(sealed(held))
    with pytest.raises(CheckpointError, match=r"pretrain/a@step-1: manifest.json is that of pretrain/b@step-1"):
        open_checkpoint(store.storage, "pretrain/a")


# ── Made anew ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rebuild_makes_anew_what_has_the_same_fingerprint(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    before = make(store)
    flip(tmp_path / "corpus/a/part.txt", 3)
    assert isinstance(store.begin("corpus", "a", {"size": 1}, on_change="keep"), Artifact)
    assert isinstance(store.begin("corpus", "a", {"size": 1}), Artifact)
    after = make(store, text="edited", on_change="rebuild")
    assert after.fingerprint == before.fingerprint
    assert after.path("part.txt").read_text() == "edited"


@pytest.mark.parametrize("file", ["manifest.json", "claim.json"])
def test_rebuild_is_the_way_out_of_damage_everywhere(tmp_path: Path, file: str) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    if file == "claim.json":
        (tmp_path / "corpus/a/manifest.json").unlink()
    (tmp_path / "corpus/a" / file).write_bytes(b"\x00\xff")
    with pytest.raises(ArtifactError, match="is no JSON"):
        store.begin("corpus", "a", {"size": 1})
    assert make(store, text="anew", on_change="rebuild").path("part.txt").read_text() == "anew"


def test_an_interrupted_rebuild_goes_on(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    draft = store.begin("corpus", "a", {"size": 1}, on_change="rebuild")
    assert isinstance(draft, Draft)
    assert draft.receipt("part") is None
    path = draft.scratch("part.txt")
    path.write_text("half of it")
    draft.publish("part", {"part.txt": path})
    for options in ({"on_change": "rebuild"}, {}):  # the same command again, or without it
        again = store.begin("corpus", "a", {"size": 1}, **options)  # type: ignore[arg-type]
        assert isinstance(again, Draft)
        assert again.receipt("part") is not None
    other = store.begin("corpus", "a", {"size": 2}, on_change="rebuild")
    assert isinstance(other, Draft)
    assert other.receipt("part") is None


def test_a_deletion_that_was_interrupted_is_finished_by_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a store that cannot give a folder another name, as S3."""
    monkeypatch.setattr(FolderStorage, "moves", False)
    store = ArtifactStore(str(tmp_path))
    make(store)
    delete, gone = store.storage.delete, []

    def once(prefix: str) -> None:
        if gone:
            raise KeyboardInterrupt
        gone.append(prefix)
        delete(prefix)

    monkeypatch.setattr(store.storage, "delete", once)
    with pytest.raises(KeyboardInterrupt):
        store.begin("corpus", "a", {"size": 2}, on_change="rebuild")
    monkeypatch.setattr(store.storage, "delete", delete)
    assert (tmp_path / "corpus/a/receipts/part.json").exists()  # of the old one: nobody may take it for done
    again = store.begin("corpus", "a", {"size": 3})
    assert isinstance(again, Draft)
    assert again.receipt("part") is None


def test_nothing_is_deleted_before_the_work_begins(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    draft = store.prepare("corpus", "a", Making({"size": 2}), "rebuild")
    assert isinstance(draft, Draft)
    assert store.get("corpus/a").path("part.txt").read_text() == "hello"
    draft.start()
    assert store.storage.keys("corpus/a") == ["corpus/a/claim.json"]


def replace_a(tmp_path: Path, error: BaseException | None, publishes: str | None) -> ArtifactStore:
    """A rebuild of a finished corpus/a, in a session as the workflows use it, that ends with an error or is
    finished.
    """
    store = ArtifactStore(str(tmp_path))
    if store.find_claim("corpus/a") is None:
        make(store)
    config = WorkflowConfig(name="a", store=str(tmp_path), on_change="rebuild", tracking=TrackingConfig(enabled=False))
    with Session(config) as session:
        held = session.begin("corpus", config, {}, identity={"size": 1})
        assert isinstance(held, Draft)
        with session.track(held, config):
            if publishes:
                path = held.scratch("part.txt")
                path.write_text("anew")
                held.publish(publishes, {"part.txt": path})
            if error is not None:
                raise error
            held.commit({"size": 1}, {})
    return store


@pytest.mark.parametrize(
    ("error", "publishes", "stands"),
    [
        (DataError("nothing is left"), None, True),
        (DataError("nothing is left"), "part", True),  # the same command would meet it again
        (KeyboardInterrupt(), None, True),
        (ClusterError("a worker was lost"), None, True),
        (KeyboardInterrupt(), "part", False),  # the same command goes on
        (SystemExit(15), "part", False),
    ],
)
def test_a_rebuild_that_ends_early_leaves_the_old_artifact(
    error: BaseException, publishes: str | None, stands: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)):
        replace_a(tmp_path, error, publishes)
    store, said = ArtifactStore(str(tmp_path)), capsys.readouterr().out
    assert ("corpus/a stands as it was before the rebuild" in said) == stands
    if stands:
        assert store.get("corpus/a").path("part.txt").read_text() == "hello"
        assert not (tmp_path / ".replaced/corpus/a").exists()
    else:
        assert f"is kept as {tmp_path}/.replaced/corpus/a until the new one is finished" in said
        assert (tmp_path / ".replaced/corpus/a/part.txt").read_text() == "hello"
        replace_a(tmp_path, None, None)
        assert store.get("corpus/a").path("part.txt").read_text() == "anew"
    replace_a(tmp_path, None, "part")
    assert store.get("corpus/a").path("part.txt").read_text() == "anew"
    assert not store.storage.keys(".replaced")


def test_what_a_killed_rebuild_has_set_aside_is_put_back_by_the_next_command(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    assert isinstance(store.begin("corpus", "a", {"size": 2}, on_change="rebuild"), Draft)
    assert store.find("corpus/a") is None  # and the command is killed here
    config = WorkflowConfig(name="a", store=str(tmp_path), dry_run=False)
    with Session(config) as session:
        again = session.begin("corpus", config, {}, identity={"size": 1})
    assert isinstance(again, Artifact)
    assert again.path("part.txt").read_text() == "hello"


def test_an_unfinished_artifact_never_takes_the_place_of_a_finished_one_that_is_kept(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    make(store)
    for size in (2, 3):
        draft = store.begin("corpus", "a", {"size": size}, on_change="rebuild")
        assert isinstance(draft, Draft)
        assert draft.receipt("part") is None
        path = draft.scratch("part.txt")
        path.write_text(f"half of {size}")
        draft.publish("part", {"part.txt": path})
    assert (tmp_path / ".replaced/corpus/a/part.txt").read_text() == "hello"


def test_a_refusal_of_a_rebuild_that_goes_on_costs_no_piece_of_the_command_before(tmp_path: Path) -> None:
    """A mistyped key must not cost hours of work; the old artifact stays kept."""
    with pytest.raises(KeyboardInterrupt):
        replace_a(tmp_path, KeyboardInterrupt(), "part")
    for error in (ConfigError("no such cluster"), ArtifactError("an input is damaged")):
        with pytest.raises(type(error)):
            replace_a(tmp_path, error, None)
        assert (tmp_path / "corpus/a/part.txt").read_text() == "anew"
        assert (tmp_path / ".replaced/corpus/a/part.txt").read_text() == "hello"


def plainly(tmp_path: Path, **options: Any) -> Artifact | Draft:
    """The command of corpus/a as a session begins it, without a rebuild."""
    config = WorkflowConfig(name="a", store=str(tmp_path), tracking=TrackingConfig(enabled=False), **options)
    with Session(config) as session:
        return session.begin("corpus", config, {}, identity={"size": 1})


@pytest.mark.parametrize("amid", [False, True])
def test_what_a_rebuild_replaced_goes_also_when_it_was_killed_right_after_its_commit(
    amid: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its deletion began, or amid that."""
    delete = FolderStorage.delete

    def killed(storage: FolderStorage, prefix: str) -> None:
        if prefix.startswith(".replaced/") and storage.exists("corpus/a/manifest.json"):
            if amid:
                (tmp_path / prefix).rename(tmp_path / ".replaced/corpus/.partial-01234567-a")
            raise KeyboardInterrupt
        delete(storage, prefix)

    make(ArtifactStore(str(tmp_path)))
    with monkeypatch.context() as patch:
        draft = ArtifactStore(str(tmp_path)).begin("corpus", "a", {"size": 1}, on_change="rebuild")
        assert isinstance(draft, Draft)
        patch.setattr(FolderStorage, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            draft.commit({"size": 1}, {})
    assert bool(ArtifactStore(str(tmp_path)).storage.keys(".replaced")) != amid
    with Session(WorkflowConfig(name="a", store=str(tmp_path), tracking=TrackingConfig(enabled=False))) as other:
        other.hold("corpus/a")  # a command that makes it anew just now may have set it aside a moment ago
        assert isinstance(plainly(tmp_path), Artifact)
        assert bool(ArtifactStore(str(tmp_path)).storage.keys(".replaced")) != amid
    assert isinstance(plainly(tmp_path), Artifact)
    assert not list((tmp_path / ".replaced/corpus").iterdir())


def test_what_a_rebuild_that_was_killed_keeps_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To whoever reads the artifact, and to whoever makes it by another configuration."""
    store = ArtifactStore(str(tmp_path))
    make(store)
    draft = store.begin("corpus", "a", {"size": 2}, on_change="rebuild")
    assert isinstance(draft, Draft)
    (path := draft.scratch("part.txt")).write_text("half")
    draft.publish("part", {"part.txt": path})  # and it is killed here
    where = re.escape(
        f"finished corpus/a that its rebuild replaces is kept as {tmp_path}/.replaced/corpus/a: to have it again"
    )
    for attempt in (lambda: store.get("corpus/a"), lambda: plainly(tmp_path)):
        with pytest.raises(ArtifactError, match=where):
            attempt()
    (tmp_path / "corpus/a/receipts/part.json").unlink()
    assert isinstance(plainly(tmp_path), Artifact)
    assert "the rebuild of corpus/a was killed before it had made anything: what it had set aside is back" in (
        capsys.readouterr().out
    )


def test_a_checkpoint_that_a_rebuild_has_set_aside_is_named_with_its_place(tmp_path: Path) -> None:
    storage, store = trunk(tmp_path), ArtifactStore(str(tmp_path))
    store.begin("pretrain", "x", {}, on_change="rebuild")  # and it is killed here
    with pytest.raises(
        CheckpointError, match=f"; the pretrain/x that its rebuild replaces is kept as {tmp_path}/.repl"
    ):
        open_checkpoint(storage, "pretrain/x", "step-10")
    with (
        pytest.raises(CheckpointError, match="is kept as"),
        Session(CheckpointsConfig(name="x", store=str(tmp_path))) as session,
    ):
        checkpoints(CheckpointsConfig(name="x", store=str(tmp_path), run="pretrain/x"), session)


def test_checkpoints_that_a_set_aside_artifact_names_stay(tmp_path: Path) -> None:
    """Its rebuild from another parent may end early, and it comes back."""
    storage, store = trunk(tmp_path), ArtifactStore(str(tmp_path))
    first, *_, last = committed_steps(storage, "pretrain/x")
    for step in (first, last):
        store.begin("sft", "s", {"parent": f"pretrain/x@step-{step}"}, on_change="rebuild")
    assert ".replaced/sft/s" in readers_of(storage, "pretrain/x")[first]
    flip(tmp_path / ".replaced/sft/s/claim.json", 70)
    with pytest.raises(
        ArtifactError, match="none is deleted: it goes when the rebuild of sft/s is finished; or delete"
    ):
        readers_of(storage, "pretrain/x")


def test_of_two_unfinished_artifacts_the_one_with_more_checkpoints_is_kept(tmp_path: Path) -> None:
    storage, store = trunk(tmp_path), ArtifactStore(str(tmp_path))
    steps = committed_steps(storage, "pretrain/x")
    assert len(steps) > 1
    store.begin("pretrain", "x", {"size": 1}, on_change="rebuild")
    for size in (2, 3):
        draft = store.begin("pretrain", "x", {"size": size}, on_change="rebuild")
        assert isinstance(draft, Draft)
        assert committed_steps(storage, "pretrain/x") == []
        storage.write(f"pretrain/x/checkpoints/step-{steps[0]:06d}/manifest.json", b"{}")
    kept = storage.keys(".replaced/pretrain/x/checkpoints")
    assert [key for key in kept if key.endswith("/manifest.json")] == [
        f".replaced/pretrain/x/checkpoints/step-{step:06d}/manifest.json" for step in steps
    ]


def test_a_deletion_that_was_killed_at_its_first_step_is_taken_for_no_rebuild_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was to delete was made by a rebuild itself, so its claim and its pieces look like those of this one."""
    monkeypatch.setattr(FolderStorage, "moves", False)  # as S3
    store = ArtifactStore(str(tmp_path))
    make(store, on_change="rebuild", text="damaged")
    write = FolderStorage.write

    def killed(storage: FolderStorage, key: str, data: bytes) -> None:
        if not storage.exists("corpus/a/manifest.json"):
            raise KeyboardInterrupt
        write(storage, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(FolderStorage, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            store.begin("corpus", "a", {"size": 1}, on_change="rebuild")
    draft = store.begin("corpus", "a", {"size": 1}, on_change="rebuild")
    assert isinstance(draft, Draft)
    assert draft.receipt("part") is None


def test_a_rebuild_goes_on_only_from_pieces_of_the_same_data(tmp_path: Path) -> None:
    """Its input was made anew under the same fingerprint, with other content, while it was interrupted."""
    store = ArtifactStore(str(tmp_path))

    def input_of(text: str) -> Artifact:
        draft = store.begin("corpus", "a", {"size": 1}, on_change="rebuild")
        assert isinstance(draft, Draft)
        path = draft.scratch("train/a/0.parquet")
        path.write_text(text)
        draft.publish("part", {"train/a/0.parquet": path})
        return draft.commit({}, {})

    for text, goes_on in (("one", False), ("one", True), ("two", False)):
        draft = store.begin("tokens", "t", {}, [input_of(text)], on_change="rebuild")
        assert isinstance(draft, Draft)
        assert (draft.receipt("piece") is not None) == goes_on
        path = draft.scratch("0.bin")
        path.write_text(text)
        draft.publish("piece", {"0.bin": path})


def test_a_rebuild_that_deletes_compares_what_it_reads_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderStorage, "moves", False)  # as S3
    monkeypatch.setattr(Session, "map_shards", staticmethod(serial_map))
    store = ArtifactStore(str(tmp_path))
    config = WorkflowConfig(name="t", store=str(tmp_path), on_change="rebuild", tracking=TrackingConfig(enabled=False))
    draft = store.begin("corpus", "a", {})
    assert isinstance(draft, Draft)
    path = draft.scratch("train/a/0.parquet")
    path.write_text("text")
    draft.publish("part", {"train/a/0.parquet": path})
    corpus = draft.commit({}, {})
    made = store.begin("tokens", "t", {}, [corpus])
    assert isinstance(made, Draft)
    made.commit({}, {})

    def rebuild() -> None:
        with Session(config) as session:
            held = session.begin("tokens", config, {}, [corpus], identity={})
            assert isinstance(held, Draft)
            with session.track(held, config, [corpus], lambda: session.compare([corpus], held.folder)):
                pass

    flip(tmp_path / "corpus/a/train/a/0.parquet", 3)
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        rebuild()
    (tmp_path / "corpus/a/train/a/0.parquet").unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        rebuild()
    assert store.find("tokens/t") is not None


def test_a_rebuild_behind_a_link_deletes_what_it_replaces_and_leaves_the_link(tmp_path: Path) -> None:
    """A relative link would lead elsewhere from `.replaced`, and the new artifact belongs where the user wanted the old
    one.
    """
    store = ArtifactStore(str(tmp_path / "store"))
    make(store)
    (tmp_path / "store/corpus/a").rename(tmp_path / "large disk")
    (tmp_path / "store/corpus/a").symlink_to("../../large disk")
    assert not store.storage.movable("corpus/a")  # so what is read is compared first
    make(store, text="anew", on_change="rebuild")
    assert store.get("corpus/a").path("part.txt").read_text() == "anew"
    assert (tmp_path / "large disk/part.txt").read_text() == "anew"
    assert not (tmp_path / "store/.replaced").exists()


def test_an_artifact_is_not_made_from_itself(tmp_path: Path) -> None:
    made = make(ArtifactStore(str(tmp_path)))
    config = WorkflowConfig(name="a", store=str(tmp_path), on_change="rebuild")
    with pytest.raises(ConfigError, match="corpus/a would be made from itself"), Session(config) as session:
        session.begin("corpus", config, {}, [made], identity={"size": 1})
    assert made.path("part.txt").read_text() == "hello"


def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: type[BaseException]) -> tuple[ArtifactStore, Any]:
    """A finished trunk of 8 steps, in a session whose cluster does not start."""
    store = tiny.build(str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    config = train_config(name="t", steps=8)
    from pipelines.train.plan.planning import plan_stage
    from workflows.running.training import code_of

    planned = plan_stage("pretrain", config, store, None, 1)
    tokens = store.get("tokens/tiny")
    model, segments = ModelConfig(**TINY_MODEL), planned.spec.segments
    commit_run(store, "pretrain/t", model, tokens, steps=(4, 8), sequence_length=32, segments=segments)
    (tmp_path / "store/pretrain/t/manifest.json").unlink()
    store.storage.delete("pretrain/t/claim.json")
    draft = store.begin("pretrain", "t", planned.identity, planned.inputs, code_of("next_token", "adamw"))
    assert isinstance(draft, Draft)
    draft.commit({}, {"steps": 8, "loss": {"last": 1.5}})

    def refuse(self: Session) -> Any:
        raise why("no Ray today")

    monkeypatch.setattr(Session, "cluster", property(refuse))
    return store, config


def state_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("why", [ClusterError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 16},
        {"steps": 8, "on_change": "rebuild"},
        {"steps": 8, "checkpoint": {"every_steps": 4, "resume": "step-4"}},
    ],
)
def test_a_finished_run_stays_finished_until_training_really_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: type[BaseException], changes: dict[str, Any]
) -> None:
    store, _ = finished(tmp_path, monkeypatch, why)
    before = state_of(tmp_path / "store/pretrain")
    config = train_config(name="t", store=str(tmp_path / "store"), **changes)
    with pytest.raises(why), Session(config) as session:
        train_stage("pretrain", config, session)
    assert state_of(tmp_path / "store/pretrain") == before
    assert store.get("pretrain/t").statistics == {"steps": 8, "loss": {"last": 1.5}}


@pytest.mark.parametrize("committed", [False, True])
def test_a_rebuild_that_a_worker_refuses_gives_the_old_run_back(
    committed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it has a checkpoint of its own by then, from which it goes on."""
    store, _ = finished(tmp_path, monkeypatch, ClusterError)
    before = state_of(tmp_path / "store/pretrain")

    class Workers:
        def prepare(self, ready: Any, wait: bool) -> None: ...

        def train(self, work: Any, spec: Any, ready: Any, begin: Any) -> None:
            begin()
            assert committed_steps(store.storage, "pretrain/t") == []
            if committed:
                shutil.copytree(
                    tmp_path / "store/.replaced/pretrain/t/checkpoints", tmp_path / "store/pretrain/t/checkpoints"
                )
            raise ArtifactError("tokens/tiny/train/walks/00000.bin does not match its checksum")

    monkeypatch.setattr(Session, "cluster", property(lambda self: Workers()))
    config = train_config(name="t", steps=8, store=str(tmp_path / "store"), on_change="rebuild")
    with pytest.raises(ArtifactError, match="does not match"), Session(config) as session:
        train_stage("pretrain", config, session)
    if committed:
        assert store.find("pretrain/t") is None
        assert state_of(tmp_path / "store/.replaced/pretrain") == before
    else:
        assert state_of(tmp_path / "store/pretrain") == before


def test_what_a_written_spec_rebuilds_is_not_put_back_under_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun trains from it, unseen by other commands, and has no checkpoint yet: old and new would mix under one
    name.
    """
    store, _ = finished(tmp_path, monkeypatch, ClusterError)
    before = state_of(tmp_path / "store/pretrain")
    changes: dict[str, Any] = {"name": "t", "steps": 8, "store": str(tmp_path / "store")}
    spec = str(tmp_path / "spec.json")
    config = train_config(**changes, on_change="rebuild", write_spec=spec)
    with pytest.raises(SystemExit), Session(config) as session:
        train_stage("pretrain", config, session)
    assert f"is kept as {tmp_path}/store/.replaced/pretrain/t until the new one is finished" in capsys.readouterr().out
    with pytest.raises(ClusterError), Session(train_config(**changes)) as session:
        train_stage("pretrain", train_config(**changes), session)
    assert store.find("pretrain/t") is None
    assert state_of(tmp_path / "store/.replaced/pretrain") == before


def test_a_run_that_went_back_is_no_rebuild_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made by a rebuild once, and that was finished: another one starts over."""
    store, _ = finished(tmp_path, monkeypatch, ClusterError)
    claim = store.claim("pretrain/t")
    named = {"kind": "pretrain", "name": "t", **claim, "rebuild": "2026-01-01"}
    store.storage.write("pretrain/t/claim.json", sealed(named))
    go_back(store.storage, "pretrain/t", 4)
    assert store.claim("pretrain/t") == claim


def test_a_refusal_leaves_a_finished_run_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path, monkeypatch, ClusterError)
    before = state_of(tmp_path / "store/pretrain")
    flip(tmp_path / "store/pretrain/t/checkpoints/step-000008/rank-00000.safetensors", 90_000)
    config = train_config(name="t", steps=16, store=str(tmp_path / "store"))
    with pytest.raises(CheckpointError) as caught, Session(config) as session:
        train_stage("pretrain", config, session)
    assert "rank-00000.safetensors does not match its checksum" in str(caught.value)
    assert "the one before it is pretrain/t@step-4" in str(caught.value)
    config = train_config(name="t", steps=16, store=str(tmp_path / "store"), checkpoint={"resume": "step-6"})
    with (
        pytest.raises(CheckpointError, match="step-6 does not exist; committed steps: 4, 8"),
        Session(config) as session,
    ):
        train_stage("pretrain", config, session)
    (tmp_path / "store/pretrain/t/manifest.json").unlink()
    config = train_config(name="t", steps=6, store=str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="steps is 6, but pretrain/t stands at step 8"), Session(config) as session:
        train_stage("pretrain", config, session)
    flip(tmp_path / "store/pretrain/t/checkpoints/step-000008/rank-00000.safetensors", 90_000)
    after = state_of(tmp_path / "store/pretrain")
    assert {**after, "t/manifest.json": before["t/manifest.json"]} == before


@pytest.mark.parametrize("steps", [8, 16])
def test_a_finished_run_is_not_reused_when_a_step_that_it_has_not_is_asked_for(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path, monkeypatch, ClusterError)
    for step in (6, 12, 999):
        config = train_config(
            name="t",
            steps=steps,
            store=str(tmp_path / "store"),
            checkpoint={"every_steps": 4, "resume": f"step-{step}"},
        )
        with (
            pytest.raises(CheckpointError, match=rf"step-{step} does not exist; committed steps: 4, 8"),
            Session(config) as session,
        ):
            train_stage("pretrain", config, session)
    config = train_config(
        name="t", steps=8, store=str(tmp_path / "store"), checkpoint={"every_steps": 4, "resume": "step-8"}
    )
    with Session(config) as session:
        assert train_stage("pretrain", config, session).statistics["steps"] == 8


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (3, "has a header of"),
        (100, "header that cannot be read|does not match"),
        (90_000, "does not match its checksum"),
    ],
)
def test_a_large_checkpoint_is_glanced_at_and_a_small_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, said: str
) -> None:
    finished(tmp_path, monkeypatch, ClusterError)
    flip(tmp_path / "store/pretrain/t/checkpoints/step-000008/rank-00000.safetensors", 8 * 3 + place)
    config = train_config(name="t", steps=16, store=str(tmp_path / "store"))
    with pytest.raises(CheckpointError, match=said), Session(config) as session:
        train_stage("pretrain", config, session)
    monkeypatch.setattr("pipelines.train.checkpoint.committed._DRIVER_BYTES", 1000)
    expected = (
        CheckpointError if place == 3 else (ClusterError, CheckpointError)
    )  # of a large one, workers read the rest
    with pytest.raises(expected), Session(config) as session:
        train_stage("pretrain", config, session)


def test_a_run_that_is_trained_further_is_read_at_the_step_where_it_was_finished(tmp_path: Path) -> None:
    from pipelines.train.checkpoint.lineage import open_run

    store = tiny.build(str(tmp_path))
    commit_run(store, "pretrain/t", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"), steps=(4, 8))
    shutil.copytree(tmp_path / "pretrain/t/checkpoints/step-000008", tmp_path / "pretrain/t/checkpoints/step-000012")
    manifest = tmp_path / "pretrain/t/checkpoints/step-000012/manifest.json"
    manifest.write_bytes(sealed({**json.loads(manifest.read_text()), "step": 12}))
    assert open_run(store, "pretrain/t").checkpoint.step == 8
    assert open_run(store, "pretrain/t@latest").checkpoint.step == 12
    assert readers_of(store.storage, "pretrain/t") == {8: ["the manifest of pretrain/t"]}


def test_every_flipped_bit_in_rows_of_metrics_is_seen() -> None:
    rows = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]
    text = sealed_lines(rows)
    assert unsealed_lines(text, "step") == rows
    assert unsealed_lines(text + sealed_lines([{"step": 3}]), "step") == [
        *rows,
        {"step": 3},
    ]  # a lost save's go with the next one
    assert unsealed_lines(b'{"step": 1, "loss": 2.5}\n', "step") == rows[:1]  # written before there were seals
    for bit in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="own checksum|no JSON"):
            unsealed_lines(bytes(damaged), "step")


def test_a_damaged_curve_is_refused_by_name(tmp_path: Path) -> None:
    from pipelines.train.run.loop import read_metrics

    store = tiny.build(str(tmp_path))
    commit_run(store, "pretrain/t", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"), steps=(4,))
    rows = [{"step": step, "loss": 2.0} for step in range(1, 5)]
    file = "pretrain/t/metrics/step-000004.jsonl"
    store.storage.write(file, sealed_lines(rows))
    assert read_metrics(store.storage, "pretrain/t") == rows
    flip(tmp_path / file, 8 * 20)
    with pytest.raises(CheckpointError, match=rf"{file} .*own checksum.*checkpoint.resume=step-N"):
        read_metrics(store.storage, "pretrain/t")


def test_the_stored_log_probabilities_of_a_reference_are_compared(tmp_path: Path) -> None:
    from pipelines.train.objectives.preference import _stored

    store = ArtifactStore(str(tmp_path))
    draft = Draft(store.storage, "dpo/d", {})
    assert _stored(draft, 3) == "is not there"
    path = draft.scratch("reference/logps.npy")
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 2), np.float32))
    draft.publish("reference", {"reference/logps.npy": path})
    assert isinstance(_stored(draft, 3), bytes)
    assert _stored(draft, 4) == "is of 3 pairs, expected 4"
    flip(tmp_path / "dpo/d/reference/logps.npy", 1100)
    assert "logps.npy does not match its checksum" in str(_stored(draft, 3))


class Remote(FolderStorage):
    """A folder that is read as a remote store is: by copies in a cache, which can be damaged by themselves."""

    def __init__(self, root: Path, cache: Path):
        super().__init__(root)
        self.cache, self.forgotten = cache, 0

    def fetch(self, key: str) -> Path:
        copy = self.cache / key.replace("/", "-")
        if not copy.exists():
            shutil.copy(super().fetch(key), copy)
        return copy

    def forget(self, path: Path) -> bool:
        self.forgotten += 1
        path.unlink()
        return self.forgotten == 1


def test_a_damaged_copy_in_the_cache_is_fetched_once_more(tmp_path: Path) -> None:
    made = make(ArtifactStore(str(tmp_path / "store")))
    (tmp_path / "cache").mkdir()
    storage = Remote(tmp_path / "store", tmp_path / "cache")
    artifact = Artifact(storage, made.folder, made.manifest)
    flip(artifact.path("part.txt"), 3)
    assert artifact.path("part.txt").read_text() == "hello"
    flip(tmp_path / "store/corpus/a/part.txt", 3)
    (tmp_path / "cache/corpus-a-part.txt").unlink()
    with pytest.raises(ArtifactError, match="does not match its checksum"):
        artifact.path("part.txt")


def test_a_recipe_makes_each_artifact_anew_once_also_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three stages, two of them of one trunk, which the second time goes on; the first attempt ends before the last."""
    from types import SimpleNamespace

    from workflows import recipe

    ran: list[tuple[str, str]] = []
    broken = [True]

    def stage(workflow: str) -> Any:
        def run(config: Any, session: Session) -> Artifact:
            if workflow == "anneal" and broken.pop() if broken else False:
                raise KeyboardInterrupt
            ran.append((workflow, config.on_change))
            return make(session.store, f"{workflow}{len(ran)}")

        return SimpleNamespace(run=run)

    def composed(one: Any, config: Any) -> Any:
        return recipe.RecipeConfig(
            name=one.name, experiment="demo", stages=[], store=config.store, on_change=config.on_change
        ), stage(one.workflow)

    monkeypatch.setattr(recipe, "compose_stage", composed)
    monkeypatch.setattr(recipe, "stage_results", lambda session, artifacts: [])
    monkeypatch.setattr(report, "figures", lambda results: {})
    monkeypatch.setattr(report, "write_report", lambda page, *rest: page.write_text("report"))
    stages = [recipe.RecipeStage(workflow=w, name="d", overrides=[]) for w in ("pretrain", "pretrain", "anneal")]
    config = recipe.RecipeConfig(
        name="d", experiment="demo", stages=stages, store=str(tmp_path), on_change="rebuild",
        tracking=TrackingConfig(enabled=False),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt), Session(config) as session:
        recipe.run(config, session)
    assert ran == [("pretrain", "rebuild"), ("pretrain", "refuse")]
    with Session(config) as session:
        recipe.run(config, session)
    assert ran[2:] == [("pretrain", "refuse"), ("pretrain", "refuse"), ("anneal", "rebuild")]
    with Session(config) as session:
        recipe.run(config, session)
    assert ran[5:] == [("pretrain", "rebuild"), ("pretrain", "refuse"), ("anneal", "rebuild")]


@pytest.mark.parametrize("content", [b'{"uri": "sqlite:', b"[1, 2]", b'{"uri": "x"}', b"\xff"])
def test_a_damaged_record_of_the_mlflow_run_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    from pipelines.tracking.records import record_of as _record

    storage = FolderStorage(tmp_path)
    assert _record(storage, "corpus/a") == {}
    storage.write("corpus/a/mlflow.json", content)
    with pytest.raises(ArtifactError, match=r"corpus/a/mlflow\.json is damaged .*delete the file"):
        _record(storage, "corpus/a")


def test_what_was_made_from_data_that_is_made_anew_with_other_content_is_stale(tmp_path: Path) -> None:
    """An input edited without changing its size: the corpus has the same fingerprint, and other text."""

    def corpus(text: str, **options: Any) -> Artifact:
        draft = store.begin("corpus", "a", {"size": 1}, **options)
        assert isinstance(draft, Draft)
        path, card = draft.scratch("train/a/00000.parquet"), draft.scratch("data_card.html")
        path.write_text(text)
        card.write_text(options.get("on_change", ""))
        draft.publish("part", {"train/a/00000.parquet": path, "data_card.html": card})
        return draft.commit({}, {})

    store = ArtifactStore(str(tmp_path))
    made = store.begin("tokens", "t", {}, [corpus("hello")])
    assert isinstance(made, Draft)
    made.commit({}, {})
    same = corpus("hello", on_change="rebuild")
    assert isinstance(store.begin("tokens", "t", {}, [same]), Artifact)
    edited = corpus("hallo", on_change="rebuild")
    with pytest.raises(ArtifactError, match="corpus/a: its data is not that which tokens/t was made from"):
        store.begin("tokens", "t", {}, [edited])
    assert isinstance(store.begin("tokens", "t", {}, [edited], on_change="keep"), Artifact)
    assert isinstance(store.begin("tokens", "t", {}, [edited], on_change="rebuild"), Draft)


@pytest.mark.parametrize("file", ["manifest.json", "claim.json", "checkpoints/step-000008/manifest.json"])
def test_a_damaged_run_can_be_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    finished(tmp_path, monkeypatch, ClusterError)
    flip(tmp_path / "store/pretrain/t" / file, 200)
    if file == "claim.json":
        (tmp_path / "store/pretrain/t/manifest.json").unlink()
    more = train_config(name="t", steps=16, store=str(tmp_path / "store"))
    with pytest.raises((ArtifactError, CheckpointError), match="manifest.json|claim.json"), Session(more) as session:
        train_stage("pretrain", more, session)
    anew = train_config(name="t", steps=8, store=str(tmp_path / "store"), on_change="rebuild")
    with pytest.raises(ClusterError), Session(anew) as session:  # as far as Ray
        train_stage("pretrain", anew, session)


# ── A dry run refuses what the command would ──────────────────────────────────────────────────────────────────────────


def dry(tmp_path: Path, refused: str = "None", **changes: Any) -> None:
    config = train_config(name="t", store=str(tmp_path / "store"), dry_run=True, **changes)
    with pytest.raises(DryRun) as planned, Session(config) as session:
        train_stage("pretrain", config, session)
    assert re.match(refused, str(planned.value.refused), re.DOTALL)


def test_a_dry_run_refuses_a_step_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = finished(tmp_path, monkeypatch, ClusterError)
    before = state_of(tmp_path / "store")
    for is_unfinished in (False, True):
        for step in (6, 16):
            with pytest.raises(CheckpointError, match=rf"step-{step} does not exist; committed steps: 4, 8"):
                dry(tmp_path, steps=16, **{"checkpoint.resume": f"step-{step}"})
        dry(tmp_path, steps=16, **{"checkpoint.resume": "step-4"})
        if not is_unfinished:
            assert state_of(tmp_path / "store") == before
            (tmp_path / "store/pretrain/t/manifest.json").unlink()
    with pytest.raises(ConfigError, match="steps is 6, but pretrain/t stands at step 8"):
        dry(tmp_path, steps=6)
    store.storage.delete("pretrain/t")
    with pytest.raises(CheckpointError, match="pretrain/t"):
        dry(tmp_path, steps=16, **{"checkpoint.resume": "step-4"})


def test_a_dry_run_says_what_is_under_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path, monkeypatch, ClusterError)
    dry(tmp_path, steps=8)
    assert "pretrain/t is finished already (" in capsys.readouterr().out
    dry(
        tmp_path, steps=8, refused=r"pretrain/t in .* was made by another configuration[^/]*config.seed: 1 -> 5", seed=5
    )
    assert "pretrain/t" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["nowhere/spec.json", "store"])
def test_a_dry_run_refuses_a_spec_that_cannot_be_written(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path, monkeypatch, ClusterError)
    with pytest.raises(ConfigError, match=f"write_spec={place} cannot be written: (nowhere is no|store is a) folder"):
        dry(tmp_path, steps=16, write_spec=place)


@pytest.mark.parametrize(
    ("workflow", "arguments", "words"),
    [
        ("tokenize", ["data=tokens/tiny"], "data=tokens/tiny is of kind tokens; expected corpus/<name>"),
        ("tokenize", ["data=mixture/x"], "data=mixture/x is of kind mixture; expected corpus/<name>"),
        (
            "mixture",
            ["tokens=corpus/c", "mixture=demo_stable"],
            "tokens=corpus/c is of kind corpus; expected tokens/<name>",
        ),
        (
            "corpus",
            ["corpus=own_data", "known=[tokens/tiny]"],
            "known=tokens/tiny is of kind tokens; expected corpus/<name>",
        ),
    ],
)
def test_a_dry_run_refuses_an_input_of_another_kind(
    workflow: str, arguments: list[str], words: str, tmp_path: Path
) -> None:
    tiny.build(str(tmp_path))
    done = run_here(workflow, *arguments, "name=x", f"store={tmp_path}", "dry_run=true")
    assert done.code == 2, done.output
    assert words in done.err
