"""What answers cost: the article's arithmetic by hand, what can be told of a speed, refusals, a whole comparison."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.config import TrackingConfig
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.cost import process
from pipelines.train.cost.device import AnsweringDevice, InferenceConfig, PhoneConfig, PublishedSpeed
from pipelines.train.cost.drawing import ticks
from pipelines.train.cost.loss import TextConfig, paired
from pipelines.train.cost.measuring import Figure, Task, compared, grouped, measure
from pipelines.train.cost.money import CloudPrice, PricesConfig, bills, work_through
from pipelines.train.cost.process import Order, lengths, prompt_of, time_round
from pipelines.train.cost.speeds import Reading, speeds_on
from pipelines.train.cost.subjects import read_bytes, subjects_of
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.runtimes import RUNTIMES
from pipelines.train.tasks.text import HeldoutText
from tests.commands import run_here
from tests.untrained import commit_run, commit_tokens
from workflows import cost as workflow
from workflows import export as exporting
from workflows.command_line.composing import compose_config
from workflows.command_line.devices import all_devices, device_names, read_any_device, read_device
from workflows.cost import CostConfig
from workflows.export import ExportConfig
from workflows.running.session import Session

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=64, heads=4, kv_heads=2, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16,
)  # fmt: skip
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


# ── Money ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_articles_phone_gives_two_million_tokens_a_yuan_and_not_seventeen_hundred_thousand() -> None:
    """7.5 · 5 · 365.25 · 86,400 / 600; the paper's table has 3.0 for the same phone."""
    inference = read_any_device("snapdragon_855").inference
    assert inference is not None
    table, article = work_through(inference)
    assert (article.speed, table.speed) == (7.5, 3.0)
    assert article.tokens == pytest.approx(1.18341e9)
    assert article.without_electricity == pytest.approx(1.97235e6)
    assert table.without_electricity == pytest.approx(0.78894e6)
    assert [claim.tokens for claim in inference.claims] == [1.7e6]
    # 4 W for five years are 175.32 kWh, 105.19 yuan at 0.6: 1.18341e9 / 705.19
    assert article.with_electricity == pytest.approx(1.67814e6, rel=1e-4)
    assert table.with_electricity == pytest.approx(0.67126e6, rel=1e-4)


def test_price_life_use_and_power_make_a_second_of_answers() -> None:
    inference = InferenceConfig(
        price=31_557_600, currency="CNY", life_years=2, utilisation=0.5, watts=3600, electricity_per_kwh=1.0
    )
    (bill,) = bills(PhoneConfig(inference=inference))
    assert bill.device == pytest.approx(1.0)  # 31,557,600 over one year of answers
    assert bill.electricity == pytest.approx(0.001)  # 3.6 kW · 1 / 3.6e6
    assert bill.of_a_million(10) == pytest.approx(1.001e5)
    assert bill.tokens_for_one(10) == pytest.approx(10 / 1.001)


def test_a_hired_device_is_priced_by_the_hour_and_a_cpu_by_its_cores() -> None:
    (bill,) = bills(read_any_device("a100"))
    assert (bill.way, bill.of_a_million(1000)) == ("hired", pytest.approx(1e6 * 3.43 / 3600 / 1000))
    (cores,) = bills(read_any_device("cpu"), units=2)
    assert cores.total == pytest.approx(2 * 0.05 / 3600)


def test_a_device_without_a_price_says_which_key_to_set() -> None:
    (bill,) = bills(read_any_device("b200"))
    assert "set usd_per_hour (hired) or inference.price (owned) in its file of conf/device" in bill.unknown
    (phone,) = bills(read_any_device("iphone_15"))
    assert phone.unknown == "no price: set inference.price and inference.life_years in its file of conf/device"


def test_currencies_are_converted_and_one_without_a_rate_is_refused() -> None:
    prices = PricesConfig(exchange={"USD": 1.0, "CNY": 8.0})
    assert prices.convert(16, "CNY", "USD") == 2
    assert prices.convert(2, "USD", "CNY") == 16
    with pytest.raises(ConfigError, match=r"price.cloud: x is in EUR, and price.exchange has USD, CNY: write one"):
        PricesConfig(
            exchange={"USD": 1.0, "CNY": 8.0},
            cloud=[CloudPrice(name="x", input=1, output=1, currency="EUR", source="")],
        )
    with pytest.raises(ConfigError, match=r"price.exchange.USD is 2.0; expected 1"):
        PricesConfig(exchange={"USD": 2.0})


# ── Speeds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def phone(**changes: Any) -> AnsweringDevice:
    published = PublishedSpeed(model="m", tokens_per_second=6.0, read_gb=2.0, source="a paper")
    return PhoneConfig(inference=InferenceConfig(speeds=[published]), **changes)


