"""The tree of runs that share steps: from configs alone, every step once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.sharing.chain import Chain, ChainStage
from pipelines.train.sharing.trajectory import trajectory_of
from pipelines.train.sharing.tree import Tree, plan_tree
from tests.integration.conftest import train_config

STEP_TOKENS = 8 * 32


def decay(steps: int, length: int, peak_lr: float = 0.01) -> dict[str, Any]:
    return {
        "steps": steps,
        "schedule": {"peak_lr": peak_lr, "warmup_steps": 2, "decay": "linear", "decay_steps": length},
    }


def alone(name: str, **changes: Any) -> Chain:
    """A chain of one pretrain run."""
    return Chain(name, (ChainStage("pretrain", train_config(name=name, **changes)),))


def edges_of(tree: Tree) -> dict[str, list[tuple[int, int | None]]]:
    edges: dict[str, list[tuple[int, int | None]]] = {}
    for edge in tree.edges():
        edges.setdefault(edge.run.config.name, []).append((edge.first, edge.last))
    return edges


def test_decays_off_one_trunk_cost_the_trunk_and_the_decays() -> None:
    horizons = range(100, 1100, 100)
    tree = plan_tree([alone(f"h{steps}", **decay(steps, steps // 10)) for steps in horizons])
    # the longest carries the trunk; each other one adopts it where its own decay begins
    assert edges_of(tree)["h1000"] == [
        (a, b) for a, b in zip([0, *range(90, 900, 90)], [*range(90, 900, 90), 1000], strict=True)
    ]
    assert edges_of(tree)["h300"] == [(270, 300)]
    own_decays = sum(steps // 10 for steps in horizons)
    assert tree.trained_tokens == (900 + own_decays) * STEP_TOKENS
    assert tree.naive_tokens == sum(horizons) * STEP_TOKENS
    (edge,) = [edge for edge in tree.edges() if edge.run.config.name == "h1000" and edge.last == 180]
    assert edge.chains == [f"h{steps}" for steps in (1000, 900, 800, 700, 600, 500, 400, 300, 200)]


def test_another_learning_rate_before_a_step_shares_nothing_after_it() -> None:
    tree = plan_tree(
        [
            alone("a", **decay(100, 20)),
            alone("b", **decay(100, 40)),
            alone("c", **decay(100, 40, 0.02)),
            # the same rates from step 3 on, and another way there
            alone("d", steps=100, schedule={"peak_lr": 0.01, "warmup_steps": 3, "decay": "linear", "decay_steps": 20}),
        ]
    )
    assert edges_of(tree) == {"a": [(0, 60), (60, 100)], "b": [(60, 100)], "c": [(0, 100)], "d": [(0, 100)]}
    assert tree.runs["pretrain/b"].adopted == dataclasses.replace(
        tree.runs["pretrain/b"].adopted, run="pretrain/a", step=60
    )


def test_cosines_of_different_lengths_share_their_warmup_alone() -> None:
    tree = plan_tree(
        [
            alone(f"{steps}", steps=steps, schedule={"kind": "cosine", "peak_lr": 0.01, "warmup_steps": 10})
            for steps in (100, 200)
        ]
    )
    assert edges_of(tree) == {"200": [(0, 10), (10, 200)], "100": [(10, 100)]}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"batch.micro_batch": 4},
        {"zero.stage": 1},
        {"cluster.workers": 4},
        {"model.d_ff": 96},
        {"optimizer.weight_decay": 0.2},
        {"data": "mixture/tiny_decay"},
        {"compute.keep": "input"},
        {"log_every_steps": 7},
    ],
)
def test_whatever_decides_a_bit_is_shared_by_none(change: dict[str, Any]) -> None:
    tree = plan_tree([alone("a"), alone("b", **change)])
    assert edges_of(tree) == {"a": [(0, 12)], "b": [(0, 12)]}


def test_what_decides_nothing_keeps_nobody_apart() -> None:
    ways = {"checkpoint.every_steps": 7, "tracking.enabled": True, "profile": True, "store": "elsewhere"}
    tree = plan_tree([alone("a"), alone("b", **ways)])
    assert edges_of(tree) == {"a": [(0, 12)]}
    assert tree.runs["pretrain/b"].adopted_step == 12


def test_a_trunk_that_is_only_a_beginning_is_a_point_on_the_longer_one() -> None:
    tree = plan_tree([alone("short", steps=8), alone("long", steps=12)])
    assert edges_of(tree) == {"long": [(0, 8), (8, 12)]}
    assert tree.trained_tokens == 12 * STEP_TOKENS


def chain(name: str, trunk: int, branch: str, data: str = "mixture/tiny_decay", **changes: Any) -> Chain:
    """A trunk and a decay off its end; the trunk is named by its length."""
    trunk_config = train_config(name=f"t{trunk}", steps=trunk)
    schedule = {"decay": "linear", "decay_fraction": 1.0}
    anneal = train_config(name=branch, data=data, model=None, steps=10, schedule=schedule, **changes)
    return Chain(name, (ChainStage("pretrain", trunk_config), ChainStage("anneal", anneal)))


def test_chains_go_on_from_the_end_of_the_run_before() -> None:
    tree = plan_tree([chain("a", 40, "a"), chain("b", 80, "b"), chain("c", 80, "c", "mixture/other")])
    assert edges_of(tree) == {"t80": [(0, 40), (40, 80)], "a": [(0, 10)], "b": [(0, 10)], "c": [(0, 10)]}
    assert tree.runs["anneal/a"].config.parent == "pretrain/t40@step-40"
    assert tree.naive_tokens == (50 + 90 + 90) * STEP_TOKENS
    assert [run.folder for run in tree.path("b")] == ["pretrain/t80", "anneal/b"]
    # the trunk's first steps are everybody's, the rest is not that of `a`
    trunk = [edge.chains for edge in tree.edges() if edge.run.config.name == "t80"]
    assert trunk == [["b", "c", "a"], ["b", "c"]]


def test_branches_off_equal_trunks_share_within_their_own_stage() -> None:
    def branch(name: str, trunk: str, length: int) -> Chain:
        schedule = {"decay": "linear", "decay_steps": length}
        anneal = train_config(name=name, data="mixture/tiny_decay", model=None, steps=20, schedule=schedule)
        return Chain(name, (ChainStage("pretrain", train_config(name=trunk)), ChainStage("anneal", anneal)))

    tree = plan_tree([branch("a", "one", 10), branch("b", "two", 5)])
    assert edges_of(tree) == {"one": [(0, 12)], "a": [(0, 10), (10, 20)], "b": [(10, 20)]}


def test_runs_whose_length_only_the_data_say_are_alone() -> None:
    def tuned(name: str, **changes: Any) -> Chain:
        sft = train_config(name=name, data="tokens/tiny", model=None, schedule={}, **changes)
        return Chain(name, (ChainStage("pretrain", train_config(name="t")), ChainStage("sft", sft)))

    tree = plan_tree([tuned("a", steps=None, epochs=1.0), tuned("b", steps=None, epochs=1.0), tuned("c", steps=4)])
    assert edges_of(tree) == {"t": [(0, 12)], "c": [(0, 4)], "a": [(0, None)], "b": [(0, None)]}


def test_pairs_are_prepared_by_each_run_for_itself() -> None:
    config = train_config(parent="sft/s", data="tokens/tiny", model=None, steps=4, schedule={"peak_lr": 1e-4})
    one, other = (trajectory_of("dpo", dataclasses.replace(config, name=name)) for name in "ab")
    assert one.common(other) == 0


def test_a_rung_is_a_stop_wherever_its_steps_are_trained() -> None:
    chains = [alone("a", **decay(100, 20)), dataclasses.replace(alone("b", **decay(100, 40)), rungs=(25, 80))]
    assert edges_of(plan_tree(chains)) == {"a": [(0, 25), (25, 60), (60, 100)], "b": [(60, 80), (80, 100)]}


def test_what_is_committed_is_not_trained_again() -> None:
    committed = {"pretrain/a": [50, 60, 70], "pretrain/b": [80]}
    chains = [alone("a", **decay(100, 20)), alone("b", **decay(100, 40)), alone("c", **decay(100, 35))]
    tree = plan_tree(chains, lambda folder: committed.get(folder, []))
    # the run that has passed step 65 is adopted at its checkpoint before
    assert edges_of(tree) == {"a": [(70, 100)], "b": [(80, 100)], "c": [(60, 100)]}


def test_chains_that_come_later_adopt_what_is_still_to_be_had() -> None:
    tree = plan_tree([alone("a", **decay(100, 20))])
    carrier = tree.runs["pretrain/a"]
    carrier.aim, carrier.committed = 50, [20]
    tree.add([alone("b", **decay(100, 40)), alone("c", **decay(100, 70))])
    assert edges_of(tree) == {"a": [(20, 60), (60, 100)], "b": [(60, 100)], "c": [(20, 100)]}


def test_a_run_that_is_lost_carries_nobody() -> None:
    tree = plan_tree([alone("a", **decay(100, 20)), alone("b", **decay(90, 20)), alone("c", **decay(80, 20))])
    lost = tree.runs["pretrain/a"]
    assert {run.config.name for run in lost.adopters} == {"b", "c"}
    lost.lost = True
    for run in list(lost.adopters):
        tree.place(run)
    assert tree.runs["pretrain/b"].adopts is None
    assert tree.runs["pretrain/c"].adopts is tree.runs["pretrain/b"]


def test_two_of_one_name_are_refused() -> None:
    tree = plan_tree([alone("a")])
    with pytest.raises(ConfigError, match="two trials are called a"):
        tree.add([alone("a")])
    with pytest.raises(ConfigError, match="two configs would make pretrain/t40"):
        tree.add(
            [chain("b", 40, "b"), Chain("c", (ChainStage("pretrain", train_config(name="t40", steps=40, seed=5)),))]
        )
    assert list(tree.chains) == ["a"]
    with pytest.raises(ConfigError, match="trains nothing"):
        tree.add([Chain("d", ())])
    with pytest.raises(ConfigError, match="pretrain/e: schedule.warmup_steps 2 \\+ schedule.decay_steps 20 exceed"):
        tree.add([alone("e", **decay(20, 20))])


def test_a_thousand_trials_are_planned_in_seconds() -> None:
    chains = [
        alone(f"{seed}-{steps}-{peak_lr}", seed=seed, **decay(steps, steps // 10, peak_lr))
        for seed in range(10)
        for peak_lr in (0.001 * rung for rung in range(1, 11))
        for steps in range(200, 1200, 100)
    ]
    tree = plan_tree(chains)
    assert len(tree.runs) == 1000
    assert tree.trained_tokens < 0.4 * tree.naive_tokens
