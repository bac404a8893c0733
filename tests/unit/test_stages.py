"""Planning a stage: what is refused before anything starts, and how the refusal reads."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.config import plain
from pipelines.data.stream.mixture import plan_conversations
from pipelines.errors import ArtifactError, CheckpointError, ConfigError, DataError
from pipelines.store.draft import Draft
from pipelines.store.sealed import sealed
from pipelines.train.batches.windows import uneven
from pipelines.train.plan.planning import plan_stage
from pipelines.train.stages import STAGES
from tests import tiny
from tests.integration.conftest import TINY_MODEL, train_config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.build(str(tmp_path_factory.mktemp("stages") / "store"))


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("pretrain", {"data": "mixture/none"}, "mixture/none does not exist"),
        ("pretrain", {"data": "tokens/tiny"}, "data=tokens/tiny is of kind tokens; pretrain reads mixture"),
        ("pretrain", {"parent": "pretrain/x"}, "pretrain starts fresh"),
        (
            "pretrain",
            {"objective": {"name": "dpo"}},
            "objective=dpo learns from pairs, and pretrain reads windows: set objective=next_token",
        ),
        ("pretrain", {"objective": {"name": "next"}}, "objective.name is 'next'; expected one of dpo, next_token"),
        ("pretrain", {"model": None}, "model is null"),
        ("pretrain", {"model.heads": 5}, "model.d_model 32 is not divisible by model.heads 5"),
        (
            "pretrain",
            {"model.vocabulary": 100},
            "model.vocabulary is 100, but the tokenizer of tokens/tiny has 128 ids",
        ),
        (
            "pretrain",
            {"batch.global_batch": 6},
            "batch.global_batch 6 does not divide into micro-batches of 2 on 2 "
            "workers: set batch.micro_batch to one of 1, 3",
        ),
        ("pretrain", {"batch.global_batch": 7}, "set batch.global_batch to a multiple of 2"),
        (
            "pretrain",
            {"batch.sequence_length": 128},
            "batch.sequence_length 128 exceeds model.max_positions 64: lower it, or raise max_positions",
        ),
        ("pretrain", {"epochs": 1.0}, "got steps=12 and epochs=1.0; expected one of them"),
        ("pretrain", {"steps": 0}, "steps is 0; expected a whole number of at least 1"),
        ("pretrain", {"zero.stage": 0, "zero.precision": "bfloat16"}, "set zero.stage=1"),
        (
            "pretrain",
            {"model.vocabulary": 300},
            "model.vocabulary is 300, but the tokenizer of tokens/tiny has 128 "
            "ids: most of the embedding would never be trained",
        ),
        (
            "pretrain",
            {"checkpoint": {"resume": "step-4"}, "on_change": "rebuild"},
            "checkpoint.resume=step-4 goes on from a checkpoint that on_change=rebuild deletes",
        ),
        ("pretrain", {"checkpoint": {"resume": "4"}}, "checkpoint.resume is '4' (text); expected latest or step-N"),
        ("pretrain", {"rope_base": "ntk"}, "a fresh run's is model.rope_base"),
        ("pretrain", {"compute": {"memory_gib": 0}}, "compute.memory_gib is 0; expected a number above 0"),
        ("pretrain", {"compute": {"loss_chunk": 0}}, "compute.loss_chunk is 0; expected a whole number of at least 1"),
        (
            "pretrain",
            {"compute": {"attention": "varlen"}},
            "compute.attention=varlen is FlashAttention, which needs a GPU: set compute.attention=auto",
        ),
        (
            "pretrain",
            {"compute": {"attention": "cudnn"}},
            "compute.attention=cudnn is cuDNN's, which needs a GPU: set compute.attention=auto",
        ),
        (
            "pretrain",
            {"compute": {"attention": "flex"}},
            "compute.attention=flex has no backward pass on a CPU: set compute.attention=auto",
        ),
        (
            "pretrain",
            {"compute": {"memory_gib": 0.401}, "batch.global_batch": 4096, "batch.micro_batch": 1024},
            "batch.micro_batch=1024 × 32 tokens does not fit",
        ),
        ("pretrain", {"cluster": {"workers": 2, "gpus_per_worker": 1}}, "asks for 2 GPUs; this machine has 0"),
        ("pretrain", {"schedule.peak_lr": "nan"}, "schedule.peak_lr is nan; expected a finite number"),
        ("pretrain", {"schedule.peak_lr": -0.01}, "schedule.peak_lr is -0.01; expected a number above 0"),
        ("pretrain", {"schedule.peak_lr": None}, "this stage takes no LR from a parent: set"),
        ("pretrain", {"schedule.warmup_steps": 20}, "exceed steps 12"),
        ("anneal", {}, "anneal needs a parent: pass parent=<pretrain|anneal>"),
        ("anneal", {"parent": "sft/x"}, "parent=sft/x is of kind sft; anneal takes pretrain or anneal"),
        ("anneal", {"parent": "pretrain/none"}, "pretrain/none does not exist"),
        ("dpo", {"parent": "pretrain/x", "data": "tokens/tiny"}, "dpo takes average or anneal or sft or dpo"),
        (
            "anneal",
            {"parent": "average/x"},
            "parent=average/x holds weights alone, and anneal goes on with its parent's optimizer state",
        ),
    ],
)
def test_what_cannot_run_is_refused(store: Any, stage: Any, changes: dict[str, Any], message: str) -> None:
    def planned() -> None:
        config = train_config(**changes)
        plan_stage(stage, config, store, config.parent, 2)

    with pytest.raises((ConfigError, ArtifactError, CheckpointError)) as caught:
        planned()
    assert message in str(caught.value)


def test_a_parent_that_is_suggested_is_one_that_the_same_command_takes(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    sft: dict[str, Any] = {"name": "demo", "data": "tokens/tiny", "model": None, "steps": 2, "schedule": {}}

    def said(stage: Any, **changes: Any) -> str:
        with pytest.raises(ConfigError, match=f"{stage} needs a parent: pass parent=<") as caught:
            plan_stage(stage, train_config(**changes), store, None, 2)
        return str(caught.value)

    assert said("sft", **sft).endswith("store has none yet: make one with `python -m workflows.pretrain`")
    trunk(store, "other", model={**TINY_MODEL, "layers": 3})
    assert said("sft", **sft).endswith("e.g. parent=pretrain/other")
    plan_stage("sft", train_config(**sft), store, "pretrain/other", 2)
    # an anneal that states another architecture than the only trunk has is told why that one would not do
    message = said("anneal", data="mixture/tiny_decay", schedule={"decay": "linear", "decay_fraction": 1.0})
    assert "e.g." not in message
    assert "with parent=pretrain/other: parent pretrain/other@step-8 is of another architecture" in message


def test_a_window_beyond_the_parents_positions_is_told_how_they_are_extended(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    trunk(store, "short")
    config = train_config(
        name="x", data="tokens/tiny", model=None, steps=2, schedule={}, **{"batch.sequence_length": 65}
    )
    with pytest.raises(ConfigError, match=r"lower it, or take a parent .*workflows.anneal batch.sequence_length=65"):
        plan_stage("sft", config, store, "pretrain/short@latest", 2)


def test_a_mixture_over_other_tokens_is_refused(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    store.storage.delete("tokens/tiny")
    rebuilt = store.begin("tokens", "tiny", {"seed": 1})
    assert isinstance(rebuilt, Draft)
    rebuilt.commit({}, {"sources": {}, "vocabulary_size": 128})
    with pytest.raises(ArtifactError, match="was planned over another version of tokens/tiny"):
        plan_stage("pretrain", train_config(), store, None, 2)


def test_more_steps_of_a_trunk_are_the_same_run_but_of_a_cosine_are_not(store: Any) -> None:
    def identity(**changes: Any) -> Any:
        config = train_config(**changes)
        return plan_stage("pretrain", config, store, None, 2).identity

    assert identity(steps=12) == identity(steps=40)
    assert identity(steps=12, schedule={"kind": "cosine", "peak_lr": 0.01}) != identity(
        steps=40, schedule={"kind": "cosine", "peak_lr": 0.01}
    )
    assert identity() == identity(**{"batch.micro_batch": 1, "zero.stage": 3})  # how it runs, not what it computes
    assert identity() != identity(seed=2)


def test_the_announcement_shows_the_row_of_the_table(store: Any) -> None:
    facts = plan_stage("pretrain", train_config(), store, None, 2).announcement
    row = STAGES["pretrain"]
    assert facts["weights"] == row.weights
    assert facts["optimizer state"] == row.optimizer_state
    assert facts["batch"] == "8 × 32 tokens = 2 micro-batch × 2 accumulation × 2 workers"
    assert facts["steps"].startswith("12 = 3,072 tokens")
    assert str(TINY_MODEL["vocabulary"] * 32) in facts["model"].replace(",", "")


def test_what_works_but_may_not_be_meant_is_said(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def note(workers: int, **changes: Any) -> str:
        return str(plan_stage("pretrain", train_config(**changes), store, None, workers).announcement.get("note", ""))

    assert note(2) == note(2, **{"zero.stage": 3}) == ""
    assert "ZeRO-3 with one worker splits nothing" in note(1, **{"zero.stage": 3})
    assert "64 of 192 embeddings are padding: the tokenizer has 128 ids" in note(2, **{"model.vocabulary": 192})
    many = {"batch.global_batch": 8, "batch.micro_batch": 1}
    assert "8 workers take turns on the 2 cores of this machine" in note(8, **many)
    assert note(8, **many, cluster={"workers": 8, "address": "10.0.0.1:6379"}) == ""
    elsewhere = note(2, cluster={"workers": 2, "gpus_per_worker": 1}, dry_run=True)
    assert "asks for 2 GPUs; this machine has 0" in elsewhere


def test_the_announcement_shows_what_is_computed_again(store: Any) -> None:
    def line(**changes: Any) -> str:
        return str(plan_stage("pretrain", train_config(**changes), store, None, 2).announcement["memory"])

    assert line().endswith("keep=all")
    assert "(each of the 2 workers on this machine of" in line()
    assert line(compute={"keep": "input"}).endswith("keep=input in 2 of 2 blocks")


def trunk(store: Any, name: str, kind: str = "pretrain", **changes: Any) -> str:
    """Commit a run that planning can read: a checkpoint's recorded state, without weights."""
    import json

    from pipelines.train.checkpoint.lineage import tokenizer_of

    planned = plan_stage("pretrain", train_config(name=name, steps=8), store, None, 2)
    state = {
        "model": plain(planned.spec.model),
        "schedule": plain(planned.spec.schedule),
        "learning_rate": 0.01,
        "samples": 64,
        "tokens": 2048,
        "sequence_length": 32,
        "seed": 1,
        "segments": list(planned.spec.segments),
        "tokenizer": tokenizer_of(store.get("tokens/tiny")),
        **changes,
    }
    store.storage.write(
        f"{kind}/{name}/checkpoints/step-000008/manifest.json",
        json.dumps({"step": 8, "files": {}, "state": state}).encode(),
    )
    draft = store.begin(kind, name, planned.identity, planned.inputs)
    if isinstance(draft, Draft):
        draft.commit({}, {"steps": 8})
    return f"{kind}/{name}@step-8"


