"""The memory of one worker, predicted from shapes: before anything starts, and with no GPU at hand.

Enters: a `Setup`: the model, the batch, and everything else that decides what lies in memory. Leaves: bytes by purpose,
the blocks that must compute again in the backward pass so that all fits, and the largest micro-batch.

Legend: B rows, T tokens, N = B·T tokens of a micro-batch, D width, H heads, G·K width of keys, F feed-forward width, V
vocabulary, P parameters, U of them trained, E = V·D of those in the embedding, M bytes of moments (the optimizer says
how many for each kind of parameter: AdamW 8 a number, Muon 4 for a matrix), W workers, b bytes of a number in the
computing precision (4 or 2).

    state        The weights that the model computes with: P·b. At ZeRO-0 the moments: M. From ZeRO-1 on the float32
                 weights that are updated, and the moments: (U·4 + M) / W. At ZeRO-3 also P·b is divided by W, and a
                 few blocks are whole.
    gradients    U·b. Where bfloat16 is summed in float32: U·4; at ZeRO-1 on a GPU also the flat float32 part of this
                 worker, U·4 / W, into which the sums are reduced while they are all there. From ZeRO-2 on divided by W.
                 Beside them the buckets in which gradients are reduced. One worker that adds its gradients straight
                 into flat sums (`update/one_worker.py`) has those alone, U·4.
    activations  What each block keeps for its backward pass (`_block_numbers`); the final norm; hidden states and their
                 gradient.
    working      What comes on top of these for a moment. Four moments are compared, and the worst counts:
                   in the loss: the logits of a chunk, and the float32 gradient of the output matrix, E·4;
                   as the backward pass begins: that gradient, and what one block needs to go back;
                   as it ends: that gradient and the embedding's own; the activations are gone by then;
                   in the update.
    process      Python, torch and DeepSpeed themselves; on a CPU also the copy of a checkpoint that is being written,
                 and freed blocks that the C library keeps for itself.

A frozen parameter has no gradient and no moments, so it counts in P alone.

On a CPU blocks are counted as they run uncompiled, on a GPU as `compute.compile` has them.
Measured on a CPU: bytes kept for the backward pass exact, the peak of a step within 15 % (tests/unit/test_memory.py,
docs/log.md); the resident memory of whole training processes in float32 within 6 % where all is kept
(`benchmarks/memory.py`, docs/scaling.md). In bfloat16 a CPU takes more than is said here, and more with every step:
oneDNN compiles a kernel for each length of a document and keeps it.
Measured on an H200 in bfloat16, one worker (docs/log.md, 2026-11-27): within 1 % at 0.1B and at 2.4B.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.compute import (
    IN_GRAPH,
    BlockPolicy,
    ComputeConfig,
    Keep,
    choose_attention,
    chunk_tokens,
    compiles,
)
from pipelines.train.network.roles import RoleKind, numbers
from pipelines.train.optimizers import row_of
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.optimizers.contract import OptimizerSettings
from pipelines.train.update.zero import ZeroConfig, one_worker_serves

GIB = 2**30
DeviceKind = Literal["cpu", "cuda"]
_SHORT_DOCUMENTS = 128  # attention.py: short neighbours share masks of at most so many tokens squared
# Python, torch, DeepSpeed and what they allocate for themselves: measured 0.25 GiB on a CPU before the first step, 0.28
# with the reading of data; a CUDA context with cuBLAS' and NCCL's workspaces
_PROCESS_BYTES = {"cpu": 0.28 * GIB, "cuda": 1.5 * GIB}
# glibc never gives blocks below 32 MiB back while others lie above them: measured, what it keeps beside what is in use
# is 0.6 to 0.9 of the activations in such blocks (benchmarks/memory.py, with and without MALLOC_MMAP_THRESHOLD_)
_LARGEST_KEPT_BLOCK = 32 << 20
_KEPT_SHARE = 0.7
# of a logit in the loss, at most; on a GPU one kernel turns logits into their gradient in place
_LOGIT_BYTES = {("cpu", 4): 4, ("cpu", 2): 6, ("cuda", 4): 4, ("cuda", 2): 2}
_USABLE = {
    "cpu": 0.9,
    "cuda": 0.95,
}  # of what a machine or a GPU has: the rest is the system's, or lost between allocations


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What decides the memory of a worker."""

    model: ModelConfig
    rows: int  # of a micro-batch; a pair is two
    sequence_length: int
    accumulates: bool  # whether gradients are summed over several micro-batches
    zero: ZeroConfig
    compute: ComputeConfig
    workers: int
    device: DeviceKind
    optimizer: OptimizerSettings = dataclasses.field(default_factory=AdamWSettings)
    trains: tuple[str, ...] | None = None  # role kinds of the parameters that train; None: all

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.sequence_length

    @property
    def number_bytes(self) -> int:
        """b."""
        return 2 if self.zero.numbers == "bfloat16" else 4

    @property
    def trained(self) -> dict[RoleKind, int]:
        """How many numbers of each kind train: those that have a gradient and are updated."""
        return {kind: n for kind, n in numbers(self.model).items() if self.trains is None or kind in self.trains}

    @property
    def updated_numbers(self) -> int:
        """U."""
        return sum(self.trained.values())

    @property
    def moment_bytes(self) -> int:
        """M, of all workers together."""
        return sum(row_of(self.optimizer).bytes_kept(kind) * n for kind, n in self.trained.items())


