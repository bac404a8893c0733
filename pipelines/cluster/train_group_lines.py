"""What rank processes say, carried to the driver and printed there as it comes; and which checkpoint is being written.

The channel is an actor beside the driver, so that lines outlive the processes and machines that said them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pipelines.display.progress import say

_ANSWER_SECONDS = 10.0  # for the channel's answer; more on a machine with much to do
_PATIENCE = 12  # times that, until the channel is taken for lost
_SAVE_SECONDS = 300.0  # for the checkpoint that is being written when a command is interrupted
# between two looks whether a save is over, and how long the channel waits for a line before it answers that there is
# none
_LOOK_SECONDS = 0.5


class Channel:
    """An actor that carries what rank processes say to the driver, and outlives both ranks and their machines."""

    def __init__(self) -> None:
        import asyncio

        self.lines: list[str] = []
        self.come = asyncio.Event()
        self.under_way: int | None = None  # the step whose checkpoint is being written
        self.ended: dict[int, str] = {}  # of each save that ended, why it failed; empty where it was committed

    async def put(self, line: str) -> None:
        self.lines.append(line)
        self.come.set()

    async def drain(self, seconds: float) -> list[str]:
        """The lines since the last call, as soon as there is one, and after `seconds` in any case."""
        import asyncio
        import contextlib

        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.come.wait(), seconds)
        self.come.clear()
        lines, self.lines = self.lines, []
        return lines

    async def saving(self, step: int | None) -> None:
        """The checkpoint of `step` is being written; None: nothing is, and what was said of saves before is void."""
        self.under_way = step
        self.ended = self.ended if step is not None else {}

    async def saved(self, step: int, problem: str) -> None:
        self.ended[step] = problem
        self.under_way = None if self.under_way == step else self.under_way

    async def save_under_way(self) -> int | None:
        return self.under_way

    async def save_ended(self, step: int) -> str | None:
        """None while the checkpoint of `step` is being written, else why that failed, which is empty where it did
        not.
        """
        return self.ended.get(step)


class Voice:
    """A rank's way to the driver: called with a line for people; `saving` and `saved` tell of a checkpoint's save."""

    def __init__(self, channel: Any):
        self._channel = channel
        self._latest: Any = None  # one process's calls arrive in order, so the last stands for all

    def __call__(self, line: str) -> None:
        self._latest = self._channel.put.remote(line)

    def saving(self, step: int) -> None:
        """The checkpoint of `step` is being written: whoever ends this process should wait for `saved`."""
        self._latest = self._channel.saving.remote(step)

    def saved(self, step: int, problem: str) -> None:
        """It is committed, or has failed. Args: problem, why it failed, else empty."""
        self._latest = self._channel.saved.remote(step, problem)

    def wait(self, seconds: float) -> None:
        """Until all that was said has arrived, but no longer than `seconds`."""
        import ray

        if self._latest is not None:
            ray.wait([self._latest], timeout=seconds)


class Listener:
    """Prints what the channel carries, from a thread beside the driver's wait for the ranks."""

    def __init__(self, channel: Any, tell: Callable[[str], None] | None = None):
        """Args: tell, takes each line; None: it is printed."""
        self.channel, self._tell = channel, tell or say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Say a line of the driver's own, after what the ranks have said before."""
        self.channel.put.remote(line)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _listen(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        while True:
            last = self._stop.is_set()
            asked = self.channel.drain.remote(0.0 if last else _LOOK_SECONDS)
            for _ in range(_PATIENCE):  # the same answer: it takes the lines from the channel, however late it comes
                try:
                    lines = ray.get(asked, timeout=_ANSWER_SECONDS)
                    break
                except GetTimeoutError:  # a machine with much to do
                    continue
                except RayError:
                    return
            else:
                return
            for line in lines:
                self._tell(line)
            if last:
                return


def finish_save(channel: Any, first: Any) -> None:
    """Wait for the checkpoint that is being written, if one is; meanwhile the ranks go on, with steps that will be
    lost.

    Args: first, the reference of rank zero's answer: that rank commits.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    problem: str | None = None
    try:
        step = ray.get(channel.save_under_way.remote(), timeout=_ANSWER_SECONDS)
        if step is None:
            return
        say(
            f"   finishing the checkpoint of step {step} ({_SAVE_SECONDS / 60:g} min at most); Ctrl-C again ends at "
            "once"
        )
        until, over = time.monotonic() + _SAVE_SECONDS, False
        while problem is None and not over:
            over = bool(ray.wait([first], timeout=_LOOK_SECONDS)[0]) or time.monotonic() > until
            problem = ray.get(channel.save_ended.remote(step), timeout=_ANSWER_SECONDS)
    except (GetTimeoutError, RayError) as error:
        say(f"   whether a checkpoint was being written is not known: {type(error).__name__}")
        return
    if problem == "":
        say(f"   the checkpoint of step {step} is committed")
    else:
        say(f"   the checkpoint of step {step} was not finished: {problem or 'its time ran out, or its process ended'}")
