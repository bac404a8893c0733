"""Chunked output projection and cross-entropy against the plain computation in float64."""

import pytest
import torch
import torch.nn.functional as F

from pipelines.train.network import linear_cross_entropy
from pipelines.train.network.compute import chunk_tokens
from pipelines.train.network.linear_cross_entropy import pieces, token_losses, weighted_sum

N, D, V = 37, 12, 501


def drawn(dtype: torch.dtype = torch.float32, vocabulary: int = V) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(N, D, generator=generator), torch.randn(vocabulary, D, generator=generator)
    targets = torch.randint(0, vocabulary, (N,), generator=generator)
    weights = (torch.rand(N, generator=generator) > 0.5).float() * 2
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets, weights


def plain(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hidden, weight, targets, weights = drawn(torch.float64)
    losses = F.cross_entropy(hidden @ weight.T, targets, reduction="none") * weights
    (losses.sum() * scale).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return losses.detach(), hidden.grad, weight.grad


def distance(found: torch.Tensor | None, expected: torch.Tensor) -> float:
    assert found is not None
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("chunk", [1, 10, 37, 100])
@pytest.mark.parametrize("known_before", [True, False])
def test_losses_and_gradients_are_those_of_the_plain_computation(chunk: int, known_before: bool) -> None:
    losses, hidden_grad, weight_grad = plain(0.25)
    hidden, weight, targets, weights = drawn()
    if known_before:
        total, found = weighted_sum(hidden, weight, targets, weights, chunk)
    else:
        found = token_losses(hidden, weight, targets, chunk) * weights
        total = found.sum()
    (total * 0.25).backward()
    assert distance(found.detach(), losses) < 1e-6
    assert distance(hidden.grad, hidden_grad) < 1e-6
    assert distance(weight.grad, weight_grad) < 1e-6


def test_a_loss_is_right_where_its_probability_underflows() -> None:
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[0.0], [300.0]])
    _, losses = weighted_sum(hidden, weight, torch.tensor([0]), torch.ones(1), 8)
    assert losses.item() == 300.0


def test_bfloat16_has_a_float32_softmax() -> None:
    losses, hidden_grad, weight_grad = plain(1.0)
    hidden, weight, targets, weights = drawn(torch.bfloat16)
    total, found = weighted_sum(hidden, weight, targets, weights, 10)
    total.backward()
    assert found.dtype == total.dtype == torch.float32
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    assert distance(found, losses) < 2e-3  # what rounding inputs and logits to bfloat16 costs
    assert distance(hidden.grad, hidden_grad) < 2e-2
    assert distance(weight.grad, weight_grad) < 2e-2


@pytest.mark.parametrize("known_before", [True, False])
def test_a_frozen_matrix_gets_no_gradient_and_the_hidden_states_the_same(known_before: bool) -> None:
    gradients = []
    for frozen in (False, True):
        hidden, weight, targets, weights = drawn()
        weight.requires_grad_(not frozen)
        if known_before:
            total = weighted_sum(hidden, weight, targets, weights, 7)[0]
        else:
            total = (token_losses(hidden, weight, targets, 7) * weights).sum()
        total.backward()
        assert (weight.grad is None) is frozen
        assert hidden.grad is not None
        gradients.append(hidden.grad)
    assert torch.equal(*gradients)


def test_without_gradients_only_losses_are_made() -> None:
    hidden, weight, targets, weights = drawn()
    with torch.no_grad():
        total, found = weighted_sum(hidden, weight, targets, weights, 10)
    assert torch.allclose(found, plain(1.0)[0].float(), atol=1e-5)
    assert not total.requires_grad


def test_a_chunk_holds_128_mib_of_logits_or_4_gib_on_a_gpu() -> None:
    assert chunk_tokens(122_753) == 256
    assert chunk_tokens(4096) == 8192
    assert chunk_tokens(122_753, "cuda") == 8704
    assert chunk_tokens(10**7) == 64


@pytest.mark.parametrize("known_before", [True, False])
@pytest.mark.parametrize("columns", [V, 512, 100])
def test_in_a_gpus_pieces_losses_and_gradients_are_the_same(
    monkeypatch: pytest.MonkeyPatch, known_before: bool, columns: int
) -> None:
    """The path of a GPU, on a CPU: aligned rows, the columns beyond the last multiple of 128 on their own."""
    results = []
    split = linear_cross_entropy.pieces
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(
            linear_cross_entropy, "pieces", lambda vocabulary, _, as_on=device: split(vocabulary, as_on)
        )
        linear_cross_entropy.let_go()
        hidden, weight, targets, weights = drawn(torch.bfloat16, columns)
        if known_before:
            total, losses = weighted_sum(hidden, weight, targets, weights, 10)
        else:
            losses = token_losses(hidden, weight, targets, 10) * weights
            total = losses.sum()
        total.backward()
        results.append((losses.detach(), hidden.grad, weight.grad))
    assert linear_cross_entropy._scratch(3, columns, weight).stride(0) == (512 if columns > 128 else 100)
    for found, expected in zip(*reversed(results), strict=True):
        assert found is not None
        assert expected is not None
        assert distance(found, expected.double()) < 5e-3  # a rounding to bfloat16 more in the hidden states' gradient
    linear_cross_entropy.let_go()


def test_a_gpus_pieces_cover_the_vocabulary() -> None:
    assert pieces(122_753, "cpu") == [slice(0, 122_753)]
    assert pieces(122_753, "cuda") == [slice(0, 122_752), slice(122_752, 122_753)]
    assert pieces(32_768, "cuda") == [slice(0, 32_768)]
    assert pieces(100, "cuda") == [slice(0, 100)]
