"""From a study to the configs of its trials: keys, pseudo-keys, chains, names, refusals."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import parameter_counts
from pipelines.train.sandbox.ledger import StudyState
from pipelines.train.sandbox.planned import lane_memory
from pipelines.train.studies import STUDIES
from tests.unit.toy_study import TOY, sandbox
from workflows.command_line.composing import compose_config
from workflows.studies import check_chosen, identity_of, study_state

WIDTHS = {
    "bundles": {
        "d32": {"model.d_model": 32, "model.heads": 2, "model.kv_heads": 2, "model.d_ff": 80},
        "d64": {"model.d_model": 64, "model.heads": 4, "model.kv_heads": 4, "model.d_ff": 160},
    }
}
DECAYED = {"workflow": "anneal", "experiment": "wind_tunnel"}
TRUNK = {"workflow": "pretrain", "experiment": "wind_tunnel"}
DECAY_MIXTURE = {"workflow": "mixture", "experiment": "wind_tunnel", "overrides": ["mixture=wind_tunnel_decay"]}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDIES, "toy", TOY)


def planned(study: dict[str, Any] | None = None, **top: Any) -> StudyState:
    state = study_state("toy", sandbox(study, **top))
    state.plan(state.trials, None)
    state.check()
    return state


def test_every_combination_with_every_seed_is_a_trial() -> None:
    state = planned({"vary": {"width": WIDTHS, "schedule.peak_lr": [0.003, 0.01], "optimizer.mup_lr": [True, False]}})
    assert len(state.trials) == 2 * 2 * 2 * 2
    first = state.trials[0]
    assert first.name == "d32 peak_lr=0.003 mup_lr=true seed=0"
    assert first.settings == {"width": "d32", "schedule.peak_lr": 0.003, "optimizer.mup_lr": True}
    config = state.trials[-1].stages[0].config
    assert (config.model.d_model, config.schedule.peak_lr, config.optimizer.mup_lr, config.seed) == (64, 0.01, False, 1)
    # what is not varied is the experiment's own
    own = compose_config("pretrain", type(config), ["+experiment=wind_tunnel"])
    assert (config.steps, config.model.vocabulary, config.data) == (own.steps, own.model.vocabulary, own.data)


def test_tokens_become_steps_and_batches() -> None:
    state = planned({"vary": {"batch_tokens": [1024, 4096], "tokens": [65536]}, "seeds": 1})
    small, large = (state.runs[trial.name][0] for trial in state.trials)
    assert (small.batch_tokens, small.steps, small.tokens) == (1024, 64, 65536)
    assert (large.batch_tokens, large.steps, large.tokens) == (4096, 16, 65536)
    assert [trial.stages[0].config.batch.micro_batch for trial in state.trials] == [8, 8]
    state = planned({"vary": {"width": WIDTHS, "tokens_per_parameter": [2, 4]}, "seeds": 1})
    for trial in state.trials:
        run, asked = state.runs[trial.name][0], trial.settings["tokens_per_parameter"]
        parameters = parameter_counts(run.model)["non_embedding"]
        assert abs(run.tokens / parameters / asked - 1) < 0.03


def test_equal_runs_have_one_name_and_others_another() -> None:
    one, two = planned(), planned({"vary": {"schedule.peak_lr": [0.01, 0.02]}})
    names = [{trial.name: trial.stages[0].config.name for trial in state.trials} for state in (one, two)]
    assert names[0]["peak_lr=0.01 seed=0"] == names[1]["peak_lr=0.01 seed=0"]
    assert len({*names[0].values(), *names[1].values()}) == 6
    # what changes rounding alone is another run too
    other = planned({"vary": {"schedule.peak_lr": [0.01], "batch.micro_batch": [8, 4]}, "seeds": 1})
    assert len({trial.stages[0].config.name for trial in other.trials}) == 2


def test_a_chain_makes_its_mixture_and_goes_on_at_the_trunks_rate() -> None:
    weights = {"sample": {"around": {"sotu": 0.5, "stdlib": 0.5}, "concentration": 12, "count": 3, "seed": 0}}
    state = planned(
        {
            "stages": [TRUNK, DECAY_MIXTURE, DECAYED],
            "vary": {"mixture.weights": weights, "anneal.steps": [16]},
            "seeds": 1,
        }
    )
    assert len(state.trials) == 3
    for trial in state.trials:
        trunk, mixture, decay = trial.stages
        assert decay.config.data == f"mixture/{mixture.config.name}"
        assert mixture.config.mixture.weights == trial.settings["mixture.weights"]
        runs = state.runs[trial.name]
        assert [run.stage for run in runs] == ["pretrain", "anneal"]
        assert runs[1].schedule.peak_lr == runs[0].schedule.peak_lr == 0.01
        assert runs[1].model == trunk.config.model
        assert runs[1].steps == 16
    assert len({trial.stages[0].config.name for trial in state.trials}) == 1  # one trunk
    assert len({trial.stages[2].config.name for trial in state.trials}) == 3
    # the key in full is the same key
    long = planned(
        {
            "stages": [TRUNK, DECAY_MIXTURE, DECAYED],
            "vary": {"mixture.mixture.weights": weights, "anneal.steps": [16]},
            "seeds": 1,
        }
    )
    assert [t.stages[2].config.name for t in long.trials] == [t.stages[2].config.name for t in state.trials]


def test_config_groups_are_chosen_by_their_names() -> None:
    state = planned({"vary": {"optimizer": ["adamw", "muon"]}, "seeds": 1})
    assert [trial.stages[0].config.optimizer.kind for trial in state.trials] == ["adamw", "muon"]
    bundled = planned(
        {"vary": {"arm": {"bundles": {"muon": {"optimizer": "muon", "schedule.peak_lr": 0.02}}}}, "seeds": 1}
    )
    assert bundled.trials[0].stages[0].config.optimizer.kind == "muon"
    assert bundled.trials[0].name == "seed=0"


def test_a_thousand_trials_expand_in_seconds() -> None:
    began = time.monotonic()
    state = planned({"vary": {"width": WIDTHS, "schedule.peak_lr": {"log": [0.001, 0.1], "points": 100}}, "seeds": 5})
    assert len(state.trials) == 1000
    assert time.monotonic() - began < 120  # 5 s on a quiet machine


def test_an_experiments_overlay_is_part_of_what_decides_a_study() -> None:
    config = sandbox()
    identity = identity_of(config, [study_state("toy", config)])
    (stage,) = identity["studies"]["toy"]["stages"]
    assert stage["config"]["steps"] == 256
    assert "name" not in stage["config"]


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"vary": {"model.d_modl": [32]}}, r"toy, trial .*unknown key model\.d_modl; .*did you mean model\.d_model\?"),
        ({"vary": {"learning_rate": [0.1]}}, "unknown key learning_rate"),
        ({"vary": {"schedule.peak_lr.x": [0.1]}}, "nothing is inside it"),
        ({"vary": {}}, "varies nothing"),
        ({"vary": {"schedule.peak_lr": []}}, r"studies\.toy\.vary\.schedule\.peak_lr is empty"),
        ({"vary": {"seed": [0, 1]}}, "seeds by itself"),
        ({"vary": {"cluster.workers": [1, 2]}}, "share one cluster"),
        ({"vary": {"width": WIDTHS, "model.d_model": [16]}}, "sets model.d_model in two places"),
        ({"vary": {"tokens": [1000], "tokens_per_parameter": [2]}}, "keep one"),
        ({"vary": {"tokens": [100]}}, "less than one step"),
        ({"vary": {"batch.micro_batch": [3]}}, "does not divide"),
        ({"vary": {"model.heads": [3]}}, "not divisible"),
        ({"vary": {"schedule.warmup_steps": [300]}}, "exceed"),
        ({"vary": {"batch.sequence_length": [512]}}, "exceeds model.max_positions"),
        ({"vary": {"optimizer": ["sgd"]}}, "no such choice; there are adamw"),
        ({"stages": [{"workflow": "pretrain", "experiment": "nope"}]}, "no such experiment"),
        ({"stages": [{**TRUNK, "overrides": ["model.layer=3"]}]}, "model.layer"),
        ({"stages": [{"workflow": "pretrain", "overrides": ["store=elsewhere"]}]}, "share one store"),
        ({"stages": [TRUNK, DECAYED]}, "does not say which it is of: write one of pretrain.schedule.peak_lr"),
        ({"stages": [DECAYED, TRUNK], "vary": {"pretrain.steps": [10]}}, "anneal needs a parent"),
        ({"study": {"kind": "toy", "fewest": 3}}, "study toy: it takes 3 learning rates"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_any_work(study: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(study)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"study": {"kind": "moonshine"}}, "studies.toy.study.kind is 'moonshine'; expected one of"),
        ({"stages": []}, "no stage that trains"),
        ({"stages": [TRUNK, DECAY_MIXTURE]}, "ends with a mixture"),
        ({"stages": [TRUNK, DECAYED, DECAYED]}, "give each a label"),
        ({"stages": [{"workflow": "corpus"}]}, "expected one of mixture, pretrain"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"seeds": 0}, "seeds"),
        ({"measures": {"taste": {}}}, "unknown key studies.toy.measures.taste"),
        ({"vry": {}}, "unknown key studies.toy.vry"),
    ],
)
def test_what_is_no_study_is_refused(study: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sandbox(study)


def test_trials_that_cannot_fit_are_refused() -> None:
    state = planned({"vary": {"model.d_model": [2**14]}, "seeds": 1})
    (trial,) = state.trials
    with pytest.raises(ConfigError, match=r"trial seed=0: .*does not fit.*fewer lanes than 64"):
        lane_memory(trial, state.runs[trial.name], lanes=64)


def test_two_files_that_define_one_study_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    folder = tmp_path / "sandbox" / "here"
    folder.mkdir(parents=True)
    for name, study in (("a", "lr"), ("b", "lr"), ("c", "wsd")):
        (folder / f"{name}.yaml").write_text(f"studies: {{{study}: {{seeds: 3}}}}\n")
    monkeypatch.setattr("workflows.command_line.places.SHIPPED", tmp_path)
    check_chosen(["here/a", "here/c"])
    with pytest.raises(ConfigError, match="here/a and here/b both define the study lr"):
        check_chosen(["here/a", "here/b", "here/c"])
