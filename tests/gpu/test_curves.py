"""Five steps of every way to train, against float32 on the CPU and against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import pytest
import torch

from benchmarks.gpu.record import CUDA
from pipelines.train.network.compute import Attention
from pipelines.train.update.zero import ZeroConfig
from tests.gpu.cases import case, curve, distance, off, running, skip_what_needs_more, state, train
from tests.gpu.references import CLIPPED, DPO, MUON, SFT

Curve = dict[str, list[float]]

FLOAT32 = {"zero": {"precision": "float32"}}
FP8 = {"zero": {"precision": "fp8"}}
HAS_FP8 = "fp8" in get_args(get_type_hints(ZeroConfig)["precision"])
DENSE = {"compute": {"attention": "dense"}}


@functools.cache
def _curve(key: str) -> Curve:
    return curve(CASES[key])


# by name: the case, which reference it follows, and how near: loss, gradient norm
#
# float32   The issue asks for 1e-4 in the loss. The order of sums alone makes 1e-6.
# bfloat16  Each number between two products is rounded to 2^-9 of itself, so a logit is off by about that at random and
#           a token's loss by 1e-2. A step's loss is a mean over 1,800 tokens: 3e-4 of it is left, and it grows
#           with each update (on a CPU, over 460 tokens: 1.3e-3). What is wrong by a factor or misses a document shows
#           as 1e-2 and more. The norm of the gradient is a mean too, of squares, which rounding makes larger.
# dpo       A pair's loss is of the difference of two sums over up to 200 tokens, where errors add up: no mean is taken.
# fp8       Three bits of a mantissa: each number is off by up to 2^-4, and a product sums 256 of them or more.
# muon      It orthogonalises in bfloat16 on a GPU, in float32 on a CPU.
FINE, COARSE, ROUGH = (1e-4, 1e-3), (3e-3, 2e-2), (1e-2, 1e-1)
FURTHER = [name for name in get_args(Attention) if name not in ("varlen", "flex", "blocks", "dense")]
ARMS: dict[str, tuple[dict[str, Any], str, tuple[float, float]]] = {
    "float32": (case(**FLOAT32), "pretrain", FINE),  # on a GPU by FlexAttention
    "float32 dense": (case(**FLOAT32, **DENSE), "pretrain", FINE),
    "bfloat16": (case(), "pretrain", COARSE),
    "bfloat16 dense": (case(**DENSE), "pretrain", COARSE),
    "compiled": (case(compute={"compile": "on"}), "pretrain", COARSE),
    **{
        f"{how} {name}": (case(compute={"attention": name, "compile": compiled}), "pretrain", COARSE)
        for name in FURTHER
        for how, compiled in (("bfloat16", "off"), ("compiled", "on"))
        if CUDA
    },
    "keep=products": (case(compute={"keep": "products"}), "pretrain", COARSE),
    "keep=input": (case(compute={"keep": "input"}), "pretrain", COARSE),
    "compiled keep=products": (case(compute={"compile": "on", "keep": "products"}), "pretrain", COARSE),
    "compiled keep=input": (case(compute={"compile": "on", "keep": "input"}), "pretrain", COARSE),
    **({"fp8": (case(**FP8), "pretrain", ROUGH)} if HAS_FP8 else {}),
    **({"compiled fp8": (case(**FP8, compute={"compile": "on"}), "pretrain", ROUGH)} if HAS_FP8 and CUDA else {}),
    "general": (case(general=True), "pretrain", COARSE),
    "general zero=2": (case(general=True, zero={"stage": 2}), "pretrain", COARSE),
    "zero=2": (case(zero={"stage": 2}), "pretrain", COARSE),
    "zero=3": (case(zero={"stage": 3}), "pretrain", COARSE),
    "zero=0 float32": (case(zero={"precision": "float32", "stage": 0}, **DENSE), "pretrain", FINE),
    "offload": (case(zero={"offload": "cpu"}), "pretrain", COARSE),
    "sft float32": (case(**FLOAT32, **DENSE, **SFT), "sft", FINE),
    "sft": (case(**SFT), "sft", COARSE),
    "dpo float32": (case(**FLOAT32, **DENSE, **DPO), "dpo", (3e-4, 3e-3)),
    "dpo": (case(**DPO), "dpo", (5e-2, 1e-1)),
    "muon float32": (case(**FLOAT32, **DENSE, **MUON), "muon", (2e-3, 2e-2)),
    "muon": (case(**MUON), "muon", (5e-3, 5e-2)),
    "general muon": (case(**MUON, general=True), "muon", (5e-3, 5e-2)),
    "clipped": (case(**CLIPPED), "clipped", COARSE),
    "general clipped": (case(**CLIPPED, general=True), "clipped", COARSE),
}
CASES = {name: one for name, (one, _, _) in ARMS.items()}


@pytest.mark.parametrize("name", [name for name in ARMS if CUDA or "compiled" not in name])
def test_curve(name: str, reference: Callable[[str], Curve], note: Callable[..., None]) -> None:
    """Within its limits of the reference in float32 on the CPU."""
    one, whose, (loss, norm) = ARMS[name]
    skip_what_needs_more(one)
    found, wanted = _curve(name), reference(whose)
    distances = {key: off(found[key], wanted[key]) for key in ("loss", "norm")}
    note(**distances, curve=found)
    assert wanted["loss"][-1] < wanted["loss"][0] or one["objective"] == "dpo", "nothing was learnt"
    assert distances["loss"] < loss, f"{found['loss']} and on the CPU {wanted['loss']}"
    assert distances["norm"] < norm, f"{found['norm']} and on the CPU {wanted['norm']}"


# What does the same arithmetic in the same order, and what sums in another order and then rounds otherwise here and
# there. `general`: one worker the way of many; the sums are the same to the bit, the norm and the clip are not.
ALIKE = [
    ("keep=products", "bfloat16", 1e-6),
    ("keep=input", "bfloat16", 1e-6),
    ("compiled keep=products", "compiled", 2e-3),  # another graph: other numbers are rounded to bfloat16 on their way
    ("compiled keep=input", "compiled", 1e-4),
    ("general", "bfloat16", 3e-5),
    ("general clipped", "clipped", 3e-5),
    ("general muon", "muon", 1e-4),
    ("general zero=2", "general", 3e-5),
    ("zero=2", "bfloat16", 3e-5),
    ("zero=3", "bfloat16", 1e-4),
    ("offload", "bfloat16", 1e-4),
    ("compiled", "bfloat16", 3e-3),
]


@pytest.mark.parametrize(
    ("name", "like", "limit"), [one for one in ALIKE if CUDA or "compiled" not in one[0]], ids=lambda x: str(x)
)
def test_curves_alike(name: str, like: str, limit: float, note: Callable[..., None]) -> None:
    """Ways that differ in where things lie, not in what is computed."""
    found, wanted = _curve(name), _curve(like)
    distances = {key: off(found[key], wanted[key]) for key in ("loss", "norm")}
    note(**distances, same_bits=found == wanted)
    assert distances["loss"] < limit, f"{found['loss']} and {wanted['loss']}"
    assert distances["norm"] < 10 * limit, f"{found['norm']} and {wanted['norm']}"


def test_one_worker_clips_as_many_do(note: Callable[..., None]) -> None:
    """AdamW's update is the same for any scale of the gradient, so its first moment is looked at: after one step it is
    a tenth of what reached the optimizer.
    """
    moments, norms = {}, {}
    for name, changes in (("free", {}), ("short", CLIPPED), ("general", {**CLIPPED, "general": True})):
        one = case(**changes)
        with running(one) as engine:
            shortened = type(engine.deepspeed.optimizer.step.__self__).__name__ == "OneWorker"
            assert shortened == (name != "general")
            norms[name] = train(engine, one, [0])["norm"][0]
            moments[name] = torch.cat([x for key, x in state(engine).items() if "@exp_avg@" in key])
    distances = {
        "norm": off([norms["short"]], [norms["general"]]),
        "clipped": distance(moments["short"], moments["general"]),
        "free": distance(moments["short"] * (norms["short"] / 0.3), moments["free"]),
    }
    note(**distances, norms=norms)
    assert norms["free"] > 0.3
    assert distances["norm"] < 1e-6
    assert distances["clipped"] < 1e-6
    assert distances["free"] < 1e-5
