"""Training speed against the usual stack: tokens/s, MFU, peak memory, and ratios with their spread.

    python -m benchmarks.train                                          9M on a CPU, about 3 minutes
    python -m benchmarks.train --device cuda --model 1.2b               one GPU
    torchrun --nproc_per_node=8 -m benchmarks.train --device cuda --model 2.4b

Three arms in one process, in turns, on the same shapes, data, precision and optimizer settings:

    ours          this package's model and engine (DeepSpeed ZeRO), blocks compiled
    transformers  its Llama of the same shape, with DeepSpeed and the settings people use: SDPA, AdamW fused, the same
    ZeRO stage
    eager         our model as plain PyTorch: no DeepSpeed, no compilation, dense mask, all logits at once

Each turn builds an arm, takes two steps to warm up (kernels that a turn before compiled come from a cache on disk),
times `--steps` steps, and frees everything. Neither Ray nor MLflow is needed. The default data has one document a row,
so that every arm computes the same attention; `--document-tokens 700` packs documents, between which ours does not
attend and the peer does.

`--micro-batch auto`, the default on a GPU, is the largest that the memory plan finds to fit with everything kept. An
arm that finds no room halves it, and accumulates twice as often. While the peer runs, DeepSpeed is as it is shipped:
what our engine changed in it is put back.

MFU = FLOPs per token · tokens/s per process / peak, where P counts all parameters once (the tied embedding as output
projection):
    causal   6·P + 6·L·D·T      what must be computed          full   6·P + 12·L·D·T      what many tables count
The peak is the GPU's published dense bfloat16 figure; on a CPU, what a 2048³ product in the same precision reaches
here. A GPU first says what it makes of an 8192³ product, and the table gives MFU against that too.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FunctionType, ModuleType
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pipelines.display.progress import table
from pipelines.train.network import linear_cross_entropy
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.network.attention import Documents
from pipelines.train.network.batch import Batch
from pipelines.train.network.compute import BlockPolicy, ComputeConfig
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import roles
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.optimizers.adamw import AdamWSettings
from pipelines.train.optimizers.groups import build, set_learning_rate
from pipelines.train.plan import memory
from pipelines.train.spec import TrainConfig
from pipelines.train.update.engine import Engine, device, import_deepspeed, start_distributed
from pipelines.train.update.zero import ZeroConfig
from workflows.command_line.composing import compose_config

MODELS = {
    "demo": "demo",
    "9m": "wind_tunnel_9m",
    "30m": "wind_tunnel_30m",
    "70m": "wind_tunnel_70m",
    "0.1b": "wind_tunnel_0.1b",
    "0.2b": "wind_tunnel_0.2b",
    "0.5b": "wind_tunnel_0.5b",
    "1.2b": "minicpm_1b",
    "2.4b": "minicpm_2b",
}
PEAKS = {"A100": 312e12, "H100": 989.4e12, "H200": 989.4e12, "B200": 2250e12}
RATE = 1e-3

Step = Callable[[list[Batch]], None]
Shipped = dict[tuple[Any, str], Any]  # (module or class of DeepSpeed, name) -> its function


@dataclasses.dataclass
class Arm:
    """What is timed, built and ready."""

    step: Step
    loss: Callable[[], float]  # of the last step; waits for the device
    close: Callable[[], None]
    locate: Callable[[Tensor], Documents] | None = None  # documents, found on the host beforehand as the loader does
    engine: Any = None


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one turn of one arm took."""

    tokens_per_s: float  # of this process
    peak_gib: float
    loss: float
    micro_batch: int