@dataclass(frozen=True)
class Memory:
    """Predicted bytes of one worker at the peak of a step, by purpose."""

    state: float
    gradients: float
    activations: float
    working: float
    process: float
    policy: BlockPolicy

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.state + self.gradients + self.activations + self.working + self.process

    def __str__(self) -> str:
        """E.g. `12.3 GiB: state 4.1, gradients 2, activations 5.1, working 0.6, process 0.5; keep=all`."""
        return f"{self.total / GIB:.3g} GiB: {self._parts()}"

    def of(self, budget_bytes: float, whose: str) -> str:
        """The same beside what there is."""
        return f"{self.total / GIB:.3g} GiB of {budget_bytes / GIB:.3g} ({whose}): {self._parts()}"

    def _parts(self) -> str:
        parts = ("state", "gradients", "activations", "working", "process")
        return ", ".join(f"{part} {getattr(self, part) / GIB:.2g}" for part in parts) + f"; {self.policy}"


def predict(setup: Setup, policy: BlockPolicy) -> Memory:
    """Bytes at the peak of a step."""
    model, N, b = setup.model, setup.tokens, setup.number_bytes
    kept = {keep: _block_numbers(setup, keep) * N * b for keep in ("all", "products", "input")}
    norm = (
        1 if setup.device == "cuda" else 2 if b == 4 else 4
    )  # an uncompiled norm on a CPU keeps its steps, in float32
    # the final norm; hidden states and their gradient; sines and cosines; ids and positions in 8 bytes, mask in 4
    ends = ((norm + 3) * model.d_model + model.d_head) * N * b + 20 * N
    activations = policy.all * kept["all"] + policy.products * kept["products"] + policy.input * kept["input"] + ends
    again = (
        0.0  # a block made whole again for its backward pass: where others were kept whole, one of them is gone by then
    )
    if not policy.all:
        again = kept["all"] - kept["products" if policy.products else "input"]
    embedding = setup.trained.get("embedding", 0)  # of its gradient: the loss makes none for a frozen one
    logits = _chunk(setup) * model.vocabulary
    kept_chunk = logits * 4 if b == 4 else 0  # the chunk's memory stays for the next; of 16-bit logits it is made anew
    loss = embedding * 4 + logits * _LOGIT_BYTES[setup.device, b]
    if b == 2 and setup.device == "cpu":
        loss += embedding * 6  # a chunk's part of the output matrix's gradient, which a GPU's product adds by itself
    begins = embedding * 4 + kept_chunk + again + (2 * model.d_ff + model.d_model) * N * b
    if setup.zero.precision == "fp8":  # the widest product's three factors in 8 bits, each in both layouts
        begins += 2 * (2 * model.d_ff * (N + model.d_model) + N * model.d_model)
    ends_with = embedding * 4 + kept_chunk + embedding * b * (2 if setup.accumulates else 1)
    working = max(activations + loss, activations + begins, ends_with, _update_bytes(setup) + kept_chunk) - activations
    process = _PROCESS_BYTES[setup.device]
    if setup.device == "cpu":
        process += _snapshot_bytes(setup) + _KEPT_SHARE * _small_share(setup) * activations
    return Memory(_state_bytes(setup), _gradient_bytes(setup), activations, working, process, policy)


def plan_keep(setup: Setup, budget_bytes: float) -> BlockPolicy:
    """The blocks that keep everything, products or input, with the fewest FLOPs computed again within a budget.

    Where `compute.keep` names one, all blocks do that. Where nothing fits, what needs least.
    """
    layers, keep = setup.model.layers, setup.compute.keep
    if keep != "auto":
        return BlockPolicy(**{"all": 0, keep: layers})
    policies = [
        BlockPolicy(all=layers - products - input_, products=products, input=input_)
        for input_ in range(layers + 1)
        for products in range(layers - input_ + 1)
    ]
    policies.sort(key=lambda policy: recomputed_flops(setup, policy))
    sizes = [predict(setup, policy).total for policy in policies]
    fitting = (policy for policy, size in zip(policies, sizes, strict=True) if size <= budget_bytes)
    return next(fitting, policies[sizes.index(min(sizes))])


