"""DeepSpeed ZeRO around the model: one optimizer step over exact token means.

Enters: the micro-batches of one step. Leaves: updated weights and the step's sums over all ranks.

Exactness: N, the number of targets that count over all ranks and micro-batches, is summed before the first backward;
each micro-batch's loss *sum* is then scaled by W/N, since ZeRO averages gradients over the W ranks. Every layout of the
same global batch gives the same gradient (measured: ≤ 1.1e-7 between layouts; docs/design/objectives.md).
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.profiler import record_function

from pipelines.train.network import float8, linear_cross_entropy
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer
from pipelines.train.network.roles import roles
from pipelines.train.objectives.objective import Objective
from pipelines.train.optimizers import pieces, row_of
from pipelines.train.optimizers.contract import OptimizerSettings
from pipelines.train.optimizers.groups import build, set_learning_rate
from pipelines.train.optimizers.pieces import Slice
from pipelines.train.update.one_worker import OneWorker
from pipelines.train.update.step import StepResult
from pipelines.train.update.zero import ZeroConfig, check, one_worker_serves


class TrainingModule(nn.Module):
    """Model and objective in one forward, as ZeRO-3 needs: weights are whole only while a forward runs."""

    def __init__(self, model: Transformer, objective: Objective):
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, function: Callable[[Transformer, Tensor, Batch], Any] | None = None) -> Any:
        """What `function` gives for a batch; without one, the objective's sums."""
        hidden = self.model(batch)
        with record_function("step/loss"):
            return (function or self.objective.sums)(self.model, hidden, batch)


