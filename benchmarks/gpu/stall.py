"""How a save holds training: the snapshot of 2.4B parameters and their moments into pinned memory; and a real save.

    python -m benchmarks.gpu.stall [MODEL, default 2.4b] [--write]

Enters: an arm that is built (`setting.Built`), in the process that times it, or one built here. Leaves: `stall` in a
section of results.json. Without `--write` nothing is written: 29 GB would be. With it, a save of our own is written to
`$WORK` while training goes on, and DeepSpeed's `save_checkpoint` of the same engine after it: take 1.2b for that.

Batches are on the device before the clock starts, and nothing waits for the device between the save and the step
behind it: the step meets the copy as in a run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import benchmarks.train as bench
from benchmarks.gpu.record import TINY, left, part, put, say, sync
from benchmarks.gpu.setting import Built, model_of
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint import Saver
from pipelines.train.checkpoint.slices import snapshot

PLAIN = 2  # steps timed before a save
STEP_TOKENS = 32_768  # longer than the copy takes


class Told:
    """What the saver says, for the log."""

    def saving(self, step: int) -> None:
        """A save begins."""

    def saved(self, step: int, problem: str) -> None:
        """It ended."""
        say("saver: step", step, problem or "committed")

    def warning(self, message: str) -> None:
        """What is shown in a run."""
        say("saver: WARNING", message)

    alarm = warning

    def points(self, values: Mapping[str, float], step: int) -> None:
        """Numbers that a run's tracker gets."""
        say("saver:", dict(values))


def stall(built: Built, section: str, write: bool = False) -> None:
    """Two snapshots of a built arm, or one save that is written; a step is timed before, behind and while writing."""
    assert built.arm is not None
    arm, options = built.arm, built.options
    accumulation = 2 if TINY else max(2, STEP_TOKENS // options.sequence // options.micro_batch)
    some = argparse.Namespace(**{**vars(options), "accumulation": accumulation})
    built.accumulate(accumulation)
    batches = bench.batches(some, built.model, 70, arm)

    def step() -> float:
        began = time.perf_counter()
        arm.step(batches)
        sync()
        return time.perf_counter() - began

    step()
    plain = [step() for _ in range(PLAIN)]
    state = snapshot(arm.engine)
    on_host = sum(4 * value.numel() for value in state.values())
    moved = sum(value.numel() * value.element_size() for value in state.values())
    values: dict[str, Any] = {
        "file_gb": round(on_host / 1e9, 3), "plain_step_s": [round(x, 4) for x in plain],
        "step_tokens": options.micro_batch * options.sequence * accumulation,
    }  # fmt: skip
    del state
    room = Path(os.environ.get("WORK", "/tmp/gpu_work"), "saved")
    shutil.rmtree(room, ignore_errors=True)
    saver = Saver(FolderStorage(room), "pretrain/stall", Told())
    try:
        if write:
            values["save"] = written(saver, built, step, on_host)
            put(section, "save", values)
            if left() > 20 + 3 * on_host / 1e9:
                began = time.perf_counter()
                built.deepspeed.save_checkpoint(str(room / "theirs"), tag="step1")
                values["deepspeed_holds_s"] = round(time.perf_counter() - began, 3)
                put(section, "save", values)
        else:
            for number, label in enumerate(("first (takes pinned memory)", "second")):
                if number and left() < 12:
                    break
                values[label] = copied(saver, arm.engine, step, min(plain), moved)
                put(section, "stall", values)
    finally:
        saver.wait()
        shutil.rmtree(room, ignore_errors=True)


def copied(saver: Saver, engine: Any, step: Any, plain: float, moved: int) -> dict[str, float]:
    """A snapshot and the step behind it. Args: plain, seconds of a step otherwise; moved, bytes."""
    sync()
    began = time.perf_counter()
    _, done = saver._snapshot(engine)
    held = time.perf_counter() - began
    behind = step()
    if done is not None:
        done.synchronize()
    after = step()
    # the copy alone, with nothing beside it
    sync()
    began = time.perf_counter()
    _, done = saver._snapshot(engine)
    if done is not None:
        done.synchronize()
    alone = time.perf_counter() - began
    return {
        "host_held_s": round(held, 4), "step_behind_s": round(behind, 4), "slower_by_s": round(behind - plain, 4),
        "step_after_s": round(after, 4), "copy_alone_s": round(alone, 4),
        "copy_gb_per_s": round(moved / alone / 1e9, 2),
    }  # fmt: skip


def written(saver: Saver, built: Built, step: Any, size: int) -> dict[str, Any]:
    """A save as in a run, to its commit."""
    assert built.arm is not None
    began = time.perf_counter()
    held = saver.save(built.arm.engine, 1, {}, b"")
    behind, more = step(), []
    while saver.writing and left() > 15:
        more.append(round(step(), 4))
    ran = time.perf_counter() - began
    saver.wait(final=True)
    whole = time.perf_counter() - began
    return {
        "host_held_s": round(held, 4), "step_behind_s": round(behind, 4), "steps_while_writing_s": more[:40],
        "still_to_wait_s": round(whole - ran, 3), "committed_after_s": round(whole, 3),
        "written_gb_per_s": round(size / whole / 1e9, 2),
    }  # fmt: skip


def main() -> None:
    """The command line."""
    from benchmarks.gpu.train import fitting  # which offers this module's `stall` as one of its parts

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="2.4b", choices=bench.MODELS)
    parser.add_argument("--write", action="store_true", help="save for real, ours and DeepSpeed's")
    options = parser.parse_args()
    bench.import_deepspeed()
    bench.start_distributed()
    section = f"stall {options.model}"
    model = model_of(options.model)
    built = fitting(section, options.model, model)
    with part(section, "stall", needs=20) as go:
        if go and built is not None:
            stall(built, section, options.write)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