def test_a_published_speed_is_of_that_model_at_that_size_and_else_an_estimate_by_bytes() -> None:
    exact = speeds_on("p", phone(), Reading(2.1e9, ["m"]), None, {})
    assert [(speed.tokens_per_second, speed.origin) for speed in exact] == [(6.0, "published")]
    larger = speeds_on("p", phone(), Reading(4e9, ["m"]), None, {})
    assert [(speed.tokens_per_second, speed.origin) for speed in larger] == [(3.0, "estimate")]
    assert "6 tokens/s of m, which reads 2 GB a token (a paper), by bytes" in larger[0].words


def test_bandwidth_is_an_estimate_at_most_and_nothing_known_says_what_to_set() -> None:
    (most,) = speeds_on("a100", read_any_device("a100"), Reading(2.039e9), None, {})
    assert (most.tokens_per_second, most.origin) == (pytest.approx(1000), "estimate")
    assert most.words.startswith("at most")
    (none,) = speeds_on("x", PhoneConfig(), Reading(1e9), None, {})
    assert (none.tokens_per_second, none.origin) == (None, "not known")
    assert "set speed.… or memory_gb_s" in none.words
    (small,) = speeds_on("a100", read_any_device("a100"), Reading(1.6e6), None, {})
    assert small.tokens_per_second is None
    assert "less than 50 MB" in small.words


def test_what_was_measured_is_of_here_alone_and_what_you_say_comes_first() -> None:
    measured = Reading(1e9, here=7.0)
    (here,) = speeds_on("cpu", read_any_device("cpu"), measured, "cpu", {})
    assert (here.tokens_per_second, here.origin) == (7.0, "measured here")
    (elsewhere,) = speeds_on("a100", read_any_device("a100"), measured, "cpu", {})
    assert elsewhere.origin == "estimate"
    (told,) = speeds_on("cpu", read_any_device("cpu"), measured, "cpu", {"cpu": 9.0})
    assert (told.tokens_per_second, told.origin) == (9.0, "as you say")


# ── A phone trains nothing ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plan_refuses_a_phone_and_auto_does_not_look_at_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here("plan", "+experiment=minicpm_2b", "gpus=8", "gpu=snapdragon_855")
    assert done.code == 2
    assert "snapdragon_855 is a phone, which answers and trains nothing" in done.err
    assert "expected one of a100, a100_40gb" in done.err
    assert "snapdragon_855" in all_devices()
    assert "snapdragon_855" not in device_names()
    with pytest.raises(ConfigError, match="trains nothing"):
        read_device("snapdragon_855")


@pytest.mark.parametrize("name", sorted(set(all_devices()) - set(device_names())))
def test_a_phone_says_where_its_speed_is_from(name: str) -> None:
    inference = read_any_device(name).inference
    assert inference is not None
    assert all(speed.source for speed in inference.speeds)
    assert inference.speeds


# ── Rounds ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rounds_are_compared_one_by_one_and_a_range_over_one_cannot_be_told() -> None:
    slow, fast = Figure((10.0, 5.0, 8.0, 10.0, 5.0)), Figure((12.0, 6.0, 10.0, 12.0, 6.0))
    ratio = compared(fast, slow)
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.2, 1.2, 1.25))
    assert ratio.told  # though the ranges 5 to 10 and 6 to 12 overlap
    mixed = compared(Figure((12.0, 4.0, 10.0, 12.0, 6.0)), slow)
    assert mixed is not None
    assert not mixed.told
    few = compared(Figure((12.0, 6.0)), Figure((10.0, 5.0)))
    assert few is not None
    assert not few.told
    assert compared(Figure((1.0,)), slow) is None
    assert (slow.median, slow.low, slow.high, slow.spread) == (8.0, 5.0, 10.0, 0.625)


def test_processes_live_together_where_there_is_room_and_else_by_model() -> None:
    tasks = [Task(key, Order("transformers", "x", n, 1, 2), 1 << 30) for key in ("a", "b") for n in (1, 2)]
    assert list(grouped(tasks, 64 << 30)) == [[0, 1, 2, 3]]
    assert list(grouped(tasks, 8 << 30)) == [[0, 1], [2, 3]]


class Ending:
    """A model that ends each answer after two tokens."""

    context, eos = 40, 0

    def stream(self, ids: list[int], sampling: Any) -> Any:
        yield from (5, 6)[: sampling.max_new_tokens]


def test_an_answer_that_ends_early_is_gone_on_with() -> None:
    timed = time_round(Ending(), [1, 2, 3], 7)  # type: ignore[arg-type]
    assert (timed.prompt_tokens, timed.decoded_tokens) == (3, 6)
    assert timed.prompt_seconds > 0
    assert timed.decode_seconds > 0


