"""How a model is computed, never what it computes: attention kernel, compilation, what is kept for the backward pass.

All of it is `runtime()` configuration: whatever is chosen, the loss curve is the same (tests/unit/test_attention.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.config import Count, Positive, config_class

Attention = Literal["varlen", "cudnn", "flex", "blocks", "dense"]
# kernels that the graph of a compiled block can hold
IN_GRAPH: frozenset[Attention] = frozenset({"varlen", "cudnn", "dense"})
FASTEST: Attention = "cudnn"  # on a GPU, in bfloat16: what benchmarks/gpu/attention.py found
Keep = Literal["all", "products", "input"]  # what a block keeps for its backward pass; the rest is computed again

# of float32 logits: a GPU adds each chunk's part to a gradient of a gigabyte, so its chunks are large
_CHUNK_BYTES = {"cpu": 128 << 20, "cuda": 4 << 30}


@config_class
class ComputeConfig:
    """The defaults choose by device; `conf/compute/` holds them."""

    # auto: cudnn on CUDA, blocks on a CPU
    attention: Literal["auto", "varlen", "cudnn", "flex", "blocks", "dense"] = "auto"
    # gradients are summed in one order, so a resumed run ends in the same bits; by cudnn, for 4 % of a step of 2.4B
    repeatable: bool = True
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile of each block; auto: on CUDA
    keep: Literal["auto", "all", "products", "input"] = "auto"  # auto: as much as fits into memory_gib
    memory_gib: Positive | None = None  # of one worker; null: what its GPU has, or its share of the machine's memory
    loss_chunk: Count | None = None  # tokens whose logits exist at a time; null: 128 MiB of logits, on a GPU 4 GiB


@dataclass(frozen=True, kw_only=True)
class BlockPolicy:
    """How many blocks keep what for the backward pass; they sum to the model's layers.

    The first `input` blocks keep their input alone, the next `products` blocks also what matrix products and attention
    gave, the last `all` blocks everything: those are freed first in the backward pass, so computing an early block
    again never adds to the peak.
    """

    all: int
    products: int = 0
    input: int = 0

    def keep(self, block: int) -> Keep:
        """What block number `block` (from 0) keeps."""
        if block < self.input:
            return "input"
        return "products" if block < self.input + self.products else "all"

    def __str__(self) -> str:
        """E.g. `keep=products in 12 of 40 blocks`."""
        layers = self.all + self.products + self.input
        parts = [
            f"keep={kind} in {count}" for kind, count in (("input", self.input), ("products", self.products)) if count
        ]
        return f"{', '.join(parts)} of {layers} blocks" if parts else "keep=all"


def choose_attention(config: ComputeConfig, device: str, precision: str = "bfloat16") -> Attention:
    """The attention kernel for a device type, "cuda" or "cpu"."""
    if config.attention != "auto":
        return config.attention
    if device == "cpu":
        return "blocks"
    return fastest() if precision == "bfloat16" else "flex"  # the others take 16-bit numbers only


def fastest() -> Attention:
    """`FASTEST` where it can be had, else what torch has itself."""
    from pipelines.train.network.cudnn_attention import obstacle

    return "varlen" if FASTEST == "cudnn" and obstacle() else FASTEST


def unrepeatable(config: ComputeConfig, device: str, precision: str) -> str:
    """Why a resumed run ends in other bits though `repeatable` asks for the same; empty where it does not."""
    from pipelines.train.network.cudnn_attention import obstacle

    if not config.repeatable or choose_attention(config, device, precision) != "varlen":
        return ""
    if config.attention == "auto":
        cause, cure = f"varlen, since cuDNN's cannot be had ({obstacle()})", "mend that"
    else:
        cause, cure = "varlen", "set compute.attention=auto"
    return (
        f"attention is {cause}: over documents of more than some 250 tokens its gradients differ in their last bits "
        f"each time, so a resumed run agrees to rounding alone: {cure}, or set compute.repeatable=false"
    )


def for_shapes(config: ComputeConfig, alike: bool) -> ComputeConfig:
    """The same for batches that are `alike` in shape, or not, as those of pairs, which are as wide as their longest.

    Each shape is compiled anew, and after eight of them PyTorch gives up: then blocks would run as they are, and keep
    everything where the plan counted on the compiler. So `auto` does not compile those.
    """
    return config if alike or config.compile != "auto" else dataclasses.replace(config, compile="off")


def compiles(config: ComputeConfig, device: str) -> bool:
    """Whether blocks are compiled on a device type."""
    return config.compile == "on" or (config.compile == "auto" and device == "cuda")


def compiler_options(device: str) -> dict[str, Any] | None:
    """What `torch.compile` is told: on a GPU, to choose kernels by rule.

    Chosen by a stopwatch, two processes sum in another order, 2e-7 of a loss. Told with each function: the setting of
    the whole process is reset by `torch.use_deterministic_algorithms`, which Dynamo calls after every graph.
    """
    return {"deterministic": True} if device == "cuda" else None


def joins(device: str) -> bool:
    """Whether a compiled block is one function, attention an operator in its graph.

    On a CPU attention is a list of calls, one a document, of another number and other lengths in each batch.
    """
    return device == "cuda"


def chunk_tokens(vocabulary: int, device: str = "cpu") -> int:
    """Tokens whose logits exist at a time where the config leaves it open, a multiple of 64: `_CHUNK_BYTES` of them."""
    return max(64, _CHUNK_BYTES[device] // (4 * vocabulary) // 64 * 64)
