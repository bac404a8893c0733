"""Saving behind the training thread: it copies to host memory and goes on; a thread writes, uploads and commits.

One save is under way at a time. When the next is due before it is done, training waits, and the wait is counted as
stall and told once: more memory would only put off the same wait. A save that fails does not stop training; its rows of
metrics go with the next one, and two in a row are an alarm.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist

from pipelines.errors import StorageError
from pipelines.store.storage import Storage
from pipelines.train.checkpoint.committed import commit, folder_of, sweep
from pipelines.train.checkpoint.retention import Rule, prune
from pipelines.train.checkpoint.slices import engine_state, snapshot
from pipelines.train.checkpoint.snapshot import Layout
from pipelines.train.update.engine import Engine

_COMMIT_WAIT_SECONDS = 1800.0
_WRITER_NICENESS = 10  # where cores are short, training goes first


class Watch(Protocol):
    """Who is told, on rank zero; on the training thread but for `saved`."""

    def saving(self, step: int) -> None: ...

    def saved(self, step: int, problem: str) -> None:
        """Called by the writing thread. Args: problem, why the save failed; empty when the checkpoint is committed."""

    def warning(self, message: str) -> None: ...

    def alarm(self, message: str) -> None: ...

    def points(self, values: Mapping[str, float], step: int) -> None: ...


class Saver:
    """Saves a run's checkpoints behind the training thread.

    Attributes:
        stall_seconds: how long training was held by all saves so far, waits included.
        wait_seconds: of these, for the save before to be done.
        failures_in_a_row: saves that failed since the last that was committed.
    """

    def __init__(
        self,
        storage: Storage,
        run: str,
        watch: Watch,
        rule: Rule | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        """All ranks make it together.

        Args: run, `kind/name`; rule, which checkpoints stay after each commit (None: all); before_commit, called on
            rank zero, behind the training thread, when a checkpoint lacks nothing but its manifest.
        """
        self.before_commit = before_commit
        self.storage, self.run, self.watch, self.rule = storage, run, watch, rule or Rule()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        cuda = torch.cuda.is_available()
        self._stream = torch.cuda.Stream() if cuda else None  # type: ignore[no-untyped-call]
        # agreement goes over the CPU: over NCCL it would make the host wait for the GPU
        self._group = dist.new_group(backend="gloo") if cuda else None
        nonce: list[Any] = [f"{time.time_ns():x}"]
        dist.broadcast_object_list(nonce, src=0)
        self.attempt = nonce[0]
        self.stall_seconds = self.wait_seconds = 0.0
        self.failures_in_a_row = 0
        self._layout: Layout | None = None
        self._thread: threading.Thread | None = None
        self._written = threading.Event()
        self._abandon = threading.Event()
        self._error: Exception | None = None
        self._step = 0
        self._write_seconds = 0.0
        self._prune_error: Exception | None = None
        self._metrics = self._carried = b""
        self._told_of_waits = False

    def save(self, engine: Engine, step: int, state: dict[str, Any], metrics: bytes | None = None) -> float:
        """Snapshot now, write in the background. Returns: seconds the training thread was held.

        Args: step, completed optimizer steps; state, JSON-able facts that the run needs to go on; metrics, rank zero's
            rows since the last checkpoint, kept at `metrics/step-N.jsonl` in the run's folder.
        """
        began = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - began
        if metrics is not None:
            self._metrics = metrics = self._carried + metrics
        self._written, self._abandon, self._error, self._step = threading.Event(), threading.Event(), None, step
        recorded = {**state, **engine_state(engine), "step": step, "world": self.world, "attempt": self.attempt}
        if self.rank == 0:
            self.watch.saving(step)
        try:
            layout, copied = self._snapshot(engine)
        except (MemoryError, RuntimeError) as error:  # no room beside the training state
            self._error = StorageError(f"the snapshot does not fit in host memory: {error}")
            self._written.set()
            self._thread = threading.Thread(target=self._tell_of_end)
        else:
            arguments = (step, layout, copied, recorded, metrics)
            self._thread = threading.Thread(target=self._write_and_tell, args=arguments, name="checkpoint-writer")
        self._thread.start()
        stalled = time.perf_counter() - began
        self.stall_seconds += stalled
        self.wait_seconds += waited
        if self.rank == 0:
            self.watch.points({"checkpoint_stall_s": stalled, "checkpoint_wait_s": waited}, step)
        return stalled

    @property
    def writing(self) -> bool:
        """Whether this rank's part of the last save is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, final: bool = False) -> None:
        """Until the save under way is committed, or known to have failed; all ranks call it together.

        A failed save does not stop training: it is reported, and the checkpoint before it stays the latest. Only with
        `final` is it raised, since the run's result would be missing.
        """
        if self._thread is None:
            return
        began, unfinished = time.perf_counter(), self.writing
        self._written.wait()
        failed, unfinished = self._any(self._error is not None, unfinished)
        reason = self._reason() if failed else ""
        if failed:
            self._abandon.set()
        self._thread.join()
        self._thread = None
        failed, _ = self._any(self._error is not None, False)
        if failed and not reason:  # all files are durable, the commit failed
            reason = self._reason()
        if self.rank == 0:
            self._report(reason, time.perf_counter() - began if unfinished and not final else 0.0)
        if not failed:
            self.failures_in_a_row, self._carried = 0, b""
            return
        self.failures_in_a_row += 1
        self._carried = self._metrics  # the rows of a lost save go with the next one
        if final:
            raise StorageError(f"the last checkpoint of {self.run} (step {self._step}) could not be saved: {reason}")

    def _report(self, reason: str, waited: float) -> None:
        if waited and not self._told_of_waits:
            self._told_of_waits = True
            self.watch.warning(
                f"the checkpoint of step {self._step} was still being written when the next was due: training waited "
                f"{waited:.1f} s for it, and will wait again (checkpoint_wait_s): raise checkpoint.every_steps or use "
                "a faster store"
            )
        count = self.failures_in_a_row + 1 if reason else 0
        self.watch.points(
            {"checkpoint_write_s": self._write_seconds, "checkpoint_failures_in_a_row": count}, self._step
        )
        if count == 1:
            self.watch.warning(
                f"checkpoint at step {self._step} failed; training goes on, and the next one holds its rows: {reason}"
            )
        elif count:
            self.watch.alarm(f"checkpoint at step {self._step} failed ({count} in a row): {reason}")
        elif self.failures_in_a_row:
            self.watch.warning(f"checkpoint at step {self._step} was saved, after {self.failures_in_a_row} that failed")
        if self._prune_error is not None:
            self.watch.warning(f"old checkpoints could not be deleted, and will be tried again: {self._prune_error}")
            self._prune_error = None

    def _reason(self) -> str:
        """What the ranks that failed say."""
        said: list[Any] = [None] * self.world
        own = self._error and (str(self._error) or repr(self._error))  # some errors, as of memory, come without words
        dist.all_gather_object(said, own, group=self._group)
        return "; ".join(f"rank {rank}: {why}" for rank, why in enumerate(said) if why)

    def _any(self, *flags: bool) -> list[bool]:
        """Each flag, or-ed over all ranks."""
        counts = torch.tensor([float(flag) for flag in flags])
        dist.all_reduce(counts, group=self._group)
        return [bool(count) for count in counts]

    def _snapshot(self, engine: Engine) -> tuple[Layout, Any]:
        """The state in host memory, and the event after which it is all there (None: it is)."""
        tensors = snapshot(engine)
        if self._layout is None or not self._layout.fits(tensors):
            self._layout = None  # free the old one first
            self._layout = Layout(tensors)
        if self._stream is None:
            self._layout.copy(tensors)
            return self._layout, None
        training = torch.cuda.current_stream()
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            self._layout.copy(tensors)
            copied = self._stream.record_event()
        training.wait_event(copied)  # on the GPU: the next update must not overtake the copy; the host goes on
        return self._layout, copied

    def _write_and_tell(self, *arguments: Any) -> None:
        self._write(*arguments)
        self._tell_of_end()
        if self.rank == 0 and self._error is None:
            self._prune()

    def _tell_of_end(self) -> None:
        if self.rank == 0:
            self.watch.saved(self._step, "" if self._error is None else str(self._error) or repr(self._error))

    def _write(self, step: int, layout: Layout, copied: Any, recorded: dict[str, Any], metrics: bytes | None) -> None:
        began = time.perf_counter()
        folder = folder_of(self.run, step)
        try:  # whatever goes wrong, `_written` is set: training waits for it
            _give_way()
            if copied is not None:
                copied.synchronize()
            name = f"{self._name(self.rank)}.safetensors"
            path = self.storage.scratch(f"{folder}/{name}")
            receipt = {"name": name, **layout.write(path)}
            self.storage.put(path, f"{folder}/{name}")
            if metrics is not None:
                self.storage.write(f"{self.run}/metrics/step-{step:06d}.jsonl", metrics)
            self.storage.write(f"{folder}/{self._name(self.rank)}.json", json.dumps(receipt).encode())
        except Exception as error:
            self._error = error
            return
        finally:
            self._written.set()
        if self.rank == 0:
            try:
                self._commit(folder, recorded)
            except Exception as error:
                self._error = error
        self._write_seconds = time.perf_counter() - began

    def _prune(self) -> None:
        try:
            prune(self.storage, self.run, self.rule)
        except Exception as error:  # the checkpoint is safe; what was to go is tried again after the next
            self._prune_error = error

    def _commit(self, folder: str, recorded: dict[str, Any]) -> None:
        deadline = time.monotonic() + _COMMIT_WAIT_SECONDS
        files: dict[str, Any] = {}
        for rank in range(self.world):
            while (receipt := self.storage.find(f"{folder}/{self._name(rank)}.json")) is None:
                if self.storage.exists(f"{folder}/manifest.json"):  # another attempt was first, and swept ours away
                    return
                if self._abandon.is_set() or time.monotonic() > deadline:
                    raise StorageError(f"rank {rank} did not finish writing {folder}")
                time.sleep(0.05)
            said = json.loads(receipt)
            files[said["name"]] = {"bytes": said["bytes"], "sha256": said["sha256"]}
        self.before_commit()
        commit(self.storage, folder, files, recorded)
        sweep(self.storage, folder)

    def _name(self, rank: int) -> str:
        """Of a rank's files: no two attempts share one, so a group that was given up for dead overwrites nothing."""
        return f"rank-{rank:05d}-{self.attempt}"


def _give_way() -> None:
    """Lower this thread's priority; never raise it, which an ordinary user may not: a run may be `nice` already."""
    if hasattr(os, "setpriority"):
        thread = threading.get_native_id()
        lower = max(_WRITER_NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, lower)