def test_prompts_are_cut_to_the_positions_and_begin_unlike_the_last() -> None:
    order = Order("transformers", "x", 1, 128, 64)
    prompt, new = lengths(Ending(), order)  # type: ignore[arg-type]
    assert (prompt, new) == (19, 20)
    text, first = [3, 3, 4, 5], None
    for number in range(6):
        drawn = prompt_of(text, 9, number, first)
        assert len(drawn) == 9
        assert drawn[0] != first
        first = drawn[0]


def test_a_process_that_cannot_load_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    (measured,) = measure([Task("x", Order("transformers", str(tmp_path), 1, 4, 2), 0)], 1)
    assert measured.decode is None
    assert measured.unmeasured
    assert str(tmp_path) in measured.unmeasured


def test_peak_memory_is_this_process_own() -> None:
    assert 0 < process.memory_bytes("VmRSS") <= process.memory_bytes("VmHWM")


# ── Loss ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_paired_difference_and_its_error_by_hand() -> None:
    text = HeldoutText(rows=(), documents=2, firsts=0, bytes=10.0, has_bytes=True)
    full = {"a": np.array([10.0, 20.0, 30.0])}
    own = {"a": np.array([11.0, 22.0, 33.0])}
    lost, error = paired(own, full, {"a": text})
    assert lost == pytest.approx(6 / (math.log(2) * 10))
    # differences 1, 2, 3: s = 1, and s · √3 / (ln 2 · 10)
    assert error == pytest.approx(math.sqrt(3) / (math.log(2) * 10))
    assert paired({"a": np.array([1.0])}, {"a": np.array([0.5])}, {"a": text})[1] is None


def test_ticks_are_round() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(-0.02, 0.11) == [0, 0.05, 0.1]


# ── A whole comparison ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dpo/d`, and two exports of it."""
    path = tmp_path_factory.mktemp("cost")
    store = ArtifactStore(str(path))
    tokens = commit_tokens(store, TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    network = Transformer(MODEL).initialise(3)
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    parent = None
    for kind in ("pretrain", "sft", "dpo"):
        parent = commit_run(store, f"{kind}/d", MODEL, tokens, parent, weights)
    for name, changes in {"d": {"dtype": "float32"}, "d-cpm": {"format": "minicpm"}}.items():
        config = ExportConfig(
            name=name, parent="dpo/d", store=str(path), tracking=TrackingConfig(enabled=False), **changes
        )
        with Session(config) as session:
            exporting.run(config, session)
    return path


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(shutil.copytree(trained, tmp_path / "store")))


def costed(store: ArtifactStore, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "name": "c", "parent": "dpo/d", "store": store.uri, "tracking": TrackingConfig(enabled=False), "rounds": 2,
        "prompt_tokens": 8, "new_tokens": 4, "threads": [1], "heldout": TextConfig(max_tokens=400),
        "price": compose_config("cost", CostConfig, []).price,
    }  # fmt: skip
    config = CostConfig(**{**values, **changes})
    with Session(config) as session:
        return workflow.run(config, session)


@pytest.mark.slow
def test_every_format_stands_side_by_side_and_a_finished_page_is_reused(store, capsys):
    artifact = costed(store)
    content = artifact.json("cost.json")
    rows = {row["model"]: row for row in content["rows"]}
    assert list(rows) == ["export/d", "export/d-cpm"]
    (measured,) = rows["export/d"]["threads"]
    assert len(measured["decode"]["rounds"]) == len(measured["prompt"]["rounds"]) == 2
    assert measured["peak_bytes"] > measured["before_bytes"] > 0
    assert (measured["prompt_tokens"], measured["new_tokens"]) == (8, 4)
    # float32 weights are the checkpoint's own: nothing is lost but rounding
    assert abs(rows["export/d"]["lost"]["lost"]) < 1e-5
    assert content["bits_per_byte"] == pytest.approx(rows["export/d"]["lost"]["bits_per_byte"], abs=1e-5)
    assert rows["export/d"]["bytes"] == (store.storage.root / "export/d/model.safetensors").stat().st_size
    here = [offer for offer in content["offers"] if offer["origin"] == "measured here"]
    assert {offer["device"] for offer in here} == {"cpu"}
    (offer,) = [offer for offer in here if offer["model"] == "export/d"]
    assert offer["per_million"]["USD"] == pytest.approx(1e6 * 0.05 / 3600 / measured["decode"]["median"])
    assert offer["per_million"]["CNY"] == pytest.approx(7.1 * offer["per_million"]["USD"])
    assert any(offer["device"] == "iphone_15" and "no price" in offer["unknown"] for offer in content["offers"])
    published = [offer for offer in content["offers"] if offer["model"] == "minicpm_2b, as published"]
    speeds = [offer["tokens_per_second"] for offer in published if offer["device"] == "snapdragon_855"]
    assert speeds == [3.0, 7.5]
    assert content["machine"]["cores"] == len(os.sched_getaffinity(0))
    page = artifact.path("cost.html").read_text(encoding="utf-8")
    for words in ("export/d-cpm", "1.97 M", "0.789 M", "1.7 M", "mistral-medium", "<svg"):
        assert words in page, words
    assert "<script" not in page
    first = capsys.readouterr().out
    assert "a million" in first
    assert costed(store).manifest == artifact.manifest
    assert "finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_runtime_that_is_not_installed_is_a_row_that_says_how(store, monkeypatch, capsys):
    row = RUNTIMES["transformers"]
    import dataclasses

    monkeypatch.setitem(RUNTIMES, "transformers", dataclasses.replace(row, missing=lambda: "pip install transformers"))
    content = costed(store, models=["export/d"], parent=None, heldout=None).json("cost.json")
    (told,) = content["rows"]
    assert told["unmeasured"] == "transformers is not installed: pip install transformers"
    assert told["lost"]["unmeasured"] == "heldout=null"
    assert told["bytes"] > 0
    assert "transformers is not installed: pip install transformers" in capsys.readouterr().out