def recomputed_flops(setup: Setup, policy: BlockPolicy) -> float:
    """FLOPs of a micro-batch that the backward pass computes again, adds and products counted alike."""
    model = setup.model
    keys = model.kv_heads * model.d_head
    # norms, rotation, SiLU and product: some 10 operations a number, bound by memory
    cheap = 10 * (3 * model.d_model + keys + model.d_ff)
    # all but the down projection, whose output nobody needs: PyTorch stops as soon as it has what was asked for
    products = 2 * (2 * model.d_model**2 + 2 * model.d_model * keys + 2 * model.d_model * model.d_ff)
    attention = 2 * model.d_model * setup.sequence_length  # causal: half of 4·D·T
    return setup.tokens * float(policy.products * cheap + policy.input * (cheap + products + attention))


def largest_micro_batch(setup: Setup, budget_bytes: float) -> int:
    """The most rows of a micro-batch that fit, with as much computed again as that needs; 0 when not even one does."""

    def fits(rows: int) -> bool:
        tried = dataclasses.replace(setup, rows=rows)
        return predict(tried, plan_keep(tried, budget_bytes)).total <= budget_bytes

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def usable_bytes(device: DeviceKind, total_bytes: float, workers_here: int = 1) -> float:
    """What one worker may take of a GPU, or of a machine that `workers_here` of them share."""
    return total_bytes * _USABLE[device] / workers_here


def check(setup: Setup, budget_bytes: float, of: str, rows_per_unit: int = 1, units_of_worker: int = 0) -> Memory:
    """The prediction with the least recomputation that fits.

    Args: of, whose memory the budget is, for people; rows_per_unit, 2 for pairs; units_of_worker, rows (pairs) that a
        worker takes in a step, so that the micro-batch named divides them.
    Raises: ConfigError when nothing fits, naming the largest micro-batch that does.
    """
    memory = predict(setup, plan_keep(setup, budget_bytes))
    if memory.total <= budget_bytes:
        return memory
    most = largest_micro_batch(setup, budget_bytes) // rows_per_unit
    dividing = [size for size in range(1, most + 1) if not units_of_worker or units_of_worker % size == 0]
    advice = (
        f"set batch.micro_batch={dividing[-1]}"
        if dividing
        else "not even batch.micro_batch=1 fits: take a higher zero.stage over more workers, zero.offload=cpu, a "
        "shorter batch.sequence_length or a smaller model"
    )
    tried = "" if setup.compute.keep == "auto" else ", or let compute.keep=auto compute more again"
    raise ConfigError(
        f"batch.micro_batch={setup.rows // rows_per_unit} × {setup.sequence_length} tokens does not fit: each worker "
        f"would need {memory}; it has {budget_bytes / GIB:.3g} GiB ({of}): {advice}{tried}"
    )


def _block_numbers(setup: Setup, keep: Keep) -> float:
    """Numbers of the compute precision that a block keeps for its backward pass, per token.

    input      D
    products   and what matrix products and attention gave: queries, keys, values D + 2·G·K, attention D with its
               log-sum-exp (float32, H), output projection D, gate and up 2·F, down D
    all        input, both norms and what they are of, rotated queries and keys D + G·K, values (a view of the
               projection, D + 2·G·K; where a CPU repeats keys and values for each head, 2·D), attention, gate and up,
               SiLU, product 4·F

    Compiled on a GPU, counted to the byte in what the compiler of torch 2.11 saves:

    products   as above, but for down D, which nobody needs
    all        input, both norms, output projection 4·D; rotated queries and keys D + G·K, values G·K; attention; gate
               and up and their product 3·F; of either norm a float32 number
    in parts   around `flex` a block is compiled in two parts, which keep all alike: D + G·K more, of the product that
               values are a view of
    """
    model, b = setup.model, setup.number_bytes
    D, F, keys = model.d_model, model.d_ff, model.kv_heads * model.d_head
    attention = D + model.heads * 4 / b
    if keep == "input":
        return D
    kernel = choose_attention(setup.compute, setup.device)
    compiled = setup.device == "cuda" and setup.zero.stage < 3 and compiles(setup.compute, setup.device)
    if compiled and kernel not in IN_GRAPH:
        return 6 * D + 3 * keys + attention + 3 * F + 8 / b
    if compiled and keep == "all":
        return 4 * D + (D + keys) + keys + attention + 3 * F + 8 / b
    if compiled:
        return D + (D + 2 * keys) + attention + D + 2 * F
    if keep == "products":
        return D + (D + 2 * keys) + attention + D + 2 * F + D
    repeats = kernel in ("blocks", "dense") and model.kv_heads < model.heads
    numbers = 4 * D + (D + keys) + (2 * D if repeats else D + 2 * keys) + attention + 4 * F
    if setup.device == "cpu":
        numbers += 2 * (D if b == 4 else 3 * D) + 8 / b  # an uncompiled norm keeps its steps, in float32
    if kernel == "blocks":
        numbers += D + (
            _SHORT_DOCUMENTS if model.document_masking else 0
        )  # attention's pieces joined; masks as numbers
    elif kernel == "dense" and model.document_masking:
        numbers += setup.sequence_length
    return numbers


