"""What an MLflow run says of itself, without MLflow: names that differ at their beginning, parameters, description."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.tracking import account
from pipelines.tracking.account import LONGEST_PARAMETER, NOTE_END, Seen

RUN: dict[str, Any] = {
    "folder": "anneal/demo-muon",
    "store": "/data/store",
    "inputs": [
        ["pretrain/demo", "pretrain/demo", "a" * 16],
        ["mixture/demo_decay", "mixture/demo_decay", "b" * 16],
        ["tokens/demo", "tokens/demo", "c" * 16],
    ],
    "settings": {"parent": "pretrain/demo@latest"},
    "params": {"model": {"layers": 4, "d_model": 128, "parameters": 1_234_567}},
    "what": "A branch off the trunk.",
    "parent": "pretrain/demo@step-240",
    "bases": ["demo"],
    "replaces": None,
    "began": 1_700_000_000_000,
    "origin": {
        "user": "ann",
        "host": "box",
        "version": "0.1.0",
        "commit": "1a2b3c4d5e6f7a8b",
        "dirty": True,
        "job": None,
        "command": "python -m workflows.anneal parent=pretrain/demo@latest name=demo-muon",
    },
}
SEEN = Seen(
    page=account.page_of("1", "own"),
    pages={"pretrain/demo": "experiments/1/runs/trunk"},
    metrics={"loss": 3.25, "bits_per_byte": 2.5, "system/cpu_utilization_percentage": 3.0, "tokens": 30720.0},
    files=("config.json",),
)


@pytest.mark.parametrize(
    ("folder", "bases", "inputs", "name"),
    [
        # arms of an ablation: what follows the experiment's name, or the parent's
        ("pretrain/demo-lr_0.01", ["demo"], ["mixture/demo_stable"], "lr_0.01 (pretrain/demo-lr_0.01)"),
        ("anneal/a-muon", [], ["pretrain/a", "mixture/m"], "muon (anneal/a-muon)"),
        ("mixture/demo_stable", [], ["tokens/demo"], "stable (mixture/demo_stable)"),
        # the stages of a recipe have one name
        ("pretrain/demo", ["demo"], ["mixture/demo_stable"], "pretrain/demo"),
        ("anneal/demo", ["demo"], ["pretrain/demo", "mixture/demo_decay"], "anneal/demo"),
        # an evaluation is called after its subject
        ("evaluate/anneal-demo", ["demo"], ["anneal/demo", "tokens/demo"], "anneal (evaluate/anneal-demo)"),
        ("evaluate/anneal-demo-x", ["demo"], ["anneal/demo-x", "tokens/demo"], "x (evaluate/anneal-demo-x)"),
        ("evaluate/sft-s-lr-0.1", ["demo"], ["sft/s-lr-0.1", "tokens/demo"], "s-lr-0.1 (evaluate/sft-s-lr-0.1)"),
        ("evaluate/pretrain-demo-step-9", [], ["pretrain/demo"], "step-9 (evaluate/pretrain-demo-step-9)"),
        # a name of its own
        ("corpus/web", [], [], "web (corpus/web)"),
        ("pretrain/muon", ["demo"], ["mixture/demo_stable"], "muon (pretrain/muon)"),
        ("pretrain/demonstration", ["demo"], ["mixture/demo"], "demonstration (pretrain/demonstration)"),
    ],
)
def test_names_begin_with_what_differs_and_hold_the_artifact(
    folder: str, bases: list[str], inputs: list[str], name: str
) -> None:
    assert account.run_name(folder, bases, inputs) == name
    assert folder in name  # what the search box is given finds it


def test_parameters_are_leaves_without_trailing_dots_and_without_what_is_empty() -> None:
    settings = {
        "parent": None,
        "empty": {},
        "none": [],
        "text": "",
        "betas": [0.9, 0.95],
        "stages": [{"name": "a", "overrides": ["x=1"]}, {"name": "b", "overrides": []}],
        "on": True,
        "model": {"d_model": 64},
        "weights": {"größe/é": 0.5, "a//b": 1},
    }
    assert account.parameters(settings) == {
        "betas": "[0.9, 0.95]",
        "stages.0.name": "a",
        "stages.0.overrides": '["x=1"]',
        "stages.1.name": "b",
        "on": "True",
        "model.d_model": "64",
        "weights.größe/é": "0.5",
        "weights.a/b": "1",
    }


def test_a_parameter_that_mlflow_would_cut_in_silence_says_where_all_of_it_is() -> None:
    whole, long = "x" * LONGEST_PARAMETER, "y" * (LONGEST_PARAMETER + 1)
    params = account.parameters({"whole": whole, "long": long, "k" * 300: 1, "k" * 299 + "j": 2})
    assert params["whole"] == whole
    assert len(params["long"]) == LONGEST_PARAMETER
    assert params["long"].endswith("(6,001 characters: all of it is in the run's config.json)")
    assert sorted(map(len, params)) == [4, 5, 249, 249]  # and two long keys that begin alike stay two


def test_tags_are_those_that_mlflow_shows_and_claim_nothing_that_is_not_known() -> None:
    tags = account.tags(RUN)
    assert tags["mlflow.user"] == "ann"
    assert tags["mlflow.source.name"] == RUN["origin"]["command"]
    assert tags["mlflow.source.git.commit"] == "1a2b3c4d5e6f7a8b"
    assert tags["trunkline.dirty"] == "true"
    assert tags["trunkline.parent"] == "pretrain/demo@step-240"
    assert tags["trunkline.input.mixture"] == "mixture/demo_decay"
    assert not {"trunkline.job", "trunkline.commit"} & tags.keys()
    unknown = account.tags({**RUN, "origin": {**RUN["origin"], "commit": None, "dirty": None, "user": None}})
    assert (unknown["trunkline.commit"], unknown["trunkline.dirty"]) == ("unknown", "unknown")
    assert not {"mlflow.source.git.commit", "mlflow.user"} & unknown.keys()
    # what an older version left in a spool says less
    assert account.tags({"folder": "corpus/a", "inputs": []})["mlflow.runName"] == "a (corpus/a)"


def test_two_inputs_of_a_kind_are_both_named() -> None:
    inputs = [["pretrain/a", "pretrain/a", "1"], ["pretrain/b", "pretrain/b", "2"]]
    assert account.tags({**RUN, "inputs": inputs})["trunkline.input.pretrain"] == "pretrain/a, pretrain/b"


def test_checkpoints_are_parents_and_no_datasets() -> None:
    assert [folder for _, folder, _ in account.data_of(RUN)] == ["mixture/demo_decay", "tokens/demo"]


def test_a_description_says_what_a_run_is_and_how_it_ended() -> None:
    begun = account.description(RUN, SEEN)
    assert begun.startswith("A branch off the trunk.\n\n")
    assert "- **Parent:** [pretrain/demo@step-240](#/experiments/1/runs/trunk)" in begun
    assert "- **Data:** `mixture/demo_decay`, `tokens/demo`" in begun  # their runs are not known here
    assert "- **Model:** 1.23M parameters, 4 layers of width 128" in begun
    assert "commit `1a2b3c4d5e6f`, with changes that are not in it" in begun
    assert "running since 2023-11-14 22:13 UTC by `ann` on `box`" in begun
    assert "Result" not in begun

    end = {
        "end": "FAILED",
        "at": RUN["began"] + 65_000,
        "why": "step 9 has *diverged*\nand more",
        "checkpoint": "x@step-8",
    }
    ended = account.description(RUN, SEEN, end)
    assert ended.splitlines()[3] == "- **Result:** 2.5000 bits per byte, last loss 3.2500, 30,720 tokens"
    assert "- **Checkpoint:** `x@step-8`" in ended
    assert "[config.json](#/experiments/1/runs/own/artifacts/config.json?workflowType=machine_learning)" in ended
    assert ended.splitlines()[2] == (
        "- **Ended:** failed at 2023-11-14 22:14 UTC after 1m05s by `ann` on `box`: `step 9 has *diverged*`"
    )
    assert ended.endswith(NOTE_END)


def test_what_a_command_asks_otherwise_of_a_run_that_goes_on_is_told_beside_its_parameters() -> None:
    run = {**RUN, "params": {"steps": 60, "schedule": {"peak_lr": 0.01}, "new": 1}}
    seen = Seen(page="p", params={"steps": "30", "schedule.peak_lr": "0.01", "of_an_older_version": "3"})
    assert "- **Changed:** steps `30` → `60`\n" in account.description(run, seen)
    assert "Changed" not in account.description(RUN, SEEN)


def test_what_a_person_and_an_evaluation_wrote_stays() -> None:
    begun = account.description(RUN, SEEN)
    assert account.renewed("", "new") == "new"
    assert account.renewed("a text of somebody's own", "new") is None
    evaluated = account.with_evaluation(
        f"{begun}\nmy words", "evaluate/x", "experiments/1/runs/e", "tokens/demo 1a2b", "anneal/demo-muon@step-9",
        {"bits_per_byte": 2.25, "bits_per_byte/web": 2.0},
    )  # fmt: skip
    line = (
        "**Evaluated:** 2.2500 bits per byte of `anneal/demo-muon@step-9` on `tokens/demo 1a2b` "
        "([evaluate/x](#/experiments/1/runs/e))"
    )
    assert evaluated.splitlines()[0] == line
    again = account.with_evaluation(evaluated, "evaluate/x", "experiments/1/runs/e", "tokens/demo 1a2b", "y", {})
    assert again.count("**Evaluated:**") == 1
    ended = account.renewed(evaluated, account.description(RUN, SEEN, {"end": "FINISHED", "at": RUN["began"]}))
    assert ended is not None
    assert ended.startswith(f"{line}\n\nA branch off the trunk.")
    assert ended.endswith(f"{NOTE_END}\nmy words")
    assert "running since" not in ended
