"""The GPU programme: what to run in the first minutes on a card.

    python -m benchmarks.gpu [--seconds N] [--before FOLDER] [STEP ...]     from the root of a checkout

Each step is a process of its own; results come into `$OUT` (default /tmp/gpu_out) as they are found, `summary.md` last.
`TINY=1` takes toy sizes, so that the programme can be tried without a GPU. `benchmarks/gpu/run.sh` sets up a machine
that lacks some packages and then calls this; `benchmarks/gpu/wheels.sh` makes what it needs for that.

STEPS
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.gpu.programme import Programme
from benchmarks.gpu.record import CUDA, TINY
from benchmarks.gpu.steps import FIRST, STEPS
from benchmarks.gpu.summary import write_summary


def main() -> None:
    """The command line."""
    table = "\n".join(f"    {step.name:<18}{step.seconds:>4} s  {step.says}" for step in STEPS.values())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=(__doc__ or "").replace("STEPS\n", f"Steps:\n{table}\n"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"default: {' '.join(FIRST)}")
    parser.add_argument("--seconds", type=float, default=455, help="for all of them (default 455)")
    parser.add_argument("--before", type=Path, help="the checkout of another commit, for the steps before-*")
    options = parser.parse_args()
    names = options.steps or FIRST
    if unknown := [name for name in names if name not in STEPS]:
        parser.error(f"no step {', '.join(unknown)}; there are: {', '.join(STEPS)}")
    if not CUDA and not TINY:
        parser.error("torch sees no GPU here: run it on a machine that has one, or set TINY=1 to try it at toy sizes")
    out = Path(os.environ.get("OUT", "/tmp/gpu_out"))
    Programme(options.seconds, out, Path.cwd(), options.before).run([STEPS[name] for name in names])
    print(write_summary(out), flush=True)


if __name__ == "__main__":
    main()