def main() -> None:
    """Measure and print."""
    options = arguments()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "error: --device cuda, but torch sees no GPU here: use --device cpu, or a machine that has one"
        )
    if options.device == "cpu" and torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything asks for a device
    import_deepspeed()
    shipped = deepspeed_functions()
    start_distributed()
    if not dist.is_initialized() or dist.get_rank():
        report: Callable[[str], None] = lambda line: None  # noqa: E731
    else:
        report = lambda line: print(line, flush=True)  # noqa: E731
    model = dataclasses.replace(shape(options.model), document_masking=bool(options.document_tokens))
    if options.vocabulary:
        model = dataclasses.replace(model, vocabulary=options.vocabulary)
    if options.sequence > model.max_positions:
        raise SystemExit(f"error: --sequence {options.sequence} exceeds the model's {model.max_positions} positions")
    peak = peak_flops(options.precision)
    ceiling = None
    if torch.cuda.is_available():
        ceiling = product_flops(8192, options.precision)
        report(f"8192³ product: {ceiling / 1e12:.0f} TFLOP/s here, {ceiling / peak:.1%} of the published peak")
    if options.micro_batch == "auto":
        options.micro_batch = planned_micro_batch(options, model)
    counts = parameter_counts(model)
    report(
        f"{options.model}: {counts['non_embedding']:,} + {counts['embedding']:,} parameters, {options.micro_batch} × "
        f"{options.sequence} tokens × {options.accumulation} accumulation, {options.precision}, ZeRO-{options.zero}, "
        f"{dist.get_world_size()} process(es) on {device()}, {torch.get_num_threads()} threads, peak "
        f"{peak / 1e12:.3g} TFLOP/s"
    )
    turns: dict[str, list[Turn]] = {name: [] for name in options.arms}
    taken = dict.fromkeys(options.arms, options)
    for number in range(options.rounds):
        for name in options.arms:
            with as_shipped(shipped) if name == "transformers" else nullcontext():
                turn, taken[name] = turn_that_fits(taken[name], model, ARMS[name])
            turns[name].append(turn)
            report(
                f"   round {number + 1}/{options.rounds} {name:<13} {turn.tokens_per_s:>10,.0f} tok/s  "
                f"{turn.peak_gib:6.2f} GiB  loss {turn.loss:.4f}"
                + (f"  micro-batch {turn.micro_batch}" if turn.micro_batch != options.micro_batch else "")
            )
    report("\n" + table(*summary(turns, model, options.sequence, peak, ceiling)))
    report("\n" + formula(model, options.sequence))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="9m")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="default: bfloat16 on CUDA, else float32")
    parser.add_argument("--sequence", type=int, help="tokens a row; default 4096 on CUDA, else 512")
    parser.add_argument(
        "--micro-batch", type=lambda text: text if text == "auto" else int(text),
        help="rows, or auto: the most that the memory plan finds to fit; default auto on CUDA, else 2",
    )  # fmt: skip
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--vocabulary", type=int, help="instead of the model's")
    parser.add_argument("--document-tokens", type=int, default=0, help="mean length of packed documents; 0: whole rows")
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=1)
    parser.add_argument("--compile", choices=("on", "off"), default="on", help="of our arm's blocks")
    parser.add_argument("--attention", choices=("auto", "varlen", "flex", "blocks", "dense"), default="auto")
    parser.add_argument("--keep", choices=("all", "products", "input"), default="all", help="for our backward pass")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--arms", nargs="+", choices=("ours", "transformers", "eager"), default=["ours", "transformers", "eager"]
    )
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.precision = options.precision or ("bfloat16" if cuda else "float32")
    options.sequence = options.sequence or (4096 if cuda else 512)
    options.micro_batch = options.micro_batch or ("auto" if cuda else 2)
    return options


def shape(name: str) -> ModelConfig:
    """A published size."""
    model = compose_config("pretrain", TrainConfig, [f"model={MODELS[name]}"]).model
    assert model is not None
    return model


