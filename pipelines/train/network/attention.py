"""Causal attention within documents: one meaning, five kernels.

Legend: B rows, T tokens, N = B·T, H query heads, G key/value heads, K head width. Queries, keys and values come and go
as (B, T, heads, K). A query sees the keys of its own document that are not later than itself; a row begins a document.

    varlen   FlashAttention over the documents laid end to end (CUDA, bfloat16): no work for pairs that are kept apart
    cudnn    the same by cuDNN (`cudnn_attention.py`)
    flex     FlexAttention with a block mask (CUDA; on a CPU it has no backward pass)
    blocks   PyTorch's SDPA per document (CPU): long documents alone, short neighbours together under a mask
    dense    one SDPA over a (T, T) mask: the plain path that the others are compared with

Measured on 2 CPU cores, forward and backward, 3 documents in 4,096 tokens: dense 600 ms, causal without documents 319,
blocks 140.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.train.network.compute import Attention
from pipelines.train.network.cudnn_attention import attend_documents

_SEGMENT = 128  # tokens of short neighbouring documents that share one masked call: a call costs about 0.1 ms


@dataclass(frozen=True)
class Documents:
    """Where documents lie in a batch, as the chosen kernel wants it; made once per forward, used by every block."""

    kernel: Attention
    lengths: tuple[int, ...] = ()  # blocks: tokens of each segment of the flattened batch
    masks: tuple[Tensor | None, ...] = ()  # blocks: (1, 1, length, length), None for a single document
    mask: Any = None  # dense: (B, 1, T, T) boolean, None for whole rows; flex: its BlockMask
    numbers: Tensor | None = None  # flex: (B, T), the number of each token's document in its row
    # varlen, cudnn: (documents + 1,) int32, first token of each in the flattened batch, then N
    starts: Tensor | None = None
    longest: int = 0  # varlen, cudnn: tokens of the longest document
    repeatable: bool = True  # cudnn: whether gradients are summed in one order

    def to(self, device: torch.device) -> Documents:
        """The same on another device, without waiting for the copy."""
        starts = None if self.starts is None else self.starts.to(device, non_blocking=True)
        masks = tuple(None if mask is None else mask.to(device, non_blocking=True) for mask in self.masks)
        mask, numbers = self.mask, self.numbers
        if numbers is not None:  # a BlockMask: its rule reads the numbers, which it would leave where they were
            numbers = numbers.to(device, non_blocking=True)
            mask = mask.to(device)
            mask.mask_mod = _visible(numbers)
        elif mask is not None:
            mask = mask.to(device, non_blocking=True)
        return dataclasses.replace(self, mask=mask, numbers=numbers, starts=starts, masks=masks)

    def of_any_number(self) -> Documents:
        """The same for compiled blocks: one graph serves any number of documents and any longest one.

        Otherwise both would be constants of the graph, and nearly every batch would be compiled anew.
        """
        if self.starts is None:
            return self
        from torch._dynamo import mark_dynamic
        from torch.fx.experimental.sym_node import DynamicInt

        mark_dynamic(self.starts, 0)
        return dataclasses.replace(self, longest=DynamicInt(self.longest))


def locate(positions_BT: Tensor, kernel: Attention, masking: bool, repeatable: bool = True) -> Documents:
    """Find the documents of a batch. Best called on the host while earlier work runs: some kernels read numbers back.

    Args:
        positions_BT: place in the document, 0 at its first token.
        masking: False takes each row as one document.
        repeatable: whether the same batch must give the same gradients to the bit, where the kernel has the choice.
    """
    B, T = positions_BT.shape
    first_BT = (positions_BT == 0) if masking else torch.zeros_like(positions_BT, dtype=torch.bool)
    first_BT = first_BT.index_fill(1, torch.zeros(1, dtype=torch.int64, device=first_BT.device), True)
    if kernel == "dense":
        return Documents(kernel, mask=_dense_mask(first_BT) if masking else None)
    if kernel == "flex":
        number_BT = first_BT.cumsum(dim=1)
        return Documents(kernel, mask=_flex_mask(number_BT), numbers=number_BT)
    if kernel in ("varlen", "cudnn"):
        starts = F.pad(first_BT.flatten().nonzero()[:, 0], (0, 1), value=B * T)
        longest = int(starts.diff().max())
        # cuDNN plans for each number of documents and each longest one, and apart for documents that are all alike
        if kernel == "cudnn" and (len(starts) - 1) * longest != B * T:
            starts = F.pad(starts, (0, _power_of_two(len(starts) - 1) - len(starts) + 1), value=B * T)
            longest = min(_power_of_two(max(longest, 64)), T)
        return Documents(kernel, starts=starts.to(torch.int32), longest=longest, repeatable=repeatable)
    lengths, masks = _segments(first_BT)
    if lengths == (T,) * B and not any(mask is not None for mask in masks):
        return Documents("dense")  # each row is one document: all of them in one causal call
    return Documents(kernel, lengths, masks)


def attend(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Documents) -> Tensor:
    """softmax(q·kᵀ/√K) v over each query's own document so far: (B, T, H, K)."""
    if documents.kernel == "varlen":
        return _varlen(q_BTHK, k_BTGK, v_BTGK, documents)
    if documents.kernel == "cudnn":
        return _cudnn(q_BTHK, k_BTGK, v_BTGK, documents)
    if documents.kernel == "flex":
        return _flex(q_BTHK, k_BTGK, v_BTGK, documents)
    share = q_BTHK.shape[2] // k_BTGK.shape[2]
    if share > 1:
        k_BTGK, v_BTGK = k_BTGK.repeat_interleave(share, dim=2), v_BTGK.repeat_interleave(share, dim=2)
    if documents.kernel == "dense":
        q_BHTK, k_BHTK, v_BHTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
        mask = documents.mask
        return F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, mask, is_causal=mask is None).transpose(1, 2)
    return _blocks(q_BTHK, k_BTGK, v_BTGK, documents)


