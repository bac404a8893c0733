"""One model in a process of its own, timed: `python -m pipelines.train.cost.process`.

Enters: a line of JSON on standard input (`Order`), then a line for each round. Leaves: a line of JSON for each, `ready`
or `timed`, or `error` with its words. Whatever a library prints goes to standard error.

A round reads a prompt that it has not read before, then decodes greedily. An answer that ends early is gone on with
behind its end, so that every round decodes as many tokens. Peak memory is this process's own high-water mark (VmHWM):
`ru_maxrss` would count what its parent had in memory when it was started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import plain
from pipelines.errors import TrunklineError
from pipelines.train.runtimes import RUNTIMES
from pipelines.train.runtimes.contract import Loaded, LoadSettings, Sampling

# the text that prompts are cut from; what it says does not change how long it takes
_TEXT = (
    "The river rose in the night, and by the morning the lower fields stood under water. "
    "话说天下大势，分久必合，合久必分。 "
    "def read(path):\n    return open(path).read()\n"
    "What is 12 plus 7? The answer is 19. 今天的天气很好，我们去公园散步吧。 "
)


@dataclass(frozen=True)
class Order:
    """What a process loads and how long its rounds are."""

    runtime: str  # a row of RUNTIMES
    path: str
    threads: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Timed:
    """One round: seconds from asking to the first token, and of the tokens behind it."""

    prompt_tokens: int
    prompt_seconds: float
    decoded_tokens: int  # behind the first
    decode_seconds: float

    @property
    def prompt_speed(self) -> float:
        """Tokens a second, the first token of the answer counted to it."""
        return self.prompt_tokens / self.prompt_seconds

    @property
    def decode_speed(self) -> float:
        return self.decoded_tokens / self.decode_seconds


def time_round(model: Loaded, prompt: list[int], new_tokens: int) -> Timed:
    """Read `prompt` and decode `new_tokens` behind it, greedily. The prompt's first id is not that of the last one."""
    ids, decoded, first = list(prompt), 0, None
    began = time.perf_counter()
    while decoded < new_tokens:
        sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=new_tokens - decoded)
        before = decoded
        for token in model.stream(ids, sampling):
            first = time.perf_counter() if first is None else first
            ids.append(token)
            decoded += 1
        if decoded < new_tokens:
            first = time.perf_counter() if first is None else first
            ids.append(model.eos)
            decoded += 1
        assert decoded > before
    ended = time.perf_counter()
    assert first is not None
    return Timed(len(prompt), first - began, decoded - 1, ended - first)


def lengths(model: Loaded, order: Order) -> tuple[int, int]:
    """Tokens of a prompt and of an answer, cut to the positions that the model has."""
    new = max(2, min(order.new_tokens, model.context // 2))
    return max(1, min(order.prompt_tokens, model.context - new - 1)), new


def prompt_of(text_ids: list[int], length: int, round_number: int, last_first: int | None) -> list[int]:
    """So many ids from another place of the text in each round, not beginning with `last_first`."""
    start = (round_number * 7) % len(text_ids)
    while text_ids[start] == last_first and len(set(text_ids)) > 1:
        start = (start + 1) % len(text_ids)
    return [text_ids[(start + place) % len(text_ids)] for place in range(length)]


def memory_bytes(key: str) -> int:
    """A line of this process's status: VmHWM, the most that it had, or VmRSS, what it has."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Load, then time a round for each line that comes, until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        order = Order(**json.loads(sys.stdin.readline()))
        before = memory_bytes("VmRSS")
        began = time.perf_counter()
        model = RUNTIMES[order.runtime].load(Path(order.path), LoadSettings(threads=order.threads))
        prompt_tokens, new_tokens = lengths(model, order)
        text_ids, last_first = model.encode(_TEXT), None
        answer(
            ready=model.runtime, load_seconds=time.perf_counter() - began, before_bytes=before, context=model.context,
            prompt_tokens=prompt_tokens, new_tokens=new_tokens,
        )  # fmt: skip
        for round_number, _ in enumerate(sys.stdin):
            prompt = prompt_of(text_ids, prompt_tokens, round_number, last_first)
            last_first = prompt[0]
            answer(timed=plain(time_round(model, prompt, new_tokens)), peak_bytes=memory_bytes("VmHWM"))
        model.close()
    except TrunklineError as error:
        answer(error=str(error))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
