"""How long tests wait: for what has to come, long enough for a machine with fifteen times as much to do as it has
cores.

No test asserts how long something took. What does not come ends the test with what was waited for and what was seen
instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# a quiet machine takes a minute for the longest single wait (a whole recipe); below the 40 minutes after which pytest
# ends a hang
PATIENCE_SECONDS = 1000


def wait_until(
    ready: Callable[[], object], what: str, seen: Callable[[], object] = lambda: "", seconds: float = PATIENCE_SECONDS
) -> None:
    """Look every 50 ms until `ready()` holds. Raises: AssertionError with `what` was waited for and what was `seen()`
    when time is up.
    """
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}; {seen()}"
        time.sleep(0.05)
