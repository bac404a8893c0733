"""Every attention kernel and every choice of what is kept, against the plain path: one SDPA over a dense mask."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.attention import _SEGMENT, attend, locate
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig, compiles, for_shapes
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken

MODEL = ModelConfig(
    layers=4, d_model=32, d_ff=80, heads=4, kv_heads=2, vocabulary=50, max_positions=512, dim_model_base=16
)
# documents of 1 to 200 tokens, one that fills its row, and one that the window cuts at its beginning
LENGTHS = [[7, 1, 40, 12, 9, 200, 31], [300], [3, 100, 5, 5, 187]]


def packed() -> Batch:
    random = torch.Generator().manual_seed(0)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    positions[2, :3] += 50
    tokens = torch.randint(0, 50, (3, 301), generator=random)
    counts = (torch.rand(3, 300, generator=random) > 0.3).float()
    return Batch.shifted(tokens, positions, counts, torch.zeros(3, dtype=torch.int64))


def loss_and_gradients(
    compute: ComputeConfig, policy: BlockPolicy | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    model, batch = Transformer(MODEL).initialise(0).prepare(compute, policy), packed()
    loss, _ = NextToken().sums(model, model(batch), batch)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("compute", "policy"),
    [
        (ComputeConfig(attention="blocks"), None),
        (ComputeConfig(attention="dense", loss_chunk=64), None),
        (ComputeConfig(attention="blocks"), BlockPolicy(all=1, products=2, input=1)),
        pytest.param(ComputeConfig(compile="on"), BlockPolicy(all=2, products=1, input=1), marks=pytest.mark.slow),
    ],
    ids=["blocks", "loss_chunk", "recomputation", "compiled"],
)
def test_no_choice_changes_the_loss_or_a_gradient(compute: ComputeConfig, policy: BlockPolicy | None) -> None:
    expected, gradients = loss_and_gradients(ComputeConfig(attention="dense", compile="off", loss_chunk=10_000))
    loss, found = loss_and_gradients(compute, policy)
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        assert (found[name] - gradient).norm() <= 2e-6 * gradient.norm(), name


@pytest.mark.parametrize("kernel", ["blocks", "flex", "dense"])
def test_a_query_sees_its_own_document_so_far_and_nothing_else(kernel: str) -> None:
    positions = packed().positions
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, 300, heads, 8, generator=generator) for heads in (4, 2, 2))
    out = attend(q, k, v, locate(positions, kernel, masking=True))  # type: ignore[arg-type]
    row, query = 0, 30  # in the third document, which begins at 8
    scores = (q[row, query, 3] @ k[row, 8 : query + 1, 1].T) / 8**0.5
    assert torch.allclose(out[row, query, 3], scores.softmax(-1) @ v[row, 8 : query + 1, 1], atol=1e-6)
    whole = attend(q, k, v, locate(positions, kernel, masking=False))  # type: ignore[arg-type]
    scores = (q[row, query, 3] @ k[row, : query + 1, 1].T) / 8**0.5
    assert torch.allclose(whole[row, query, 3], scores.softmax(-1) @ v[row, : query + 1, 1], atol=1e-6)


def test_segments_cover_the_batch_and_only_short_documents_share_one() -> None:
    found = locate(packed().positions, "blocks", masking=True)
    assert sum(found.lengths) == 900
    assert [length for length, mask in zip(found.lengths, found.masks, strict=True) if mask is None] == [
        200,
        31,
        300,
        187,
    ]
    assert all(length <= _SEGMENT for length, mask in zip(found.lengths, found.masks, strict=True) if mask is not None)


def test_varlen_gets_each_documents_first_token() -> None:
    found = locate(packed().positions, "varlen", masking=True)
    assert found.starts is not None
    assert found.starts.tolist() == [0, 7, 8, 48, 60, 69, 269, 300, 600, 603, 703, 708, 713, 900]
    assert found.longest == 300
    assert locate(packed().positions, "varlen", masking=False).starts.tolist() == [0, 300, 600, 900]  # type: ignore[union-attr]


def test_batches_of_many_widths_are_compiled_only_when_that_is_asked_for() -> None:
    assert compiles(for_shapes(ComputeConfig(), alike=True), "cuda")
    assert not compiles(for_shapes(ComputeConfig(), alike=False), "cuda")
    assert compiles(for_shapes(ComputeConfig(compile="on"), alike=False), "cuda")


@pytest.mark.parametrize("kernel", ["varlen", "flex", "blocks", "dense"])
def test_documents_found_on_the_host_go_to_the_device_as_a_whole(kernel: str) -> None:
    """As the reading thread does for a GPU; "meta" is a device that every machine has."""
    here = locate(packed().positions, kernel, masking=True)  # type: ignore[arg-type]
    there = here.to(torch.device("meta"))
    tensors = [x for x in (there.starts, *there.masks) if x is not None]
    if kernel == "flex":
        row = query = torch.zeros(1, dtype=torch.int64, device="meta")
        tensors += [there.mask.kv_num_blocks, there.mask.kv_indices, there.mask.mask_mod(row, row, query, query)]
    elif there.mask is not None:
        tensors.append(there.mask)
    assert tensors
    assert {x.device.type for x in tensors} == {"meta"}
    again = here.to(torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, 300, heads, 8, generator=generator) for heads in (4, 2, 2))
    if kernel != "varlen":
        assert torch.equal(attend(q, k, v, again), attend(q, k, v, here))


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="FlashAttention over documents and FlexAttention's backward need CUDA"
)
@pytest.mark.parametrize("kernel", ["varlen", "flex"])
def test_kernels_equal_the_dense_mask_on_cuda(kernel: str) -> None:
    positions = packed().positions.cuda()
    outs = []
    for name in (kernel, "dense"):
        generator = torch.Generator("cuda").manual_seed(1)
        heads = [
            torch.randn(3, 300, n, 64, device="cuda", dtype=torch.bfloat16, generator=generator) for n in (4, 2, 2)
        ]
        leaves = [x.requires_grad_() for x in heads]
        out = attend(*leaves, locate(positions, name, masking=True))  # type: ignore[arg-type]
        out.float().square().sum().backward()
        outs.append([out, *(x.grad for x in leaves)])
    for found, expected in zip(*outs, strict=True):
        assert found is not None
        assert expected is not None
        assert (found - expected).norm() <= 1e-2 * expected.norm()


@pytest.mark.parametrize("known", ["enable_gqa and window_size", "window_size", "is_causal"])
def test_varlen_is_called_as_the_installed_torch_has_it(known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13 takes fewer heads of keys than of queries when told so, 2.11 takes them untold, 2.10 has no window
    either.
    """
    varlen: Any = pytest.importorskip("torch.nn.attention.varlen")
    heads: list[int] = []

    def causal(q: Any, k: Any, v: Any, starts: Any, longest: int) -> Any:
        heads.append(k.shape[1])
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        out = []
        for first, end in itertools.pairwise(starts.tolist()):
            parts = (x[first:end].transpose(0, 1)[None] for x in (q, k, v))
            out.append(F.scaled_dot_product_attention(*parts, is_causal=True)[0].transpose(0, 1))
        return torch.cat(out)

    def newest(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):  # type: ignore[no-untyped-def]
        assert window_size == (-1, 0)
        assert enable_gqa
        return causal(q, k, v, cu_seq_q, max_q)

    def older(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):  # type: ignore[no-untyped-def]
        assert window_size == (-1, 0)
        return causal(q, k, v, cu_seq_q, max_q)

    def oldest(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):  # type: ignore[no-untyped-def]
        assert is_causal
        return causal(q, k, v, cu_seq_q, max_q)

    function = {"enable_gqa and window_size": newest, "window_size": older, "is_causal": oldest}[known]
    monkeypatch.setattr(varlen, "varlen_attn", function)
    positions = packed().positions
    q, k, v = (torch.randn(*positions.shape, heads, 8) for heads in (4, 2, 2))
    found = attend(q, k, v, locate(positions, "varlen", masking=True))
    expected = attend(q, k, v, locate(positions, "dense", masking=True))
    torch.testing.assert_close(found, expected)
    assert heads == [2]
