"""The steps of the GPU programme, in the order of their worth: what each runs, and how many seconds it is given.

Seconds are for one H200; a process starts in some five of them. `benchmarks.gpu.programme` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

MODULE = ("{python}", "-m")


@dataclass(frozen=True)
class Step:
    """A process of the programme."""

    name: str
    command: tuple[str, ...]
    seconds: int  # that it should take
    limit: int  # after which it is ended, if the steps behind it leave that much
    says: str
    beside: tuple[tuple[str, ...], ...] = ()  # at the same time, for it times nothing: chains, of one after another
    before: bool = False  # with the code of the other commit (`base.tar.xz`)
    spare: bool = False  # takes what is left: nothing is kept for it


def _train(model: str, seconds: tuple[int, int], peer: tuple[int, int], *parts: str) -> tuple[Step, ...]:
    """What is timed of a model: today's code, the other commit's, the usual stack. Args: seconds, expected and most."""
    train = (*MODULE, "benchmarks.gpu.train")
    return (
        Step(
            f"train-{model}", (*train, "ours", model, *parts), *seconds,
            "today's code: MFU, memory beside the plan" + (
                "" if parts else ", profile, rows against what is kept, one change undone at a time, documents, stall"
            ),
        ),
        Step(f"before-{model}", (*train, "ours", model), 50, 80, "the other commit's code", before=True),
        Step(f"peer-{model}", (*train, "peer", model), *peer, "transformers with DeepSpeed as it is shipped"),
        Step(f"warm-{model}", (*train, "warm", model, *parts), 80, 150, "compile today's code into the cache on disk"),
        Step(
            f"warm-before-{model}", (*train, "warm", model), 60, 90, "compile the other commit's code", before=True,
        ),
    )  # fmt: skip


_LIST = (
    Step("card", (*MODULE, "benchmarks.gpu.card"), 12, 40, "versions, clocks, and the card's own 8192³ product"),
    Step(
        "smoke",
        (*MODULE, "pytest", "tests/gpu", "-q", "--confcutdir=tests/gpu", "-p", "no:cacheprovider", "-o", "addopts=",
         "--tb=short", "-rfEs", "--show-capture=no", "--durations=12"),
        140, 155, "tests/gpu: is it right",
        beside=(("warm-2.4b", "warm-1.2b"), ("warm-fp8-2.4b", "fp8-curves"), ("worker",), ("pocket",), ("attention",)),
    ),
    *_train("2.4b", (120, 160), (34, 60)),
    Step("ceiling", (*MODULE, "benchmarks.gpu.ceiling"), 25, 45, "what the card reaches in each kind of work"),
    *_train("1.2b", (22, 50), (32, 50), "--parts"),
    Step(
        "attention", (*MODULE, "benchmarks.gpu.attention", "cudnn", "varlen"), 45, 90,
        "attention kernels, agreement and speed",
    ),
    Step("fp8", (*MODULE, "benchmarks.gpu.fp8"), 60, 90, "FP8 beside bfloat16: products, and the loss over 200 steps"),
    Step("fp8-curves", (*MODULE, "benchmarks.gpu.fp8", "--parts", "curves"), 55, 100, "FP8: the loss over 200 steps"),
    Step(
        "warm-fp8-2.4b", (*MODULE, "benchmarks.gpu.train", "warm", "2.4b", "--precision", "fp8"), 60, 110,
        "compile FP8's blocks into the cache on disk",
    ),
    Step(
        "fp8-2.4b", (*MODULE, "benchmarks.gpu.fp8", "--parts", "products", "speed"), 52, 85,
        "FP8 beside bfloat16: products, and the speed of the 2.4B",
    ),
    Step("stall", (*MODULE, "benchmarks.gpu.stall"), 70, 100, "how long the snapshot of a save holds a step"),
    Step(
        "save-1.2b", (*MODULE, "benchmarks.gpu.stall", "1.2b", "--write"), 80, 120,
        "a real save of the 1.2B, then DeepSpeed's", spare=True,
    ),
    Step("loader", (*MODULE, "benchmarks.gpu.loader"), 16, 35, "tokens a second that the loader gives"),
    Step("checkpoint", (*MODULE, "benchmarks.checkpoint", "--rounds", "2"), 40, 60, "our save beside DeepSpeed's"),
    Step("worker", (*MODULE, "benchmarks.gpu.worker"), 100, 145, "the whole worker under torchrun, and its resume"),
    Step("pocket", (*MODULE, "benchmarks.gpu.pocket"), 60, 110, "the pocket model's trunk"),
)  # fmt: skip
STEPS = {step.name: step for step in _LIST}
FIRST = ("card", "smoke", "train-2.4b", "peer-2.4b", "fp8-2.4b", "train-1.2b", "peer-1.2b", "loader", "save-1.2b")
