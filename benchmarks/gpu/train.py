"""How fast a published size trains: ours, or `transformers` with DeepSpeed as it is shipped; 65,536 tokens a step.

    python -m benchmarks.gpu.train ours 2.4b [--parts profile half swaps documents stall waits rebuilt]
    python -m benchmarks.gpu.train peer 2.4b
    python -m benchmarks.gpu.train warm 2.4b     compile what `ours` will want into the cache on disk

Leaves: section `ours 2.4b` (`before 2.4b` with another commit's code, `peer 2.4b`) of results.json. The micro-batch is
the memory plan's, or `MICRO`; out of memory, less is tried: blocks that compute again, then half the rows. The part
`half` then times half the plan's rows with everything kept; the parts behind it are of that arm, which has room.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable

import torch

import benchmarks.train as bench
from benchmarks.gpu import documents, kernels, swaps, waits
from benchmarks.gpu.record import CUDA, findings, left, part, put, say
from benchmarks.gpu.setting import (
    GIB,
    Built,
    card_bytes,
    measured,
    model_of,
    options_for,
    plan_policy,
    planned,
    predicted,
    put_plan,
    trust_attention,
)
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.compute import BlockPolicy
from pipelines.train.plan import memory

PARTS = ("profile", "half", "swaps", "documents", "stall", "waits", "rebuilt")  # in this order
IS_BEFORE = os.environ.get("STEP", "").startswith(("before", "warm-before"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=("ours", "peer", "warm"))
    parser.add_argument("model", choices=bench.MODELS)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=["swaps"] if IS_BEFORE else list(PARTS))
    parser.add_argument("--precision", choices=("bfloat16", "fp8"), default="bfloat16", help="for `warm`")
    options = parser.parse_args()
    bench.import_deepspeed()
    shipped = bench.deepspeed_functions()
    bench.start_distributed()
    if not IS_BEFORE:
        trust_attention(f"{options.arm} {options.model}")
    say("ready")
    if options.arm == "peer":
        with bench.as_shipped(shipped):
            peer(options.model)
    elif options.arm == "warm":
        warm(options.model, options.parts, options.precision)
    else:
        ours(options.model, options.parts)
    sys.stdout.flush()
    # nothing to tear down that a dying process group could hang on
    os._exit(0)


def ours(name: str, parts: list[str]) -> None:
    """Our arm: its speed, and the parts asked for."""
    section = f"{'before' if IS_BEFORE else 'ours'} {name}"
    model = model_of(name)
    with part(section, "plan"):
        put_plan(section, name, model)
    built = fitting(section, name, model)
    if built is None:
        return
    if "profile" in parts:
        with part(section, "profile", needs=20) as go:
            if go:
                kernels.profile(built, section)
    if "half" in parts:
        with part(section, "half", needs=30) as go:
            if go:
                half(built, section, name, model)

    def stalls() -> None:
        from benchmarks.gpu.stall import stall

        stall(built, section)

    work: dict[str, tuple[float, Callable[[], None]]] = {
        "swaps": (10, lambda: swaps.live(built, section, before=IS_BEFORE)),
        "documents": (12, lambda: documents.speeds(built, section)),
        "stall": (18, stalls),
        "waits": (5, lambda: put(section, "waits", waits.of_a_step(built))),
        "rebuilt": (10, lambda: swaps.rebuilt(built, section)),
    }
    for key, (needs, do) in work.items():
        if key in parts and built.arm is not None:
            with part(section, key, needs=needs) as go:
                if go:
                    do()


def half(built: Built, section: str, name: str, model: ModelConfig) -> None:
    """Half the rows with everything kept, for comparison; `built` is that arm afterwards, or as before without room."""
    if built.options.micro_batch == 1:
        put(section, "half!skipped", "one row has no half")
        return
    built.drop(forget=True)
    rows = built.options.micro_batch // 2
    smaller = None
    with contextlib.suppress(SystemExit):  # an error, which is told of; the parts behind are worth another build
        smaller = attempt(section, f"micro_batch={rows}", name, model, rows, BlockPolicy(all=model.layers))
    if smaller is None:
        built.build()
    else:
        built.options, built.arm = smaller.options, smaller.arm


def fitting(section: str, name: str, model: ModelConfig) -> Built | None:
    """Our arm with the largest batch that fits, timed; None where none did, or no time was left."""
    budget = memory.usable_bytes("cuda", card_bytes())
    rows, policy = planned(name, model, whole=IS_BEFORE)
    whole = BlockPolicy(all=model.layers)
    tries = [(rows, policy)]
    if not IS_BEFORE:
        tries.append((rows, plan_policy(options_for(name, rows), model, budget - 6 * GIB)))
    tries += [(rows >> n, whole) for n in range(1, rows.bit_length())]
    tries.append((1, plan_policy(options_for(name, 1), model, budget - 8 * GIB)))
    for number, (rows, policy) in enumerate(tries):
        if left() < 20:
            break
        built = attempt(
            section, f"micro_batch={rows}" + ("" if policy == whole else f" {policy}"), name, model, rows, policy
        )
        if built is not None:
            return built
        say(f"try {number} did not fit")
    return None


def attempt(section: str, key: str, name: str, model: ModelConfig, rows: int, policy: BlockPolicy) -> Built | None:
    """Build our arm and time it. Returns: None where it is out of memory."""
    options = options_for(name, rows, policy=policy)
    built = Built(options, model, bench.ours)
    with part(section, key):
        began = time.time()
        try:
            seconds = timed(built)
        except torch.OutOfMemoryError as error:
            put(section, f"{key} out of memory", str(error)[:400])
            error.__traceback__ = None
            built.drop()
            return None
        values = measured(built, seconds, model)
        prediction = predicted(options, model)
        values["predicted_gib_without_process"] = round((prediction.total - prediction.process) / GIB, 2)
        values["predicted"] = str(prediction)
        values["seconds_in_all"] = round(time.time() - began, 1)
        put(section, key, values)
        return built
    # another error: smaller batches would meet it too
    sys.exit(1)


def timed(built: Built) -> float:
    """Seconds of a whole step, after the compiler and two short ones."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    built.build()
    began = time.time()
    built.seconds(1, 2, warm=0)
    say(f"a short step, with the compiler: {time.time() - began:.1f} s")
    return built.seconds(built.options.steps, built.options.accumulation, warm=0)