def branch(parent: str, **changes: Any) -> Any:
    base = {
        "schedule": {"decay": "linear", "decay_fraction": 1.0},
        "model": None,
        "data": "mixture/tiny_decay",
        "steps": 4,
    }
    return train_config(parent=parent, **{**base, **changes})


def test_an_anneal_goes_on_at_the_trunks_rate_and_place(store: Any) -> None:
    parent = trunk(store, "stable")
    spec = plan_stage("anneal", branch(parent), store, parent, 2).spec
    assert spec.schedule.peak_lr == 0.01
    assert spec.schedule.decay_steps == 4
    assert (spec.start.mode, spec.start.samples, spec.start.tokens) == ("branch", 64, 2048)
    assert [segment["from_sample"] for segment in spec.segments] == [0, 64]
    same = branch(parent, schedule={"peak_lr": 0.01, "decay": "linear", "decay_fraction": 1.0})
    assert plan_stage("anneal", same, store, parent, 2).spec.schedule == spec.schedule


def test_a_decay_whose_steps_are_open_takes_a_tenth_of_all_tokens(store: Any) -> None:
    windows = dict.fromkeys((4608, 9216), 0)
    for tokens in windows:
        parent = trunk(store, f"of-{tokens}", tokens=tokens)
        spec = plan_stage("anneal", branch(parent, steps=None), store, parent, 2).spec
        windows[tokens] = spec.steps * spec.batch.global_batch
    assert windows == {4_608: 16, 9_216: 32}  # of 32 ids each


