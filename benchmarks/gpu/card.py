"""What the machine is, and what its card makes of one large product: the ceiling that everything else is held against.

Leaves: section `card` of results.json, with `product_tflops`, an 8192³ product of random bfloat16 numbers.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.record import CUDA, DEVICE, TINY, median_ms, part, put

SIDE = 256 if TINY else 8192


def main() -> None:
    """Print and record."""
    with part("card", "product"):
        a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
        # a cold card is slow at first
        milliseconds = median_ms(lambda: a @ b, repeat=40, warm=20)
        put("card", "product_tflops", round(2 * SIDE**3 / milliseconds / 1e9, 1))
    with part("card", "versions"):
        put("card", "versions", versions())


def versions() -> dict[str, object]:
    """Of what runs here."""
    facts: dict[str, object] = {"python": sys.version.split()[0], "torch": torch.__version__, "cpus": os.cpu_count()}
    for name in ("triton", "numpy", "transformers", "deepspeed", "torchao"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    facts["cudnn"] = torch.backends.cudnn.version()
    if CUDA:
        gpu = torch.cuda.get_device_properties(0)
        facts["gpu"], facts["gib"] = gpu.name, round(gpu.total_memory / 2**30, 2)
        facts["free_gib"] = round(torch.cuda.mem_get_info()[0] / 2**30, 2)
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return facts


if __name__ == "__main__":
    main()
