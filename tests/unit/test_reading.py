"""A plan says what is read and how often, refuses what would be read too often, and data without what a stage reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.store.sealed import sealed
from pipelines.train.plan.planning import plan_stage
from tests import tiny
from tests.integration.conftest import train_config
from tests.unit.test_stages import branch, trunk


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.build(str(tmp_path_factory.mktemp("reading") / "store"))


def plan(store: Any, stage: str, data: str = "tokens/tiny", **changes: Any) -> Any:
    parent = trunk(store, "pairs" if stage == "dpo" else "stable", kind="sft" if stage == "dpo" else "pretrain")
    config = branch(parent, data=data, schedule={"peak_lr": 0.01}, **changes)
    return plan_stage(stage, config, store, parent, 2)


def test_what_is_read_is_told_by_source_with_how_often(store: Any) -> None:
    # a conversation of 25 ids fills a window of 32: 300 rows, of which 4 steps of 8 read 32
    assert plan(store, "sft").announcement["reads"] == "chat: 300 conversations, 0.11 times (answers count)"
    assert (
        plan(store, "sft", steps=None, epochs=2).announcement["reads"].startswith("chat: 300 conversations, 2.00 times")
    )
    assert plan(store, "dpo").announcement["reads"] == "pairs: 120 pairs, 0.27 times (both answers)"
    assert plan(store, "dpo", steps=15).announcement["reads"] == "pairs: 120 pairs, once (both answers)"
    assert plan(store, "sft").announcement["data"] == "tokens/tiny"


def test_a_mixture_is_told_by_the_shares_of_its_sources(store: Any) -> None:
    told = plan_stage("pretrain", train_config(), store, None, 2).announcement
    assert told["data"] == "mixture/tiny_stable"
    # 12 steps of 8 windows of 32 are 3,072 tokens, of 24,400 and 18,200
    assert told["reads"] == ("walks 70.0%: 400 documents, 0.09 times; jumps 30.0%: 200 documents, 0.05 times")
    assert "note" not in told


def test_sft_over_documents_says_that_every_token_counts(store: Any) -> None:
    told = plan(store, "sft", data="mixture/tiny_decay").announcement
    assert "walks 40.0%: 400 documents" in told["reads"]
    assert "chat 40.0%: 300 conversations" in told["reads"]
    assert told["note"].startswith(
        "sft usually reads conversations, assistant tokens only; here every token of jumps, walks counts too"
    )


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        # 500 steps of 8 are 33.3 times 120 pairs, and 60 steps exactly 4
        ("dpo", {"steps": 500}, "would read pairs 33.3 times; max_epochs is 4: set steps=60 or less"),
        # 1,280 windows of 300
        (
            "sft",
            {"steps": 160},
            "160 steps of 8 windows would read chat 4.3 times; max_epochs is 4: set steps=150 or less, or steps=null "
            "epochs=1, or max_epochs=5",
        ),
        ("sft", {"steps": 20, "max_epochs": 0.5}, "max_epochs is 0.5: set steps=18 or less, or steps=null epochs=0.5"),
        ("sft", {"steps": None, "epochs": 9}, "epochs=9 reads tokens/tiny 9 times; max_epochs is 4: set epochs=4 or"),
        (
            "dpo",
            {"steps": 61},
            "61 steps of 8 pairs would read pairs 4.1 times; max_epochs is 4: set steps=60 or less, or steps=null",
        ),
        (
            "dpo",
            {"steps": 1, "batch.global_batch": 512},
            "1 step of 512 pairs would read pairs 4.3 times; max_epochs is 4: set batch.global_batch=480 or less",
        ),
        (
            "sft",
            {"data": "mixture/tiny_decay", "steps": 200, "max_epochs": 1},
            "200 steps of 8 windows would read chat 2.7 times; max_epochs is 1: set steps=73 or less, or max_epochs=3",
        ),
    ],
)
def test_data_that_would_be_read_too_often_is_refused_with_what_fits(
    store: Any, stage: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(store, stage, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("sft", {"steps": 150}),
        ("sft", {"steps": 160, "max_epochs": 5}),
        ("sft", {"steps": None, "epochs": 4}),
        ("sft", {"steps": None, "epochs": 9, "max_epochs": 9}),
        ("dpo", {"steps": 60}),
        ("dpo", {"steps": 61, "max_epochs": 5}),
        # a step is the least that there is, however few pairs
        ("dpo", {"steps": None, "epochs": 1, "batch.global_batch": 512}),
    ],
)
def test_what_is_advised_is_taken(store: Any, stage: str, changes: dict[str, Any]) -> None:
    assert plan(store, stage, **changes).announcement["reads"]


def test_the_limit_of_a_mixture_stands_unless_the_run_raises_it(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    held = store.get("mixture/tiny_stable").manifest
    manifest = tmp_path / "store/mixture/tiny_stable/manifest.json"
    manifest.write_bytes(sealed({**held, "config": {"mixture": {"max_epochs": 2}}}))
    with pytest.raises(
        ConfigError, match=r"allows mixture.max_epochs=2: .*; max_epochs=3 raises it for this run alone"
    ):
        plan_stage("pretrain", train_config(steps=300), store, None, 2)
    told = plan_stage("pretrain", train_config(steps=300, max_epochs=3), store, None, 2).announcement["reads"]
    assert "2.20 times" in told


def test_how_often_data_may_be_read_is_no_part_of_a_run(store: Any) -> None:
    assert plan(store, "sft").identity == plan(store, "sft", max_epochs=7).identity


def test_tokens_without_what_a_stage_reads_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    file = tmp_path / "store/tokens/tiny/manifest.json"
    sft, dpo = (trunk(store, name, kind=kind) for name, kind in (("stable", "pretrain"), ("pairs", "sft")))
    held = json.loads(file.read_bytes())
    for kind in ("chat", "pairs"):
        del held["statistics"]["sources"][kind]
    held.pop("seal", None)
    file.write_bytes(sealed(held))

    def planned(stage: str, parent: str) -> None:
        plan_stage(stage, branch(parent, data="tokens/tiny", schedule={"peak_lr": 0.01}), store, parent, 2)

    with pytest.raises(ConfigError) as caught:
        planned("sft", sft)
    assert str(caught.value) == (
        "sft reads conversations of tokens/tiny, which holds none; it holds jumps (200 documents); walks (400 "
        "documents): add a source of kind: conversations to its corpus and encode that, or mix what there is "
        "(data=mixture/<name>)"
    )
    with pytest.raises(ConfigError) as caught:
        planned("dpo", dpo)
    assert str(caught.value).startswith("dpo reads preferences of tokens/tiny, which holds none; it holds jumps (200")
    assert "data=mixture" not in str(caught.value)
