"""A small wind tunnel through its command, with real Ray and real training: the page, the receipts, a killed driver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.store.artifacts import ArtifactStore
from tests import tiny
from tests.commands import run_here
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
TINY = """
# @package _global_
studies:
  lr:
    study: {kind: lr, bootstrap: 20}
    stages:
      - workflow: pretrain
        experiment: wind_tunnel
        overrides:
          - data=mixture/tiny_stable
          - model.vocabulary=128
          - model.layers=2
          - schedule.warmup_steps=2
          - schedule.decay=linear
          - schedule.decay_fraction=0.25
          - batch.sequence_length=32
          - batch.global_batch=8
    vary:
      width:
        bundles:
          d16: {model.d_model: 16, model.heads: 1, model.kv_heads: 1, model.d_ff: 40}
          d32: {model.d_model: 32}
      schedule.peak_lr: [0.003, 0.01, 0.03, 0.1, 1.0e+20]  # the last one diverges
      steps: [12, 16]
    seeds: 1
    measures: {heldout: {max_tokens: 400}}
"""
STAGE = "{workflow: %s, experiment: wind_tunnel, overrides: ['%s']}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of tiny tokens, and a study in a folder of its own, as users have theirs."""
    folder = tmp_path_factory.mktemp("sandbox")
    tiny.build(str(folder / "store"))
    (folder / "conf/sandbox").mkdir(parents=True)
    (folder / "conf/sandbox/tiny.yaml").write_text(TINY)
    return folder


def arguments(place: Path, *more: str) -> list[str]:
    return [f"hydra.searchpath=[file://{place}/conf]", "sandbox=[tiny]", f"store={place}/store", "name=tiny", *more]


def results_of(place: Path, name: str = "tiny") -> Any:
    return json.loads((place / f"store/sandbox/{name}/results.json").read_text())


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The sandbox, whose driver was killed after its first receipts, and then typed again."""
    line = [sys.executable, "-m", "workflows.sandbox", *arguments(place)]
    with (place / "killed.log").open("w") as log:
        process = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    receipts = place / "store/sandbox/tiny/receipts/trials"

    def begun() -> bool:
        return len(list(receipts.glob("lr-*.json"))) >= 3 or process.poll() is not None

    wait_until(begun, "three trials", lambda: (place / "killed.log").read_text()[-3000:])
    assert process.poll() is None, (place / "killed.log").read_text()[-3000:]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in receipts.glob("lr-*.json")}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert {name: (receipts / name).stat().st_mtime_ns for name in before} == before
    (place / "second.log").write_text(done.stdout)
    return place


def test_every_trial_has_ended_and_is_an_ordinary_run(finished: Path) -> None:
    results = results_of(finished)
    trials = results["trials"]
    assert len(trials) == 20
    diverged = [trial for trial in trials if trial["status"] == "diverged"]
    assert {trial["settings"]["schedule.peak_lr"] for trial in diverged} == {1e20}
    assert len(diverged) == 4
    assert all("diverged" in trial["reason"] for trial in diverged)
    store = ArtifactStore(str(finished / "store"))
    for trial in trials:
        if trial["status"] == "finished":
            (folder,) = trial["runs"]
            assert store.get(folder).statistics["steps"] == trial["settings"]["steps"] == trial["steps"][0]
            assert set(trial["measured"][-1]["values"]) == {"walks", "jumps"}
            assert trial["loss"] > 0
    # the decay of 12 steps leaves the run of 16 at step 9
    costs = results["costs"]
    assert (costs["trials"], costs["runs"]) == (20, 20)
    assert 0 < costs["tokens_shared"] < costs["tokens_naive"] == 10 * 256 * (12 + 16)
    longer = next(trial for trial in trials if trial["settings"]["steps"] == 16 and trial["status"] == "finished")
    assert "adopted" not in store.get(longer["runs"][0]).manifest


def test_the_page_is_there_and_needs_no_network(finished: Path) -> None:
    page = (finished / "store/sandbox/tiny/sandbox.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:image|#)[^"]*"', page) == []
    for said in ("Wind tunnel: tiny", "The best learning rate against the width", "20 trials (4 diverged)"):
        assert said in page, said
    assert "data:image/svg+xml;base64" in page


def test_the_same_command_finds_it_finished(finished: Path) -> None:
    again = run_here("sandbox", *arguments(finished))
    assert again.code == 0, again.output
    assert "finished already" in again.out
    assert "20 trials, all ended" in again.out


def test_another_study_of_one_name_is_refused_with_what_differs(finished: Path) -> None:
    other = run_here("sandbox", *arguments(finished, "studies.lr.seeds=2"))
    assert other.code == 2
    assert re.search(r"sandbox/tiny .* was made by another configuration.*studies\.lr\.seeds", other.err, re.DOTALL)


def test_runs_stand_below_their_sandbox_in_mlflow(finished: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished}/store/mlflow.db")
    runs = client.search_runs(["1"], max_results=1000)
    by_artifact = {run.data.tags["trunkline.artifact"]: run for run in runs}
    sandbox = by_artifact["sandbox/tiny"]
    assert sandbox.info.status == "FINISHED"
    assert "mlflow.parentRunId" not in sandbox.data.tags
    parents = {run.data.tags.get("mlflow.parentRunId") for folder, run in by_artifact.items() if "pretrain" in folder}
    own = {run.info.run_id for run in runs}
    assert sandbox.info.run_id in parents
    assert parents <= own  # a run that adopts another's steps stands below that one
    assert {file.path for file in client.list_artifacts(sandbox.info.run_id)} >= {"sandbox.html", "results.json"}


def test_a_plan_needs_no_data_and_starts_nothing(place: Path, tmp_path: Path) -> None:
    planned = run_here("sandbox", *arguments(place, f"store={tmp_path}/empty", "dry_run=true"))
    assert planned.code == 0, planned.output
    for said in ("20, 20 runs", "without sharing", "planned without it: mixture/tiny_stable does not exist", "lanes"):
        assert said in planned.out, said
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["studies.lr.vary.steps=[]"], "studies.lr.vary.steps is empty"),
        (["studies.lr.study.kind=moon"], "studies.lr.study.kind is 'moon'; expected one of"),
        (["studies.lr.vary.steps=[1]"], "exceed steps 1"),
        (["studies.lr.vary.width.bundles.d32={model.d_model: 65536}", "lanes=2"], "does not fit"),
        (
            [f"studies.lr.stages=[{STAGE % ('pretrain', 'schedule.warmup_steps=2')}]"],
            "mixture/wind_tunnel_stable does not",
        ),
        (
            ["~studies.lr.vary.width", f"studies.lr.stages=[{STAGE % ('anneal', 'data=mixture/tiny_decay')}]"],
            "pretrain/wind_tunnel",
        ),
        (["sandbox=[tiny,laptop/nope]"], "no such choice"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(place: Path, more: list[str], said: str) -> None:
    before = sorted(path.name for path in (place / "store").iterdir())
    given = arguments(place, *more)
    if more[0].startswith("sandbox="):
        given.remove("sandbox=[tiny]")
    refused = run_here("sandbox", *given, "name=other")
    assert refused.code == 2, refused.output
    assert said in refused.err, refused.err
    assert "Traceback" not in refused.err
    assert sorted(path.name for path in (place / "store").iterdir()) == before
