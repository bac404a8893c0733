"""When Python looks for garbage: where the loop says so, and not in the middle of a step.

Enters: a run, or a process that will train many. Leaves: the collector as it was.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_kept_for_good = False


def keep_for_good() -> None:
    """Have the collector never look again at what is there now: what a process of many runs has imported.

    A run needs several full passes. Each takes 80 to 300 ms over torch, DeepSpeed and MLflow, and a few without them.
    """
    global _kept_for_good
    gc.collect()
    gc.freeze()
    _kept_for_good = True


@contextlib.contextmanager
def garbage_left_lying() -> Iterator[None]:
    """No garbage collection of Python's own choosing, which would stop one rank in a step while all others wait for it.

    A full pass over what torch, DeepSpeed and MLflow have allocated takes tens to hundreds of milliseconds, and comes
    at another moment on each rank. What lies there now is never looked at again; the loop collects what is new, at log
    lines and checkpoints. In a process of many runs nothing more is left out than `keep_for_good` has: a run's own
    things must not stay.
    """
    enabled = gc.isenabled()
    gc.collect()
    if not _kept_for_good:
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if not _kept_for_good:
            gc.unfreeze()
        if enabled:
            gc.enable()