@pytest.mark.parametrize(
    ("state", "changes", "message"),
    [
        (
            {},
            {"schedule": {"peak_lr": 0.02, "decay": "linear", "decay_fraction": 1.0}},
            "schedule.peak_lr is 0.02, but pretrain/odd0@step-8 stands at 0.01",
        ),
        (
            {"learning_rate": 0.005},
            {},
            "was saved at LR 0.005, outside its stable phase (0.01): branch from a stable checkpoint",
        ),
        ({}, {"schedule": {"warmup_steps": 1}}, "anneal goes on at the trunk's LR: set it to 0"),
        ({}, {"seed": 2}, "seed is 2, the trunk's is 1"),
        (
            {},
            {"batch.sequence_length": 16, "rope_base": "ntk"},
            "rope_base=ntk with batch.sequence_length=16, but the parent was trained on 32",
        ),
        ({}, {"rope_base": 0.5}, "rope_base is 0.5; expected one of keep, ntk or a number above 1"),
        ({}, {"model": {**TINY_MODEL, "layers": 3}}, "is of another architecture (layers: 2 -> 3): leave model null"),
        (
            {"tokenizer": "other"},
            {},
            "tokens/tiny was encoded with another tokenizer than pretrain/odd7@step-8 was trained on",
        ),
        (
            {"optimizer": "muon"},
            {},
            "pretrain/odd8@step-8 holds the state of the optimizer muon, and this run uses "
            "adamw: choose optimizer=muon",
        ),
    ],
)
def test_a_branch_that_would_break_the_trunks_line_is_refused(
    store: Any, state: dict[str, Any], changes: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["state"]
    parent = trunk(store, f"odd{number}", **state)
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        plan_stage("anneal", branch(parent, **changes), store, parent, 2)
    assert message in str(caught.value)


def test_a_checkpoint_that_is_not_there_names_those_that_are(store: Any) -> None:
    trunk(store, "few")
    with pytest.raises(CheckpointError, match=r"pretrain/few@step-9 does not exist; committed steps: 8"):
        plan_stage("anneal", branch("pretrain/few@step-9"), store, "pretrain/few@step-9", 2)


def test_a_branch_may_read_longer_windows_with_slower_positions(store: Any) -> None:
    parent = trunk(store, "short")
    planned = plan_stage("anneal", branch(parent, rope_base="ntk", **{"batch.sequence_length": 128}), store, parent, 2)
    assert planned.spec.model.rope_base == pytest.approx(10_000 * 4 ** (8 / 6))  # heads of 8, four times as long
    assert planned.spec.model.max_positions == 128
    assert "windows of 32 -> 128 tokens, rope_base 10,000 -> 63,496" in planned.announcement["context"]
    assert (
        "walks from its beginning, epoch 2 (" in planned.announcement["stream"]
    )  # one group of shards, and it was begun
    assert "chat" not in planned.announcement["stream"]  # the trunk has not read it: from its beginning, as ever
    start = planned.spec.start
    assert (start.mode, start.samples, start.tokens) == ("branch", 0, 2048)
    assert {name for name, _, first in planned.spec.segments[0]["begin"] if first} == {"walks", "jumps"}
    with pytest.raises(ConfigError, match="rope_base=ntk; only anneal changes it"):
        plan_stage("sft", branch(parent, rope_base="ntk", data="tokens/tiny"), store, parent, 2)


def test_a_branch_onto_other_tokens_reads_them_from_the_beginning(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    parent = trunk(store, "t")
    segments = plan_stage("pretrain", train_config(), store, None, 2).spec.segments
    other = [{"from_sample": 0, "plan": {**segments[0]["plan"], "tokens_fingerprint": "another"}}]
    parent = trunk(store, "t", segments=other)
    spec = plan_stage("anneal", branch(parent), store, parent, 2).spec
    assert spec.start.samples == 0
    assert [segment["from_sample"] for segment in spec.segments] == [0]


def test_a_run_that_repeats_a_source_too_often_is_refused(tmp_path: Path) -> None:
    store = tiny.build(str(tmp_path / "store"))
    held = store.get("mixture/tiny_stable").manifest
    manifest = tmp_path / "store/mixture/tiny_stable/manifest.json"
    manifest.write_bytes(sealed({**held, "config": {"mixture": {"max_epochs": 2}}}))
    with pytest.raises(
        ConfigError,
        match=r"would read \w+ [\d.]+ times; mixture/tiny_stable allows mixture.max_epochs=2: set steps=\d+ or less",
    ):
        plan_stage("pretrain", train_config(steps=2000), store, None, 2)
    config = train_config(steps=3, batch={**plain(train_config().batch), "global_batch": 100_000})
    with pytest.raises(
        ConfigError, match=r"^3 steps would read .*: set batch.global_batch=[1-9]\d* or less"
    ) as refused:
        plan_stage("pretrain", config, store, None, 2)
    most = int(str(refused.value).partition("global_batch=")[2].split()[0]) // 4 * 4  # of micro-batches and workers
    config = train_config(steps=3, batch={**plain(train_config().batch), "global_batch": most})
    assert plan_stage("pretrain", config, store, None, 2).spec.steps == 3


def test_steps_of_a_fractional_warmup_are_part_of_the_run(store: Any) -> None:
    def identity(steps: int) -> Any:
        schedule = {"peak_lr": 0.01, "warmup_fraction": 0.01}
        return plan_stage("pretrain", train_config(steps=steps, schedule=schedule), store, None, 2).identity

    assert identity(100)["schedule"] == identity(120)["schedule"]  # both round to one warmup step
    assert identity(100) != identity(120)


def test_latest_of_a_run_that_has_begun_stays_where_it_began(tmp_path: Path) -> None:
    from workflows.running.training import begun_from

    store = tiny.build(str(tmp_path / "store"))
    parent = trunk(store, "t")
    assert begun_from(store, "anneal/run", "pretrain/t@latest") == "pretrain/t@latest"
    planned = plan_stage("anneal", branch("pretrain/t@latest"), store, "pretrain/t@latest", 2)
    store.begin("anneal", "run", planned.identity, planned.inputs)
    assert begun_from(store, "anneal/run", "pretrain/t@latest") == parent == "pretrain/t@step-8"
    assert begun_from(store, "anneal/run", "pretrain/other@latest") == "pretrain/other@latest"
    assert begun_from(store, "anneal/run", "pretrain/t@step-4") == "pretrain/t@step-4"


def test_a_run_is_not_finished_before_the_step_where_it_stands(tmp_path: Path) -> None:
    from workflows.running.training import refuse_fewer_steps

    store = tiny.build(str(tmp_path / "store"))
    trunk(store, "t")  # at step 8
    refuse_fewer_steps(store.storage, "pretrain/none", 1)
    refuse_fewer_steps(store.storage, "pretrain/t", 8)
    with pytest.raises(ConfigError, match="steps is 6, but pretrain/t stands at step 8 already: set steps=8 or more"):
        refuse_fewer_steps(store.storage, "pretrain/t", 6)


def test_what_a_window_cuts_off_is_announced_by_source_and_refused_where_nothing_is_left(store: Any) -> None:
    parent = trunk(store, "long")

    def planned(stage: Any, length: int, data: str) -> Any:
        return plan_stage(
            stage,
            branch(parent, data=data, schedule={"peak_lr": 0.01}, **{"batch.sequence_length": length}),
            store,
            parent,
            2,
        )

    assert "cut" not in planned("sft", 24, "tokens/tiny").announcement
    # 300 conversations of 25 ids, whose answers begin at the ninth
    told = planned("sft", 16, "tokens/tiny").announcement["cut"]
    assert told.startswith("chat: of 300 conversations 300 lose their end and 0 are left out")
    assert "2,400 tokens are not read, 2,400 of them answers; batch.sequence_length=24 cuts nothing" in told
    assert told.endswith("(47.1% of its answers are lost)")
    for stage, data in (("sft", "tokens/tiny"), ("sft", "mixture/tiny_decay"), ("anneal", "mixture/tiny_decay")):
        with pytest.raises(
            DataError, match=r"nothing of source chat counts in windows of 7 .* to 8 .* or 24 \(nothing is cut\)"
        ):
            planned(stage, 7, data) if stage == "sft" else plan_stage(
                "anneal", branch(parent, data=data, **{"batch.sequence_length": 7}), store, parent, 2
            )


def test_sources_that_are_read_unevenly_since_their_rows_are_cut_are_announced() -> None:
    facts = {name: {"kind": "conversations", "train": {"tokens": 1000}} for name in ("long", "short")}
    mixture = plan_conversations("tokens/x", "f", {"sources": facts})

    def told(**rows: int) -> str:
        return uneven(mixture, SimpleNamespace(epoch_samples=rows.__getitem__), 110)  # type: ignore[arg-type]

    assert told(long=10, short=100).startswith(
        "short 0.55 times, long 5.5 times: a source's weight counts also the tokens that the window cuts off;"
    )
    assert told(long=100, short=110) == ""


def test_pairs_that_do_not_fit_are_announced_and_refused_where_none_does(store: Any) -> None:
    parent = trunk(store, "pairs", kind="sft")

    def planned(length: int) -> Any:
        changes = {"data": "tokens/tiny", "schedule": {"peak_lr": 0.01}, "batch.sequence_length": length}
        return plan_stage("dpo", branch(parent, **changes), store, parent, 2)

    assert "cut" not in planned(20).announcement
    assert planned(16).announcement["cut"].startswith("pairs: of 120 pairs 120 lose their end and 0 are left out")
    with pytest.raises(
        DataError, match=r"no preference pair fits in windows of 6 tokens \(left out: pairs 120\).* to 20 "
    ):
        planned(6)


def test_a_source_that_never_counts_is_refused_by_name(tmp_path: Path) -> None:
    import json

    store = tiny.build(str(tmp_path / "store"))
    manifest = tmp_path / "store/tokens/tiny/manifest.json"
    content = json.loads(manifest.read_text())
    content["statistics"]["sources"]["jumps"]["train"]["loss_tokens"] = 0
    manifest.write_bytes(sealed({key: value for key, value in content.items() if key != "sha256"}))
    with pytest.raises(ConfigError, match="no token of jumps counts in the loss, by the statistics of tokens/tiny"):
        plan_stage("pretrain", train_config(), store, None, 2)
