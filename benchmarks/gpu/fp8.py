"""FP8 beside bfloat16 (`zero.precision`): is it right, and does it pay.

    python -m benchmarks.gpu.fp8 [--parts products curves block speed] [--steps 200] [--model 2.4b]

    products   each of a block's four products at 2.4B: bfloat16, 8-bit numbers alone, and with their casts
    curves     losses of 200 steps of a model of 0.1B from the same weights and batches: bfloat16, fp8, and, if there is
               time, bfloat16 from other weights, which says how far apart equally good runs lie
    block      forward and backward of those four, compiled, in both precisions
    speed      two steps of a published size in both precisions, with the batch that `benchmarks.gpu.train` found to be
               the fastest; of two that are within a percent, with the one that leaves more room

Text is the demo's packed tokens where `data.tar.xz` is among the wheels, otherwise drawn from a chain. Leaves: section
`fp8` of results.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.record import CUDA, DEADLINE, DEVICE, TINY, findings, median_ms, part, put, say
from pipelines.train.network import float8
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.update.engine import Engine, device, start_distributed
from pipelines.train.update.zero import ZeroConfig

D, F = (64, 160) if TINY else (2304, 5760)  # of 2.4B
PRODUCTS = {"qkv": (D, 3 * D), "o": (D, D), "gate_up": (D, 2 * F), "down": (F, D)}
ROWS, LENGTH = (4, 64) if TINY else (16, 1024)
MODEL = ModelConfig(
    layers=12, d_model=768, d_ff=1920, heads=12, kv_heads=12, vocabulary=4096, max_positions=1024, dim_model_base=256
)
TOY = ModelConfig(
    layers=2, d_model=64, d_ff=160, heads=2, kv_heads=1, vocabulary=4096, max_positions=64, dim_model_base=32
)
RATE, WARMUP_STEPS = 0.01, 20
LAST = 50  # steps over which curves are compared
COMPILE = "off" if TINY else "on"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", default=["products", "curves", "block"], choices=tuple(PARTS))
    parser.add_argument("--steps", type=int, default=6 if TINY else 200)
    parser.add_argument("--model", default="2.4b", help="whose speed")
    options = parser.parse_args()
    from benchmarks.gpu.setting import trust_attention

    trust_attention("fp8")
    for name in options.parts:
        PARTS[name](options)
    sys.stdout.flush()
    # nothing to tear down that a dying process group could hang on
    os._exit(0)


def products(_options: argparse.Namespace) -> None:
    """TFLOP/s of each product, forward, and milliseconds of what FP8 does beside it."""
    for tokens in (128,) if TINY else (4096, 16384):
        with part("fp8", f"products, {tokens} tokens", needs=8) as go:
            if go:
                rows = {name: _product(tokens, *shape) for name, shape in PRODUCTS.items()}
                put("fp8", f"products, {tokens} tokens", rows)


def _product(tokens: int, inner: int, outer: int) -> dict[str, float]:
    x = torch.randn(tokens, inner, device=DEVICE, dtype=torch.bfloat16)
    w = torch.randn(outer, inner, device=DEVICE, dtype=torch.bfloat16)
    one = torch.ones((), device=DEVICE)
    tera = 2e-9 * tokens * inner * outer

    def cast(value: Tensor) -> Tensor:
        return (value.float() * (448 / value.abs().amax().float())).to(torch.float8_e4m3fn)

    x8, w8 = cast(x), cast(w)

    def multiply(fast: bool) -> Tensor:
        return torch._scaled_mm(x8, w8.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast)

    row = {"bf16_tflops": tera / median_ms(lambda: x @ w.t(), 10)}
    if CUDA:
        row |= {
            "fp8_tflops": tera / median_ms(lambda: multiply(False), 10),
            "fp8_fast_sums_tflops": tera / median_ms(lambda: multiply(True), 10),
        }
    return {key: round(value, 1) for key, value in row.items()}


def block(_options: argparse.Namespace) -> None:
    """Forward and backward of a block's four products, compiled, with all casts; and what that saves."""
    torch.manual_seed(0)
    tokens = 128 if TINY else 8192
    spent: dict[str, float] = {}
    for precision in ("bfloat16", "fp8"):
        with part("fp8", f"block {precision}", needs=15) as go:
            if not go:
                return
            maps = nn.ModuleList(nn.Linear(*shape, bias=False) for shape in PRODUCTS.values())
            maps = maps.to(DEVICE, torch.bfloat16)
            if precision == "fp8":
                float8.convert(maps, emulated=not CUDA)
            inputs = [
                torch.randn(tokens, inner, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
                for inner, _ in PRODUCTS.values()
            ]
            gradients = [
                torch.randn(tokens, outer, device=DEVICE, dtype=torch.bfloat16) for _, outer in PRODUCTS.values()
            ]
            of = [*inputs, *maps.parameters()]

            def forward(inputs: list[Tensor], maps: nn.ModuleList = maps) -> list[Tensor]:
                return [layer(x) for layer, x in zip(maps, inputs, strict=True)]

            work = forward if TINY else torch.compile(forward, dynamic=False)
            took = median_ms(lambda work=work, of=of: torch.autograd.grad(work(inputs), of, gradients), 10)  # noqa: B023
            spent[f"{precision} ms"] = round(took, 3)
    saved = spent["bfloat16 ms"] - spent["fp8 ms"]
    spent["saved ms per 4,096 tokens of 2.4B"] = round(saved * 40 * 4096 / tokens, 2)
    put("fp8", f"a block's four products, forward and backward, {tokens} tokens", spent)


def curves(options: argparse.Namespace) -> None:
    """The losses of the same run in both precisions."""
    start_distributed()
    began = time.time()
    ids, text = _text(options.steps * ROWS * LENGTH)
    say(f"{text}: {time.time() - began:.1f} s")
    runs: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for name, precision, seed in (
        ("bfloat16", "bfloat16", 0), ("fp8", "fp8", 0), ("bfloat16, other weights", "bfloat16", 1),
    ):  # fmt: skip
        with part("fp8", f"curve {name}", needs=15 if len(runs) < 2 else 45) as go:
            if go:
                runs[name], seconds[name] = _learn(precision, seed, ids, options.steps)
                put("fp8", f"curve {name}", [round(loss, 4) for loss in runs[name]])
    if "fp8" not in runs or "bfloat16" not in runs:
        return
    last = min(LAST, options.steps)
    found: dict[str, object] = {"text": text, "steps": options.steps, "tokens_a_step": ROWS * LENGTH}
    for name in itertools.islice(runs, 1, None):
        apart = [a - b for a, b in zip(runs[name][-last:], runs["bfloat16"][-last:], strict=True)]
        found[f"{name} - bfloat16, mean of the last {last}"] = round(statistics.mean(apart), 5)
        found[f"{name} - bfloat16, spread of the last {last}"] = round(statistics.pstdev(apart), 5)
    found["loss"] = {name: round(statistics.mean(losses[-last:]), 4) for name, losses in runs.items()}
    found["tokens_per_s"] = {name: round(ROWS * LENGTH / value) for name, value in seconds.items()}
    put("fp8", "curves", found)


def _learn(precision: str, seed: int, ids: Tensor, steps: int) -> tuple[list[float], float]:
    """Train. Returns: every step's loss; median seconds of a step, all of them after the compiled first ones."""
    model = TOY if TINY else MODEL
    network = Transformer(model).initialise(seed).prepare(ComputeConfig(compile=COMPILE), device=device())
    zero = ZeroConfig(stage=1, precision=precision)  # type: ignore[arg-type]
    engine = Engine(network, NextToken(), zero, AdamWSettings(), ROWS, 1, 1)
    made = ids.view(steps, ROWS, LENGTH + 1)
    positions = torch.arange(LENGTH, device=device()).repeat(ROWS, 1)
    counted = torch.ones(ROWS, LENGTH, device=device())
    sources = torch.zeros(ROWS, dtype=torch.int64, device=device())
    results, began = [], time.perf_counter()
    try:
        for step in range(steps):
            batch = Batch.shifted(made[step].to(device()), positions, counted, sources)
            results.append(engine.step([batch], RATE * min(1.0, (step + 1) / WARMUP_STEPS)))
            if step == min(4, steps - 2):
                say(f"{precision}: the first steps: {time.perf_counter() - began:.1f} s, loss {results[-1].loss:.3f}")
                began, first = time.perf_counter(), step + 1
        losses = [result.loss for result in results]
        taken = (time.perf_counter() - began) / (steps - first)
    finally:
        engine.close()
    say(f"{precision}: {taken * 1e3:.1f} ms a step, loss {losses[-1]:.4f}")
    return losses, taken


def _text(tokens: int) -> tuple[Tensor, str]:
    """So many tokens and a target each, in windows; and what they are."""
    windows = tokens // LENGTH
    generator = torch.Generator().manual_seed(5)
    packed = Path(os.environ.get("WHEELS", ".whl"), "data.tar.xz")
    if packed.exists():
        with tarfile.open(packed) as tar:
            files = sorted((member for member in tar if _is_text(member.name)), key=lambda member: member.name)
            parts = [np.frombuffer(tar.extractfile(member).read(), np.uint16) for member in files]  # type: ignore[union-attr]
        stream = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        starts = torch.randint(len(stream) - LENGTH - 1, (windows,), generator=generator)
        return torch.stack([stream[s : s + LENGTH + 1] for s in starts.tolist()]), f"{len(stream):,} tokens of the demo"
    vocabulary = MODEL.vocabulary
    # each id is followed by one of four, the first of them mostly: about 1.2 nats, once learnt
    followers = torch.randint(vocabulary, (vocabulary, 4), generator=generator)
    ids = torch.empty(windows, LENGTH + 1, dtype=torch.int64)
    ids[:, 0] = torch.randint(vocabulary, (windows,), generator=generator)
    for place in range(LENGTH):
        which = (4 * torch.rand(windows, generator=generator) ** 2).long()
        ids[:, place + 1] = followers[ids[:, place], which]
    return ids, "drawn from a chain"


def _is_text(name: str) -> bool:
    sources = ("stdlib", "math-en", "sotu", "math-zh", "sanguo", "chitchat")
    return name.endswith("/00000.bin") and any(f"tokens/demo/train/{source}/" in name for source in sources)


def speed(options: argparse.Namespace) -> None:
    """Two steps of a published size in both precisions."""
    import benchmarks.train as bench
    from benchmarks.gpu.setting import Built, measured, model_of, options_for

    start_distributed()
    model = model_of(options.model)
    spent: dict[str, float] = {}
    for rows, policy in _fastest_first(options.model, model):
        for precision in ("bfloat16", "fp8"):
            label = f"{options.model} {precision}"
            with part("fp8", label, needs=20) as go:
                if not go:
                    continue
                built = Built(options_for(options.model, rows, policy=policy, precision=precision), model, bench.ours)
                try:
                    if CUDA:
                        torch.cuda.reset_peak_memory_stats()
                    built.build()
                    began = time.time()
                    built.seconds(1, 2, warm=0)
                    say(f"a short step, with the compiler: {time.time() - began:.1f} s")
                    taken = built.seconds(built.options.steps, built.options.accumulation, warm=0)
                    put("fp8", label, {**measured(built, taken, model), "keeps": str(policy)})
                    spent[precision] = taken
                except torch.OutOfMemoryError as error:
                    put("fp8", f"{label} out of memory, {rows} rows, {policy}", str(error)[:300])
                    error.__traceback__ = None
                finally:
                    built.drop(forget=True)
        if len(spent) == 2:
            put("fp8", f"{options.model}: bfloat16 / fp8", round(spent["bfloat16"] / spent["fp8"], 4))
            return
        if time.time() + 40 > DEADLINE:
            return


def _fastest_first(name: str, model: ModelConfig) -> list[tuple[int, Any]]:
    """The batches that `train` times: (rows, what blocks keep), by what it found, else those with more room first."""
    from benchmarks.gpu.setting import planned

    rows, policy = planned(name, model)
    choices = [(rows, policy)]
    if rows > 1:
        choices.insert(0, (rows // 2, BlockPolicy(all=model.layers)))
    found = findings(f"ours {name}")

    def milliseconds(choice: tuple[int, Any]) -> float:
        rows, policy = choice
        label = f"micro_batch={rows}" + ("" if policy == BlockPolicy(all=model.layers) else f" {policy}")
        return float(found.get(label, {}).get("ms_per_4096_tokens", 1e9))

    quickest = min(map(milliseconds, choices))
    return sorted(choices, key=lambda choice: milliseconds(choice) > 1.01 * quickest)


PARTS = {"products": products, "block": block, "curves": curves, "speed": speed}

if __name__ == "__main__":
    main()
