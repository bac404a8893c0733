"""`-m` as a user types it: arms side by side, one that diverges, a rebuild; with `share=true` killed, typed again, and
compared with the plain commands.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipelines.config import parse
from pipelines.train.checkpoint import committed_steps
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.spec import TrainConfig
from tests.commands import run_here
from tests.integration.conftest import TINY_MODEL
from tests.integration.ranks import Ranks, train
from tests.integration.test_sharing import assert_equal
from tests.integration.test_tree_runner import alone_spec
from tests.untrained import commit_run
from tests.waits import wait_until
from workflows.running.session import Session

ROOT = Path(__file__).parents[2]


def arguments(store: Any, *more: str) -> list[str]:
    model = (
        "layers=2 d_model=32 d_ff=80 heads=4 kv_heads=2 vocabulary=128 max_positions=64 dim_model_base=16 "
        "scale_emb=12.0 scale_depth=1.4"
    )
    return [
        "+experiment=wind_tunnel", f"store={store.uri}", "name=run", "data=mixture/tiny_stable", "seed=1",
        *(f"++model.{pair}" for pair in model.split()),
        "batch={sequence_length: 32, global_batch: 8, micro_batch: 2}", "checkpoint={every_steps: 20, keep_last: 1}",
        "schedule={peak_lr: 0.01, warmup_steps: 2, decay: linear, decay_steps: 10}", "tracking.enabled=false", *more,
    ]  # fmt: skip


def test_a_sweep_that_was_killed_goes_on_when_it_is_typed_again(store: Any, one_rank: Ranks, tmp_path: Path) -> None:
    sweep = arguments(store, "-m", "share=true", "steps=60,160,400")
    command = [sys.executable, "-m", "workflows.pretrain", *sweep]
    log = tmp_path / "log"
    with log.open("wb") as output:
        killed = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
    trunk = "pretrain/run-steps-400"
    wait_until(
        lambda: killed.poll() is not None or (committed_steps(store.storage, trunk) or [0])[-1] >= 50,
        "the trunk to stand at step 50",
        lambda: log.read_text(),
    )
    assert killed.poll() is None, log.read_text()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # what was committed is not trained again; how far that is depends on when the kill came
    begins = re.search(rf"{trunk} +400 +its own step (\d+)", done.stdout)
    assert begins is not None, done.stdout
    assert int(begins[1]) >= 50
    assert "there already" in done.stdout
    finished = run_here("pretrain", *sweep)
    assert finished.code == 0, finished.output
    assert "lanes" not in finished.out
    assert "(3 of 3)" in finished.out
    # each by its own command, as the claim has it
    for steps in (60, 160, 400):
        name = f"run-steps-{steps}"
        plain_command = store.claim(f"pretrain/{name}")["command"].split()
        assert plain_command[-2:] == [f"steps={steps}", f"name={name}"]
        alone = run_here("pretrain", *arguments(store, f"steps={steps}", f"name={name}"))
        assert "finished already" in alone.out, alone.output
    values = store.get("pretrain/run-steps-60").config
    config = dataclasses.replace(parse(TrainConfig, {**values, "share": False}), name="alone")
    with Session(config) as session:
        assert one_rank.call(train, alone_spec(session, "pretrain", config)).error == ""
    assert_equal(store, "pretrain/run-steps-60", "pretrain/alone")


def test_arms_train_by_themselves_and_one_that_diverges_stops_no_other(store: Any) -> None:
    from mlflow import MlflowClient

    common = [*arguments(store)[:-1], "-m", "steps=12", "cluster.workers=1"]  # tracked
    command = [sys.executable, "-m", "workflows.pretrain", *common]
    done = subprocess.run([*command, "schedule.peak_lr=0.01,1e30,0.02"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: 1 of 3 arms ended with an error; the same command again goes on with them. First" in done.stderr
    assert "pretrain/run-peak_lr-1e30: step" in done.stderr
    assert "has diverged" in done.stderr
    assert re.search(r"^   1e\+?30 .*diverged: step", done.stdout, re.MULTILINE), done.stdout
    for rate in ("0.01", "0.02"):
        assert re.search(rf"^   {rate} +[\d.]+ +[\d.]+ +pretrain/run-peak_lr-{rate}$", done.stdout, re.MULTILINE), (
            done.stdout
        )
        # as its own command makes it
        own = shlex.split(store.claim(f"pretrain/run-peak_lr-{rate}")["command"])[3:]
        assert own[-1] == f"name=run-peak_lr-{rate}"
        assert "finished already" in run_here("pretrain", *own).out
    runs = MlflowClient(f"sqlite:///{store.storage.root}/mlflow.db").search_runs(
        ["1"], "tags.`trunkline.group` = 'pretrain-run-peak_lr'"
    )
    assert sorted((run.data.tags["trunkline.artifact"], run.info.status) for run in runs) == [
        ("pretrain/run-peak_lr-0.01", "FINISHED"),
        ("pretrain/run-peak_lr-0.02", "FINISHED"),
        ("pretrain/run-peak_lr-1e30", "FAILED"),
    ]
    # names that are taken by another config are all told, before anything starts
    taken = run_here("pretrain", *common, "schedule.peak_lr=0.01,0.02", "seed=2")
    assert taken.code == 2
    assert "2 of 2 turns cannot be run, so none was started" in taken.err
    assert re.search(r"1/2 .*run-peak_lr-0.01 in .* was made by another configuration", taken.err), taken.err
    assert re.search(r"2/2 .*run-peak_lr-0.02 in .* was made by another configuration", taken.err), taken.err
    rebuild = [*command, "schedule.peak_lr=0.01,0.02", "seed=2", "on_change=rebuild"]
    done = subprocess.run(rebuild, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replaces 2 of them" in done.stdout
    assert [store.get(f"pretrain/run-peak_lr-{rate}").config["seed"] for rate in ("0.01", "0.02")] == [2, 2]
    assert not store.storage.keys(".rebuilds")


def test_sft_and_dpo_are_ranked_by_what_they_are_for(store: Any) -> None:
    """Losses of two betas are not compared; evaluated, the arms are, and the next stage goes on from the best."""
    commit_run(store, "anneal/start", ModelConfig(**TINY_MODEL), store.get("tokens/tiny"), sequence_length=32)
    common = (
        "+experiment=smoke", f"store={store.uri}", "-m", "data=tokens/tiny", "steps=4", "cluster.workers=1",
        "batch={sequence_length: 32, global_batch: 8, micro_batch: 4}", "tracking.enabled=false",
    )  # fmt: skip
    for stage, parent, varied, unranked, measure, follows in (
        ("sft", "anneal/start", "schedule.peak_lr=0.0001,0.05", False, "assistant loss", "dpo"),
        ("dpo", "sft/run-peak_lr-0.05", "objective.beta=0.1,5", True, "preference accuracy", "export"),
    ):
        words = (*common, "name=run", f"parent={parent}", varied)
        command = [sys.executable, "-m", f"workflows.{stage}", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("not ranked: these losses are means" in done.stdout) is unranked, done.stdout
        line = re.search(r"next: python -m workflows\.evaluate (.*) -m (.*)\n", done.stdout)
        assert line is not None, done.stdout
        # without a best there is none to go on from
        assert (f"workflows.{follows}" in done.stdout) is not unranked, done.stdout
        measured = run_here(
            "evaluate", *shlex.split(line[1]), "-m", *shlex.split(line[2]), "tasks.completions=null",
            "tracking.enabled=false",
        )  # fmt: skip
        assert measured.code == 0, measured.output
        again = run_here(stage, *words)  # all is finished: without Ray
        assert again.code == 0, again.output
        assert re.search(rf"(the best first|all alike), by {measure} of the same held-out text", again.out), again.out
        assert "workflows.evaluate" not in again.out
        best = re.findall(rf"({stage}/run-[\w.-]+)$", again.out, re.MULTILINE)[0]
        evaluations = [store.get(f"evaluate/{name}").statistics for name in store.storage.folders("evaluate")]
        numbers = {
            one["parent"].partition("@")[0]: one[measure.replace(" ", "_")]
            for one in evaluations
            if one["parent"].startswith(stage)
        }
        assert numbers[best] == (min if stage == "sft" else max)(numbers.values())
