"""A sweep whose runs share steps: what it would train, how its runs are called, what it refuses."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.spec import TrainConfig
from tests import tiny
from tests.commands import run_here
from workflows.command_line.composing import compose_config
from workflows.command_line.turns import Turn, compose_turns, group_of, names_of
from workflows.recipe import RecipeConfig
from workflows.running.arms import Outcome, outcome_table


def names(*turns: dict[str, str], base: str = "run") -> list[str]:
    return names_of([turn.pop("base", base) for turn in turns], turns)


def test_runs_are_called_after_what_varies() -> None:
    both = [{"schedule.peak_lr": "0.01", "seed": "1"}, {"schedule.peak_lr": "0.02", "seed": "1"}]
    assert names(*both) == ["run-peak_lr-0.01", "run-peak_lr-0.02"]
    assert names({"data": "mixture/a"}, {"data": "mixture/b"}) == ["run-data-mixture-a", "run-data-mixture-b"]
    # two keys that end alike are told whole
    steps = [{"steps": "8", "checkpoint.steps": "1"}, {"steps": "9", "checkpoint.steps": "2"}]
    assert names(*steps)[0] == "run-steps-8-checkpoint.steps-1"
    # who names them is followed
    assert names({"base": "a", "name": "a", "seed": "1"}, {"base": "b", "name": "b", "seed": "2"}) == ["a", "b"]
    # and where that leaves two of one name, they are told apart by what it does not say
    some = [{"base": f"s-{seed}", "seed": str(seed), "steps": str(steps)} for seed in (0, 1) for steps in (8, 9)]
    assert names(*some) == ["s-0-steps-8", "s-0-steps-9", "s-1-steps-8", "s-1-steps-9"]
    # a workflow that names what it leaves itself is left alone
    assert names({"parent": "export/a"}, {"parent": "export/b"}, base="auto") == ["auto", "auto"]
    assert names({"lr": "1e+30"}, {"lr": "1e-30"}) == ["run-lr-1e30", "run-lr-1e-30"]
    long = names({"data": "mixture/" + "a" * 300}, {"data": "mixture/" + "a" * 299 + "b"})
    assert len(set(long)) == 2
    assert max(map(len, long)) == 120


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two turns of this sweep would make a: leave one out"):
        names(*({"base": name, "name": name, "seed": seed} for name, seed in (("a", "1"), ("a", "2"), ("b", "2"))))
    with pytest.raises(ConfigError, match="two turns of this sweep would make run: leave out a value that is listed"):
        names({"seed": "1"}, {"seed": "1"})


def turns(*typed: str) -> list[Turn]:
    return compose_turns("pretrain", TrainConfig, ["-m", *typed])


def test_turns_are_every_combination_of_what_is_listed() -> None:
    found = turns("+experiment=smoke", "seed=range(1,4)", "model=demo,tunnel_50k")
    assert [turn.label for turn in found][:2] == ["1/6 seed=1 model=demo", "2/6 seed=1 model=tunnel_50k"]
    assert found[1].config.name == "smoke-seed-1-model-tunnel_50k"
    assert found[1].config.model.layers == 2  # of the overlay, after the choice
    assert found[1].command == (
        "python -m workflows.pretrain +experiment=smoke seed=1 model=tunnel_50k name=smoke-seed-1-model-tunnel_50k"
    )
    kinds = [turn.config.optimizer.kind for turn in turns("+experiment=smoke", "optimizer=glob(*,exclude=*dpo)")]
    assert kinds == ["adamw", "muon"]
    # experiments too: each turn takes its own overlay, and its name
    experiments = turns("+experiment=smoke,demo")
    assert [(turn.config.name, turn.config.steps) for turn in experiments] == [("smoke", 30), ("demo", 400)]
    # a list is one value, and so is what stands in quotes
    assert [turn.config.profile_steps for turn in turns("profile_steps=[1,2],[3,4]")] == [(1, 2), (3, 4)]
    assert [turn.config.data for turn in turns("data='mixture/a','mixture/b'")] == ["mixture/a", "mixture/b"]
    (alone,) = turns("+experiment=smoke", "seed=choice(3)")
    assert (alone.config.name, alone.config.seed) == ("smoke", 3)


def test_a_name_that_is_set_is_what_other_values_are_made_of() -> None:
    found = compose_turns("recipe", RecipeConfig, ["-m", "+experiment=smoke", "sources=all,permissive"])
    assert [turn.config.stages[1].name for turn in found] == ["smoke-sources-all", "smoke-sources-permissive"]
    assert found[1].config.stages[1].overrides == ["data=corpus/smoke-sources-permissive"]


def test_what_is_read_under_the_name_of_the_experiment_is_read_by_every_turn() -> None:
    """Nobody made a mixture for a turn: `data: mixture/${name}` is that of the experiment."""
    for workflow, key, reference in (("pretrain", "data", "mixture/own"), ("sft", "parent", "anneal/own")):
        found = compose_turns(workflow, TrainConfig, ["-m", "+experiment=own", "seed=1,2"])
        assert [turn.config.name for turn in found] == ["own-seed-1", "own-seed-2"]
        assert [getattr(turn.config, key) for turn in found] == [reference, reference]
        assert f" {key}={reference} " in found[0].command
        # and so reads the command of a turn by itself
        alone = compose_config(workflow, TrainConfig, found[0].command.split()[3:])
        assert alone == found[0].config
    # whoever names the turns names what they read
    found = compose_turns("pretrain", TrainConfig, ["-m", "+experiment=own", "name=a,b"])
    assert [turn.config.data for turn in found] == ["mixture/a", "mixture/b"]
    found = compose_turns("pretrain", TrainConfig, ["-m", "+experiment=own", "seed=1,2", "data='mixture/${name}-x'"])
    assert found[0].config.data == "mixture/own-seed-1-x"


def test_the_same_sweep_with_more_values_is_the_same_group() -> None:
    groups = [
        group_of("pretrain", turns("+experiment=smoke", f"seed={seeds}", "steps=20,30")) for seeds in ("0,1", "0,1,2")
    ]
    assert groups == ["pretrain-smoke-seed-steps"] * 2
    assert group_of("pretrain", turns("+experiment=smoke", "name=study-${seed}", "seed=0,1")) == "pretrain-study-seed"
    assert group_of("pretrain", turns("+experiment=smoke", "name=lr-a,lr-b", "seed=1")) == "pretrain-lr"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["seed=1"], "-m runs a sweep, and no key has several values: write key=a,b .*or leave -m out"),
        (["seed=0,1", "hydra/launcher=joblib"], "side by side by themselves, .*cluster.workers"),
        (["seed=0,1", "hydra.launcher.n_jobs=2"], "side by side by themselves"),
        (["seed=0,1", "hydra/sweeper=optuna"], "every combination of the values listed; .*workflows.sandbox"),
        (["seed=0,1", "hydra.sweep.dir=here"], "goes into the store under its name: set store= and name="),
        (["seed=0,1", "hydra.mode=MULTIRUN"], "write -m for a sweep"),
        (["schedule.peak_lr=interval(0,1)"], "an interval has no list of values; .*range.first,end,step"),
        (["model=glob(none*)"], "it stands for no value: there are demo, "),
        (["seed=range(0,100)", "steps=range(1,100)"], "this sweep has 9,900 turns or more; 1,000 are taken"),
        (["seed=range(0,1000000)"], "this sweep has 1,001 turns or more"),
        (["seed=0,1", "store=a,b"], "store varies .a, b.*give store one value"),
        (["seed=0,1", "cluster.address=null,auto"], "cluster.address varies"),
        (["seed=0,1", "steps=[1,2"], r"\[ has no \]: put the whole in quotes for the shell"),
        # every mistake of every turn, and whose it is; what all have is said once
        (["seed=0,x", "steps=5,-1"], r"3 of 4 turns .*none was started:\n  2/4 seed=0 steps=-1, 4/4 .*: steps is -1"),
        (["seed=0,x", "steps=5,-1"], r"3/4 seed=x steps=5: seed is 'x'"),
        (["sed=0,1"], "^unknown key sed; .*: did you mean seed"),
        (
            ["model=demo,dmeo"],
            r"1 of 2 turns .*\n  2/2 model=dmeo: model=dmeo: no such choice; .*mean model=demo",
        ),
        (["+experiment=demo,smok"], r"2/2 experiment=smok: .*no such experiment; .*did you mean \+experiment=smoke"),
    ],
)
def test_what_is_no_sweep_is_refused_with_what_to_write(typed: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        turns(*typed)
    assert re.search(message, str(refusal.value)), str(refusal.value)


def test_a_plan_needs_no_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ended = run_here(
        "pretrain", "-m", "+experiment=wind_tunnel", f"store={store}", "share=true", "dry_run=true",
        "schedule.decay=linear", "schedule.decay_steps=10", "steps=100,200", "schedule.peak_lr=0.01,0.02",
    )  # fmt: skip
    assert ended.code == 2, ended.output  # as the run would be: there is no mixture
    assert re.search("error: mixture/wind_tunnel_stable does not exist", ended.err), ended.err
    assert "pretrain: 4 runs" in ended.out
    assert "860k to train; 1.23M if each run were trained by itself (30% saved)" in ended.out
    assert re.search(r"memory +0\.\d+ GiB in each process of a lane", ended.out)
    assert re.search(r"hours +[\d.]+s of one cpu, \$0\.00", ended.out)
    assert "pretrain/wind_tunnel-steps-200-peak_lr-0.02@step-90" in ended.out
    assert not store.exists()


def test_a_turn_that_cannot_be_stops_the_sweep_before_it_begins(tmp_path: Path) -> None:
    ended = run_here(
        "pretrain", "-m", "+experiment=wind_tunnel", f"store={tmp_path}", "share=true", "steps=100,-1",
    )  # fmt: skip
    assert ended.code == 2
    assert "2/2 steps=-1: steps is -1" in ended.err
    assert list(tmp_path.iterdir()) == []
    ended = run_here(
        "pretrain", "-m", "+experiment=wind_tunnel", f"store={tmp_path}", "share=true", "schedule.decay=linear",
        "schedule.decay_steps=50", "steps=10,100",
    )  # fmt: skip
    assert ended.code == 2
    assert "pretrain/wind_tunnel-steps-10: schedule.warmup_steps 16 + schedule.decay_steps 50 exceed steps 10" in (
        ended.err
    )


def test_a_turn_that_its_own_dry_run_would_refuse_stops_the_sweep_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("A few words.\n\nAnd others, of another kind.\n")
    (tmp_path / "conf" / "corpus").mkdir(parents=True)
    source = f"sources: {{mine: {{licence: MIT, reader: {{type: files, path: {tmp_path / 'in'}}}}}}}\n"
    for name, text in (("one", source), ("two", source.replace("/in}", "/gone}"))):
        path = tmp_path / "conf" / "corpus" / f"{name}.yaml"
        path.write_text("defaults: [rules@_here_: standard, _self_]\n" + text)
    store = tmp_path / "store"
    words = ("-m", "--config-dir", str(tmp_path / "conf"), f"store={store}", "tracking.enabled=false")
    ended = run_here("corpus", *words, "corpus=one,two")
    assert ended.code == 2
    assert "so none was started" in ended.err
    assert re.search(r"2/2 corpus=two: .*gone", ended.err), ended.err
    assert not store.exists()
    ended = run_here("recipe", *words, "+experiment=own", "corpus=one,two")
    assert ended.code == 2, ended.output
    assert re.search(r"2/2 .*two: .*gone", ended.err), ended.err
    assert not store.exists()


# ── What came of it ──


def outcome(store: ArtifactStore, number: int, folder: str, loss: float, **measured: float) -> Outcome:
    """An arm that is finished, and evaluated where numbers are given."""
    kind, name = folder.split("/")
    statistics = {"loss": {"last": loss}, "steps": 3, "train_seconds": 1.0}
    artifact = committed(store, folder, {"of": "stage"}, statistics)
    if measured:
        how = {"tokens": "tokens/t", "sequence_length": 32, "tasks": {}}
        committed(store, f"evaluate/{kind}-{name}", how, {"parent": f"{folder}@step-3", **measured}, artifact)
    turn = Turn(number, 2, None, name, "", {}, {"seed": str(number)})
    return Outcome(turn, artifact, measured_on="same")


def committed(
    store: ArtifactStore, folder: str, config: dict[str, Any], statistics: dict[str, Any], *inputs: Artifact
) -> Artifact:
    draft = store.begin(*folder.split("/"), config, inputs)
    assert isinstance(draft, Draft)
    return draft.commit(config, statistics)


@pytest.mark.parametrize(
    ("stage", "best", "other", "words"),
    [
        ("sft", {"assistant_loss": 2.0, "bits_per_byte": 9.0}, {"assistant_loss": 3.0, "bits_per_byte": 1.0},
         "assistant loss"),
        ("dpo", {"preference_accuracy": 0.7, "bits_per_byte": 9.0}, {"preference_accuracy": 0.6, "bits_per_byte": 1.0},
         "preference accuracy"),
        ("anneal", {"bits_per_byte": 1.0, "assistant_loss": 9.0}, {"bits_per_byte": 1.1, "assistant_loss": 2.0},
         "bits per byte"),
    ],
)  # fmt: skip
def test_arms_are_ranked_by_the_measure_of_their_stage(
    tmp_path: Path, stage: str, best: dict[str, float], other: dict[str, float], words: str
) -> None:
    store = ArtifactStore(str(tmp_path))
    arms = [outcome(store, 1, f"{stage}/other", 1.0, **other), outcome(store, 2, f"{stage}/best", 2.0, **best)]
    text, done, ranking = outcome_table(arms, store, trained=True)
    assert [arm.turn.base for arm in done] == ["best", "other"]
    assert ranking.why == f"the best first, by {words} of the same held-out text"
    assert ranking.evaluated
    assert words.replace("bits per byte", "bits/byte") in text
    # the same of a sweep of evaluations
    measured = [
        dataclasses.replace(arm, artifact=store.get(f"evaluate/{stage}-{arm.turn.base}")) for arm in arms
    ]  # fmt: skip
    _, done, ranking = outcome_table(measured, store, trained=False)
    assert [arm.turn.base for arm in done] == ["best", "other"]
    assert ranking.columns[0] == words.replace(" ", "_")


def test_an_evaluation_of_what_was_made_anew_since_is_none_of_its_arm(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    arms = [outcome(store, number, f"sft/{number}", 1.0, assistant_loss=2.0) for number in (1, 2)]
    assert outcome_table(arms, store, trained=True)[2].evaluated
    store.storage.delete("sft/1")
    arms[0] = dataclasses.replace(
        arms[0], artifact=committed(store, "sft/1", {"of": "another seed"}, arms[1].artifact.statistics)
    )
    text, _, ranking = outcome_table(arms, store, trained=True)
    assert not ranking.evaluated
    assert re.search(r" – +1  sft/1\n.* 2 +1  sft/2", text), text


def test_arms_that_are_not_evaluated_are_ranked_by_their_loss_where_it_is_of_the_same(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    arms = [outcome(store, 1, "dpo/other", 2.0), outcome(store, 2, "dpo/best", 1.0)]
    _, done, ranking = outcome_table(arms, store, trained=True)
    assert ([arm.turn.base for arm in done], ranking.evaluated) == (["best", "other"], False)
    arms[0] = dataclasses.replace(arms[0], measured_on="another beta")
    _, done, ranking = outcome_table(arms, store, trained=True)
    assert ([arm.turn.base for arm in done], ranking.order) == (["other", "best"], None)


def test_arms_that_the_data_sizes_are_planned_with_what_it_gives(tmp_path: Path) -> None:
    tiny.build(str(tmp_path / "store"))
    sized = (
        "-m", "+experiment=own", f"store={tmp_path / 'store'}", "data=mixture/tiny_stable", "seed=1,2", "hours=0.01",
        "flops_per_second=1e9", "dry_run=true", "tracking.enabled=false",
    )  # fmt: skip
    ended = run_here("pretrain", *sized)
    assert ended.code == 0, ended.output
    assert re.search(r"own-seed-1 .*\n.*own-seed-2 ", ended.out), ended.out
    shared = run_here("pretrain", *sized, "share=true")
    assert shared.code == 0, shared.output
    both = run_here("pretrain", *sized, "epochs=1")
    assert (both.code, "leave epochs out" in both.err) == (2, True), both.output
