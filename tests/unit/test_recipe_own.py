"""A recipe hands keys on to its stages, and leaves out the stages that the data has nothing for."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from tests.commands import run_here
from workflows.command_line.composing import command_of, compose_config, hand_on
from workflows.recipe import RecipeConfig, compose_stages, left_out


def recipe(*overrides: str) -> RecipeConfig:
    return compose_config("recipe", RecipeConfig, ["+experiment=own", "name=mine", *overrides])


def test_keys_reach_the_stages_that_take_them() -> None:
    composed = {
        (one.stage.workflow, one.stage.name): one.config
        for one in compose_stages(
            recipe("corpus=smoke", "hours=0.25", "sft.epochs=2", "corpus.sources.stdlib.heldout=0.2")
        )
    }
    assert composed["corpus", "mine"].corpus.sources["stdlib"].heldout == 0.2
    assert composed["pretrain", "mine"].hours == 0.25
    assert composed["sft", "mine"].epochs == 2
    assert composed["anneal", "mine"].hours is None


def test_words_are_handed_on_whatever_they_hold() -> None:
    typed = ["+experiment=own", "name=x", "corpus=a b", r"pretrain.schedule.decay='\'", "cluster=gpu", "~hours", "-m"]
    words = hand_on(RecipeConfig, typed)
    assert words == [
        "+experiment=own", "name=x", "cluster=gpu", "-m",
        r"handed=['corpus=a b','pretrain.schedule.decay=\'\\\'','~hours']",
    ]  # fmt: skip
    recorded = shlex.split(command_of("recipe", [*words[:3], words[-1]]))
    assert recorded[3:] == [*typed[:2], "cluster=gpu", *typed[2:4], "~hours"]


def test_each_stage_begins_from_the_last_run_that_there_is() -> None:
    def parents(*kinds: str) -> dict[str, str]:
        stages = compose_stages(recipe("corpus=smoke"), set(kinds))
        return {one.stage.workflow: one.config.parent for one in stages if hasattr(one.config, "parent")}

    every = parents("documents", "conversations", "preferences")
    assert (every["sft"], every["dpo"], every["export"]) == ("anneal/mine", "sft/mine", "dpo/mine")
    assert parents("documents", "conversations")["export"] == "sft/mine"
    pairs = parents("documents", "preferences")
    assert (pairs["dpo"], pairs["export"]) == ("anneal/mine", "dpo/mine")
    alone = parents("documents")
    assert alone["export"] == "anneal/mine"
    assert not {"sft", "dpo"} & set(alone)


def test_what_is_left_out_is_said_with_its_reason() -> None:
    config = recipe("corpus=smoke")
    assert left_out(config, compose_stages(config)) == {}
    told = left_out(config, compose_stages(config, {"documents"}))
    assert told["conversations"] == "mixture mine_decay, sft mine, evaluate mine-sft: the data has no conversations"
    assert told["preferences"] == "dpo mine, evaluate mine-dpo: the data has no preferences"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hurs=0.1", r"unknown key hurs; .*hands on .*hours \(to pretrain\).*: did you mean hours\?"),
        ("quantize.bits=8", "unknown key quantize; "),
        ("pretrain=5", "pretrain is a stage of this recipe: its keys are written pretrain.<key>=…"),
    ],
)
def test_a_key_that_nobody_takes_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_stages(recipe("corpus=smoke", word))


def test_a_stage_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="accepted there|unknown key"):
        compose_stages(recipe("corpus=smoke", "+pretrain.stepps=5"))


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path: Path) -> None:
    here = ["+experiment=own", "name=mine", f"store={tmp_path}", "tracking.enabled=false", "dry_run=true"]
    absent = run_here("recipe", *here, "corpus=own_data")
    assert absent.code == 2
    assert "data/web" in absent.err
    unknown = run_here("recipe", *here, "corpus=none_such")
    assert unknown.code == 2
    assert "none_such" in unknown.err
    planned = run_here("recipe", *here, "corpus=smoke", "corpus.sources.stdlib.max_bytes=50000", "hours=0.1")
    assert planned.code == 0, planned.output
    assert "tokens/mine: planned when corpus/mine is there" in planned.out
    assert "tokens a parameter" in planned.out
    assert not any(tmp_path.iterdir())
