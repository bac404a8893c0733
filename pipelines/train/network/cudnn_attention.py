"""Attention over documents by cuDNN: the kernels that NVIDIA writes for each GPU, where torch has FlashAttention-2.

Legend: N tokens, H query heads, G key/value heads (H divisible by G), K head width. Enter: queries (N, H, K), keys and
values (N, G, K) of documents laid end to end, `starts` (documents + 1,), the tokens of the longest. Leaves: (N, H, K).

Called through cuDNN's own front end (`pip install nvidia-cudnn-frontend`, MIT, 2 MB; cuDNN itself comes with torch).
Torch's operator `aten::_cudnn_attention_backward` takes documents too, but until June 2026 it took the head's width for
the longest document, and wrote beyond its buffers (pytorch#186142); it also plans each call anew.

A plan is made per number of documents, longest document and number of tokens, so `attention.locate` rounds the first
two up: a document of no tokens costs an empty tile. Documents that are all equally long have a plan of their own, which
need not ask where each begins. Packed layout and bounds are those of Transformer Engine
(`fused_attn_f16_arbitrary_seqlen.cu`), whose users run them on Hopper daily.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from pipelines.errors import ConfigError

OLDEST = 90600  # cuDNN 9.6.0: the first that keeps the softmax's sums packed as the documents are
_LOCK = threading.Lock()  # a cuDNN handle serves one thread at a time; backward passes have a thread of their own


class Slot(IntEnum):
    """What a plan reads and writes, by the numbers that it knows them by."""

    Q, K, V, O, SUMS, DO, DQ, DK, DV, LENGTHS, Q_STARTS, K_STARTS, SUM_STARTS = range(1, 14)  # noqa: E741


@dataclass(frozen=True)
class Shape:
    """What a plan is made for."""

    tokens: int
    heads: int
    kv_heads: int
    width: int
    documents: int
    longest: int
    dtype: torch.dtype = torch.bfloat16
    repeatable: bool = False  # the same gradients to the last bit, at some cost in time

    @property
    def alike(self) -> bool:
        """Whether all documents are equally long. Rounded up or not, others have more room than tokens."""
        return self.documents * self.longest == self.tokens


@functools.cache
def obstacle() -> str | None:
    """Why this process cannot use cuDNN for attention; None if it can."""
    if not torch.cuda.is_available():
        return "no GPU"
    if torch.cuda.get_device_capability() < (8, 0):
        return "its GPU is older than Ampere (compute capability 8.0)"
    if importlib.util.find_spec("cudnn") is None:
        return "the package nvidia-cudnn-frontend is not installed"
    try:
        import cudnn

        version = int(cudnn.backend_version())
    except Exception as error:  # the front end finds no cuDNN, or one it cannot load
        return f"nvidia-cudnn-frontend does not load: {error}"
    return f"cuDNN {version} is older than 9.6.0 ({OLDEST})" if version < OLDEST else None


def require() -> None:
    """Refuse to begin where cuDNN cannot be used. Raises: ConfigError."""
    if missing := obstacle():
        raise ConfigError(f"compute.attention=cudnn: {missing}. Mend that, or set compute.attention=auto")


def attend_documents(
    q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, starts: Tensor, longest: int, repeatable: bool
) -> Tensor:
    """softmax(q·kᵀ/√K) v over each query's own document so far: (N, H, K), in bfloat16 or float16.

    Args:
        starts: (documents + 1,) int32, first token of each document, then N; some may hold no tokens.
        longest: at least the tokens of the longest document.
        repeatable: whether a query's gradient is summed in one order, at some cost in time.
    """
    # one layout, so that a gradient lies as its tensor does; inside a compiled block only the values are copied
    parts = (x.contiguous() for x in (q_NHK, k_NGK, v_NGK))
    out: Tensor = _forward(*parts, starts, longest, repeatable)[0]
    return out


@torch.library.custom_op("trunkline::cudnn_attention", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, repeatable: bool) -> tuple[Tensor, Tensor]:
    shape = _shape(q, k, starts, longest, repeatable=False)  # only the backward pass has two ways
    out = torch.empty_like(q)
    sums = torch.empty(*q.shape[:2], 1, dtype=torch.float32, device=q.device)
    _run(shape, False, {Slot.Q: q, Slot.K: k, Slot.V: v, Slot.O: out, Slot.SUMS: sums, **_places(starts, shape)})
    return out, sums


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int, repeatable: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(*q.shape[:2], 1, dtype=torch.float32)


@torch.library.custom_op("trunkline::cudnn_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    starts: Tensor,
    longest: int,
    repeatable: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _shape(q, k, starts, longest, repeatable or torch.are_deterministic_algorithms_enabled())
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    given = {Slot.Q: q, Slot.K: k, Slot.V: v, Slot.O: out, Slot.SUMS: sums, Slot.DO: grad.contiguous()}
    _run(shape, True, {**given, Slot.DQ: dq, Slot.DK: dk, Slot.DV: dv, **_places(starts, shape)})
    return dq, dk, dv


@_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    starts: Tensor,
    longest: int,
    repeatable: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, starts, ctx.longest, ctx.repeatable = inputs
    ctx.save_for_backward(q, k, v, *output, starts)


def _differentiate(ctx: Any, grad: Tensor, _sums: Tensor) -> tuple[Tensor | None, ...]:
    *kept, starts = ctx.saved_tensors
    return (*_backward(grad, *kept, starts, ctx.longest, ctx.repeatable), None, None, None)


_forward.register_autograd(_differentiate, setup_context=_keep)


def _shape(q: Tensor, k: Tensor, starts: Tensor, longest: int, repeatable: bool) -> Shape:
    tokens, heads, width = q.shape
    return Shape(tokens, heads, k.shape[1], width, len(starts) - 1, longest, q.dtype, repeatable)


def _places(starts: Tensor, shape: Shape) -> dict[Slot, Tensor]:
    """Where each document begins in each kind of tensor, in numbers, not tokens; nothing where they are alike."""
    if shape.alike:
        return {}
    if shape.tokens * shape.heads * shape.width >= 2**31:
        raise ValueError(f"{shape.tokens} tokens of {shape.heads}×{shape.width} are beyond 32 bits: smaller batches")
    q_starts = starts * (shape.heads * shape.width)
    k_starts = q_starts if shape.heads == shape.kv_heads else starts * (shape.kv_heads * shape.width)
    return {
        Slot.LENGTHS: starts[1:] - starts[:-1],
        Slot.Q_STARTS: q_starts,
        Slot.K_STARTS: k_starts,
        Slot.SUM_STARTS: starts * shape.heads,
    }


def _run(shape: Shape, backward: bool, tensors: dict[Slot, Tensor]) -> None:
    import cudnn

    device = tensors[Slot.Q].device
    with _LOCK, torch.cuda.device(device):
        handle = _handle(device.index)
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        plan = _plan(shape, backward, device.index)
        room = torch.empty(max(plan.get_workspace_size(), 1), dtype=torch.uint8, device=device)
        plan.execute({int(slot): tensor for slot, tensor in tensors.items()}, room, handle=handle)


@functools.cache
def _handle(_device: int) -> Any:
    import cudnn

    return cudnn.create_handle()


@functools.cache
def _plan(shape: Shape, backward: bool, device: int) -> Any:
    return plan(shape, backward, handle=_handle(device))


def plan(shape: Shape, backward: bool, **place: Any) -> Any:
    """cuDNN's plan for a shape.

    Args:
        place: `handle` of a GPU, or `device_property` of one that is elsewhere.
    """
    import cudnn

    kinds, place_of = cudnn.data_type, _Declare(cudnn, shape, place)
    graph = place_of.graph
    common = {
        "attn_scale": 1 / math.sqrt(shape.width),
        "diagonal_alignment": cudnn.diagonal_alignment.TOP_LEFT,
        "diagonal_band_right_bound": 0,
    }
    bounds = {}
    if not shape.alike:
        lengths = place_of.whole(Slot.LENGTHS, shape.documents)
        common |= {"use_padding_mask": True, "seq_len_q": lengths, "seq_len_kv": lengths}
        bounds = {"max_total_seq_len_q": shape.tokens, "max_total_seq_len_kv": shape.tokens}
    q, k, v = place_of.heads(Slot.Q), place_of.heads(Slot.K), place_of.heads(Slot.V)
    if backward:
        gradients = graph.sdpa_backward(
            q=q,
            k=k,
            v=v,
            o=place_of.heads(Slot.O),
            dO=place_of.heads(Slot.DO),
            stats=place_of.heads(Slot.SUMS),
            use_deterministic_algorithm=shape.repeatable,
            **bounds,
            **common,
        )
        for slot, gradient in zip((Slot.DQ, Slot.DK, Slot.DV), gradients, strict=True):
            place_of.leaves(slot, gradient)
    else:
        out, sums = graph.sdpa(q=q, k=k, v=v, generate_stats=True, **common)
        place_of.leaves(Slot.O, out)
        place_of.leaves(Slot.SUMS, sums).set_data_type(kinds.FLOAT)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.check_support()
    graph.build_plans()
    return graph


class _Declare:
    """Tensors of a plan: rows of documents as long as the longest; unless alike, each begins where it is told."""

    def __init__(self, cudnn: Any, shape: Shape, place: dict[str, Any]):
        self.shape, self.kinds = shape, cudnn.data_type
        half = self.kinds.BFLOAT16 if shape.dtype == torch.bfloat16 else self.kinds.HALF
        self.graph = cudnn.pygraph(
            io_data_type=half, intermediate_data_type=self.kinds.FLOAT, compute_data_type=self.kinds.FLOAT, **place
        )
        self.starts: dict[Slot, Any] = {}

    def whole(self, slot: Slot, count: int) -> Any:
        """`count` whole numbers."""
        kind = self.kinds.INT32
        return self.graph.tensor(uid=int(slot), dim=(count, 1, 1, 1), stride=(1, 1, 1, 1), data_type=kind)

    def heads(self, slot: Slot) -> Any:
        """A tensor that enters."""
        dim, stride, starts = self._layout(slot)
        kind: dict[str, Any] = {"data_type": self.kinds.FLOAT} if slot == Slot.SUMS else {}
        if starts is not None:
            kind["ragged_offset"] = starts
        return self.graph.tensor(uid=int(slot), dim=dim, stride=stride, **kind)

    def leaves(self, slot: Slot, tensor: Any) -> Any:
        """A tensor that leaves."""
        dim, stride, starts = self._layout(slot)
        tensor.set_uid(int(slot)).set_output(True).set_dim(dim).set_stride(stride)
        if starts is not None:
            tensor.set_ragged_offset(starts)
        return tensor

    def _layout(self, slot: Slot) -> tuple[tuple[int, ...], tuple[int, ...], Any]:
        shape = self.shape
        keys = slot in (Slot.K, Slot.V, Slot.DK, Slot.DV)
        heads = shape.kv_heads if keys else shape.heads
        width = 1 if slot == Slot.SUMS else shape.width
        dim = (shape.documents, heads, shape.longest, width)
        if shape.alike and slot == Slot.SUMS:  # the usual layout, head after head; nobody else reads them
            return dim, (shape.longest * heads, shape.longest, 1, 1), None
        stride = (shape.longest * heads * width, width, heads * width, 1)
        if shape.alike:
            return dim, stride, None
        starts = Slot.SUM_STARTS if slot == Slot.SUMS else Slot.K_STARTS if keys else Slot.Q_STARTS
        if starts not in self.starts:
            self.starts[starts] = self.whole(starts, shape.documents + 1)
        return dim, stride, self.starts[starts]