def taken(section: str) -> dict[str, float] | None:
    """The fastest that was measured there, None where nothing was."""
    done = [
        value for key, value in findings(section).items() if key.startswith("micro_batch=") and "tokens_per_s" in value
    ]
    return max(done, key=lambda value: value["tokens_per_s"]) if done else None


def peer(name: str) -> None:
    """The usual stack, with our rows or as many as it has room for."""
    section = f"peer {name}"
    model = model_of(name)
    ours_now = taken(f"ours {name}")
    micro, _ = planned(name, model, whole=True)
    while micro and left() > 20:
        key = f"micro_batch={micro}"
        built = Built(options_for(name, micro), model, bench.transformers_with_deepspeed)
        done = False
        with part(section, key):
            try:
                seconds = timed(built)
                values = measured(built, seconds, model)
                if ours_now:
                    values["ours_over_peer"] = round(ours_now["tokens_per_s"] / float(str(values["tokens_per_s"])), 3)
                put(section, key, values)
                done = True
            except torch.OutOfMemoryError as error:
                put(section, f"{key} out of memory", str(error)[:300])
                error.__traceback__ = None
        if done:
            return
        built.drop()
        micro //= 2


def warm(name: str, parts: list[str], precision: str = "bfloat16") -> None:
    """A block of each kind, with the batches that `ours` will take: the compiler's work, in a tenth of the memory."""
    section = os.environ.get("STEP", "warm")
    whole = model_of(name)
    rows, policy = planned(name, whole, whole=IS_BEFORE)
    arms = [(rows, policy)]
    if "half" in parts and rows > 1:
        arms.append((rows // 2, BlockPolicy(all=whole.layers)))
    for number, (rows, policy) in enumerate(arms):
        kinds = [kind for kind in ("all", "products", "input") if getattr(policy, kind)]
        model = dataclasses.replace(whole, layers=len(kinds))
        kept = BlockPolicy(**{"all": 0, **dict.fromkeys(kinds, 1)})
        options = options_for(name, rows, accumulation=2, policy=kept, precision=precision)
        built = Built(options, model, warm_arm(whole.residual_scale))
        with part(section, f"micro_batch={rows}"):
            began = time.time()
            built.build()
            built.seconds(1, 2, warm=0)
            put(section, f"micro_batch={rows} seconds", round(time.time() - began, 1))
        if number and precision == "bfloat16":
            for key, masked in itertools.product(swaps.kernels_to_compare(built), (False, True)):
                with part(section, f"{key}, {'documents' if masked else 'rows'}"), documents.packed(built, key, masked):
                    built.seconds(1, 1, warm=0)
        built.drop()


def warm_arm(residual_scale: float):
    """Our arm with the residual scale of the whole model, which compiled code holds as a number."""

    def build(options: argparse.Namespace, model: ModelConfig) -> bench.Arm:
        plain = bench.initialised

        def initialised(model: ModelConfig) -> torch.nn.Module:
            network = plain(model)
            for layer in network.layers:
                layer.residual_scale = residual_scale
            return network

        bench.initialised = initialised
        try:
            return bench.ours(options, model)
        finally:
            bench.initialised = plain

    return build


if __name__ == "__main__":
    main()
