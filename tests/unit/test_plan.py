"""`python -m workflows.plan` in an empty folder: what it says, what it leaves, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.sandbox.values import Target, values_for
from pipelines.train.spec import TrainConfig
from tests.commands import run_here
from workflows.command_line.composing import compose_config
from workflows.plan import split_command_line


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRUNKLINE_STORE", raising=False)
    return tmp_path


def test_the_published_recipe_is_planned_without_data_and_without_a_store(empty: Path) -> None:
    done = run_here("plan", "+experiment=minicpm_2b", "gpus=160", "gpu=a100")
    assert done.code == 0, done.err
    for words in (
        "2,442,057,984 non-embedding", "18.613 G", "2.046e+22 FLOP", "11.9 (8.63 to 15.8) days", "pretrain: network",
        "1,026,293,760,000", "open-web-math", "not known: epochs", "of 76 GiB usable",
    ):  # fmt: skip
        assert words in done.out
    assert list(empty.iterdir()) == []


def test_gpus_auto_proposes_the_cheapest_layout_and_draws_it(empty: Path) -> None:
    done = run_here(
        "plan", "+experiment=minicpm_2b", "model=wind_tunnel_30m", "gpus=auto", "gpu=a100", "deadline=2d", "out=page",
        "stages=[pretrain]",
    )  # fmt: skip
    assert done.code == 0, done.err
    numbers = json.loads((empty / "page/plan.json").read_text())
    assert numbers["hours"]["value"] <= 48
    page = (empty / "page/plan.html").read_text()
    assert page.count("<svg") == 2
    assert "stroke-dasharray" in page
    assert "met" in done.out


def test_keys_go_where_they_belong() -> None:
    words = [
        "+experiment=x",
        "gpus=8",
        "gpu=h100",
        "device.usd_per_hour=2",
        "anneal.steps=3",
        "batch.micro_batch=2",
        "-m",
    ]
    own, typed = split_command_line(words)
    assert own == ["gpus=8", "gpu=h100", "device=h100", "device.usd_per_hour=2", "-m"]
    assert typed == ["+experiment=x", "anneal.steps=3", "batch.micro_batch=2"]


def test_a_stage_takes_its_own_keys_and_all_stages_those_of_how_they_run(empty: Path) -> None:
    typed = ("+experiment=minicpm_2b", "model=wind_tunnel_30m", "gpus=8", "gpu=h100", "mfu=0.5", "steps=5000")
    done = run_here("plan", *typed, "anneal.steps=96", "batch.micro_batch=2", "out=page")
    assert done.code == 0, done.err
    stages = json.loads((empty / "page/plan.json").read_text())["stages"]
    assert [(stage["stage"], stage["steps"], stage["layout"]["micro_batch"]) for stage in stages] == [
        ("pretrain", 5000, 2), ("anneal", 96, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpus=160"], "which device? set gpu=… to one of a100, a100_40gb"),
        (["gpus=160", "gpu=a10"], "no such choice; there are a100, a100_40gb, a10g"),
        (["gpus=7", "gpu=a100"], "does not divide into micro-batches"),
        (["gpus=0", "gpu=a100"], "gpus is 0; expected one of auto or a whole number of at least 1"),
        (["gpsu=8"], "unknown key gpsu; this command takes"),
        (["gpu=auto"], "gpu=auto compares devices, and that needs gpus=auto"),
        (["gpus=auto", "gpu=a100", "deadline=soon"], "expected a number above 0 and a unit"),
        (["gpus=auto", "gpu=a100", "deadline=1h"], "nothing ends within"),
        (["gpus=8", "gpu=a100", "mfu=0.4", "tokens_per_second=10"], "keep one of them"),
        (["gpus=8", "gpu=a100", "mfu=1.4"], "mfu is 1.4; expected"),
        (["gpus=8", "gpu=a100", "law=nowhere.json"], "there is no such file"),
        (["gpus=8", "gpu=a100", "measured=pretrain/nobody"], "pretrain/nobody"),
        (["gpus=8", "gpu=a100", "stages=[pretrian]"], "did you mean pretrain?"),
        (["gpus=8", "gpu=a100", "stages=[pretrain,dpo]"], "how long an epoch is depends on tokens that are not here"),
        (["gpus=8", "gpu=a100", "model.heads=35"], "not divisible by model.heads 35"),
        (["recipe=sandbox/x"], "recipe and target belong together"),
        (["recipe=sandbox/x", "target=2b"], "has no sandbox/x/results.json"),
        (["recipe=sandbox/x", "target=huge"], "sandbox/x"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_what_to_do(arguments: list[str], message: str, empty: Path) -> None:
    experiment = [] if arguments[0].startswith("recipe") else ["+experiment=minicpm_2b"]
    done = run_here("plan", *experiment, *arguments)
    assert done.code == 2, done.out
    assert message in done.err
    assert "Traceback" not in done.err
    assert list(empty.iterdir()) == []


def test_a_micro_batch_that_does_not_fit_is_said_with_the_one_that_does(empty: Path) -> None:
    done = run_here("plan", "+experiment=minicpm_2b", "gpus=160", "gpu=a10g", "stages=[pretrain]")
    assert done.code == 0, done.err
    assert "✗ batch.micro_batch=6 × 4096 tokens does not fit" in done.out


# ── The loss, and the recipe ──────────────────────────────────────────────────────────────────────────────────────────


def law(name: str, parameters: dict[str, float], ranges: dict[str, tuple[float, float]], **more: Any) -> dict[str, Any]:
    """A law of a test: samples 1 % around its parameters."""
    fitted = FittedLaw(
        law=name, formula=f"the {name} law", level=0.95, ranges=ranges, points=30, runs=10, unit="bits per byte",
        parameters={key: Estimate(value, 0.98 * value, 1.02 * value) for key, value in parameters.items()},
        samples={key: [value * (1 + 0.01 * s) for s in (-1, 0, 1)] for key, value in parameters.items()}, **more,
    )  # fmt: skip
    return json.loads(json.dumps(fitted.plain()))  # type: ignore[no-any-return]


CHINCHILLA = law(
    "chinchilla", {"C_N": 400.0, "alpha": 0.34, "C_D": 400.0, "beta": 0.34, "L0": 0.5},
    {"params": (1e7, 5e8), "tokens": (1e8, 1e10), "loss": (1.0, 3.0)},
)  # fmt: skip
BATCH = law("batch", {"a": 2e6, "b": 2.0}, {"loss": (1.0, 3.0), "batch": (1e4, 1e6)})


def proposal(key: str, value: Any, law_name: str = "") -> dict[str, Any]:
    estimate = {"value": 0.01, "low": 0.008, "high": 0.012} if value is not None else None
    runs = [f"pretrain/{key}-{seed}" for seed in range(3)]
    return {"key": key, "value": value, "estimate": estimate, "law": law_name, "sentence": f"why {key}", "runs": runs}


def results(**proposals: dict[str, Any]) -> dict[str, Any]:
    studies = {
        "lr": {"laws": {}, "proposals": [proposal("schedule.peak_lr", 0.012)]},
        "scaling": {"laws": {"mean": CHINCHILLA}, "proposals": [proposal("tokens", None, "mean")]},
        "batch": {"laws": {"batch": BATCH}, "proposals": [proposal("batch_tokens", None, "batch")]},
        "wsd": {"laws": {}, "proposals": [proposal("decay_fraction", 0.1), proposal("schedule.decay", "1-sqrt")]},
        "data": {"laws": {}, "proposals": [proposal("mixture.weights", {"code": 0.25, "dolma": 0.75})]},
    }
    return {"name": "t", "studies": studies, "trials": [{"study": "lr", "parameters": 499_000_000}]}


def test_the_final_loss_is_foreseen_by_a_law(empty: Path) -> None:
    (empty / "law.json").write_text(json.dumps(CHINCHILLA))
    done = run_here("plan", "+experiment=minicpm_2b", "gpus=160", "gpu=a100", "law=law.json")
    assert done.code == 0, done.err
    assert "final loss" in done.out
    assert "bits per byte" in done.out
    assert "⚠" in done.out  # far beyond what was fitted
    (empty / "law.json").write_text(json.dumps(BATCH))
    done = run_here("plan", "+experiment=minicpm_2b", "gpus=160", "gpu=a100", "law=law.json")
    assert done.code == 2
    assert "expected one of chinchilla, minicpm" in done.err


def test_tokens_and_batch_are_read_off_their_laws() -> None:
    values, _ = values_for(results(), Target(2_442_057_984, 2304, None))
    by_key = {value.key: value for value in values}
    # with equal exponents and factors the best D is N
    assert by_key["tokens"].value == pytest.approx(2_442_057_984)
    N = 2_442_057_984.0
    loss = 400 * N**-0.34 + 400 * N**-0.34 + 0.5
    assert by_key["batch_tokens"].value == pytest.approx(2e6 / loss**2)
    assert by_key["schedule.peak_lr"].value == 0.012
    assert by_key["tokens"].runs == ("pretrain/tokens-0", "pretrain/tokens-1", "pretrain/tokens-2")


def test_a_recipe_becomes_an_experiment_whose_values_say_where_they_are_from(empty: Path) -> None:
    (empty / "results.json").write_text(json.dumps(results()))
    typed = ("recipe=results.json", "target=2b", "name=t_2b", "into=written")
    done = run_here("plan", *typed)
    assert done.code == 0, done.err
    trunk = (empty / "written/experiment/t_2b/pretrain.yaml").read_text()
    for words in (
        "# why schedule.peak_lr", "# interval: 0.01 (0.008 to 0.012)", "# law mean: the chinchilla law",
        "pretrain/schedule.peak_lr-0", "peak_lr: 0.012", "steps:",
    ):  # fmt: skip
        assert words in trunk
    values = yaml.safe_load(trunk)
    anneal = yaml.safe_load((empty / "written/experiment/t_2b/anneal.yaml").read_text())
    batch = values["batch"]["global_batch"] * values["batch"]["sequence_length"]
    assert (values["steps"] + anneal["steps"]) * batch == pytest.approx(2_442_057_984, rel=0.01)
    assert anneal["steps"] / (values["steps"] + anneal["steps"]) == pytest.approx(0.1, abs=0.01)
    assert anneal["parent"] == f"pretrain/t_2b@step-{values['steps']}"
    mixture = yaml.safe_load((empty / "written/mixture/t_2b_decay.yaml").read_text())
    assert mixture["weights"] == {"code": 0.25, "dolma": 0.75}
    again = run_here("plan", *typed)
    assert again.code == 2
    assert "is there already" in again.err
    assert run_here("plan", *typed, "on_change=rebuild").code == 0


def test_a_target_outside_any_law_is_refused_or_said(empty: Path) -> None:
    small = results()
    small["studies"]["scaling"]["laws"]["mean"]["ranges"]["params"] = [1e4, 1e6]
    (empty / "results.json").write_text(json.dumps(small))
    done = run_here("plan", "recipe=results.json", "target=2b", "name=far", "into=written")
    assert done.code == 2
    assert "times larger than the largest" in done.err
    assert "beyond=allow" in done.err
    done = run_here("plan", "recipe=results.json", "target=2b", "name=far", "into=written", "beyond=allow")
    assert done.code == 0, done.err
    assert "BEYOND: 2,442 times" in (empty / "written/experiment/far/pretrain.yaml").read_text()


def test_a_recipe_without_proposals_or_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="propose no value yet"):
        values_for({"studies": {"lr": {"laws": {}, "proposals": []}}}, Target(10**9, 1024, None))
    without = results()
    del without["studies"]["scaling"]
    with pytest.raises(ConfigError, match="no study of the recipe says how many tokens"):
        values_for(without, Target(10**9, 1024, None))
    assert values_for(without, Target(10**9, 1024, 1e10))[0][0].value == 1e10


def test_the_targets_size_is_that_of_its_model() -> None:
    model = compose_config("pretrain", TrainConfig, ["model=minicpm_2b"]).model
    assert model is not None
    assert parameter_counts(model)["non_embedding"] == 2_442_057_984


def test_help_names_the_devices() -> None:
    done = run_here("plan", "--help")
    assert done.code == 0
    assert "a100" in done.out
    assert "deadline" in done.out
