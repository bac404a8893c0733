"""A block that is compiled whole, with attention an operator in its graph: as on CUDA, here with a CPU's stand-in for
FlashAttention behind torch's own operator, whose fake and whose way backward are the ones that a GPU uses.
"""

import functools
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import pipelines.train.network.model as network
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer

MODEL = ModelConfig(
    layers=12, d_model=32, d_ff=48, heads=4, kv_heads=2, vocabulary=50, max_positions=64, dim_model_base=16
)
# rows of 64 tokens: another number of documents and another longest one in each batch
BATCHES = [[14, 50, 64], [64, 64], [1] * 64 + [3] * 21 + [1]]


def weights(q_HTK: Tensor, k_GTK: Tensor) -> Tensor:
    scores = q_HTK @ k_GTK.repeat_interleave(len(q_HTK) // len(k_GTK), 0).mT / q_HTK.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def forward(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *_rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    assert max(starts.diff()) <= _rest[1]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for piece in itertools.starmap(slice, itertools.pairwise(starts.tolist())):
        q_, k_, v_ = (x[piece].transpose(0, 1) for x in (q, k, v))
        out[piece] = (weights(q_, k_) @ v_.repeat_interleave(len(q_) // len(v_), 0)).transpose(0, 1)
    return out, torch.zeros(q.shape[1], q.shape[0]), torch.zeros(2, dtype=torch.uint64)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, _out: Tensor, _lse: Tensor, starts: Tensor, *_rest: Any
) -> tuple[Tensor, ...]:
    grads = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    for piece in itertools.starmap(slice, itertools.pairwise(starts.tolist())):
        q_, k_, v_, g_ = (x[piece].transpose(0, 1) for x in (q, k, v, grad))
        share, p = len(q_) // len(k_), weights(q_, k_)
        dp = g_ @ v_.repeat_interleave(share, 0).mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / q_.shape[-1] ** 0.5
        dq, dk, dv = ds @ k_.repeat_interleave(share, 0), ds.mT @ q_, p.mT @ g_
        for whole, part in zip(grads, (dq, dk, dv), strict=True):
            whole[piece] = part.unflatten(0, (len(whole[0]), -1)).sum(1).transpose(0, 1)
    return grads


def batch(lengths: list[int], seed: int) -> ModelInput:
    positions = torch.cat([torch.arange(n) for n in lengths]).view(2, 64)
    ids = torch.randint(0, 50, (2, 64), generator=torch.Generator().manual_seed(seed))
    return ModelInput(inputs=ids, positions=positions)


def gradients(model: Transformer, read: ModelInput) -> list[Tensor]:
    model.zero_grad()
    model(read).square().sum().backward()
    return [x.grad.to_dense() for x in model.parameters() if x.grad is not None]


@pytest.mark.slow
def test_all_blocks_that_keep_alike_and_all_batches_share_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where some compute again and where a probe looks at them; evaluation is not compiled."""
    varlen: Any = pytest.importorskip("torch.nn.attention.varlen")
    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(network, "joins", lambda device: True)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    policy = BlockPolicy(all=4, products=4, input=4)
    plain, compiled = (
        Transformer(MODEL).initialise(0).prepare(ComputeConfig(attention="varlen", compile=how), policy)
        for how in ("off", "on")
    )
    for seed, lengths in enumerate(BATCHES):
        read = batch(lengths, seed)
        expected = gradients(plain, read)
        found = gradients(compiled, read)
        for gradient, other in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)
        seen: list[torch.Size] = []
        for block in compiled.layers:
            block.probe = lambda q, k, seen=seen: seen.append(q.shape)  # type: ignore[assignment,misc]
        assert all(map(torch.equal, gradients(compiled, read), found))
        assert seen[:12] == [(1, 64, 4, 8)] * 12
        for block in compiled.layers:
            block.probe = None  # type: ignore[assignment]
        with torch.no_grad():
            torch.testing.assert_close(compiled(read), plain(read))
    assert counter.frame_count == 2  # one of the blocks that keep products, and one of all others
