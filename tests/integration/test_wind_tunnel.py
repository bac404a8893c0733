"""The wind tunnel's demo, shortened: from raw text to laws, findings, plots and a config for a larger model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
EXPERIMENT = "+experiment=wind_tunnel_smoke"
STUDIES = ("coord", "lr", "batch", "wsd", "scaling", "data", "mixtures")
VERDICTS = {"reproduced", "contradicted", "cannot be told at this size"}

pytestmark = pytest.mark.slow


def run(place: Path, workflow: str, *arguments: str) -> str:
    """A command as a user types it, on a store of this module. Returns: what it wrote."""
    ended = subprocess.run(
        [sys.executable, "-m", f"workflows.{workflow}", *arguments, f"store={place}/store"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wind-tunnel")
    run(folder, "recipe", EXPERIMENT)
    return folder


@pytest.fixture(scope="module")
def said(place: Path) -> str:
    return run(place, "sandbox", EXPERIMENT)


@pytest.fixture(scope="module")
def results(place: Path, said: str) -> Any:
    return json.loads((place / "store/sandbox/wind_tunnel_smoke/results.json").read_text(encoding="utf-8"))


def test_every_trial_of_every_study_ends(results: Any) -> None:
    assert tuple(results["studies"]) == STUDIES
    assert {trial["status"] for trial in results["trials"]} == {"finished"}
    assert {trial["study"] for trial in results["trials"]} == set(STUDIES)
    # the study of mixtures asked for a second round: its proposal beside the starting weights
    assert {trial["round"] for trial in results["trials"] if trial["study"] == "mixtures"} == {0, 1}


def test_every_finding_names_its_runs_and_its_interval(results: Any, place: Path) -> None:
    findings = [finding for study in results["studies"].values() for finding in study["findings"]]
    assert len(findings) > 10
    for finding in findings:
        assert finding["verdict"] in VERDICTS
        assert all((place / "store" / folder / "manifest.json").exists() for folder in finding["runs"])
        if finding["estimate"] is not None:
            assert finding["estimate"]["low"] <= finding["estimate"]["value"] <= finding["estimate"]["high"]


def test_the_page_has_every_plot_and_every_finding(results: Any, place: Path, said: str) -> None:
    page = (place / "store/sandbox/wind_tunnel_smoke/sandbox.html").read_text(encoding="utf-8")
    plots = [plot for study in results["studies"].values() for plot in study["plots"]]
    assert len(plots) >= len(STUDIES)
    assert page.count("<img ") == len(plots)
    assert all(plot["sentence"] for plot in plots)
    assert "http" not in page.replace("http://www.w3.org", "")
    for finding in results["studies"]["lr"]["findings"]:
        assert finding["claim"] in said


def test_steps_in_common_are_trained_once(place: Path, results: Any) -> None:
    """All trials of one trunk: the sum of what was trained is less than what they would take by themselves."""
    scaling = [trial for trial in results["trials"] if trial["study"] == "scaling"]
    alone = sum(trial["tokens"] for trial in scaling)
    steps = 0
    for trial in scaling:
        claim = json.loads((place / "store" / trial["runs"][0] / "claim.json").read_text(encoding="utf-8"))
        adopted = claim.get("adopted")
        steps += trial["steps"][0] - (int(adopted["checkpoint"].split("@step-")[1]) if adopted else 0)
    assert steps * scaling[0]["batch_tokens"] < 0.7 * alone


def test_a_second_call_says_that_it_is_finished(place: Path, results: Any) -> None:
    assert "finished already" in run(place, "sandbox", EXPERIMENT)


def test_its_laws_make_an_experiment_that_composes(place: Path, results: Any, tmp_path: Path) -> None:
    run(
        place,
        "plan",
        "recipe=sandbox/wind_tunnel_smoke",
        "target=2b",
        "beyond=allow",
        "tokens=1e12",
        f"into={tmp_path}",
    )
    (trunk,) = tmp_path.rglob("pretrain.yaml")
    experiment = yaml.safe_load(trunk.read_text(encoding="utf-8"))
    proposed = results["studies"]["lr"]["proposals"]
    assert {proposal["key"] for proposal in proposed} >= {"schedule.peak_lr"}
    assert experiment["schedule"]["peak_lr"] > 0
    # each value says where it is from: the law's interval and its runs
    assert "pretrain/" in trunk.read_text(encoding="utf-8")
