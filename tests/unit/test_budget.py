"""What a plan computes by arithmetic, against torch's own counter and against small known answers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx.experimental._config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipelines.cluster.outside.instances import known
from pipelines.errors import ConfigError
from pipelines.train.budget import search
from pipelines.train.budget.deadline import deadline_hours
from pipelines.train.budget.device import DeviceConfig
from pipelines.train.budget.flops import recomputed_share, token_flops
from pipelines.train.budget.job import Job, job_of
from pipelines.train.budget.layout import Layout, Speed, cost_of, fits, sent_bytes, setup_of
from pipelines.train.network.architecture import ModelConfig, flops_per_token, parameter_counts
from pipelines.train.network.attention import Documents
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.plan.memory import Setup
from pipelines.train.run.log import _BF16_PEAK_FLOPS
from pipelines.train.spec import TrainConfig
from pipelines.train.update.zero import ZeroConfig
from workflows.command_line.composing import compose_config
from workflows.command_line.devices import device_names, read_device

SHAPES = {
    "grouped heads": ModelConfig(
        layers=2, d_model=64, d_ff=160, heads=4, kv_heads=2, vocabulary=256, max_positions=128, dim_model_base=16
    ),
    "own keys": ModelConfig(
        layers=3, d_model=48, d_ff=120, heads=3, kv_heads=3, vocabulary=301, max_positions=64, dim_model_base=16
    ),
}


def counted_flops(
    model: ModelConfig, rows: int, length: int, policy: BlockPolicy | None, device: str
) -> dict[str, int]:
    """What torch's counter counts of a forward and a backward pass, by operator. Rows are whole documents."""
    with torch.device(device):
        network = Transformer(model)
    network.prepare(ComputeConfig(compile="off", attention="dense", loss_chunk=512), policy)
    network.embed_tokens.sparse = False
    tokens = torch.zeros(rows, length + 1, dtype=torch.int64, device=device)
    positions = torch.arange(length, device=device).repeat(rows, 1)
    batch = Batch.shifted(tokens, positions, torch.ones(rows, length, device=device), tokens[:, 0])
    batch = dataclasses.replace(batch, documents=Documents("dense"))
    aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

    def linear(hidden: Any, weight: Any, *_: Any, **__: Any) -> int:
        return 2 * int(hidden[0]) * int(hidden[1]) * int(weight[0])

    def sum_and_product(_: Any, one: Any, other: Any, **__: Any) -> int:
        return 2 * int(one[0]) * int(one[1]) * int(other[1])

    # two products of the loss are operators that the counter does not know, and would count as none
    unknown = {mkldnn._linear_pointwise: linear, aten.addmm_: sum_and_product}
    # attention as plain products, which it does know
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        total, _ = NextToken().sums(network, network(batch), batch)
        total.backward()  # type: ignore[no-untyped-call]
    return {str(operator): int(flops) for operator, flops in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("name", SHAPES)
def test_flops_are_those_that_torchs_counter_counts(name: str) -> None:
    model, rows, length = SHAPES[name], 3, 64
    counted = sum(counted_flops(model, rows, length, None, "cpu").values())
    assert counted == rows * length * token_flops(model, length).full  # to the last one: the counter knows no mask


def test_flops_of_the_published_model_are_those_that_torchs_counter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 2.4B model itself, at its full length, without its memory: on torch's meta device."""
    model = compose_config("pretrain", TrainConfig, ["+experiment=minicpm_2b"]).model
    assert model is not None
    # the loss looks for rare words, whose number depends on values that are not there
    with monkeypatch.context() as patched:
        patched.setattr(torch.fx.experimental._config, "meta_nonzero_assume_all_nonzero", True)
        counted = sum(counted_flops(model, 1, 4096, None, "meta").values())
    flops = token_flops(model, 4096)
    assert counted == 4096 * flops.full
    assert flops.causal == pytest.approx(flops_per_token(model, 4096), rel=1e-4)  # which counts norms as products
    assert flops.blocks_only == pytest.approx(6 * parameter_counts(model)["non_embedding"], rel=1e-4)


@pytest.mark.parametrize("keep", ["products", "input"])
def test_what_is_computed_again_is_what_the_counter_counts_more(keep: str) -> None:
    model, rows, length = SHAPES["own keys"], 2, 64
    policy = BlockPolicy(**{"all": 0, keep: model.layers})
    plain = sum(counted_flops(model, rows, length, None, "cpu").values())
    again = sum(counted_flops(model, rows, length, policy, "cpu").values())
    setup = Setup(
        model=model, rows=rows, sequence_length=length, accumulates=False, compute=ComputeConfig(), workers=1,
        device="cuda", zero=ZeroConfig(stage=1, precision="float32"),
    )  # fmt: skip
    share = recomputed_share(setup, policy)
    if keep == "products":
        assert again == plain
        assert 0 < share < 0.15  # norms and activations, which are no products
        return
    # the counter counts the forward pass of a block again, with attention in full, but for the last product
    flops = token_flops(model, length)
    forward = flops.blocks / 3 - 2 * model.layers * model.d_model * model.d_ff
    assert again - plain == rows * length * (forward + 2 * flops.attention / 3)
    cheap = recomputed_share(setup, dataclasses.replace(policy, input=0, products=model.layers))
    assert share - cheap == pytest.approx((forward + flops.attention / 3) / flops.causal)


# ── Devices ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", device_names())
def test_a_device_says_what_a_plan_needs_and_where_it_is_from(name: str) -> None:
    device = read_device(name)
    text = (Path(__file__).parents[2] / "conf" / "device" / f"{name}.yaml").read_text()
    figures = [line for line in text.splitlines() if line.split(":")[0] in vars(device) and "mfu" not in line]
    assert all("#" in line or "per_machine" in line or "kind" in line or "null" in line for line in figures)
    assert device.mfu_source
    for kind, flops in _BF16_PEAK_FLOPS.items():
        if name.startswith(kind.lower()):
            assert device.peak == flops  # by which a run logs its MFU


@pytest.mark.parametrize(
    ("name", "machine"),
    [("a100", "p4de.24xlarge"), ("a100_40gb", "p4d.24xlarge"), ("h100", "p5.48xlarge"), ("h200", "p5en.48xlarge"),
     ("l40s", "g6e.48xlarge"), ("a10g", "g5.48xlarge"), ("l4", "g6.48xlarge")],
)  # fmt: skip
def test_memory_and_price_agree_with_the_machines_that_submit_knows(name: str, machine: str) -> None:
    device, instance = read_device(name), known(machine)
    assert instance is not None
    assert instance.usd_per_hour is not None
    assert device.memory_gib == instance.gpu_gib
    assert device.usd_per_hour == pytest.approx(instance.usd_per_hour / instance.gpus, abs=0.006)


def test_a_range_that_leaves_its_value_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected low ≤ value ≤ high"):
        compose_config("plan", _plan_config(), ["device=a100", "device.mfu.value=0.6"])


def _plan_config() -> Any:
    from workflows.plan import PlanConfig

    return PlanConfig


# ── Layouts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def device(**changes: Any) -> DeviceConfig:
    """A device of round numbers: 100 TFLOP/s, 1 GB/s between machines of two."""
    plain: dict[str, Any] = {
        "kind": "cuda", "bf16_tflops": 100, "memory_gib": 80, "memory_gb_s": 1000, "link_gb_s": 100,
        "network_gb_s": 0.5, "per_machine": 2, "usd_per_hour": 2.0, "mfu": read_device("a100").mfu,
        "mfu_source": "a test",
    }  # fmt: skip
    return DeviceConfig(**{**plain, **changes})


@functools.cache
def job(*overrides: str) -> Job:
    typed = ["+experiment=minicpm_2b", "model=wind_tunnel_30m", "schedule.warmup_steps=0", *overrides]
    config = compose_config("pretrain", TrainConfig, typed)
    return job_of("pretrain", config, None)


def test_what_a_worker_sends_follows_zeros_formulas() -> None:
    one = job()
    P = parameter_counts(one.model)["total"]
    sent = {stage: sent_bytes(setup_of(one, Layout(4, stage, 1), device()), 5) for stage in (1, 2, 3)}
    # bfloat16 weights, gradients summed in float32, three of four parts go elsewhere, five micro-batches
    assert sent == {1: 0.75 * P * (4 + 2), 2: 0.75 * P * (5 * 4 + 2), 3: 0.75 * P * 5 * (2 * 2 + 4)}
    assert sent_bytes(setup_of(one, Layout(1, 1, 1), device()), 5) == 0


def test_hours_and_money_follow_from_flops_and_speed() -> None:
    one = job("steps=1000")
    cost = cost_of(one, Layout(2, 1, 6), device(link_gb_s=1e6), Speed(0.5))
    assert cost.memory.policy == BlockPolicy(all=one.model.layers)
    expected = one.flops / (2 * 100e12 * 0.5) / 3600
    assert cost.hours == pytest.approx(expected)
    assert cost.usd == pytest.approx(expected * 2 * 2.0)
    assert cost.mfu == pytest.approx(0.5)
    twice = cost_of(one, Layout(4, 1, 6), device(link_gb_s=1e6, network_gb_s=1e6), Speed(0.5))
    assert twice.hours == pytest.approx(expected / 2)
    measured = cost_of(one, Layout(2, 1, 6), device(), Speed(None, 1e6))
    assert measured.step_seconds == pytest.approx(one.tokens_per_step / 2e6)


def test_sending_counts_where_computing_does_not_hide_it() -> None:
    one, slow = job(), device(network_gb_s=0.001, usd_per_hour=None)
    first = cost_of(one, Layout(8, 1, 6), slow, Speed(0.5))
    # 20 micro-batches a worker, and gradients go out after the last
    assert first.step_seconds == pytest.approx(
        first.compute_seconds + first.sending_seconds - first.compute_seconds / 20
    )
    second = cost_of(one, Layout(8, 2, 6), slow, Speed(0.5))
    assert second.step_seconds == pytest.approx(second.sending_seconds)
    assert second.sent_bytes > first.sent_bytes
    assert second.usd is None
    assert second.mfu < first.mfu < 0.5


def test_the_cheapest_layout_that_meets_a_deadline_is_proposed() -> None:
    one = job("steps=1000")
    made = search.offers([one], {"x": device()}, {"x": Speed(0.5)})
    assert all(first.rank <= second.rank for first, second in itertools.pairwise(made))
    assert {offer.workers for offer in made} <= {1, *range(2, 961, 2)}
    for offer in made:
        for cost in offer.costs:
            assert 960 % (cost.layout.workers * cost.layout.micro_batch) == 0
            assert fits(one, cost.layout, device())
    middle = sorted(offer.hours for offer in made)[len(made) // 2]
    in_time = search.within(made, middle)
    cheapest = min(offer.usd for offer in made if offer.usd is not None and offer.hours <= middle)
    assert in_time[0].usd == pytest.approx(cheapest, rel=0.011)
    with pytest.raises(ConfigError, match=r"nothing ends within .* days: the fastest is \d+ × x in"):
        search.within(made, min(offer.hours for offer in made) * 0.99)


def test_devices_that_hold_no_layout_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"not even batch.micro_batch=1 at zero.stage=3 fits into tiny"):
        search.offers([job()], {"tiny": device(memory_gib=0.5)}, {"tiny": Speed(0.5)})


@pytest.mark.parametrize(("text", "hours"), [("10d", 240), ("36h", 36), ("1.5 h", 1.5), ("90m", 1.5), ("2w", 336)])
def test_a_deadline_is_read(text: str, hours: float) -> None:
    assert deadline_hours(text) == pytest.approx(hours)


@pytest.mark.parametrize("text", ["10", "ten days", "0d", "-3h", ""])
def test_a_deadline_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0 and a unit"):
        deadline_hours(text)


def test_checkpoints_that_stay_follow_the_rule() -> None:
    assert job("steps=1001", "checkpoint.every_steps=500").checkpoints_kept == 3
    assert job("steps=1001", "checkpoint.every_steps=500", "checkpoint.keep_last=2").checkpoints_kept == 2
    kept = job("steps=1000", "checkpoint.every_steps=100", "checkpoint.keep_last=1", "checkpoint.keep_every_steps=500")
    assert kept.checkpoints_kept == 3
    assert job().checkpoint_bytes == 12 * parameter_counts(job().model)["total"]


def test_the_published_run_is_reproduced_on_paper() -> None:
    """57,600 GPU-hours are an MFU of 31.7 % for both stages; under 20 GB a GPU takes ZeRO-2 and one row at a time."""
    stages = []
    for stage in ("pretrain", "anneal"):
        config = compose_config(stage, TrainConfig, ["+experiment=minicpm_2b"])
        stages.append(job_of(stage, config, stages[0].model if stages else None))
    a100 = read_device("a100")
    hours = sum(cost_of(one, Layout(160, 2, 1), a100, Speed(1.0)).hours for one in stages)
    assert hours * 160 / 57_600 == pytest.approx(0.316, abs=0.002)
    low, high = (hours / use / 24 for use in (a100.mfu.high, a100.mfu.low))
    assert low < 15 < high
    small = dataclasses.replace(stages[0].config.compute, keep="input")
    squeezed = dataclasses.replace(stages[0], config=dataclasses.replace(stages[0].config, compute=small))
    assert cost_of(squeezed, Layout(160, 2, 1), a100, Speed(0.4)).memory.total < 20e9
