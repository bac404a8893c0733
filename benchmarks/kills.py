"""kill -9 at random moments of a corpus build, and what a second run of the same command makes of it.

    python -m benchmarks.kills --times 20 --seed 0

A build over real Ray is killed four times, each time once so many of its pieces are committed: one Ray worker (the run
goes on), the driver, the whole Ray, and everything, in a random order; after each the same command runs again. Looked
at: whether every piece that was committed is reused (its receipt is never written again), and whether every file of the
    corpus equals that of a build nobody disturbed, byte for byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.texts import documents, plant
from pipelines.display.progress import say, table

TARGETS = ("worker", "driver", "ray", "all")
_PROJECT = Path(__file__).parent.parent
_PATIENCE_SECONDS = 1000  # a quiet machine takes 10 s for a build, one with fifteen times as much to do minutes
_WORKER = re.compile(r"ray::(IDLE|[a-z_]+)$")  # between shards or in one; not the agents that Ray dies with
# what the driver writes from the pieces, right before the commit, it writes again
_SUMMARY = re.compile(r"/kills/receipts/(dropped-.*|data_card|dedup_quality|duplicates|contamination)\.json$")
Identity = tuple[int, int]  # inode and modification time: a file put again has another


@dataclass
class Kill:
    """One kill, when it was due and what it did."""

    target: str
    receipts: int  # written when it was due
    delay_seconds: float  # and how long after that it came
    processes: int = 0  # that it ended
    ending: str = "went on"  # of the run: "went on", or how it ended
    committed: int = 0  # receipts there after that


@dataclass
class Outcome:
    """What came of a build that was killed and run again."""

    rewritten: list[str]  # receipts that were there after a kill and were written again
    differing: list[str]  # files that are not those of an undisturbed build
    failed: str = ""  # a run that ended as it should not

    @property
    def good(self) -> bool:
        """Whether nothing was lost, made twice or made otherwise."""
        return not (self.rewritten or self.differing or self.failed)


def write_source(folder: Path, megabytes: float) -> Path:
    """JSON Lines of English prose with planted near-copies."""
    path = folder / "prose.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in plant(documents(megabytes)).texts), encoding="utf-8"
    )
    return path


def command(source: Path, store: Path, piece_bytes: int = 200_000) -> list[str]:
    """The build: prose from a file, generated problems, conversations and preferences, in many small pieces."""
    prose = f"+corpus.sources.prose={{language: en, licence: MIT, reader: {{type: files, path: {source}}}}}"
    return [
        sys.executable, "-m", "workflows.corpus", "+experiment=smoke", "name=kills", f"store={store}", prose,
        f"corpus.piece_bytes={piece_bytes}", "corpus.file_bytes=500000", "tracking.enabled=false",
    ]  # fmt: skip


def undisturbed(line: Sequence[str], store: Path) -> int:
    """Run the command to its end; how many receipts it wrote on its way."""
    with _watched(store) as seen:
        subprocess.run(line, check=True, cwd=_PROJECT, stdout=subprocess.DEVNULL, timeout=_PATIENCE_SECONDS)
    return len(seen)


def draw(targets: Sequence[str], receipts: int, rng: random.Random) -> list[Kill]:
    """Kills at random moments of a build that writes so many receipts, in their order; before the first one Ray
    starts.
    """
    dues = sorted(rng.randrange(receipts) for _ in targets)
    return [Kill(t, due, rng.uniform(0, 0.3 if due else 8)) for t, due in zip(targets, dues, strict=True)]


def trial(line: Sequence[str], store: Path, reference: Path, kills: Sequence[Kill], rng: random.Random) -> Outcome:
    """Build, with these kills on the way (what they did is noted in them) and the same command after each; compare."""
    outcome, before = Outcome([], []), dict[str, Identity]()
    process: subprocess.Popen[str] | None = None
    with _watched(store) as seen:
        for kill in kills:
            process = process or _started(line)
            _when_due(process, kill, seen)
            while process.poll() is None and not kill.processes:  # Ray may not have started a worker yet
                kill.processes = _kill(process.pid, kill.target, rng)
                time.sleep(0.01)
            if kill.target != "worker":
                kill.ending = _ended(process)
                process = None
                before.update(_receipts(store))
            kill.committed = len(_receipts(store))
        last = _ended(process or _started(line))
    wrong = [kill.ending for kill in kills if "hung" in kill.ending or "fault in Trunkline" in kill.ending]
    outcome.failed = "; ".join(wrong + ([last] if last != "exit 0" else []))
    outcome.rewritten = sorted(
        name
        for name, identity in before.items()
        if seen.get(name, {identity}) - {identity} and not _SUMMARY.search(name)
    )
    ours, theirs = contents(store), contents(reference)
    outcome.differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return outcome


def _started(line: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(line, cwd=_PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _when_due(process: subprocess.Popen[str], kill: Kill, seen: dict[str, set[Identity]]) -> None:
    while len(seen) < kill.receipts and process.poll() is None:
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(kill.delay_seconds)


def _ended(process: subprocess.Popen[str]) -> str:
    """How a run ended, with its last words; it is ended where it does not by itself."""
    try:
        said = process.communicate(timeout=_PATIENCE_SECONDS)[1].strip()
    except subprocess.TimeoutExpired:
        _kill(process.pid, "all", random.Random())
        return f"hung for {_PATIENCE_SECONDS} s"
    words = next((text for text in said.splitlines() if text.startswith("error: ")), said[-200:])
    return f"exit {process.returncode}" + (f" ({words})" if process.returncode > 0 else "")


_SAME = {"manifest.json": ("fingerprint", "files", "statistics"), "claim.json": ("fingerprint", "identity")}


def contents(store: Path) -> dict[str, str]:
    """Every file below a store but leases with its SHA-256; of manifests and claims what tells neither the time nor the
    command that was typed.
    """
    found = {}
    for path in sorted(store.rglob("*")):
        if (
            path.is_file() and path.relative_to(store).parts[0] != ".leases"
        ):  # a killed command's stays until the name is wanted
            data = path.read_bytes()
            if path.name in _SAME:
                facts = json.loads(data)
                data = json.dumps([facts[name] for name in _SAME[path.name]]).encode()
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
        workers = [process for process in below if _WORKER.match(_title(process))]
        victims = [rng.choice(sorted(workers, key=lambda process: process.pid))] if workers else []
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
    for folder, _, files in os.walk(store):  # unlike `rglob`, it does not mind that the work folder goes at the end
        for name in files if Path(folder).name == "receipts" else ():
            with contextlib.suppress(FileNotFoundError):
                path = Path(folder) / name
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


def main() -> None:
    """Kill, run again, print what came of it; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=4.0, help="of prose in the corpus that is built")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    rows: list[list[object]] = []
    good = builds = 0
    with tempfile.TemporaryDirectory() as folder:
        source, reference = write_source(Path(folder), options.megabytes), Path(folder) / "reference"
        receipts = undisturbed(command(source, reference), reference)
        say(f"   undisturbed: {receipts} receipts, {len(contents(reference))} files")
        while (
            missing := options.times - sum(row[4] != 0 for row in rows)
        ) > 0:  # one that came too late does not count
            store = Path(folder) / f"store-{builds}"
            kills = draw(rng.sample(TARGETS, min(len(TARGETS), missing)), receipts * 9 // 10, rng)
            outcome = trial(command(source, store), store, reference, kills, rng)
            builds += 1
            good += outcome.good
            for kill in kills:
                due = f"{kill.receipts} + {kill.delay_seconds:.2f} s"
                rows.append([len(rows) + 1, builds, kill.target, due, kill.processes, kill.committed, kill.ending[:90]])
                say(f"   {rows[-1]}")
            wrong = [outcome.failed, *outcome.rewritten, *outcome.differing]
            say(f"   build {builds}: {', '.join(filter(None, wrong)) or 'every committed piece reused, same bytes'}")
    say(table(["", "build", "killed", "after receipts", "processes", "receipts then", "the run"], rows))
    say(f"   {options.times} kills, {good} of {builds} builds as they should be")
    sys.exit(good < builds)


if __name__ == "__main__":
    main()
