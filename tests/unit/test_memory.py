"""The prediction of a worker's memory against what torch allocates, and what is decided by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import numbers
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.optimizers.groups import freeze
from pipelines.train.optimizers.muon import MuonSettings
from pipelines.train.plan import memory
from pipelines.train.plan.memory import GIB, Setup
from pipelines.train.update.zero import ZeroConfig

MODEL = ModelConfig(
    layers=3, d_model=64, d_ff=160, heads=8, kv_heads=2, vocabulary=512, max_positions=512, dim_model_base=16
)
POLICIES = {"all": BlockPolicy(all=3), "products": BlockPolicy(all=0, products=3), "input": BlockPolicy(all=0, input=3)}


def setup(**changes: Any) -> Setup:
    base = Setup(
        model=MODEL, rows=4, sequence_length=256, accumulates=True, zero=ZeroConfig(stage=0, precision="float32"),
        compute=ComputeConfig(compile="off"), workers=1, device="cpu",
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def allocated(run: Callable[[], Any]) -> tuple[Any, int, int]:
    """What `run` returns, and the bytes it left allocated and had at most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    assert profiler.profiler is not None
    events: list[Any] = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return result, now, peak


def batch(rows: int, length: int, documents: int = 4) -> Batch:
    tokens = torch.randint(0, MODEL.vocabulary, (rows, length + 1))
    positions = torch.arange(length // documents).repeat(rows, documents)
    return Batch.shifted(tokens, positions, torch.ones(rows, length), torch.zeros(rows, dtype=torch.int64))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("keep", ["all", "products", "input"])
def test_what_a_block_keeps_is_predicted_to_the_byte(keep: str, precision: Any) -> None:
    """Two more blocks, and how much more a forward pass leaves allocated; documents of 32 tokens, so their masks
    count.
    """
    left = []
    for layers in (1, 3):
        config = dataclasses.replace(MODEL, layers=layers)
        policy = BlockPolicy(**{"all": 0, keep: layers})
        model = Transformer(config).initialise(0).to(getattr(torch, precision))
        model.prepare(ComputeConfig(compile="off"), policy)
        one = batch(1, 256, 16)
        model(one)
        left.append(allocated(lambda m=model, b=one: m(b))[1])
    zero = ZeroConfig(stage=1, precision=precision)
    sizes = [
        memory.predict(
            setup(model=dataclasses.replace(MODEL, layers=n), rows=1, zero=zero), BlockPolicy(**{"all": 0, keep: n})
        )
        for n in (1, 3)
    ]
    predicted = sizes[1].activations - sizes[0].activations
    assert left[1] - left[0] == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("keep", ["all", "products", "input"])
def test_the_peak_of_a_step_is_predicted_within_15_percent(keep: str) -> None:
    policy = POLICIES[keep]
    model = Transformer(MODEL).initialise(0).prepare(ComputeConfig(compile="off"), policy)
    one = batch(4, 256)

    def step() -> None:
        for _ in range(2):  # the second is where gradients are summed
            total, _rows = NextToken().sums(model, model(one), one)
            total.backward()  # type: ignore[no-untyped-call]

    step()
    model.zero_grad()
    peak = allocated(step)[2]
    predicted = memory.predict(setup(), policy)
    held = 4 * 4 * 256 * MODEL.vocabulary  # the chunk of logits was there before
    expected = predicted.gradients + predicted.activations + predicted.working - held
    assert peak == pytest.approx(expected, rel=0.15)


def test_the_least_is_computed_again_that_fits() -> None:
    free = memory.predict(setup(), POLICIES["all"]).total
    assert memory.plan_keep(setup(), free) == POLICIES["all"]
    one_less = memory.plan_keep(setup(), free - 1)
    assert one_less == BlockPolicy(all=2, products=1)  # costs no matrix product
    policies = [BlockPolicy(all=3 - p - i, products=p, input=i) for i in range(4) for p in range(4 - i)]
    smallest = min(memory.predict(setup(), policy).total for policy in policies)
    for share in (0.2, 0.5, 0.8):
        limit = smallest + share * (free - smallest)
        chosen = memory.plan_keep(setup(), limit)
        assert memory.predict(setup(), chosen).total <= limit
        cheaper = [
            p for p in policies if memory.recomputed_flops(setup(), p) < memory.recomputed_flops(setup(), chosen)
        ]
        assert all(memory.predict(setup(), policy).total > limit for policy in cheaper)
    assert memory.plan_keep(setup(compute=ComputeConfig(keep="input")), free) == POLICIES["input"]


def test_the_largest_micro_batch_fits_and_one_more_does_not() -> None:
    limit = 1.2 * GIB
    most = memory.largest_micro_batch(setup(), limit)
    assert most > 4
    for rows, fits in ((most, True), (most + 1, False)):
        tried = setup(rows=rows)
        assert (memory.predict(tried, memory.plan_keep(tried, limit)).total <= limit) is fits


def test_a_micro_batch_that_cannot_fit_is_refused_with_the_largest_that_does() -> None:
    limit = 0.7 * GIB
    most = memory.largest_micro_batch(setup(), limit)
    named = max(size for size in range(1, most + 1) if 4096 % size == 0)
    with pytest.raises(
        ConfigError, match=rf"micro_batch=4096 × 256 tokens does not fit.* set batch.micro_batch={named}$"
    ):
        memory.check(setup(rows=4096), limit, "a test", units_of_worker=4096)
    pairs = setup(rows=8192, compute=ComputeConfig(keep="all"))
    most = memory.largest_micro_batch(pairs, limit) // 2
    with pytest.raises(
        ConfigError, match=rf"micro_batch=4096 × 256 .* set batch.micro_batch={most}, or let compute.keep=auto"
    ):
        memory.check(pairs, limit, "a test", rows_per_unit=2)
    with pytest.raises(ConfigError, match="not even batch.micro_batch=1 fits: take a higher zero.stage"):
        memory.check(setup(), 0.1 * GIB, "a test")


def test_state_is_split_as_zero_splits_it() -> None:
    """The 2.4B model in bfloat16 on 8 GPUs: 2 bytes a weight, and 12 of float32 weight and moments split by 8."""
    config = ModelConfig(
        layers=40, d_model=2304, d_ff=5760, heads=36, kv_heads=36, vocabulary=122753, max_positions=4096
    )
    parameters = 2_724_880_896  # tests/unit/test_model.py counts them

    def state(**zero: Any) -> float:
        return (
            memory.predict(
                setup(model=config, workers=8, device="cuda", zero=ZeroConfig(**zero)), BlockPolicy(all=40)
            ).state
            / parameters
        )

    assert state(stage=1) == pytest.approx(2 + 12 / 8)
    assert state(stage=1, offload="cpu") == pytest.approx(2)
    assert state(stage=3) == pytest.approx(14 / 8, abs=0.4)  # and the weights in use, whole


@pytest.mark.parametrize("stage", [1, 2])
def test_one_worker_sums_gradients_once_and_many_at_the_boundary_twice(stage: Any) -> None:
    counts = parameter_counts(MODEL)["total"]

    def of(workers: int) -> memory.Memory:
        zero = ZeroConfig(stage=stage, reduce_bucket_elements=1000)
        return memory.predict(setup(workers=workers, device="cuda", zero=zero), POLICIES["all"])

    assert of(1).gradients == 4 * counts
    if stage == 1:  # each parameter's sum, and this worker's flat part; two buckets of float32
        assert of(8).gradients == 4 * counts + 4 * counts / 8 + 2 * 4000
    else:
        assert of(8).gradients == 4 * counts / 8 + 2 * 2000


def test_a_block_that_a_gpu_compiles_keeps_what_its_compiler_was_seen_to() -> None:
    """The 2.4B model, bytes a token and block: read off torch 2.11's compiler, for the whole block."""
    config = ModelConfig(
        layers=40, d_model=2304, d_ff=5760, heads=36, kv_heads=36, vocabulary=122753, max_positions=4096
    )
    one = setup(model=config, device="cuda", zero=ZeroConfig(stage=1), compute=ComputeConfig(attention="varlen"))
    small = 36 * 4 / 2  # attention's log-sum-exp
    assert memory._block_numbers(one, "all") == 35_712 + small + 4
    assert memory._block_numbers(one, "products") == 25_344 + small
    assert memory._block_numbers(one, "input") == 2304


def test_muons_matrices_keep_one_moment_and_what_is_frozen_none() -> None:
    counts, by_kind = parameter_counts(MODEL)["total"], numbers(MODEL)
    muon = memory.predict(setup(optimizer=MuonSettings()), POLICIES["all"])
    adamw = memory.predict(setup(), POLICIES["all"])
    assert adamw.state == counts * (4 + 8)
    assert muon.state == adamw.state - 4 * by_kind["matrix"]
    for stage in (0, 1, 2, 3):
        zero = ZeroConfig(stage=stage, precision="float32")
        free = memory.predict(setup(zero=zero), POLICIES["all"])
        frozen = memory.predict(setup(zero=zero, trains=("matrix", "norm")), POLICIES["all"])
        kept = 8 + (4 if stage else 0)  # moments, and from ZeRO-1 on the float32 weights that are updated
        assert free.state - frozen.state == kept * by_kind["embedding"]
        assert frozen.gradients < free.gradients
        assert frozen.activations == free.activations


def test_the_peak_of_a_step_with_a_frozen_embedding_is_predicted_within_15_percent() -> None:
    model = Transformer(MODEL).initialise(0).prepare(ComputeConfig(compile="off"), POLICIES["all"])
    freeze(model, MODEL, ("matrix", "norm"))
    one = batch(4, 256)

    def step() -> None:
        for _ in range(2):
            total, _rows = NextToken().sums(model, model(one), one)
            total.backward()  # type: ignore[no-untyped-call]

    step()
    model.zero_grad()
    peak = allocated(step)[2]
    predicted = memory.predict(setup(trains=("matrix", "norm")), POLICIES["all"])
    logits = 4 * 4 * 256 * MODEL.vocabulary  # the chunk of logits was there before
    assert peak == pytest.approx(predicted.gradients + predicted.activations + predicted.working - logits, rel=0.15)
    assert model.embed_tokens.weight.grad is None
