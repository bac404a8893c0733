"""FP8 products: what is refused before any work starts, and that a model stays the same model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.train.network import float8
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.compute import ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import roles
from pipelines.train.plan import devices
from pipelines.train.update.zero import ZeroConfig, check

MODEL = ModelConfig(
    layers=2, d_model=64, d_ff=160, heads=2, kv_heads=1, vocabulary=259, max_positions=32, dim_model_base=32
)
FP8 = ZeroConfig(precision="fp8")


def test_weights_and_activations_are_bfloat16() -> None:
    assert FP8.numbers == ZeroConfig(precision="bfloat16").numbers == "bfloat16"
    assert ZeroConfig(precision="float32").numbers == "float32"


def test_a_cpu_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"fp8 needs a GPU of compute capability 8\.9 or later .*zero.precision=bfloat16"
    ):
        devices.check(ComputeConfig(), FP8, "cpu")
    devices.check(ComputeConfig(attention="varlen"), FP8, "cuda")


def test_a_gpu_before_ada_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    with pytest.raises(ConfigError, match=r"the NVIDIA A100 has 8\.0: set zero.precision=bfloat16"):
        devices.check_capability(FP8)
    devices.check_capability(ZeroConfig())
    for capability in ((8, 9), (9, 0), (10, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, value=capability: value)
        devices.check_capability(FP8)


@pytest.mark.parametrize(("stage", "says"), [(0, "set zero.stage=1"), (3, "set zero.stage=2")])
def test_stages_at_which_it_does_not_pay_are_refused(stage: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(ZeroConfig(stage=stage, precision="fp8"))


@pytest.mark.parametrize(
    ("changes", "tokens", "alike", "says"),
    [
        ({"d_ff": 168}, 64, True, r"d_ff is 168: set zero.precision=bfloat16"),
        ({"d_model": 72}, 64, True, "d_model is 72: set"),
        ({}, 72, True, "a micro-batch has 72: set batch.micro_batch or batch.sequence_length to a multiple of 16"),
        ({}, 64, False, "pairs are as wide as their longest"),
    ],
)
def test_shapes_that_no_fp8_product_takes_are_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], tokens: int, alike: bool, says: str
) -> None:
    monkeypatch.setattr(float8.importlib.util, "find_spec", lambda name: object())
    float8.check(MODEL, 64, True)
    with pytest.raises(ConfigError, match=says):
        float8.check(dataclasses.replace(MODEL, **changes), tokens, alike)


def test_without_torchao_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="`pip install torchao`"):
        float8.check(MODEL, 64, True)


def test_a_converted_model_has_the_same_parameters_and_nearly_the_same_gradients() -> None:
    pytest.importorskip("torchao")
    positions = torch.arange(32).repeat(2, 1)
    batch = ModelInput(
        inputs=torch.randint(259, (2, 32), generator=torch.Generator().manual_seed(1)), positions=positions
    )
    gradients = []
    for converted in (False, True):
        model = Transformer(MODEL).initialise(0).prepare(ComputeConfig(compile="off")).bfloat16()
        before = dict(model.named_parameters())
        if converted:
            float8.convert(model, emulated=True)
        after = dict(model.named_parameters())
        assert list(after) == list(before) == list(roles(MODEL))
        assert all(after[name] is before[name] for name in before)
        model.logits(model(batch)).float().square().mean().backward()
        gradients.append({name: value.grad.float() for name, value in after.items() if value.grad is not None})
    for name, expected in gradients[0].items():
        if expected.layout == torch.strided:
            off = (gradients[1][name] - expected).norm() / expected.norm()
            assert off < 0.2, name  # two digits in 8 bits, through all blocks
            assert off > 0 or not name.endswith("proj.weight"), name
