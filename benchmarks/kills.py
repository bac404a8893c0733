"""kill -9 at random moments of a corpus build, and what a second run of the same command makes of it.

    python -m benchmarks.kills --times 20 --seed 0

Each time a fresh build over real Ray is killed once so many of its pieces are committed: one busy Ray worker, the driver, the
whole Ray, or everything. Then the same command runs again. Looked at: whether every piece that was committed is reused (its receipt
is never written again), and whether every file of the corpus equals that of a build nobody disturbed, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.texts import documents, plant
from pipelines.progress import say, table

TARGETS = ("worker", "driver", "ray", "all")
_PATIENCE_SECONDS = 300
Identity = tuple[int, int]  # inode and modification time: a file put again has another


@dataclass
class Outcome:
    """One kill and what followed."""

    target: str
    pieces: int  # committed when the kill was due
    delay_seconds: float  # and how long after that it came
    killed: int = 0  # processes
    survived: bool = False  # the first run ended well all the same
    committed: int = 0  # receipts at the moment after the kill
    rewritten: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    failed: str = ""  # how the second run failed, or the first where it should not have

    @property
    def good(self) -> bool:
        """Whether nothing was lost, made twice or made otherwise."""
        return not (self.rewritten or self.differing or self.failed)


def write_source(folder: Path, megabytes: float) -> Path:
    """JSON Lines of English prose with planted near-copies."""
    path = folder / "prose.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in plant(documents(megabytes)).texts))
    return path


def command(source: Path, store: Path, piece_bytes: int = 200_000) -> list[str]:
    """The build: prose from a file, generated problems, conversations and preferences, in many small pieces."""
    prose = f"+corpus.sources.prose={{language: en, licence: MIT, reader: {{type: files, path: {source}}}}}"
    return [
        sys.executable, "-m", "workflows.corpus", "+experiment=smoke", "name=kills", f"store={store}", prose,
        f"corpus.piece_bytes={piece_bytes}", "corpus.file_bytes=500000", "tracking.enabled=false",
    ]  # fmt: skip


def undisturbed(line: Sequence[str], store: Path) -> int:
    """Run the command to its end; how many receipts it left on its way."""
    with _watched(store) as seen:
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, timeout=_PATIENCE_SECONDS)
    return len(seen)


def trial(line: Sequence[str], store: Path, reference: Path, target: str, pieces: int, rng: random.Random) -> Outcome:
    """Run, kill, run again, compare with the store of an undisturbed build."""
    outcome = Outcome(target, pieces, rng.uniform(0, 0.3 if pieces else 8))  # before the first piece, Ray starts
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(_receipts(store)) < pieces and process.poll() is None:
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(outcome.delay_seconds)
    while process.poll() is None and not outcome.killed:  # no worker may be busy yet
        outcome.killed = _kill(process.pid, target, rng)
        time.sleep(0.01)
    try:
        _, said = process.communicate(timeout=_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process.pid, "all", rng)
        outcome.failed = f"the first run hung for {_PATIENCE_SECONDS} s after the kill"
        return outcome
    outcome.survived = process.returncode == 0
    if target == "worker" and not outcome.survived:
        outcome.failed = f"a lost worker ended the build: {_last(said)}"
    if process.returncode == 1:
        outcome.failed = f"the first run blamed itself: {_last(said)}"
    before = _receipts(store)
    outcome.committed = len(before)
    with _watched(store) as seen:
        again = subprocess.run(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    if again.returncode:
        outcome.failed = f"the second run ended with {again.returncode}: {_last(again.stderr)}"
        return outcome
    outcome.rewritten = [name for name, held in before.items() if seen.get(name, {held}) - {held}]
    ours, theirs = contents(store), contents(reference)
    outcome.differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return outcome


def contents(store: Path) -> dict[str, str]:
    """Every file below a store with its SHA-256; of the manifest what does not tell the time."""
    found = {}
    for path in sorted(store.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name == "manifest.json":
                facts = json.loads(data)
                data = json.dumps([facts[name] for name in ("fingerprint", "files", "statistics")]).encode()
            found[path.relative_to(store).as_posix()] = hashlib.sha256(data).hexdigest()
    return found


def _kill(driver: int, target: str, rng: random.Random) -> int:
    """SIGKILL to the target's processes; how many there were."""
    try:
        below = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    victims = [] if target == "driver" else below
    if target == "worker":
        busy = [process for process in below if _title(process).startswith("ray::") and "IDLE" not in _title(process)]
        victims = [rng.choice(sorted(busy, key=lambda process: process.pid))] if busy else []
    pids = [process.pid for process in victims] + ([driver] if target in ("driver", "all") else [])
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def _receipts(store: Path) -> dict[str, Identity]:
    found = {}
    for path in store.rglob("receipts/*.json"):
        with contextlib.suppress(FileNotFoundError):  # the work folder goes at the end
            facts = path.stat()
            found[path.relative_to(store).as_posix()] = (facts.st_ino, facts.st_mtime_ns)
    return found


@contextlib.contextmanager
def _watched(store: Path) -> Iterator[dict[str, set[Identity]]]:
    """Every identity that each receipt has while the block runs: those of the work folder are gone afterwards."""
    seen: dict[str, set[Identity]] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for name, identity in _receipts(store).items():
                seen.setdefault(name, set()).add(identity)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "nothing said"


def main() -> None:
    """Kill, run again, print what came of it; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=4.0, help="of prose in the corpus that is built")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows, good = [], 0
    with tempfile.TemporaryDirectory() as folder:
        source, reference = write_source(Path(folder), options.megabytes), Path(folder) / "reference"
        receipts = undisturbed(command(source, reference), reference)
        say(f"   undisturbed: {receipts} receipts, {len(contents(reference))} files")
        for number in range(options.times):
            store = Path(folder) / f"store-{number}"
            target, pieces = TARGETS[number % len(TARGETS)], rng.randrange(receipts)
            outcome = trial(command(source, store), store, reference, target, pieces, rng)
            good += outcome.good
            then = outcome.failed or ", ".join(outcome.rewritten + outcome.differing) or "reused, same bytes"
            first = "went on" if outcome.survived else "ended"
            due = f"{pieces} + {outcome.delay_seconds:.2f} s"
            rows.append([number + 1, target, due, outcome.killed, first, outcome.committed, then])
            say(f"   {rows[-1]}")
    say(table(["", "killed", "after receipts", "processes", "the run", "receipts then", "the rerun"], rows))
    say(f"   {good} of {options.times} as they should be")
    sys.exit(good < options.times)


if __name__ == "__main__":
    main()
