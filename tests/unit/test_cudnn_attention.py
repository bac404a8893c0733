"""cuDNN's attention as an operator: a stand-in for its plans computes from the very tensors that they would be given.

The plans themselves need a GPU: tests/gpu and benchmarks/gpu/attention.py.
"""

import math

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.train.network import compute, cudnn_attention
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.attention import attend, locate
from pipelines.train.network.compute import ComputeConfig
from pipelines.train.network.cudnn_attention import Shape, Slot, attend_documents, obstacle, require
from pipelines.train.network.model import Transformer, rotary_tables

STARTS = torch.tensor([0, 7, 8, 48, 60, 60, 60], dtype=torch.int32)  # the last two hold no tokens
POSITIONS = torch.cat([torch.arange(n) for n in (7, 1, 40, 12)])[None]


def by_hand(shape: Shape, backward: bool, tensors: dict[Slot, torch.Tensor]) -> None:
    """What cuDNN does: each document of each tensor begins where `*_STARTS` says, in numbers.

    Where all are alike nothing is said, and each begins where the one before it ends.
    """
    assert shape.alike != (Slot.LENGTHS in tensors)
    assert shape.repeatable == backward  # of the forward pass there is one way
    lengths = [shape.longest] * shape.documents if shape.alike else tensors[Slot.LENGTHS].tolist()
    assert max(lengths) <= shape.longest
    assert shape.documents == len(lengths)
    flat = {slot: tensor.view(-1) for slot, tensor in tensors.items()}  # view: contiguous, or an error
    share = shape.heads // shape.kv_heads

    def cut(slot: Slot, document: int, heads: int, width: int) -> torch.Tensor:
        key = slot in (Slot.K, Slot.V, Slot.DK, Slot.DV)
        starts = Slot.SUM_STARTS if slot == Slot.SUMS else Slot.K_STARTS if key else Slot.Q_STARTS
        length = lengths[document]
        begin = document * length * heads * width if shape.alike else int(tensors[starts][document])
        return flat[slot][begin : begin + length * heads * width].view(length, heads, width)

    for document in range(shape.documents):
        H, G, K = shape.heads, shape.kv_heads, shape.width
        q = cut(Slot.Q, document, H, K)
        k, v = (cut(slot, document, G, K).repeat_interleave(share, 1) for slot in (Slot.K, Slot.V))
        hidden = torch.ones(len(q), len(q)).triu(1).bool()
        scores = (torch.einsum("qhk,thk->hqt", q, k) / math.sqrt(K)).masked_fill(hidden, -math.inf)
        out, sums = torch.einsum("hqt,thk->qhk", scores.softmax(-1), v), scores.logsumexp(-1).T[..., None]
        if not backward:
            cut(Slot.O, document, H, K).copy_(out)
            cut(Slot.SUMS, document, H, 1).copy_(sums)
            continue
        assert torch.equal(cut(Slot.O, document, H, K), out)
        assert torch.equal(cut(Slot.SUMS, document, H, 1), sums)
        # no autograd below an operator: the derivative by hand
        do, weights = cut(Slot.DO, document, H, K), scores.softmax(-1)
        by_weight = torch.einsum("qhk,thk->hqt", do, v)
        by_score = weights * (by_weight - (by_weight * weights).sum(-1, keepdim=True)) / math.sqrt(K)
        cut(Slot.DQ, document, H, K).copy_(torch.einsum("hqt,thk->qhk", by_score, k))
        for slot, gradient in (
            (Slot.DK, torch.einsum("hqt,qhk->thk", by_score, q)),
            (Slot.DV, torch.einsum("hqt,qhk->thk", weights, do)),
        ):
            cut(slot, document, G, K).copy_(gradient.view(len(q), G, share, K).sum(2))


@pytest.mark.parametrize("kv_heads", [4, 2], ids=["heads alike", "grouped"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "in a graph"])
def test_gradients_are_those_of_the_plain_path(kv_heads: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_attention, "_run", by_hand)
    random = torch.Generator().manual_seed(0)
    # queries, keys and values as a block has them: three parts of one product
    joined = torch.randn(60, 4 + 2 * kv_heads, 8, generator=random)
    weight = torch.randn(60, 4, 8, generator=random)
    found, expected = joined.clone().requires_grad_(), joined.clone().requires_grad_()

    def by_cudnn(x: torch.Tensor) -> torch.Tensor:
        q, k, v = x.split([4, kv_heads, kv_heads], 1)
        return attend_documents(q, k, v, STARTS, 64, True)

    out = (torch.compile(by_cudnn, backend="aot_eager", fullgraph=True) if compiled else by_cudnn)(found)
    (out * weight).sum().backward()
    q, k, v = (x[None] for x in expected.split([4, kv_heads, kv_heads], 1))
    plain = attend(q, k, v, locate(POSITIONS, "dense", masking=True))[0]
    (plain * weight).sum().backward()
    assert torch.allclose(out, plain, atol=1e-6)
    assert found.grad is not None
    assert expected.grad is not None
    assert torch.allclose(found.grad, expected.grad, atol=1e-5)


