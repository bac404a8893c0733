"""Roles say of each parameter what the model holds; checked against the model itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.model import Transformer, split_projections
from pipelines.train.network.roles import KINDS, check_kinds, frozen, numbers, places, roles

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=48, heads=4, kv_heads=2, vocabulary=64, max_positions=32, dim_model_base=8
)


@pytest.mark.parametrize("change", [{}, {"kv_heads": 4}, {"layers": 1, "heads": 2, "kv_heads": 1}])
def test_every_parameter_has_its_role_in_order_and_shape(change: dict[str, int]) -> None:
    model = dataclasses.replace(MODEL, **change)
    built = [(name, tuple(parameter.shape)) for name, parameter in Transformer(model).named_parameters()]
    assert [(name, role.shape) for name, role in roles(model).items()] == built
    assert {role.kind for role in roles(model).values()} == set(KINDS)


def test_kinds_layers_and_places() -> None:
    assert places(MODEL) == ["embedding", "layer_00", "layer_01", "final_norm"]
    of_layer = [role for role in roles(MODEL).values() if role.layer == 1]
    assert [role.kind for role in of_layer] == ["norm", "matrix", "matrix", "norm", "matrix", "matrix"]
    assert [name for name, role in roles(MODEL).items() if role.residual] == [
        f"layers.{layer}.{matrix}.weight" for layer in range(2) for matrix in ("self_attn.o_proj", "mlp.down_proj")
    ]


def test_numbers_by_kind_sum_to_the_counts_by_formula() -> None:
    counts, by_kind = parameter_counts(MODEL), numbers(MODEL)
    assert by_kind["embedding"] == counts["embedding"] == 64 * 32
    assert by_kind["matrix"] + by_kind["norm"] == counts["non_embedding"]
    assert by_kind["norm"] == (2 * 2 + 1) * 32


def test_fused_products_are_cut_into_the_maps_that_the_roles_name() -> None:
    model = Transformer(MODEL).initialise(0)
    weights = dict(model.named_parameters())
    split = {name: value for name, _, value in split_projections(weights.items(), MODEL)}
    for part, rows in (("q", slice(0, 32)), ("k", slice(32, 48)), ("v", slice(48, 64))):
        expected = weights["layers.1.self_attn.qkv_proj.weight"][rows]
        assert torch.equal(split[f"layers.1.self_attn.{part}_proj.weight"], expected)
    assert torch.equal(split["layers.0.mlp.up_proj.weight"], weights["layers.0.mlp.gate_up_proj.weight"][48:])
    assert split["norm.weight"] is weights["norm.weight"]


def test_what_is_frozen_follows_from_the_kinds_that_train() -> None:
    assert frozen(MODEL, None) == frozenset()
    assert frozen(MODEL, ("matrix", "norm")) == {"embed_tokens.weight"}
    assert len(frozen(MODEL, ("embedding",))) == len(roles(MODEL)) - 1


@pytest.mark.parametrize("trains", [("matrices",), ("matrix", "adapters"), ()])
def test_an_unknown_kind_is_refused_with_the_known_ones(trains: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="matrix, embedding, norm"):
        check_kinds(trains)
    check_kinds(("norm",))
    check_kinds(None)