def _state_bytes(setup: Setup) -> float:
    """Weights, float32 weights where they are apart, and moments, on the device."""
    P, b, stage, W = parameter_counts(setup.model)["total"], setup.number_bytes, setup.zero.stage, setup.workers
    if stage == 0:
        return P * b + setup.moment_bytes
    on_host = setup.zero.offload == "cpu" and setup.device == "cuda"
    apart = 0 if on_host else (setup.updated_numbers * 4 + setup.moment_bytes) / W
    if stage < 3:
        return P * b + apart
    embedding = parameter_counts(setup.model)["embedding"]
    block = (P - embedding) / setup.model.layers
    return P * b / W + apart + (embedding + 2 * block) * b  # while they are used, weights are whole


def _gradient_bytes(setup: Setup) -> float:
    """Gradients and the buckets in which they are reduced."""
    U, b, stage, W = setup.updated_numbers, setup.number_bytes, setup.zero.stage, setup.workers
    if stage == 0:
        return U * b
    if one_worker_serves(setup.zero, W):
        return U * 4
    summed = _summed_bytes(setup)
    staged = summed if stage == 1 else b
    filled = min(U, setup.zero.reduce_bucket_elements) * staged
    # a GPU takes them whole, and in stages 1 and 2 twice, one to fill while the other is reduced; a CPU maps what it
    # writes
    buckets = filled
    if setup.device == "cuda":
        buckets = setup.zero.reduce_bucket_elements * staged * (1 if stage == 3 else 2)
    if stage == 1 and summed > b:
        # a GPU reduces the last micro-batch's while its backward pass goes on: into the flat part, among all the sums
        return U * (summed + (summed / W if setup.device == "cuda" else b)) + buckets
    if stage == 1:
        return U * summed + buckets
    return U * summed / W + (filled if stage == 3 else 0) + buckets


def _summed_bytes(setup: Setup) -> int:
    """Bytes of a gradient where micro-batches are summed."""
    return 4 if setup.zero.gradients == "float32" else setup.number_bytes


def _update_bytes(setup: Setup) -> float:
    """What the update needs beside the gradients and their buckets."""
    U, b = setup.updated_numbers, setup.number_bytes
    if setup.zero.stage == 0:
        return U * b  # flattened for the all-reduce
    if one_worker_serves(setup.zero, setup.workers):
        return 0
    if setup.device == "cuda" and setup.zero.stage < 3 and _summed_bytes(setup) == 4:
        return 0  # the flat sums themselves
    return U / setup.workers * (4 if b == 2 else 0)  # the float32 copy of this worker's part


def _snapshot_bytes(setup: Setup) -> float:
    """Float32 weights and moments of this worker, copied for the checkpoint that is being written."""
    return (setup.updated_numbers * 4 + setup.moment_bytes) / setup.workers


def _small_share(setup: Setup) -> float:
    """The share of the activations that lies in blocks which the C library keeps when they are freed."""
    model = setup.model
    bytes_of_column = setup.tokens * setup.number_bytes
    # columns of a block's tensors, and how many columns there are of each width: some eight of D; gate and up in one,
    # SiLU, product
    widths = {model.d_model: 8 * model.d_model, 2 * model.d_ff: 2 * model.d_ff, model.d_ff: 2 * model.d_ff}
    small = sum(n for width, n in widths.items() if width * bytes_of_column <= _LARGEST_KEPT_BLOCK)
    return small / sum(widths.values())


def _chunk(setup: Setup) -> int:
    chosen = setup.compute.loss_chunk or chunk_tokens(setup.model.vocabulary, setup.device)
    return min(chosen, setup.tokens)
