"""A problem, its worked solution, and wrong answers that are known to be wrong.

Enters: a verifier. Leaves: answers it accepts and answers it refuses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

_TRIES = 50


@dataclass(frozen=True)
class Problem:
    """`verify(answer)` tells right from wrong; `steps` may be empty where no derivation is known."""

    task: str
    question: str
    steps: str
    answer: str
    verify: Callable[[str], bool]

    def wrong_answer(self, chooser: random.Random) -> str:
        """An answer of the right one's form that the verifier refuses.

        Raises: ValueError when no distortion of the answer is refused, which would be a fault of the task.
        """
        for _ in range(_TRIES):
            candidate = _distort(self.answer, chooser)
            if candidate != self.answer and not self.verify(candidate):
                return candidate
        raise ValueError(f"no wrong answer found for {self.task}: {self.question!r} -> {self.answer!r}")


def _distort(answer: str, chooser: random.Random) -> str:
    numbers = list(re.finditer(r"\d+", answer))
    if numbers:  # one number off by a little, by ten, or with two digits exchanged
        chosen = chooser.choice(numbers)
        value = int(chosen[0])
        new = chooser.choice(
            [value + chooser.randint(1, 5), value + 10, max(0, value - chooser.randint(1, 5)), int(chosen[0][::-1])]
        )
        return answer[: chosen.start()] + str(new) + answer[chosen.end() :]
    swaps = {"Yes": "No", "No": "Yes", "True": "False", "False": "True"}
    if answer in swaps:
        return swaps[answer]
    letters = list(answer)
    if len(letters) > 1:  # two neighbours exchanged, or one letter lost
        i = chooser.randrange(len(letters) - 1)
        if chooser.random() < 0.5:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
        else:
            del letters[i]
    return "".join(letters)
