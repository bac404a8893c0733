"""What a config says of ZeRO, and which of it goes together.

It is apart from the engine, which imports torch: a command that plans a run does not wait for that.
"""

from __future__ import annotations

from typing import Literal

from pipelines.config import Count, config_class
from pipelines.errors import ConfigError


@config_class
class ZeroConfig:
    """How DeepSpeed splits the training state, and in which precision the model computes."""

    stage: Literal[0, 1, 2, 3] = 1
    # weights and moments are float32 in the optimizer; fp8: as bfloat16, but for the blocks' products (float8.py)
    precision: Literal["float32", "bfloat16", "fp8"] = "bfloat16"
    offload: Literal["none", "cpu"] = "none"  # cpu: float32 weights, moments and the update live in host memory
    gradients: Literal["float32", "bfloat16"] = "float32"  # in which bfloat16 sums them over micro-batches and workers
    reduce_bucket_elements: Count = 100_000_000  # of gradients that are reduced together; a GPU holds two such buffers

    @property
    def numbers(self) -> Literal["float32", "bfloat16"]:
        """The type of the model's weights, gradients and activations; `fp8` changes none of them."""
        return "float32" if self.precision == "float32" else "bfloat16"


def one_worker_serves(zero: ZeroConfig, world: int) -> bool:
    """Whether gradients and update go the short way of `OneWorker`: bfloat16 summed in float32, and nobody else."""
    sums = zero.numbers == "bfloat16" and zero.gradients == "float32"
    return world == 1 and zero.stage in (1, 2) and zero.offload == "none" and sums


def check(zero: ZeroConfig) -> None:
    """Refuse combinations that do not do what they say. Raises: ConfigError."""
    if zero.stage == 0 and zero.offload != "none":
        raise ConfigError(
            f"zero.offload={zero.offload} with zero.stage=0: nothing is split there that could be moved to host "
            "memory; set zero.stage=1 (2, 3), or zero.offload=none"
        )
    if zero.stage == 0 and zero.numbers == "bfloat16":
        raise ConfigError(
            f"zero.stage=0 with zero.precision={zero.precision} takes another optimizer path in DeepSpeed "
            "(loss off by 0.35 %): set zero.stage=1"
        )
    if zero.stage == 3 and zero.precision == "fp8":
        raise ConfigError(
            "zero.stage=3 with zero.precision=fp8: each product keeps its gathered weight for the backward pass, so "
            "in the end all would be whole on every worker: set zero.stage=2, or zero.precision=bfloat16"
        )
