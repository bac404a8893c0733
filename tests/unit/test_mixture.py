"""Weights become budgets and epochs, or a refusal that says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.config import parse
from pipelines.data.stream.asked_mixture import AskedMixture
from pipelines.data.stream.mixture import (
    HEADER,
    MixturePlan,
    MixtureRecipe,
    foreseen,
    plan_conversations,
    plan_mixture,
    rows,
)
from pipelines.data.tokens.tokenizer import TokenizerConfig
from pipelines.errors import ConfigError, DataError


def facts(kind, tokens):
    return {"kind": kind, "train": {"tokens": tokens, "documents": 1}}


STATISTICS = {
    "sources": {
        "prose": facts("documents", 1_000_000),
        "code": facts("documents", 50_000),
        "chat": facts("conversations", 300_000),
        "sums": facts("conversations", 100_000),
        "pairs": facts("preferences", 9_000),
    }
}


def recipe(**changes):
    values = {"name": "try", "weights": {"prose": 0.7, "code": 0.1, "chat": 0.2}, "budget_tokens": 1_000_000}
    return parse(MixtureRecipe, {**values, **changes}, "mixture")


def test_weights_become_budgets_and_epochs():
    plan = plan_mixture(recipe(), "tokens/t", "abc", STATISTICS)
    found = {s.name: (s.budget_tokens, s.epochs, s.packing) for s in plan.sources}
    assert found == {
        "prose": (700_000, 0.7, "windows"),
        "code": (100_000, 2.0, "windows"),
        "chat": (200_000, pytest.approx(2 / 3), "documents"),
    }
    assert plan.budget_tokens == 1_000_000
    assert MixturePlan.from_json(plan.to_json()) == plan
    assert all(len(row) == len(HEADER) for row in rows(plan))


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ConfigError, match=r"mixture weights sum to 0\.93; expected 1\.0: edit conf/mixture/try\.yaml"):
        recipe(weights={"prose": 0.9, "code": 0.03})
    with pytest.raises(ConfigError, match=r"mixture weights sum to 1\.000002; expected 1\.0: edit"):
        recipe(weights={"prose": 1.0, "code": 2e-6})
    with pytest.raises(ConfigError, match=r"mixture\.weights\.code is -0\.1"):
        recipe(weights={"prose": 1.0, "maths": 0.1, "code": -0.1})


def test_unknown_sources_and_preferences_are_refused_by_name():
    with pytest.raises(
        ConfigError, match="asks for prase, which tokens/t does not hold; it holds chat, code, prose, sums"
    ):
        plan_mixture(recipe(weights={"prase": 1.0}), "tokens/t", "abc", STATISTICS)
    with pytest.raises(ConfigError, match="pairs cannot be mixed"):
        plan_mixture(recipe(weights={"pairs": 1.0}), "tokens/t", "abc", STATISTICS)


def test_missing_drop_shares_the_weight_out():
    weights = {"prose": 0.6, "code": 0.2, "absent": 0.2}
    plan = plan_mixture(recipe(weights=weights, missing="drop", budget_tokens=100_000), "tokens/t", "abc", STATISTICS)
    assert plan.weights == {"prose": pytest.approx(0.75), "code": pytest.approx(0.25)}
    assert plan.dropped == {"absent": 0.2}
    with pytest.raises(ConfigError, match="asks for absent"):
        plan_mixture(recipe(weights={"absent": 1.0}, missing="drop"), "tokens/t", "abc", STATISTICS)


def test_what_has_no_stand_in_is_shared_out_and_nothing_else():
    weights = {"prose": 0.6, "code": 0.2, "books": 0.2}
    asked = recipe(weights=weights, no_stand_in=["books"], budget_tokens=100_000)
    plan = plan_mixture(asked, "tokens/t", "abc", STATISTICS)
    assert foreseen(asked) == (plan.weights, plan.dropped)
    assert plan.weights == {"prose": pytest.approx(0.75), "code": pytest.approx(0.25)}
    assert plan.dropped == {"books": 0.2}
    with pytest.raises(ConfigError, match="asks for prase, which"):
        plan_mixture(
            recipe(weights={**weights, "prose": 0.5, "prase": 0.1}, no_stand_in=["books"]),
            "tokens/t",
            "abc",
            STATISTICS,
        )
    with pytest.raises(
        ConfigError, match="no_stand_in names boks, which has no weight; expected some of prose, code, books"
    ):
        recipe(weights=weights, no_stand_in=["boks"])
    held = plan_mixture(
        recipe(weights={"prose": 0.8, "chat": 0.2}, no_stand_in=["chat"]), "tokens/t", "abc", STATISTICS
    )
    assert held.weights == {"prose": 0.8, "chat": 0.2}  # the tokens hold it after all


def test_too_many_epochs_are_refused_with_what_fits():
    asked = recipe(weights={"prose": 0.5, "code": 0.5})
    with pytest.raises(ConfigError) as refusal:
        plan_mixture(asked, "tokens/t", "abc", STATISTICS)
    assert "source code would be read 10.00 times (500,000 tokens asked of 50,000); mixture.max_epochs is 4" in str(
        refusal.value
    )
    assert "weight from 0.5 to 0.2, or mixture.budget_tokens to 400000" in str(refusal.value)
    plan_mixture(recipe(weights={"prose": 0.8, "code": 0.2}), "tokens/t", "abc", STATISTICS)
    plan_mixture(recipe(weights={"prose": 0.5, "code": 0.5}, budget_tokens=400_000), "tokens/t", "abc", STATISTICS)


def test_conversations_are_planned_in_proportion_to_their_tokens():
    plan = plan_conversations("tokens/t", "abc", STATISTICS, epochs=2)
    assert plan.weights == {"chat": 0.75, "sums": 0.25}
    assert {(s.epochs, s.packing) for s in plan.sources} == {(2.0, "documents")}
    with pytest.raises(DataError, match="tokens/t holds no conversations; it holds prose"):
        plan_conversations("tokens/t", "abc", {"sources": {"prose": facts("documents", 5)}})


CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("file", sorted((CONF / "mixture").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_mixture_is_valid_and_knows_its_name(file):
    assert parse(AskedMixture, yaml.safe_load(file.read_text()), "mixture").name == file.stem


@pytest.mark.parametrize("file", sorted((CONF / "tokenizer").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_tokenizer_is_valid(file):
    assert parse(TokenizerConfig, yaml.safe_load(file.read_text()), "tokenizer").reuse is None


def test_a_weight_that_no_run_could_deliver_is_refused_and_plans_sum_to_one():
    with pytest.raises(ConfigError, match=r"mixture.weights.b is 1e-13; expected 0 or at least 1e-12"):
        MixtureRecipe(weights={"a": 1.0, "b": 1e-13}, budget_tokens=1)
    recipe = MixtureRecipe(weights={"prose": 0.5, "code": 0.4999995}, budget_tokens=10, max_epochs=100)
    statistics = {"sources": {"prose": facts("documents", 5), "code": facts("documents", 5)}}
    assert sum(plan_mixture(recipe, "tokens/t", "", statistics).weights.values()) == pytest.approx(1, abs=1e-15)
    tiny = MixtureRecipe(weights={"prose": 1 - 7e-6, "code": 7e-6}, budget_tokens=10, max_epochs=100)
    shown = {line[0]: line[3] for line in rows(plan_mixture(tiny, "tokens/t", "", statistics))}
    assert shown == {"prose": "100.0%", "code": "0.0007%", "total": "100.0%"}
