"""What rank processes say, carried to the driver and printed there as it comes.

The channel is an actor beside the driver, so that lines outlive the processes and machines that said them.
"""

from __future__ import annotations

import threading
from typing import Any

from pipelines.progress import say

_ANSWER_SECONDS = 10.0  # for the channel's answer; more on a machine with much to do
_PATIENCE = 12  # times that, until the channel is taken for lost
_LOOK_SECONDS = 0.5  # how long the channel waits for a line before it answers that there is none


class Channel:
    """An actor that carries lines from rank processes to the driver, and outlives both ranks and their machines."""

    def __init__(self) -> None:
        import asyncio

        self.lines: list[str] = []
        self.come = asyncio.Event()

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


class Listener:
    """Prints what the channel carries, from a thread beside the driver's wait for the ranks."""

    def __init__(self, channel: Any):
        self.channel = channel
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
                say(line)
            if last:
                return