def _blocks(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, documents: Documents) -> Tensor:
    # split, not slices: its backward is one concatenation, where each slice would add a whole tensor of zeros
    lengths = list(documents.lengths)
    q_list, k_list, v_list = (
        torch.split(x.flatten(0, 1).transpose(0, 1), lengths, 1) for x in (q_BTHK, k_BTHK, v_BTHK)
    )
    out_HNK = torch.cat(
        [
            F.scaled_dot_product_attention(q[None], k[None], v[None], mask, is_causal=mask is None)[0]
            for q, k, v, mask in zip(q_list, k_list, v_list, documents.masks, strict=True)
        ],
        dim=1,
    )
    return out_HNK.transpose(0, 1).reshape(q_BTHK.shape)


def _varlen(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Documents) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.flatten(0, 1) for x in (q_BTHK, k_BTGK, v_BTGK))
    starts, longest = documents.starts, documents.longest
    assert starts is not None
    # torch changes this function from version to version: its signature is asked, not a version number
    accepted = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in accepted else {"is_causal": True}
    if "enable_gqa" in accepted:  # elsewhere nobody asks: the kernel has always taken fewer heads of keys by itself
        causal["enable_gqa"] = True
    out = varlen_attn(q, k, v, starts, starts, longest, longest, **causal)
    assert isinstance(out, Tensor)
    return out.view(q_BTHK.shape)


def _cudnn(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Documents) -> Tensor:
    q, k, v = (x.flatten(0, 1) for x in (q_BTHK, k_BTGK, v_BTGK))
    assert documents.starts is not None
    out = attend_documents(q, k, v, documents.starts, documents.longest, documents.repeatable)
    return out.view(q_BTHK.shape)


def _power_of_two(number: int) -> int:
    """The first that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()


def _flex(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, documents: Documents) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    kernel = _compiled_flex() if q_BTHK.is_cuda else flex_attention
    q_BHTK, k_BGTK, v_BGTK = (x.transpose(1, 2) for x in (q_BTHK, k_BTGK, v_BTGK))
    out: Tensor = kernel(
        q_BHTK, k_BGTK, v_BGTK, block_mask=documents.mask, enable_gqa=q_BTHK.shape[2] > k_BTGK.shape[2]
    )
    return out.transpose(1, 2)


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex_mask(number_BT: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    B, T = number_BT.shape
    return create_block_mask(_visible(number_BT), B, None, T, T, device=str(number_BT.device))


def _visible(number_BT: Tensor) -> Any:
    """FlexAttention's rule: whether a query of a row sees a key."""

    def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (number_BT[row, query] == number_BT[row, key])

    return visible


def _dense_mask(first_BT: Tensor) -> Tensor:
    """(B, 1, T, T) boolean."""
    number_BT = first_BT.cumsum(dim=1)
    T = first_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=first_BT.device).tril()
    return ((number_BT[:, :, None] == number_BT[:, None, :]) & causal_TT)[:, None]


def _segments(first_BT: Tensor) -> tuple[tuple[int, ...], tuple[Tensor | None, ...]]:
    """Cut the flattened batch into single documents, and runs of neighbours of up to `_SEGMENT` tokens, with masks."""
    first_N = first_BT.flatten()
    starts = [*first_N.nonzero()[:, 0].tolist(), len(first_N)]
    lengths: list[int] = []
    masks: list[Tensor | None] = []
    begin, documents = 0, 0  # of the segment that is being gathered
    for end, following in itertools.pairwise([*starts[1:], math.inf]):
        documents += 1
        if following - begin > _SEGMENT:  # the next document would not fit in as well
            lengths.append(int(end) - begin)
            masks.append(None if documents == 1 else _dense_mask(first_N[None, begin : int(end)]))
            begin, documents = int(end), 0
    return tuple(lengths), tuple(masks)