def planned_micro_batch(options: argparse.Namespace, model: ModelConfig) -> int:
    """The most rows that the memory plan finds to fit, a power of two; with one, blocks may have to compute again."""
    setup = memory_setup(options, model)
    kind = setup.device
    total = (
        torch.cuda.get_device_properties(device()).total_memory
        if kind == "cuda"
        else psutil.virtual_memory().total // dist.get_world_size()
    )
    most = memory.largest_micro_batch(setup, memory.usable_bytes(kind, total))
    return 1 << max(0, most.bit_length() - 1)


def memory_setup(options: argparse.Namespace, model: ModelConfig) -> memory.Setup:
    """What the memory plan asks about our arm."""
    return memory.Setup(
        model=model,
        rows=1 if options.micro_batch == "auto" else options.micro_batch,
        sequence_length=options.sequence,
        accumulates=options.accumulation > 1,
        zero=ZeroConfig(stage=options.zero, precision=options.precision),
        compute=ComputeConfig(compile=options.compile, attention=options.attention, keep=options.keep),
        workers=dist.get_world_size(),
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def batches(options: argparse.Namespace, model: ModelConfig, number: int, arm: Arm | None = None) -> list[Batch]:
    """The micro-batches of step `number`: ids drawn by rank (like words, few are frequent), documents end to end."""
    generator = torch.Generator().manual_seed(1000 * number + dist.get_rank())
    B, T = options.micro_batch, options.sequence
    made = []
    for _ in range(options.accumulation):
        ids = (torch.rand(B, T + 1, generator=generator) ** 3 * model.vocabulary).long()
        positions = torch.arange(T).repeat(B, 1)
        if options.document_tokens:
            first = torch.rand(B, T, generator=generator) < 1 / options.document_tokens
            first[:, 0] = True
            starts = torch.where(first, positions, 0).cummax(dim=1).values
            positions = positions - starts
        documents = arm.locate(positions).to(device()) if arm is not None and arm.locate is not None else None
        parts = (ids, positions, torch.ones(B, T), torch.zeros(B, dtype=torch.int64))
        made.append(Batch.shifted(*(part.to(device()) for part in parts), documents=documents))
    return made


def turn_that_fits(
    options: argparse.Namespace, model: ModelConfig, build: Callable[[argparse.Namespace, ModelConfig], Arm]
) -> tuple[Turn, argparse.Namespace]:
    """A turn; out of memory, another with half the micro-batch, accumulated twice as often, and so on."""
    while True:
        try:
            return take_turn(options, model, build), options
        except torch.OutOfMemoryError:
            if options.micro_batch == 1:
                raise
        # here, where the exception has let go of the frames that hold the arm
        gc.collect()
        torch.cuda.empty_cache()
        halved = {"micro_batch": options.micro_batch // 2, "accumulation": options.accumulation * 2}
        options = argparse.Namespace(**{**vars(options), **halved})


def take_turn(
    options: argparse.Namespace, model: ModelConfig, build: Callable[[argparse.Namespace, ModelConfig], Arm]
) -> Turn:
    """Build an arm, warm it up, time it, free it."""
    with peak_memory() as peak:
        arm = build(options, model)
        try:
            tokens_per_s, last = time_arm(arm, options, model)
        finally:
            arm.close()
    del arm
    linear_cross_entropy.let_go()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Turn(tokens_per_s, peak[0], last, options.micro_batch)


def time_arm(arm: Arm, options: argparse.Namespace, model: ModelConfig) -> tuple[float, float]:
    """Two steps to warm up, then the timed ones. Returns: tokens/s of this process, the last loss."""
    for number in range(2):
        arm.step(batches(options, model, number, arm))
    read = [batches(options, model, 2 + number, arm) for number in range(options.steps)]
    wait()
    began = time.perf_counter()
    for made in read:
        arm.step(made)
    last = arm.loss()
    wait()
    seconds = time.perf_counter() - began
    return options.steps * options.accumulation * options.micro_batch * options.sequence / seconds, last


def ours(options: argparse.Namespace, model: ModelConfig) -> Arm:
    """This package, as a stage runs it."""
    kept = {name: model.layers if name == options.keep else 0 for name in ("all", "products", "input")}
    policy = getattr(options, "policy", None) or BlockPolicy(**kept)  # not of the command line
    compute = ComputeConfig(compile=options.compile, attention=options.attention)
    network = initialised(model).prepare(compute, policy, device())
    engine = Engine(
        network, NextToken(), ZeroConfig(stage=options.zero, precision=options.precision),
        AdamWSettings(), options.micro_batch, options.accumulation, 1,
    )  # fmt: skip
    held: dict[str, Any] = {}

    def step(made: list[Batch]) -> None:
        held["result"] = engine.step(made, RATE)

    return Arm(step, lambda: held["result"].loss, engine.close, network.locate, engine)


def initialised(model: ModelConfig) -> Transformer:
    """The model with its first weights; on a GPU drawn there, for 2.7 billion numbers take a CPU minutes."""
    if device().type == "cpu":
        return Transformer(model).initialise(0)
    torch.manual_seed(0)
    with device():
        network = Transformer(model)
    with torch.no_grad():
        for parameter, role in zip(network.parameters(), roles(model).values(), strict=True):
            if role.init_std is None:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, role.init_std)
    return network


def deepspeed_functions() -> Shipped:
    """Every function that DeepSpeed's modules and classes have now, by where it stands."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "deepspeed"]
    owners: dict[int, Any] = {id(module): module for module in modules if isinstance(module, ModuleType)}
    for module in list(owners.values()):
        for value in vars(module).values():
            if isinstance(value, type) and value.__module__.startswith("deepspeed"):
                owners[id(value)] = value
    return {
        (owner, name): value
        for owner in owners.values()
        for name, value in vars(owner).items()
        if isinstance(value, FunctionType | staticmethod | classmethod)
    }


@contextmanager
def as_shipped(shipped: Shipped) -> Iterator[None]:
    """DeepSpeed as it was when `shipped` was taken, before our engine changed functions of it."""
    changed = {key: vars(key[0])[key[1]] for key, value in shipped.items() if vars(key[0]).get(key[1], value) != value}
    for owner, name in changed:
        setattr(owner, name, shipped[owner, name])
    try:
        yield
    finally:
        for (owner, name), value in changed.items():
            setattr(owner, name, value)


def transformers_with_deepspeed(options: argparse.Namespace, model: ModelConfig) -> Arm:
    """`LlamaForCausalLM` with tied embeddings under DeepSpeed, as its users set it up."""
    import deepspeed
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.d_model,
        intermediate_size=model.d_ff,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        max_position_embeddings=model.max_positions,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    with device():
        network = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    engine: Any = deepspeed.initialize(
        model=network,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": options.micro_batch,
            "gradient_accumulation_steps": options.accumulation,
            "gradient_clipping": 1.0,
            "zero_optimization": {
                "stage": options.zero,
                "overlap_comm": torch.cuda.is_available(),
                "contiguous_gradients": True,
            },
            "bf16": {"enabled": options.precision == "bfloat16"},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        },
    )[0]
    held: dict[str, Any] = {}

    def step(made: list[Batch]) -> None:
        for batch in made:
            # labels as people pass them: the model shifts them by one itself
            out = engine(input_ids=batch.inputs, labels=batch.inputs)
            engine.backward(out.loss)
            engine.step()
            held["loss"] = out.loss.detach()

    return Arm(step, lambda: float(held["loss"]), engine.destroy, engine=engine)


def eager(options: argparse.Namespace, model: ModelConfig) -> Arm:
    """Our model in a plain PyTorch loop; bfloat16 by autocast."""
    compute = ComputeConfig(compile="off", attention="dense")
    network = initialised(model).prepare(compute)
    optimizer = build(network, model, AdamWSettings())
    held: dict[str, Any] = {}

    def step(made: list[Batch]) -> None:
        set_learning_rate(optimizer, RATE)
        for batch in made:
            with torch.autocast(device().type, torch.bfloat16, enabled=options.precision == "bfloat16"):
                logits = network.logits(network(batch))
            loss = F.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten())
            (loss / options.accumulation).backward()  # type: ignore[no-untyped-call]
            held["loss"] = loss.detach()
        if dist.get_world_size() > 1:
            for parameter in network.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad.div_(dist.get_world_size()))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Arm(step, lambda: float(held["loss"]), lambda: None)


ARMS: dict[str, Callable[[argparse.Namespace, ModelConfig], Arm]] = {
    "ours": ours, "transformers": transformers_with_deepspeed, "eager": eager,
}  # fmt: skip


def flops_per_token(model: ModelConfig, sequence: int) -> tuple[float, float]:
    """(causal, full): 6·P + 6·L·D·T and 6·P + 12·L·D·T."""
    products = 6.0 * parameter_counts(model)["total"]
    attention = 6.0 * model.layers * model.d_model * sequence
    return products + attention, products + 2 * attention


def formula(model: ModelConfig, sequence: int) -> str:
    """How MFU is counted, with this model's numbers."""
    causal, full = flops_per_token(model, sequence)
    total, L, D = parameter_counts(model)["total"], model.layers, model.d_model
    return (
        f"MFU = FLOPs a token · tokens/s / peak; P = {total:,}, L = {L}, D = {D}, T = {sequence}: causal 6·P + 6·L·D·T "
        f"= {causal:.4e}, full 6·P + 12·L·D·T = {full:.4e} FLOPs a token"
    )


def summary(
    turns: dict[str, list[Turn]], model: ModelConfig, sequence: int, peak: float, ceiling: float | None = None
) -> tuple[list[str], list[list[str]]]:
    """The table: medians over rounds, and each arm's ratio to `transformers` in the same round."""
    causal, full = flops_per_token(model, sequence)
    rows = []
    for name, found in turns.items():
        speed = statistics.median(turn.tokens_per_s for turn in found)
        ratios = [
            turn.tokens_per_s / other.tokens_per_s
            for turn, other in zip(found, turns.get("transformers", []), strict=False)
        ]
        rows.append(
            [
                name,
                f"{speed:,.0f}",
                f"{speed * causal / peak:.1%}",
                f"{speed * full / peak:.1%}",
                f"{speed * causal / ceiling:.1%}" if ceiling else "-",
                f"{max(turn.peak_gib for turn in found):.2f}",
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "-",
            ]
        )
    head = ["arm", "tok/s/process", "MFU causal", "MFU full", "causal, of 8192³", "peak GiB"]
    return [*head, "× transformers + DeepSpeed"], rows


def peak_flops(precision: str) -> float:
    """The published peak of this GPU, or what a large product reaches on this CPU."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        known = next((flops for kind, flops in PEAKS.items() if kind in name), None)
        if known is None:
            raise SystemExit(
                f"error: no published peak for {name}; known: {', '.join(PEAKS)}: add it to benchmarks/train.py"
            )
        return known  # fmt: skip
    return product_flops(2048, precision)


def product_flops(side: int, precision: str) -> float:
    """FLOP/s of the fastest of some products of two random square matrices on this device."""
    a, b = (torch.randn(side, side, dtype=getattr(torch, precision), device=device()) for _ in range(2))
    best = float("inf")
    for _ in range(10 if a.is_cuda else 5):
        if a.is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        torch.mm(a, b)
        if a.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def wait() -> None:
    """Until this rank's device and all other ranks are done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """GiB at the highest: of the GPU; on a CPU, resident memory above what was there before, looked at every 20 ms."""
    found = [0.0]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        yield found
        found[0] = torch.cuda.max_memory_allocated() / 2**30
        return
    process = psutil.Process()
    before, stop = process.memory_info().rss, threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            found[0] = max(found[0], (process.memory_info().rss - before) / 2**30)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
