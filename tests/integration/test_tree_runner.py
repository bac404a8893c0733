"""Chains on a pool: every run as its command alone makes it, every step once, whatever ends where."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pipelines.config import ClusterConfig
from pipelines.data.stream.asked_mixture import AskedMixture
from pipelines.errors import ArtifactError, ConfigError, TrainingError
from pipelines.train.checkpoint import committed_steps
from pipelines.train.run.loop import read_metrics
from pipelines.train.sharing.chain import Chain, ChainStage
from tests.integration.conftest import train_config
from tests.integration.ranks import Ranks, train
from tests.integration.test_sharing import assert_equal
from workflows import pretrain
from workflows.mixture import MixtureConfig
from workflows.running.session import Session
from workflows.running.sharing import EdgeEnded, TreeRunner


@dataclass
class Over:
    key: str
    error: Exception | None


class RanksPool:
    """The lanes of these tests: the processes of the session, one edge after another, each when it is asked for."""

    def __init__(self, ranks: Ranks, lanes: int = 1):
        self.config = ClusterConfig(workers=ranks.count)
        self.ranks, self.lanes = ranks, lanes
        self.waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self.keys: list[str] = []
        self.fail: Callable[[str], Exception | None] = lambda key: None

    @property
    def wanted(self) -> int:
        return 2 * self.lanes - len(self.waiting)

    def submit(self, key: str, values: dict[str, Any]) -> None:
        self.waiting.append((key, values))
        self.keys.append(key)

    def next(self, timeout: float | None = None) -> Over | None:
        key, values = self.waiting.popleft()
        if (error := self.fail(key)) is not None:
            return Over(key, error)
        done = self.ranks.call(train, values["spec"])
        if "TrainingError" in done.error:
            return Over(key, TrainingError(done.error.splitlines()[-1]))
        assert done.error == ""
        return Over(key, None)


def decay(length: int, peak_lr: float = 0.01) -> dict[str, Any]:
    return {"peak_lr": peak_lr, "warmup_steps": 2, "decay": "linear", "decay_steps": length}


def config_in(store: Any, workers: int, **changes: Any) -> Any:
    return train_config(store=store.uri, **{"cluster.workers": workers, "log_every_steps": 3, **changes})


def alone(config: Any) -> Chain:
    return Chain(config.name, (ChainStage("pretrain", config),))


@pytest.fixture
def session(store: Any) -> Iterator[Session]:
    with Session(train_config(store=store.uri)) as opened:
        yield opened


def drain(runner: TreeRunner) -> list[EdgeEnded]:
    return list(iter(runner.next, None))


@pytest.mark.parametrize("ranks", ["one_rank", "two_ranks"])
def test_every_leaf_of_a_tree_is_as_its_config_alone(
    store: Any, session: Session, request: pytest.FixtureRequest, ranks: str
) -> None:
    processes: Ranks = request.getfixturevalue(ranks)
    pool = RanksPool(processes)
    trunk = config_in(store, processes.count, name="trunk", steps=14)
    leaves = [
        config_in(store, processes.count, name=f"h{steps}", steps=steps, schedule=decay(3)) for steps in (8, 10, 14)
    ]
    branch = config_in(
        store, processes.count, name="branch", steps=6, model=None, data="mixture/tiny_decay",
        schedule={"decay": "linear", "decay_steps": 3},
    )  # fmt: skip
    short = dataclasses.replace(branch, name="short", steps=5, data="mixture/tiny_decay")
    chains = [alone(trunk), *map(alone, leaves)]
    for anneal, length in ((branch, 9), (short, 9)):
        first = config_in(store, processes.count, name=f"trunk{length}", steps=length)
        chains.append(Chain(anneal.name, (ChainStage("pretrain", first), ChainStage("anneal", anneal))))
    with TreeRunner(session, pool) as runner:
        runner.add(chains)
        assert runner.tree.trained_tokens == (14 + 3 + 3 + 3 + 6 + 3) * 256
        ended = drain(runner)
        assert runner.done
    assert {name for end in ended if end.last for name in end.chains} == {chain.name for chain in chains}
    assert not any(end.error for end in ended)
    shown = sum(
        1 for run in runner.tree.runs.values() for row in read_metrics(store.storage, run.folder)
        if row["step"] > run.adopted_step
    )  # fmt: skip
    assert shown == 14 + 3 + 3 + 3 + 6 + 3
    # the same configs, each by itself: the same bits, the same fingerprint
    for name, run in runner.tree.runs.items():
        solo = dataclasses.replace(run.config, name=f"{run.config.name}-alone")
        pool.submit("alone", {"spec": alone_spec(session, run.stage, solo)})
        assert pool.next().error is None
        assert_equal(store, name, f"{name}-alone")
        assert store.get(name).fingerprint == store.get(f"{name}-alone").fingerprint
    claim = store.claim("pretrain/h8")
    assert claim["adopted"]["checkpoint"] == "pretrain/trunk@step-5"
    # the plain command finds it finished
    assert pretrain.run(leaves[0], session).folder == "pretrain/h8"
    # and so does the same tree
    pool.keys.clear()
    with TreeRunner(session, pool) as again:
        again.add(chains)
        assert {name for end in drain(again) if end.last for name in end.chains} == {c.name for c in chains}
    assert pool.keys == []


def alone_spec(session: Session, stage: str, config: Any) -> dict[str, Any]:
    """The spec of a run that `train_stage` would train by itself."""
    from pipelines.config import plain
    from pipelines.store.draft import Draft, Making
    from workflows.running.training import code_of_run, plan_run, told_whole

    config, planned = plan_run(stage, config, session)
    making = Making(planned.identity, planned.inputs, code_of_run(planned), None, told_whole(config, planned))
    draft = session.store.prepare(stage, config.name, making)
    assert isinstance(draft, Draft)
    draft.start()
    return plain(dataclasses.replace(planned.spec, claim=draft.claim))


def test_a_command_that_was_killed_goes_on_from_the_last_edge(store: Any, session: Session, one_rank: Ranks) -> None:
    chains = [alone(config_in(store, 1, name=f"h{n}", steps=n, schedule=decay(3))) for n in (8, 10, 14)]
    pool = RanksPool(one_rank)
    with TreeRunner(session, pool) as runner:
        runner.add(chains)
        assert runner.next().step == 5  # the trunk, up to where the shortest leaves it
        assert runner.next() is not None
    first = list(pool.keys)
    pool.waiting.clear()  # what the lanes ran is lost with them
    before = committed_steps(store.storage, "pretrain/h14")
    with TreeRunner(session, pool) as runner:
        runner.add(chains)
        drain(runner)
        assert runner.done
    again = pool.keys[len(first) :]
    assert "pretrain/h14@step-5" not in again
    assert 5 in before
    assert all(store.find(f"pretrain/h{n}") is not None for n in (8, 10, 14))


def test_a_claim_that_adopts_is_gone_on_with_by_its_command_alone(
    store: Any, session: Session, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = config_in(store, 1, name="h8", steps=8, schedule=decay(3))
    pool = RanksPool(one_rank)
    pool.fail = lambda key: ConfigError("lost") if "h8" in key else None
    with TreeRunner(session, pool) as runner:
        runner.add([alone(leaf), alone(config_in(store, 1, name="h10", steps=10, schedule=decay(3)))])
        ends = {name: end.error for end in drain(runner) if end.last for name in end.chains}
    assert str(ends["h8"]) == "lost"
    assert ends["h10"] is None
    specs: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "pipelines.cluster.cluster.Cluster.train",
        lambda self, worker, spec, ready, begin: (begin(), specs.append(spec), one_rank.call(train, spec)),
    )
    monkeypatch.setattr("pipelines.cluster.cluster.Cluster.prepare", lambda self, ready, wait=False: None)
    pretrain.run(leaf, session)
    assert specs[0]["adopts"] == {"run": "pretrain/h10", "step": 5}


def test_what_diverges_takes_along_who_needs_its_later_steps_alone(
    store: Any, session: Session, one_rank: Ranks
) -> None:
    pool = RanksPool(one_rank)
    pool.fail = lambda key: TrainingError("no number") if key == "pretrain/h14@step-7" else None
    with TreeRunner(session, pool) as runner:
        runner.add([alone(config_in(store, 1, name=f"h{n}", steps=n, schedule=decay(3))) for n in (8, 10, 14)])
        ends = {name: end for end in drain(runner) if end.last for name in end.chains}
        assert runner.done
    assert ends["h8"].error is None
    assert isinstance(ends["h10"].error, TrainingError)
    assert ends["h10"] is ends["h14"]
    assert ends["h14"].step == 5


def test_an_error_of_one_run_stops_nobody_else(store: Any, session: Session, one_rank: Ranks) -> None:
    pool = RanksPool(one_rank)
    # of the same name, and not what this tree would make
    spec = alone_spec(session, "pretrain", config_in(store, 1, name="h14", steps=4, seed=9))
    assert one_rank.call(train, spec).error == ""
    with TreeRunner(session, pool) as runner:
        runner.add([alone(config_in(store, 1, name=f"h{n}", steps=n, schedule=decay(3))) for n in (8, 10, 14)])
        ends = {name: end for end in drain(runner) if end.last for name in end.chains}
    assert isinstance(ends["h14"].error, ArtifactError)
    assert ends["h8"].error is None
    assert ends["h10"].error is None
    assert store.claim("pretrain/h8")["adopted"]["checkpoint"] == "pretrain/h10@step-5"


def test_a_pruned_chain_ends_and_what_others_need_of_it_is_trained(
    store: Any, session: Session, one_rank: Ranks
) -> None:
    pool = RanksPool(one_rank)
    long = dataclasses.replace(alone(config_in(store, 1, name="h14", steps=14, schedule=decay(3))), rungs=(4, 9))
    with TreeRunner(session, pool) as runner:
        runner.add([long, alone(config_in(store, 1, name="h8", steps=8, schedule=decay(3)))])
        rung = runner.next()
        assert (rung.chains, rung.step, rung.last) == (("h14", "h8"), 4, False)
        runner.prune("h14")
        ends = drain(runner)
        assert runner.done
    assert [end.chains for end in ends if end.last] == [("h14",), ("h8",)]
    assert committed_steps(store.storage, "pretrain/h14")[-1] == 5
    assert store.find("pretrain/h14") is None


def test_what_a_leaf_adopts_survives_the_rule_of_its_trunk(store: Any, session: Session, one_rank: Ranks) -> None:
    pool = RanksPool(one_rank)
    retention = {"checkpoint": {"every_steps": 2, "keep_last": 1}}
    configs = [config_in(store, 1, name=f"h{n}", steps=n, schedule=decay(3), **retention) for n in (8, 14)]
    with TreeRunner(session, pool) as runner:
        runner.add(map(alone, configs))
        # the trunk goes to its end before its leaf is begun
        runner._open.sort(key=lambda run: -run.steps)
        drain(runner)
    assert committed_steps(store.storage, "pretrain/h14") == [5, 14]
    assert store.find("pretrain/h8") is not None


def test_measured_rows_come_along(store: Any, session: Session, one_rank: Ranks) -> None:
    pool = RanksPool(one_rank)
    configs = [config_in(store, 1, name=f"h{n}", steps=n, schedule=decay(3)) for n in (8, 14)]
    with TreeRunner(session, pool) as runner:
        runner.add(map(alone, configs))
        runner.next()
        for step in (3, 5, 7):
            store.storage.write(f"pretrain/h14/measured/heldout/step-{step:06d}.json", b"{}")
        drain(runner)
    assert store.storage.keys("pretrain/h8/measured") == [
        f"pretrain/h8/measured/heldout/step-{step:06d}.json" for step in (3, 5)
    ]


def test_other_lanes_than_a_run_asks_for_are_refused(store: Any, session: Session, one_rank: Ranks) -> None:
    with TreeRunner(session, RanksPool(one_rank)) as runner:
        for changes, message in (
            ({"cluster.workers": 2}, "cluster.workers=2, and the lanes here have 1"),
            ({"on_change": "rebuild"}, "on_change=rebuild"),
            ({"checkpoint.resume": "step-4"}, "take neither"),
        ):
            with pytest.raises(ConfigError, match=message):
                runner.add([alone(config_in(store, 1, **{"cluster.workers": 1, **changes}))])
        assert runner.done


def test_a_chain_of_a_mixture_and_three_stages(store: Any, session: Session, one_rank: Ranks) -> None:
    recipe = AskedMixture(weights={"walks": 0.5, "chat": 0.5}, budget_tokens=20_000, max_epochs=100)
    made = MixtureConfig(name="mixed", tokens="tokens/tiny", mixture=recipe, store=store.uri)

    def chain(name: str, length: int) -> Chain:
        branch = {"model": None, "schedule": {"decay": "linear", "decay_steps": length}}
        first = config_in(store, 1, name=f"{name}-trunk", steps=6)
        anneal = config_in(store, 1, name=name, data="mixture/mixed", steps=6, **branch)
        tuned = config_in(store, 1, name=name, data="tokens/tiny", steps=2, model=None, schedule={})
        stages = (("pretrain", first), ("mixture", made), ("anneal", anneal), ("sft", tuned))
        return Chain(name, tuple(ChainStage(workflow, config) for workflow, config in stages))

    with TreeRunner(session, RanksPool(one_rank)) as runner:
        runner.add([chain("a", 2), chain("b", 3)])
        ends = [end for end in drain(runner) if end.last]
        assert runner.done
    assert [end.error for end in ends] == [None, None]
    # the second trunk is the first by another name, and its branch goes with the other's up to the decay
    assert store.claim("pretrain/b-trunk")["adopted"]["checkpoint"] == "pretrain/a-trunk@step-6"
    assert store.claim("anneal/b")["adopted"]["checkpoint"] == "anneal/a@step-3"
    assert store.claim("anneal/b")["identity"]["config"]["parent"] == "pretrain/b-trunk@step-6"
    assert store.get("sft/b").statistics["start"]["run"] == "anneal/b"
    for name in "ab":
        run = runner.tree.runs[f"anneal/{name}"]
        solo = dataclasses.replace(run.config, name=f"{name}-alone")
        assert one_rank.call(train, alone_spec(session, "anneal", solo)).error == ""
        assert_equal(store, f"anneal/{name}", f"anneal/{name}-alone")


def test_a_branch_waits_for_the_claim_of_who_adopts_from_it(store: Any, session: Session, one_rank: Ranks) -> None:
    """Under a rule of retention; and that claim needs its own parent, which may come later."""
    retention = {"checkpoint": {"every_steps": 2, "keep_last": 1}}

    def chain(name: str, steps: int) -> Chain:
        first = config_in(store, 1, name=f"{name}-trunk", steps=6, **retention)
        branch = {"model": None, "data": "mixture/tiny_decay", "schedule": {"decay": "linear", "decay_steps": 2}}
        anneal = config_in(store, 1, name=name, steps=steps, **branch, **retention)
        return Chain(name, (ChainStage("pretrain", first), ChainStage("anneal", anneal)))

    with TreeRunner(session, RanksPool(one_rank)) as runner:
        runner.add([chain("long", 8), chain("short", 5)])
        # the short one's trunk last of all
        runner._open.sort(key=lambda run: run.config.name == "short-trunk")
        ends = {name: end.error for end in drain(runner) if end.last for name in end.chains}
    assert ends == {"long": None, "short": None}
    assert committed_steps(store.storage, "anneal/long") == [3, 8]
