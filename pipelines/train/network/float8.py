"""The blocks' four products in FP8: torchao's dynamic scaling, a scale for each tensor (`zero.precision=fp8`).

Enters: a model with its weights. Leaves: the same model with the same parameters, under the same names, whose products
round what they multiply to 8 bits: inputs and weights to e4m3, gradients to e5m2, each divided by a scale that puts
its largest number at the format's largest. Sums are float32, results bfloat16. So checkpoints, roles, optimizer groups
and ZeRO see no difference, and a checkpoint goes on in any precision. Embedding, norms, attention and the output
projection compute as under bfloat16.

Why torchao (BSD, a wheel of 3 MB that needs nothing but torch): its casts compile into the kernels beside a product,
and it follows the compiler's faults with 8-bit numbers. Scales are made anew for each product: delayed ones would be
state of a run, and bfloat16's two passes over a tensor are fused with what made it.

Source: Micikevicius et al., FP8 Formats for Deep Learning (arXiv 2209.05433).
"""

from __future__ import annotations

import importlib.util
import logging

from torch import nn

from pipelines.errors import ConfigError
from pipelines.train.network.architecture import ModelConfig

LEAST_CAPABILITY = (8, 9)  # Ada and Hopper have 8-bit products
_MULTIPLE = 16  # numbers: what an FP8 product sums over, and the width of what it gives, are multiples of that


def convert(model: nn.Module, emulated: bool) -> None:
    """Let the blocks' products compute in FP8 from here on. Parameters stay the same objects.

    Args: emulated, round to 8 bits and multiply in float32: for tests on a CPU.
    """
    # of kernels for other builds of torch, which no product of training needs
    logging.getLogger("torchao").setLevel(logging.ERROR)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # every linear map of the model: the output projection is the embedding's matrix, and none
    convert_to_float8_training(model, config=Float8LinearConfig(emulate=emulated))


def check(model: ModelConfig, micro_batch_tokens: int, alike: bool) -> None:
    """Refuse shapes that FP8 products do not take, and a machine without torchao.

    Args: alike, whether all micro-batches are of one shape. Raises: ConfigError.
    """
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(
            "zero.precision=fp8 computes with torchao, which is not installed: `pip install torchao`, or set "
            "zero.precision=bfloat16"
        )
    widths = {
        "d_model": model.d_model,
        "d_ff": model.d_ff,
        "(heads + 2 · kv_heads) · d_head": (model.heads + 2 * model.kv_heads) * model.d_head,
    }
    odd = ", ".join(f"{name} is {width}" for name, width in widths.items() if width % _MULTIPLE)
    if odd:
        raise ConfigError(
            f"zero.precision=fp8 takes widths that are multiples of {_MULTIPLE}; of this model {odd}: set "
            "zero.precision=bfloat16"
        )
    if not alike:
        raise ConfigError(
            "zero.precision=fp8 takes micro-batches of one shape, and pairs are as wide as their longest: set "
            "zero.precision=bfloat16"
        )
    if micro_batch_tokens % _MULTIPLE:
        raise ConfigError(
            f"zero.precision=fp8 sums gradients over a multiple of {_MULTIPLE} tokens; a micro-batch has "
            f"{micro_batch_tokens}: set batch.micro_batch or batch.sequence_length to a multiple of {_MULTIPLE}, or "
            "zero.precision=bfloat16"
        )