def test_bytes_read_for_a_token_leave_the_embedding_out_where_the_output_is_apart(store):
    untied = read_bytes(store.storage.root / "export/d")
    tied = read_bytes(store.storage.root / "export/d-cpm")
    embedding = 320 * 32
    weights = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 64) + 5 * 32
    assert untied == 4 * (weights + embedding)
    assert tied == 2 * (weights + embedding)


def test_an_export_of_an_older_version_of_the_checkpoint_is_refused_by_name(store, capsys):
    shutil.rmtree(store.storage.root / "dpo/d")
    commit_run(store, "dpo/d", MODEL, store.get("tokens/t"), store.get("pretrain/d"))
    with pytest.raises(ArtifactError, match="was made of another version of dpo/d"):
        costed(store, models=["export/d"], parent=None)
    with pytest.raises(ConfigError, match="has no export and no quantization of dpo/d@step-1"):
        subjects_of(store, "dpo/d")
    assert "export/d is passed over" in capsys.readouterr().out


def test_a_dry_run_tells_everything_and_leaves_nothing(store):
    before = sorted(store.storage.root.rglob("*"))
    done = run_here("cost", "parent=dpo/d", "name=c", f"store={store.uri}", "dry_run=true", "tracking.enabled=false")
    assert done.code == 0, done.err
    for words in ("export/d", "minicpm bfloat16", "5 rounds in turn", "snapdragon_855", "1 USD is 7.1 CNY, 2024-02"):
        assert words in done.out
    assert sorted(store.storage.root.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither came"),
        (["parent=dpo/d", "models=[export/d]"], "both came"),
        (["models=[dpo/d]"], "dpo/d is of kind dpo, which nobody else's program loads; expected export/<name> or"),
        (["models=[export/nobody]"], "export/nobody does not exist"),
        (["models=[export/d,export/d]"], "models names export/d twice"),
        (["parent=pretrain/d"], "has no export and no quantization of pretrain/d@step-1"),
        (["parent=dpo/d", "prompt_tokens=0"], "prompt_tokens is 0; expected a whole number of at least 1"),
        (["parent=dpo/d", "new_tokens=1"], "new_tokens is 1; expected at least 2"),
        (["parent=dpo/d", "rounds=0"], "rounds is 0; expected"),
        (["parent=dpo/d", "threads=[4096]"], "expected numbers from 1 to"),
        (["parent=dpo/d", "devices=[iphone]"], "devices names iphone; conf/device has a100"),
        (["parent=dpo/d", "here=laptop"], "here names laptop; conf/device has a100"),
        (["parent=dpo/d", "+speed.nokia=3"], "speed names nokia; conf/device has a100"),
        (["parent=dpo/d", "+speed.cpu=0"], "speed.cpu is 0; expected a number above 0"),
        (["parent=dpo/d", "devices=[cpu]", "+speed.a100=3"], "speed names a100, and devices is ['cpu']"),
        (["parent=dpo/d", "~price.exchange.CNY"], "and price.exchange has USD: write one of these"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(store, arguments, message):
    done = run_here("cost", "name=c", f"store={store.uri}", "tracking.enabled=false", *arguments)
    assert done.code == 2, done.out
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (store.storage.root / "cost").exists()
