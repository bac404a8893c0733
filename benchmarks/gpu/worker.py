"""The product's whole worker on the card, under torchrun: stream, checkpoints, resume, profile, then SFT and DPO.

    python -m benchmarks.gpu.worker

Enters: `data.tar.xz` of `$WHEELS` (see `data.sh`): packed tokens, and the specs that the product's commands wrote.
Leaves: section `worker` of results.json. Two chains of starts run side by side, each start a torchrun of its own:

    gpu to step 8, profiled · resumed, to step 12 · SFT off step 12 · DPO off the SFT
    straight to step 12 in one start · what it was after step 8, resumed, to step 12

The second chain is the exact one: its resumed losses are those of the very same run uninterrupted. FlashAttention sums
a gradient in any order, so two runs of one spec may differ from the second step on; the first step behind a resume has
no such gradient in it and must be equal to the last bit. Where the two runs agree over steps 1 to 8, all must be.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import CUDA, left, part, put, say
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint import committed_steps, open_checkpoint, set_aside_after
from pipelines.train.run.loop import read_metrics

SECTION = "worker"
RESUMED_AT, LAST = 8, 12  # as in data.sh


def main() -> None:
    """Unpack, start, compare."""
    room = Path(os.environ.get("WORK", "/tmp/gpu_work"), "worker")
    specs = unpack(room)
    store, again = room / "store", room / "again"
    said: dict[str, str] = {}

    def chain(*names: str) -> None:
        for name in names:
            with part(SECTION, name, needs=15):
                said[name] = start(name, specs)
            if name not in said:
                break  # what the next begins from is not there

    def straight() -> None:
        chain("straight")
        with part(SECTION, "straight again"):
            as_after(RESUMED_AT, "pretrain/straight", store, again)
            said["straight again"] = start("straight", specs, again)

    threads = [
        threading.Thread(target=chain, args=("gpu-8", "gpu-12", "sft", "dpo")),
        threading.Thread(target=straight),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with part(SECTION, "checks"):
        check(store, again, said, json.loads((room / "specs/here-losses.json").read_text(encoding="utf-8")))


def unpack(room: Path) -> Path:
    """Store and specs into `room`, which is emptied. Returns: the folder of specs, which name that store."""
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir(parents=True)
    data = Path(os.environ.get("WHEELS", ".whl"), "data.tar.xz")
    if not data.exists():
        raise SystemExit(f"error: {data} is not there: `bash benchmarks/gpu/data.sh {data.parent}` makes it, on a CPU")
    with tarfile.open(data) as packed:
        packed.extractall(room, filter="data")
    for file in (room / "specs").glob("*.json"):
        spec = json.loads(file.read_text(encoding="utf-8"))
        if "store" in spec:
            file.write_text(json.dumps(moved(spec, room / "store")), encoding="utf-8")
    return room / "specs"


def moved(spec: dict[str, Any], store: Path) -> dict[str, Any]:
    """A spec for the same store at another place; on a CPU uncompiled and in float32, which minutes are saved by."""
    if spec.get("kind") == "dpo":  # as by itself: each width of pairs would be compiled anew, and the chain cut short
        spec = {**spec, "compute": {**spec["compute"], "compile": "auto"}}
    if CUDA or os.environ.get("AS_ON_THE_CARD"):
        return {**spec, "store": str(store)}
    compute, zero = {**spec["compute"], "compile": "off"}, {**spec["zero"], "precision": "float32"}
    return {**spec, "store": str(store), "compute": compute, "zero": zero}


def start(name: str, specs: Path, store: Path | None = None) -> str:
    """One start of a spec to its end, as a user would. Returns: what it said. Raises: RuntimeError where it failed."""
    file = specs / f"{name}.json"
    if store is not None:
        file = specs / f"{name}-again.json"
        spec = json.loads((specs / f"{name}.json").read_text(encoding="utf-8"))
        file.write_text(json.dumps(moved(spec, store)), encoding="utf-8")
    began = time.time()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    process = subprocess.Popen(
        [*command, "-m", "pipelines.train.worker", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=max(1.0, left() - 8))
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its workers
        output, _ = process.communicate()
        output += "over its time, ended"
    label = name if store is None else f"{name} again"
    for line in output.splitlines()[-60:]:
        say(f"{label}: {line}")
    put(SECTION, f"{label} seconds", round(time.time() - began, 1))
    if process.returncode:
        own = output.partition("torch/distributed/elastic/")[0]  # torchrun's own lines come behind
        raise RuntimeError(f"exit {process.returncode}: {own[-1500:]}")
    return output


def as_after(step: int, run: str, store: Path, again: Path) -> None:
    """A second store, in which a run stands where it stood after `step`."""
    shutil.copytree(store / "tokens", again / "tokens")
    shutil.copytree(store / "mixture", again / "mixture")
    shutil.copytree(store / run, again / run)
    (again / run / "manifest.json").unlink()
    set_aside_after(FolderStorage(again), run, step)


def curve(store: Path, run: str) -> dict[int, tuple[float, float]]:
    """Loss and norm of the gradient by step, as published with the checkpoints."""
    return {row["step"]: (row["loss"], row["gradient_norm"]) for row in read_metrics(FolderStorage(store), run)}


def check(store: Path, again: Path, said: dict[str, str], here: dict[str, dict[str, float]]) -> None:
    """What must hold, each a line of the results. Args: here, the losses of a CPU in float32."""

    def tell(what: str, ok: bool, more: object = "") -> None:
        put(SECTION, what, {"ok": bool(ok), "more": more})

    for run, steps in (
        ("pretrain/gpu", [RESUMED_AT, LAST]),
        ("pretrain/straight", [RESUMED_AT, LAST]),
        ("sft/gpu", [4]),
        ("dpo/gpu", [4]),
    ):
        with part(SECTION, f"checkpoints of {run}"):
            storage = FolderStorage(store)
            committed = list(committed_steps(storage, run))
            for step in committed:
                open_checkpoint(storage, run, f"step-{step}").verify()
            finished = (store / run / "manifest.json").exists()
            tell(f"{run} is committed", committed == steps and finished, committed)
            off = [
                abs(loss - here[run][str(step)]) / here[run][str(step)]
                for step, (loss, _) in curve(store, run).items()
                if str(step) in here.get(run, {})
            ]
            if off:
                tell(f"{run}: losses as on a CPU in float32, within 2 %", max(off) < 0.02, [round(x, 6) for x in off])
    for name, line in (
        ("gpu-8", f"first step 1 of {RESUMED_AT}"), ("gpu-12", f"first step {RESUMED_AT + 1} of {LAST}"),
        ("straight again", f"first step {RESUMED_AT + 1} of {LAST}"), ("sft", "pretrain/gpu"), ("dpo", "sft/gpu"),
    ):  # fmt: skip
        weights = [text.strip() for text in said.get(name, "").splitlines() if text.strip().startswith("weights:")]
        tell(f"{name} begins where it should", bool(weights) and line in weights[0], weights)
    with part(SECTION, "profile"):
        table = (store / "pretrain/gpu/profile/table.txt").read_text(encoding="utf-8").splitlines()
        tell("profile", (store / "pretrain/gpu/profile/trace-rank0.json.gz").exists() and len(table) > 3, table)
    one, two, resumed = (
        curve(store, "pretrain/straight"), curve(store, "pretrain/gpu"), curve(again, "pretrain/straight"),
    )  # fmt: skip
    alike = [step for step in one if one[step] == two.get(step)]
    reproducible = set(range(1, RESUMED_AT + 1)) <= set(alike)
    put(SECTION, "steps in which two runs of one spec are bit-equal", alike)
    behind = {step: (one[step], resumed[step]) for step in range(RESUMED_AT + 1, LAST + 1)}
    equal = [step for step, (a, b) in behind.items() if a == b]
    tell(
        "the first step behind a resume is bit-equal",
        behind[RESUMED_AT + 1][0][0] == behind[RESUMED_AT + 1][1][0],
        behind,
    )
    tell(
        "a resumed run is bit-equal" + ("" if reproducible else " (kernels here are not: only near)"),
        len(equal) == LAST - RESUMED_AT
        if reproducible
        else all(abs(a[0] - b[0]) < 1e-2 * a[0] for a, b in behind.values()),
        equal,
    )


if __name__ == "__main__":
    main()
