"""Training in FP8, emulated on a CPU: its losses stay beside bfloat16's, and its checkpoint goes on in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import parse
from pipelines.train.run.loop import train
from pipelines.train.spec import TrainSpec
from pipelines.train.update.engine import Engine
from tests.integration.conftest import claimed_spec, train_config
from tests.integration.ranks import Ranks

pytest.importorskip("torchao")


def losses_of(plain_spec: dict[str, Any]) -> list[float]:
    """Train the run; the loss of every step."""
    found: list[float] = []
    step = Engine.step

    def noted(self: Engine, batches: Any, rate: float) -> Any:
        result = step(self, batches, rate)
        found.append(result.loss)
        return result

    Engine.step = noted  # type: ignore[method-assign]
    try:
        train(parse(TrainSpec, plain_spec), lambda line: None)
    finally:
        Engine.step = step  # type: ignore[method-assign]
    return found


def test_fp8_follows_bfloat16_and_its_checkpoint_goes_on_in_bfloat16(store: Any, one_rank: Ranks) -> None:
    runs = {}
    for precision in ("bfloat16", "fp8"):
        config = train_config(name=precision, steps=30, **{"zero.stage": 1, "zero.precision": "bfloat16"})
        spec = claimed_spec("pretrain", config, store, 1)
        spec["zero"]["precision"] = precision  # a plan for a CPU would refuse it
        done = one_rank.call(losses_of, spec)
        assert done.error == ""
        runs[precision] = done.result
    apart = [abs(a - b) / b for a, b in zip(runs["fp8"], runs["bfloat16"], strict=True)]
    assert runs["fp8"][-1] < runs["fp8"][0] - 0.1
    assert 0 < max(apart) < 0.02
    config = train_config(
        name="on", steps=2, parent="pretrain/fp8", data="mixture/tiny_decay", model=None,
        schedule={"decay": "linear", "decay_steps": 2}, **{"zero.stage": 1, "zero.precision": "bfloat16"},
    )  # fmt: skip
    done = one_rank.call(losses_of, claimed_spec("anneal", config, store, 1))
    assert done.error == ""
    assert all(loss < runs["fp8"][0] for loss in done.result)
