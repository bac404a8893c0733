"""One training process: the same under Ray and under torchrun.

    torchrun --nproc_per_node=8 -m pipelines.train.worker spec.json

where `spec.json` comes from `python -m workflows.pretrain … write_spec=spec.json`. Needs torch and DeepSpeed only.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import parse

if TYPE_CHECKING:
    from pipelines.train.run.loop import Observer


def ready() -> None:
    """Import what `work` will need, while the processes of a group still look for each other."""
    from pipelines.train.update.engine import import_deepspeed

    import_deepspeed()


def work(values: dict[str, Any], emit: Callable[[str], None], observer: Observer | None = None) -> None:
    """Join the process group and run the stage described by `values` (a plain `TrainSpec`). Args: as of `train`."""
    import torch

    if not torch.cuda.is_available():
        # ranks share the machine's cores; more threads than cores make each step several times slower
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or int(os.environ.get("WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks_here))
    from pipelines.train.run.loop import train
    from pipelines.train.spec import TrainSpec
    from pipelines.train.update.engine import start_distributed

    start_distributed()
    train(parse(TrainSpec, values), emit, observer)
    if torch.cuda.is_available():
        # this process stays for the next stage; an evaluation in between has the same GPU to itself
        torch.cuda.empty_cache()


def main(arguments: list[str]) -> None:
    """Entry point under torchrun."""
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        sys.exit(f"usage: torchrun --nproc_per_node=N -m pipelines.train.worker SPEC.json (got {arguments})")
    from pipelines.display.progress import say
    from pipelines.errors import TrunklineError
    from pipelines.store.disk import disk_error

    try:
        work(json.loads(Path(arguments[0]).read_text(encoding="utf-8")), say)
        sys.stdout.flush()
        os._exit(0)  # all is committed; a worker aborted once, when and why is not known (docs/log.md)
    except TrunklineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)  # other ranks may wait in a collective; torchrun ends them
    except Exception as error:
        if (told := disk_error(error)) is None:
            raise
        print(f"error: {told}", file=sys.stderr, flush=True)
        os._exit(told.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
