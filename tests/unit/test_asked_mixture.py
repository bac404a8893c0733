"""Mixtures whose weights follow from the tokens: whatever the sources are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config import parse
from pipelines.data.stream.asked_mixture import AskedMixture, settle
from pipelines.data.stream.mixture import MixtureRecipe, plan_mixture
from pipelines.errors import ConfigError
from pipelines.identity import identity
from tests.commands import run_here

CONF = Path(__file__).parents[2] / "conf"


def source(kind: str, tokens: int) -> dict[str, Any]:
    return {"kind": kind, "train": {"tokens": tokens, "loss_tokens": tokens, "shard_tokens": [tokens]}}


BOTH = {
    "sources": {"b": source("documents", 3000), "a": source("documents", 1000), "talk": source("conversations", 50)}
}
TEXT = {"sources": {"only": source("documents", 4000), "crumb": source("documents", 20)}}


def shipped(name: str) -> AskedMixture:
    return parse(AskedMixture, yaml.safe_load((CONF / "mixture" / f"{name}.yaml").read_text()), "mixture")


def planned(name: str, statistics: dict[str, Any]) -> dict[str, tuple[float, float]]:
    recipe, _ = settle(shipped(name), "tokens/t", statistics)
    plan = plan_mixture(recipe, "tokens/t", "abc", statistics)
    return {one.name: (round(one.weight, 6), round(one.epochs, 2)) for one in plan.sources}


def test_documents_weigh_what_they_have_and_are_read_equally_often() -> None:
    assert planned("own_stable", BOTH) == {"b": (0.75, 3.6), "a": (0.25, 3.6)}


def test_conversations_join_the_decay_as_far_as_their_epochs_go() -> None:
    read = 0.4 * 4000
    share = 4 * 50 / (read + 4 * 50)  # all that four epochs of 50 tokens give, less than a third
    got = planned("own_decay", BOTH)
    assert got["talk"] == (round(share, 6), 4.0)
    assert (got["a"][1], got["b"][1]) == (0.4, 0.4)
    rich = {"sources": {**BOTH["sources"], "talk": source("conversations", 10**6)}}
    assert planned("own_decay", rich)["talk"][0] == 0.33


def test_a_decay_without_conversations_is_documents_alone_and_crumbs_are_left_out() -> None:
    assert planned("own_decay", TEXT) == {"only": (1.0, 0.4)}
    _, told = settle(shipped("own_stable"), "tokens/t", TEXT)
    assert told["not read"].startswith("crumb: no training text to speak of")


def test_tokens_without_documents_are_refused_with_what_they_hold() -> None:
    talk = {"sources": {"talk": source("conversations", 500)}}
    with pytest.raises(ConfigError, match=r"tokens/t holds no documents to mix; it holds talk: .* kind documents"):
        settle(shipped("own_stable"), "tokens/t", talk)


def test_stated_weights_keep_their_identity() -> None:
    """What was mixed before there was `weights: auto` is found finished."""
    recipe = MixtureRecipe(name="x", weights={"a": 0.5, "b": 0.5}, budget_tokens=1000, max_epochs=2)
    asked = AskedMixture(name="x", weights={"a": 0.5, "b": 0.5}, budget_tokens=1000, max_epochs=2)
    assert settle(asked, "tokens/t", BOTH) == (recipe, {})
    assert identity(asked) == identity(AskedMixture.of(recipe)) == identity(recipe)


def test_epochs_of_stated_weights_are_those_of_the_source_that_is_read_most() -> None:
    asked = AskedMixture(weights={"a": 0.5, "b": 0.5}, epochs=2.0)
    recipe, _ = settle(asked, "tokens/t", BOTH)
    plan = plan_mixture(recipe, "tokens/t", "abc", BOTH)
    assert max(one.epochs for one in plan.sources) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": "auto", "epochs": 5}, "mixture.epochs is 5 and mixture.max_epochs 4; .*: lower epochs, or raise"),
        ({"weights": "auto"}, "budget_tokens and mixture.epochs: both are null; expected one of them"),
        ({"weights": "auto", "epochs": 1, "budget_tokens": 5}, "expected one of them, the other null"),
        ({"weights": "auto", "epochs": 1, "conversations": 1}, "expected a share below 1"),
        ({"weights": {"a": 1}, "epochs": 1, "conversations": 0.1}, "is of weights: auto"),
        ({"weights": "by size", "epochs": 1}, "mixture.weights is 'by size'"),
        (
            {"weights": {"a": "much"}, "epochs": 1},
            r"mixture.weights.a is 'much' \(text\); expected a number of at least 0",
        ),
        ({"weights": {}, "epochs": 1}, "the mixture has no weights"),
    ],
)
def test_what_no_tokens_could_make_right_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(AskedMixture, values, "mixture")


def test_a_mapping_that_merges_is_told_how_to_replace_it(tmp_path: Path) -> None:
    """And the words that are told are accepted: only the tokens are not there."""
    base = ["mixture=demo_stable", "tokens=tokens/none", f"store={tmp_path}", "dry_run=true"]
    told = run_here("mixture", *base, "mixture.weights={docs: 1}")
    assert told.code == 2
    assert "merged into what is there (chitchat, math-en, " in told.err
    assert "to replace all of it: '~mixture.weights' '+mixture.weights={docs: …}'" in told.err
    added = run_here("mixture", *base, "+mixture.weights.docs=1")
    assert "sum to 2 (" in added.err
    assert "'~mixture.weights' '+mixture.weights={docs: 0.7, web: 0.3}' replaces it" in added.err
    replaced = run_here("mixture", *base, "~mixture.weights", "+mixture.weights={docs: 0.7, web: 0.3}")
    assert replaced.code == 0
    assert "docs" in replaced.out
    assert "sotu" not in replaced.out
    over_auto = run_here("mixture", "mixture=own_stable", *base[1:], "mixture.weights={docs: 1}", "mixture.epochs=1")
    assert over_auto.err.startswith("error: tokens/none does not exist"), "its budget is worked out from the tokens"
