"""Rank zero's aligned line, MLflow points and the rows of the curve, each one step late.

Enters: every launched step. Leaves: its row, written when the next step is launched (`step.py` says why). Whoever needs
all rows, as a checkpoint does, gets them after waiting for the last step.

MFU = tokens/s × FLOPs per token / (peak FLOP/s × workers), with two counts of FLOPs in use: attention counted once, as
causal attention is computed, and in full, as PaLM (arXiv 2204.02311, appendix B) and most tables have it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.cluster.train_group_lines import Voice
from pipelines.display.progress import duration
from pipelines.errors import TrainingError
from pipelines.tracking.tracker import Tracker
from pipelines.train.network.architecture import ModelConfig, flops_per_token
from pipelines.train.network.roles import frozen_numbers
from pipelines.train.run.monitor import NoiseScale, Readings
from pipelines.train.run.stream import Stream
from pipelines.train.spec import TrainSpec
from pipelines.train.update.step import Moment, StepResult

_POINTS = ("tokens", "samples", "loss", "learning_rate", "gradient_norm", "step_duration_s", "data_wait_s")
_TAG = 4000  # characters; MLflow takes 5,000 to 8,000, by version
_BF16_PEAK_FLOPS = {"A100": 312e12, "H100": 989.4e12, "H200": 989.4e12, "B200": 2250e12}  # dense


@dataclass(frozen=True)
class Launched:
    """A step that was launched, and what is known of it without asking the device."""

    step: int
    learning_rate: float
    result: StepResult
    data_wait_seconds: float
    readings: Readings | None = None  # of a monitored step


class StepLog:
    """What a run says of its steps. Every rank keeps one, since every rank must notice that a loss is no number."""

    def __init__(
        self,
        spec: TrainSpec,
        data: Stream,
        emit: Callable[[str], None],
        tracker: Tracker,
        noise: NoiseScale,
        rank: int,
        world: int,
    ):
        """Args: noise, as it stood after the rows of this run that are committed."""
        self.spec, self.data, self.emit, self.tracker, self.noise, self.rank = spec, data, emit, tracker, noise, rank
        self.efficiency = Efficiency(
            spec.model, spec.batch.sequence_length, world, frozen_numbers(spec.model, spec.trains)
        )
        self.began = self.last = Moment()
        self.first: int | None = None
        self.source_loss = torch.zeros(len(data.names), dtype=torch.float64)
        self.source_count = torch.zeros(len(data.names), dtype=torch.float64)
        self._launched: Launched | None = None
        self._rows: list[dict[str, Any]] = []

    def launched(self, launched: Launched) -> None:
        """Note a step that was launched, and write down the one before it while the device is busy with this one."""
        self.catch_up()
        self._launched = launched

    def catch_up(self) -> None:
        """Wait for the last step that was launched and write it down.

        Raises: TrainingError when nothing counted in it, or its loss or gradient norm is no finite number: no later
            checkpoint would be worth anything. Counts are sums over all ranks, so every rank raises, in the same step.
        """
        if self._launched is None:
            return
        launched, self._launched = self._launched, None
        result = launched.result
        if result.count == 0:
            raise TrainingError(
                f"step {launched.step}: none of the targets of its {self.spec.batch.global_batch} rows counts, so its "
                "loss of 0 says nothing and the step would only let weights decay: raise "
                "batch.sequence_length or batch.global_batch, or look at the loss masks of the tokens"
            )
        if not torch.tensor([result.loss, result.gradient_norm]).isfinite().all():
            raise TrainingError(
                f"step {launched.step} has loss {result.loss:g} and gradient norm {result.gradient_norm:g}: training "
                "has diverged: lower schedule.peak_lr, or look for what is wrong in the data; the same command would "
                "repeat the same steps"
            )
        if self.rank == 0:
            self._rows.append(self._write(launched))

    def go_on(self, state: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """Go on after a checkpoint. Args: state, its own; rows, of the curve until then, where another run wrote them:
        they are published with this run's first own checkpoint.
        """
        if (sums := state.get("sums_by_source")) is not None:
            self.source_loss.copy_(torch.tensor(sums["loss"], dtype=torch.float64))
            self.source_count.copy_(torch.tensor(sums["count"], dtype=torch.float64))
        every, steps = self.spec.log_every_steps, self.spec.steps
        own = [dict(row) for row in rows]
        for row in own:
            if row["step"] % every and row["step"] != steps:  # the other run ended there, and this one does not
                for name in ("loss_by_source", "tokens_by_source"):
                    row.pop(name, None)
        if own and own[-1]["step"] == steps and steps % every:  # this run ends there, and the other perhaps does not
            own[-1].update(self._by_source(steps))
        self._rows = own

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the sums since the last log line, so that the next one is of all its steps."""
        if not self.source_count.any():
            return {}
        return {"sums_by_source": {"loss": self.source_loss.tolist(), "count": self.source_count.tolist()}}

    def take(self) -> list[dict[str, Any]]:
        """The rows since the last call, up to the last step that was launched."""
        self.catch_up()
        rows, self._rows = self._rows, []
        return rows

    def leave_out_time(self) -> None:
        """What has passed since the last step counts for no step: something else than training was done."""
        self.last = Moment()

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, kind: Any, *exception: Any) -> None:
        if kind is not None:  # the last step is still told of, where the device is able to tell
            with contextlib.suppress(Exception):
                self.catch_up()

    def saving(self, step: int) -> None:
        """Tell the driver that the checkpoint of a step is being written, where there is a driver."""
        if isinstance(self.emit, Voice):
            self.emit.saving(step)

    def saved(self, step: int, problem: str) -> None:
        """Tell the driver that it is committed, or why it failed."""
        if isinstance(self.emit, Voice):
            self.emit.saved(step, problem)

    def warning(self, message: str) -> None:
        """Say what training survives without harm."""
        self.emit(f"   WARNING {message}")

    def points(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step that are not about the step itself, such as those of its checkpoint."""
        self.tracker.metrics(values, step)

    def cuts(self, ended: bool = False) -> None:
        """Say what the windows cut off, in the log and on the run's page."""
        for name, cut in self.data.cuts.items():
            self.emit(f"   {'cut all along' if ended else 'cut'}: {cut.describe(name)}")
            if not ended:
                counts = {"cut_rows": cut.cut, "left_out_rows": cut.left_out, "lost_tokens": cut.lost_tokens}
                self.tracker.metrics({f"{count}/{name}": float(value) for count, value in counts.items()}, 0)
        if self.data.cuts and not ended:
            sentences = "; ".join(cut.describe(name) for name, cut in self.data.cuts.items())
            self.tracker.tags({"trunkline.cut": sentences if len(sentences) <= _TAG else sentences[:_TAG] + " …"})

    def alarm(self, message: str) -> None:
        """Say that something failed which training survives, in the log and on the run's page."""
        self.emit(f"   ALARM {message}")
        self.tracker.tags({"trunkline.alarm": message})

    def _write(self, launched: Launched) -> dict[str, Any]:
        """Note one finished step; print and track every `log_every_steps`."""
        spec, step, rate, result = self.spec, launched.step, launched.learning_rate, launched.result
        seconds, self.last = result.ended.seconds_since(self.last), result.ended
        self.first = step - 1 if self.first is None else self.first
        tokens = self.data.tokens_after(step)
        speed = (tokens - self.data.tokens_after(step - 1)) / max(seconds, 1e-9)
        row: dict[str, Any] = {
            "step": step,
            "tokens": tokens,
            "samples": self.data.samples_after(step),
            "loss": result.loss,
            "learning_rate": rate,
            "gradient_norm": result.gradient_norm,
            "counted": result.count,
            **result.extras,
            "step_duration_s": round(seconds, 4),
            "data_wait_s": round(launched.data_wait_seconds, 4),
        }
        self.source_loss += result.source_loss
        self.source_count += result.source_count
        if launched.readings is not None:
            row.update(launched.readings.values(result.gradient_norm))
            if (scale := self.noise.add(row)) is not None:
                row["noise_scale"] = scale
            names = ("gradient_trace", "gradient_square", "noise_scale", "update_ratio", "attention_logit_max")
            self.tracker.metrics(_points({name: row[name] for name in names if name in row}), step)
        if step % spec.log_every_steps and step != spec.steps:
            return row
        eta = result.ended.seconds_since(self.began) / (step - self.first) * (spec.steps - step)
        extras = "".join(f"  {name} {value:.3f}" for name, value in result.extras.items())
        self.emit(
            f"   {spec.kind} {step:>{len(str(spec.steps))}}/{spec.steps}  loss {result.loss:7.4f}{extras}  "
            f"lr {rate:.3e}  grad {result.gradient_norm:6.3f}  {speed:>7,.0f} tok/s  "
            f"{self.efficiency.phrase(speed)}  {_peak_gib():.2f} GiB  ETA {duration(eta)}"
        )
        points = {name: row[name] for name in (*_POINTS, *result.extras)}
        points["tokens_per_s"] = speed
        points.update(self.efficiency.points(speed))
        by_source = self._by_source(step)
        row.update(by_source)
        points.update(_points(by_source))
        if step % spec.log_every_steps == 0:  # else it is the run's end, and a longer run goes on with these sums
            self.source_loss.zero_()
            self.source_count.zero_()
        self.tracker.metrics(points, step)
        self.tracker.metrics({"loss_by_tokens": result.loss}, tokens)
        return row

    def _by_source(self, step: int) -> dict[str, Any]:
        """Of each source: the mean loss of its tokens since the last log line, and its tokens until `step`."""
        sums = zip(self.data.names, self.source_loss.tolist(), self.source_count.tolist(), strict=True)
        losses = {name: loss / count for name, loss, count in sums if count}
        told: dict[str, Any] = {"loss_by_source": losses} if losses else {}
        return {**told, "tokens_by_source": self.data.tokens_by_source(step)}


class Efficiency:
    """How much of the hardware a speed uses: MFU where the GPU's peak is known, FLOP/s elsewhere."""

    def __init__(self, model: ModelConfig, sequence_length: int, world: int, frozen: int = 0):
        """Args: frozen, how many of the model's weights do not train."""
        self.world, self.frozen = world, frozen
        self.causal = flops_per_token(model, sequence_length, frozen)
        self.full = self.causal + 6.0 * model.layers * model.d_model * sequence_length
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        self.peak = next((flops for known, flops in _BF16_PEAK_FLOPS.items() if known in name), None)

    def formula(self) -> str:
        """What is printed once: both conventions, with this run's numbers."""
        formula = (
            f"MFU = tok/s × FLOP per token / ({self.peak / 1e12:g} TFLOP/s × {self.world})"
            if self.peak
            else "GFLOP/s = tok/s × FLOP per token / workers"
        )
        less = " - 2·frozen weights" if self.frozen else ""
        return (
            f"{formula}; 6·(weights + output){less} + 6·L·D·T = {self.causal / 1e6:,.4g} MFLOP per token, attention "
            f"counted as causal; with 12·L·D·T, attention in full, {self.full / self.causal:.3f} times that"
        )

    def phrase(self, speed: float) -> str:
        """The log line's part, attention counted as causal. Args: speed, tokens/s over all workers."""
        flops = self.causal * speed / self.world
        return f"MFU {flops / self.peak:5.1%}" if self.peak else f"{flops / 1e9:6.1f} GFLOP/s"

    def points(self, speed: float) -> dict[str, float]:
        """The same as metrics."""
        share = speed / self.world
        if not self.peak:
            return {"gflops_per_worker": self.causal * share / 1e9}
        return {"mfu": self.causal * share / self.peak, "mfu_full_attention": self.full * share / self.peak}


def _points(values: Mapping[str, Any]) -> dict[str, float]:
    """`{"update_ratio": {"layer_00": 1e-3}}` as `{"update_ratio/layer_00": 1e-3}`."""
    nested = {
        f"{name}/{part}": x for name, value in values.items() if isinstance(value, dict) for part, x in value.items()
    }
    return {name: value for name, value in values.items() if not isinstance(value, dict)} | nested


def _peak_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
