"""What the monitor says of a step, against plain autograd and arithmetic, on two ranks at every ZeRO stage.

On two processes (`ranks.py`) `_readings` runs a tiny engine per stage, with the monitor on and off.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from tests.integration.ranks import Ranks
from tests.reference_training import global_batch, micro_batch

MODEL = {
    "layers": 2, "d_model": 32, "d_ff": 48, "heads": 4, "kv_heads": 2, "vocabulary": 64, "max_positions": 64,
    "dim_model_base": 16, "init_std": 0.3,
}  # fmt: skip
CASE: dict[str, Any] = {"model": MODEL, "rows": 8, "length": 24}
RANKS, MICRO = 2, 2  # 8 rows: two micro-batches on each of two ranks
RATES = (0.01, 0.02, 0.01)


@pytest.fixture(scope="module")
def readings(two_ranks: Ranks) -> dict[str, Any]:
    done = two_ranks.call(_all_readings)
    assert not done.error, done.error
    return done.result  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The first step's readings by other means: plain autograd, and attention logits pair by pair."""
    model = Transformer(ModelConfig(**MODEL)).initialise(1).double()
    whole = global_batch(CASE, 0)

    def squared_norm(start: int, rows: int) -> tuple[float, float]:
        batch = micro_batch(whole, start, rows)
        model.zero_grad()
        total, _ = NextToken().sums(model, model(batch), batch)
        count = float(batch.loss_mask.sum())
        (total / count).backward()
        return sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None), count

    small = [squared_norm(start, MICRO) for start in range(0, CASE["rows"], MICRO)]
    big, count = squared_norm(0, CASE["rows"])
    # two equations: mean|g|² = |G|² + tr Σ·mean(1/n) and |g|² = |G|² + tr Σ/N
    mean, inverse = sum(s for s, _ in small) / len(small), sum(1 / n for _, n in small) / len(small)
    trace = (mean - big) / (inverse - 1 / count)
    logits = [-math.inf] * MODEL["layers"]
    for rank in range(RANKS):
        row = micro_batch(whole, rank * MICRO, 1)  # each rank's first row
        documents = (row.positions[0] == 0).cumsum(0).tolist()
        for i, block in enumerate(model.layers):
            seen: list[Any] = []
            block.probe = lambda q, k, seen=seen: seen.append((q[0], k[0]))
            with torch.no_grad():
                model(row)
            q_THK, k_TGK = seen[0]
            pairs = ((a, b) for a in range(len(documents)) for b in range(a + 1) if documents[a] == documents[b])
            best = max(float(q_THK[a, h] @ k_TGK[b, h // 2]) for a, b in pairs for h in range(4)) / math.sqrt(8)
            logits[i] = max(logits[i], best)
            block.probe = None
    return {"gradient_trace": trace, "gradient_square": big - trace / count, "logits": logits}


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_readings_equal_plain_arithmetic(readings: dict[str, Any], expected: dict[str, Any], stage: str) -> None:
    first = readings[stage]["on"]["readings"][0]
    assert first["gradient_trace"] == pytest.approx(expected["gradient_trace"], rel=1e-4)
    assert first["gradient_square"] == pytest.approx(expected["gradient_square"], rel=1e-4, abs=1e-6)
    assert list(first["attention_logit_max"].values()) == pytest.approx(expected["logits"], rel=1e-4)
    for step, values in enumerate(readings[stage]["on"]["readings"]):
        assert values["update_ratio"] == pytest.approx(readings[stage]["on"]["ratios"][step], rel=1e-4)


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_looking_changes_nothing(readings: dict[str, Any], stage: str) -> None:
    assert readings[stage]["on"]["loss"] == readings[stage]["off"]["loss"]
    assert len(set(readings[stage]["on"]["loss"])) == len(RATES)


def _whole(engine: Any) -> dict[str, torch.Tensor]:
    import deepspeed

    weights = {}
    for name, p in engine.deepspeed.module.model.named_parameters():
        if hasattr(p, "ds_id"):
            with deepspeed.zero.GatheredParameters([p]):
                weights[name] = p.detach().double().clone()
        else:
            weights[name] = p.detach().double().clone()
    return weights


def _ratios(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, float]:
    found = {}
    for part, prefix in (
        ("embedding", "embed"),
        ("layer_00", "layers.0."),
        ("layer_01", "layers.1."),
        ("final_norm", "norm"),
    ):
        names = [name for name in before if name.startswith(prefix)]
        change = sum(float((after[name] - before[name]).square().sum()) for name in names)
        found[part] = math.sqrt(change / sum(float(after[name].square().sum()) for name in names))
    return found


def _readings(stage: int, every_steps: int) -> dict[str, Any]:
    import torch.distributed as dist

    from pipelines.train.optimizers.adamw import AdamWSettings
    from pipelines.train.run.monitor import Monitor
    from pipelines.train.update.engine import Engine
    from pipelines.train.update.zero import ZeroConfig

    engine = Engine(
        Transformer(ModelConfig(**MODEL)).initialise(1),
        NextToken(),
        ZeroConfig(stage=stage, precision="float32"),  # type: ignore[arg-type]
        AdamWSettings(),
        MICRO,
        CASE["rows"] // MICRO // RANKS,
        2,
    )
    monitor = Monitor(engine, every_steps)
    found: dict[str, Any] = {"loss": [], "readings": [], "ratios": []}
    for step, rate in enumerate(RATES):
        whole = global_batch(CASE, step)
        batches = [micro_batch(whole, (j * RANKS + dist.get_rank()) * MICRO, MICRO) for j in range(engine.accumulation)]
        before = _whole(engine) if every_steps else {}
        monitor.begin(step + 1, batches)
        result = engine.step(batches, rate)
        readings = monitor.end()
        found["loss"].append(result.loss)
        if readings is not None:
            found["readings"].append(readings.values(result.gradient_norm))
            found["ratios"].append(_ratios(before, _whole(engine)))
    engine.deepspeed.destroy()
    return found


def _all_readings() -> dict[str, Any]:
    return {str(stage): {"on": _readings(stage, 1), "off": _readings(stage, 0)} for stage in range(4)}