@pytest.mark.slow
def test_one_graph_of_a_block_serves_other_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_attention, "_run", by_hand)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    found: dict[str, list[torch.Tensor]] = {}
    for kernel in ("cudnn", "dense"):
        config = ModelConfig(
            layers=1, d_model=32, d_ff=80, heads=4, kv_heads=2, vocabulary=50, max_positions=300, dim_model_base=16
        )
        model = Transformer(config).initialise(0)
        block = model.layers[0]
        if kernel == "cudnn":
            block.whole = torch.compile(block.joined, backend="aot_eager", dynamic=False, fullgraph=True)
        for lengths in ((7, 1, 100, 192), (10,) * 30, (300,)):  # the last two: alike
            placed = torch.cat([torch.arange(n) for n in lengths])[None].repeat(2, 1)
            x = torch.randn(2, 300, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
            rotary = rotary_tables(placed, 8, 1e4, torch.float32)
            documents = locate(placed, kernel, masking=True)  # type: ignore[arg-type]
            out = block(x, rotary, documents.of_any_number())
            out.square().sum().backward()
            assert x.grad is not None
            found.setdefault(kernel, []).extend([out.detach(), x.grad])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for a, b in zip(found["cudnn"], found["dense"], strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_few_plans_serve_all_batches() -> None:
    """The number of documents and the longest one are rounded up; documents beyond the last hold no tokens."""
    found = locate(POSITIONS, "cudnn", masking=True)
    assert found.starts is not None
    assert found.starts.tolist() == [0, 7, 8, 48, 60]
    assert found.longest == 60  # no longer than a row
    found = locate(torch.cat([torch.arange(n) for n in (5, 300, 5, 5, 700)])[None], "cudnn", masking=True)
    assert found.starts is not None
    assert found.starts.tolist() == [0, 5, 305, 310, 315, 1015, 1015, 1015, 1015]
    assert found.starts.dtype == torch.int32
    assert found.longest == 1015
    whole = locate(POSITIONS.expand(3, 60), "cudnn", masking=False)
    assert whole.starts is not None
    assert (whole.starts.tolist(), whole.longest) == ([0, 60, 120, 180], 60)  # alike: a plan of their own


@pytest.mark.parametrize("lengths", [(5, 300, 5, 5, 700), (1000, 24), (512, 511, 1), (4,) * 255 + (3, 1)])
def test_only_documents_that_are_alike_are_taken_for_alike(lengths: tuple[int, ...]) -> None:
    """Rounded up, documents of other lengths never fill the room that they are given."""
    found = locate(torch.cat([torch.arange(n) for n in lengths])[None], "cudnn", masking=True)
    assert found.starts is not None
    shape = Shape(sum(lengths), 4, 4, 64, len(found.starts) - 1, found.longest)
    assert not shape.alike


def test_it_says_what_is_missing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    obstacle.cache_clear()
    assert obstacle() == "no GPU"
    monkeypatch.setattr(compute, "FASTEST", "cudnn")
    assert compute.choose_attention(ComputeConfig(), "cuda") == "varlen"
    with pytest.raises(ConfigError, match=r"cudnn: no GPU\. Mend that, or set compute.attention=auto"):
        require()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    obstacle.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(cudnn_attention.importlib.util, "find_spec", lambda _name: None)  # type: ignore[attr-defined]
    assert obstacle() == "the package nvidia-cudnn-frontend is not installed"
    obstacle.cache_clear()


def test_what_stands_against_the_same_bits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudnn_attention, "obstacle", lambda: "no front end")
    said = compute.unrepeatable(ComputeConfig(), "cuda", "bfloat16")
    assert said.startswith("attention is varlen, since cuDNN's cannot be had (no front end): over documents")
    assert said.endswith("mend that, or set compute.repeatable=false")
    assert "set compute.attention=auto" in compute.unrepeatable(ComputeConfig(attention="varlen"), "cuda", "bfloat16")
    assert not compute.unrepeatable(ComputeConfig(repeatable=False), "cuda", "bfloat16")
    assert not compute.unrepeatable(ComputeConfig(), "cuda", "float32")
    assert not compute.unrepeatable(ComputeConfig(), "cpu", "bfloat16")
    monkeypatch.setattr(cudnn_attention, "obstacle", lambda: None)
    assert not compute.unrepeatable(ComputeConfig(), "cuda", "bfloat16")


def test_offsets_beyond_32_bits_are_refused() -> None:
    shape = Shape(tokens=1 << 20, heads=36, kv_heads=36, width=64, documents=2, longest=1 << 20)
    with pytest.raises(ValueError, match="beyond 32 bits"):
        cudnn_attention._places(STARTS, shape)