def device() -> torch.device:
    """This rank's device: its GPU, or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def start_distributed() -> None:
    """Join the process group of torchrun (or make one of a single process), and ready DeepSpeed for it.

    A process that nobody told its rank is alone: its group needs no port, so any number of them may run on a machine.
    """
    alone = "WORLD_SIZE" not in os.environ
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, value)
    deepspeed = import_deepspeed()
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    # DeepSpeed's collectives of ZeRO-3 have newer names in torch, and each of thousands of calls would say so
    warnings.filterwarnings(
        "ignore", message=r".*is deprecated\. Please use", category=FutureWarning, module="torch.distributed"
    )
    if not torch.cuda.is_available():
        # built on first use by a C++ compile of 1-3 minutes; a killed build leaves a lock that hangs the next start
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if alone:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            dist.init_process_group(backend)
    deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    _never_wait_for_the_gradient_norm()
    _sum_in_float32_at_every_stage()
    _sum_by_one_kernel()


def _as_it_is(model: Any = None, **_options: Any) -> Any:
    """Stands in for `torch.compile`, as a call or as a decorator, and compiles nothing."""
    return model if model is not None else lambda function: function


def import_deepspeed() -> Any:
    """DeepSpeed, imported without two libraries that cost more seconds than itself and that nothing here uses.

    Its autotuner imports MLflow where it is installed (1.4 of 3.2 s), and its Muon, which every start imports, has
    functions decorated with `torch.compile`, which imports torch's whole compiler (1.3 s of CPU).
    """
    if "deepspeed" in sys.modules:
        return sys.modules["deepspeed"]
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    unwanted = "mlflow" not in sys.modules
    compile_ = torch.compile
    torch.compile = _as_it_is
    if unwanted:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
        import deepspeed.ops
        import deepspeed.runtime.zero.muon.original_muon
    finally:
        if unwanted:
            del sys.modules["mlflow"]
        torch.compile = compile_
    return deepspeed


def _sum_in_float32_at_every_stage() -> None:
    """Stage 1 too sums bfloat16 gradients in float32 by the ZeRO optimizer, as stages 2 and 3 do.

    DeepSpeed would hand that one combination to another optimizer, which overlaps nothing and splits its state
    differently.
    """
    from deepspeed.runtime.engine import BFLOAT16, ZERO_OPTIMIZATION, DeepSpeedEngine

    chosen = DeepSpeedEngine._do_optimizer_sanity_check
    if getattr(chosen, "sums_in_float32", False):  # a process that trains again: wrapped once is enough
        return

    def wrapper(self: Any, optimizer: Any) -> Any:
        kind = chosen(self, optimizer)
        return ZERO_OPTIMIZATION if kind == BFLOAT16 and self.zero_optimization() else kind

    wrapper.sums_in_float32 = True  # type: ignore[attr-defined]
    DeepSpeedEngine._do_optimizer_sanity_check = wrapper


def _never_wait_for_the_gradient_norm() -> None:
    """Stages 1 and 2 ask the device twice a step whether the norm is finite, only to put infinity where it is not.

    Their norm is infinite there already (`combine_grad_norm_groups`), so the answer changes nothing but the waiting.
    """
    from deepspeed.runtime.zero import stage_1_and_2

    stage_1_and_2.is_invalid_grad_norm = lambda norm: False
    # and they copy all gradients to float64 first: 3 % of a step of a small model on a CPU, for digits beyond float32's
    stage_1_and_2.get_norm_dtype = lambda: torch.float32


def _sum_by_one_kernel() -> None:
    """Stage 1 adds a bfloat16 gradient to its float32 sum as it is, without a float32 copy of it: 10 bytes a weight for
    18 on a GPU, whose kernel converts as it adds; a CPU makes that copy anyway.
    """
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    DeepSpeedZeroOptimizer._fill_param_grad_accum_attribute = add_gradient


def add_gradient(zero: Any, parameter: Any) -> None:
    """Add a parameter's gradient to its sum in DeepSpeed's ZeRO optimizer, and let go of it."""
    if parameter.grad is None:
        return
    if parameter.grad_accum is None:
        parameter.grad_accum = parameter.grad.to(zero.gradient_accumulation_dtype)
    else:
        parameter.grad_accum.add_(parameter.grad.view(parameter.grad_accum.shape))
    parameter.grad = None


class Engine:
    """DeepSpeed's engine, its optimizer and the objective."""

    def __init__(
        self,
        model: Transformer,
        objective: Objective,
        zero: ZeroConfig,
        optimizer: OptimizerSettings,
        micro_batch: int,
        accumulation: int,
        sources: int,
    ):
        """Args: model on the CPU with its initial weights; micro_batch, rows per micro-batch; accumulation,
        micro-batches a step on each rank; sources, how many sources a batch's `sources` may name.

        Raises: ConfigError for what `check` refuses.
        """
        check(zero)
        import deepspeed

        self.objective, self.accumulation, self.sources = objective, accumulation, sources
        self.world = dist.get_world_size()
        self.model_config = model.config
        # what this rank saves of frozen parameters, in float32 at any precision; empty once a parent holds them
        self.frozen_slices = _frozen_shares(model)
        self.frozen_in: dict[str, str] = {}  # parameter -> token of the checkpoint that holds it (committed.py)
        if zero.precision == "fp8":
            float8.convert(model, emulated=device().type == "cpu")
        module = TrainingModule(model, objective).to(device())
        updates = build(module.model, model.config, optimizer)
        self.deepspeed: Any = deepspeed.initialize(
            model=module,
            optimizer=updates,
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": accumulation,
                "gradient_clipping": optimizer.gradient_clip if zero.stage else 0.0,  # stage 0: see `_clip`
                **_deepspeed_config(zero, accumulation, self.world),
            },
        )[0]
        self.gradient_clip = optimizer.gradient_clip
        if one_worker_serves(zero, self.world):
            OneWorker(self.deepspeed)
        elif self.world == 1 and zero.stage == 0:
            # nothing to average: spares five passes over the gradients, a third of the step of a small model
            self.deepspeed.enable_backward_allreduce = False
        self.optimizer, self.settings, self.updates = pieces.torch_optimizer(self.deepspeed), optimizer, 0
        row_of(optimizer).bind(self.optimizer, list(self.slices()), roles(model.config), device())

    def slices(self) -> Iterator[Slice]:
        """Every slice that this rank's optimizer updates; at stage 0 that is every parameter, on every rank."""
        return pieces.updated(self.deepspeed)

    def shares(self) -> Iterator[Slice]:
        """The same, so that each value is on one rank alone: at stage 0 each rank has a share of what all hold."""
        for piece in self.slices():
            own = piece
            if self.deepspeed.zero_optimization_stage() == 0:
                own = piece.share(dist.get_rank(), self.world)
            if own.length:
                yield own

    def step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        """Launch one optimizer step over `accumulation` micro-batches; all ranks call it together.

        Nothing here waits for a GPU: the result's numbers are fetched when they are read. DeepSpeed itself waits once a
        step at stage 3, where it looks at the gradient norm.
        """
        counted = torch.stack([self.objective.count(batch) for batch in batches]).sum().double()
        self._add_up(counted)
        # a step of which nothing counts is refused one step late, by `StepLog`: asking here would make the host wait
        scale = (self.world / counted.clamp(min=1)).float()
        totals = torch.zeros(1 + 2 * self.sources, dtype=torch.float64, device=counted.device)
        extras: dict[str, Tensor] = {}
        set_learning_rate(self.deepspeed.optimizer, learning_rate)
        for batch in batches:
            with record_function("step/forward"):
                loss, details = self.deepspeed(batch)
            with record_function("step/backward"):
                self.deepspeed.backward(loss * scale, scale_wrt_gas=False)
            with record_function("step/optimizer"):
                plain_norm = self._clip()
                self.deepspeed.step()
            totals[0] += loss.detach()
            if "row_loss" in details:
                totals[1 : 1 + self.sources].index_add_(0, batch.sources, details["row_loss"].double())
                totals[1 + self.sources :].index_add_(0, batch.sources, batch.loss_mask.sum(dim=1).double())
            for name in self.objective.metrics:
                extras[name] = extras.get(name, torch.zeros_like(details[name])) + details[name]
        totals = torch.cat([totals, *(extras[name].double().view(1) for name in self.objective.metrics)])
        self._add_up(totals)
        norm = plain_norm if plain_norm is not None else self.deepspeed.get_global_grad_norm()
        self.updates += 1
        if self.updates == 1:
            row_of(self.settings).check_state(self.optimizer)
        known = torch.stack([totals[0], counted, torch.as_tensor(norm, device=totals.device).double()])
        return StepResult(torch.cat([known, totals[1:]]), self.sources, self.objective.metrics)

    def _add_up(self, numbers: Tensor) -> None:
        if self.world > 1:
            dist.all_reduce(numbers)

    def _clip(self) -> Tensor | None:
        """At stage 0, clip the reduced gradients. Returns: their norm before.

        DeepSpeed would clip here too, but not tell the norm, and wait for it on the host.
        """
        if self.deepspeed.zero_optimization_stage() or not self.deepspeed.is_gradient_accumulation_boundary():
            return None
        parameters = [p for p in self.deepspeed.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if self.gradient_clip:
            nn.utils.clip_grads_with_norm_(parameters, self.gradient_clip, norm)
        return norm

    @torch.no_grad()
    def forward(self, function: Callable[[Transformer, Tensor, Batch], Tensor], batch: Batch) -> Tensor:
        """What `function` gives under the current weights, without gradients; all ranks call it together."""
        self.deepspeed.eval()
        try:
            out: Tensor = self.deepspeed(batch, function)
        finally:
            self.deepspeed.train()
        return out

    def close(self) -> None:
        """Let go of the model, its gradients and all that DeepSpeed keeps of them: this engine takes no step any more.

        Without it a process that trains again keeps every earlier model: autograd holds DeepSpeed's hooks, and those
        hold their optimizer, where Python's garbage collector does not see them. No collective, so a rank may close
        alone.
        """
        if self.deepspeed is None:
            return
        self.deepspeed.destroy()
        _forget_modules(self.deepspeed.module)
        self.deepspeed = None
        linear_cross_entropy.let_go()
        if "torch._dynamo" in sys.modules:  # what was compiled for this model counts against the shapes of the next
            torch.compiler.reset()
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


def _forget_modules(module: nn.Module) -> None:
    """Clear a closed engine's modules out of the two places where ZeRO-3 keeps them as long as the process lives."""
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    # what runs at present, in which the outermost module stays
    running, ours = parameter_offload.FWD_MODULE_STACK, {id(part) for part in module.modules()}
    running[:] = [part for part in running if id(part) not in ours]
    # `functools.lru_cache` on a method keeps every module that it was asked about; a decorator hides it in its closure
    for method in vars(partitioned_param_coordinator.PartitionedParameterCoordinator).values():
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


def _frozen_shares(model: Transformer) -> list[Slice]:
    """This rank's equal share of each frozen parameter, as it is now, on the host."""
    shares = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            share = Slice(name, 0, p.numel(), p, 0).share(dist.get_rank(), dist.get_world_size())
            values = p.detach().view(-1).narrow(0, share.start, share.length).float().cpu().clone()
            shares.append(Slice(name, share.start, share.length, values, 0))
    return shares


def _deepspeed_config(zero: ZeroConfig, accumulation: int, world: int) -> dict[str, Any]:
    """What of DeepSpeed's config follows from `ZeroConfig`, the layout and the device alone."""
    cuda, mixed = torch.cuda.is_available(), zero.numbers == "bfloat16"
    splitting: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": zero.reduce_bucket_elements,
        # reduce while the backward pass goes on, on a stream of its own; the host waits for the device at its end
        "overlap_comm": cuda and world > 1,
        "reduce_scatter": True,
        "contiguous_gradients": True,
    }
    if zero.offload == "cpu":
        splitting["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    config: dict[str, Any] = {
        "zero_optimization": splitting,
        # the update is torch's fused AdamW there too: DeepSpeed's own would be compiled on first use, for minutes
        "zero_force_ds_cpu_optimizer": False,
        # looking for infinities would make the host wait; the norm tells of them, and the loop ends the run
        "bf16": {"enabled": mixed, "check_grad_overflow": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        # a clock that nobody reads, for which the host waits for the device twice in every micro-batch
        "timers": {"throughput": {"enabled": False}},
    }
    if mixed and zero.gradients == "float32" and accumulation * world > 1:
        # both together, or a sum that was made in float32 is rounded on its way to the optimizer (1.8e-3 of a
        # gradient's norm): of micro-batches in stage 1's bucket of reduction, which one worker has too, of workers in
        # the buffer of accumulation
        config["data_types"] = {"grad_accum_dtype": "fp32"}
        config["communication_data_type"] = "fp32"
    return config
