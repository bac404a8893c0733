"""Text that is made rather than read: problems whose answers a program can check.

Enters: a generator's name, a seed and a range of indices. Leaves: documents, conversations or preference pairs. Item i
is a function of (tasks, seed, i), so any range can be made anywhere, in any order, and is the same.

    english_problems, chinese_problems   documents: a problem, its worked solution, its answer
    english_tutoring, chinese_tutoring   conversations: the problem asked, the solution answered
    english_judged, chinese_judged       preferences: a right answer and one that the verifier calls wrong
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.sources import problems_en, problems_zh
from pipelines.data.sources.problem import Problem
from pipelines.data.text.document import render

Problems = Callable[[Sequence[str], int, int, int], Iterator[Problem]]
Item = tuple[str, dict[str, Any]]

_LAYOUTS = {
    "en": (
        "Problem: {question}\n\nSolution: {steps}\n\nAnswer: {answer}",
        "Question: {question}\nLet us work it out. {steps}\nSo the answer is {answer}.",
        "{question}\n\n{steps}\n\nThe answer is {answer}.",
    ),
    "zh": (
        "题目：{question}\n\n解：{steps}\n\n答：{answer}。",
        "问：{question}\n我们一步一步来算。{steps}\n所以答案是{answer}。",
        "{question}\n\n{steps}\n\n答案是{answer}。",
    ),
}
_BARE = {"en": "Problem: {question}\n\nAnswer: {answer}", "zh": "题目：{question}\n\n答：{answer}。"}  # no steps known
_REPLY = {"en": "{steps}\nThe answer is {answer}.", "zh": "{steps}\n答案是{answer}。"}
_GUESS = {"en": "The answer is {answer}.", "zh": "答案是{answer}。"}


@dataclass(frozen=True)
class Generator:
    """The kind of source it makes, the tasks it knows, and (tasks, seed, start, stop) to (text, metadata)."""

    kind: str
    tasks: tuple[str, ...]
    make: Callable[[Sequence[str], int, int, int], Iterator[Item]]


def _documents(language: str, problems: Problems) -> Callable[[Sequence[str], int, int, int], Iterator[Item]]:
    def make(tasks: Sequence[str], seed: int, start: int, stop: int) -> Iterator[Item]:
        for index, problem in enumerate(problems(tasks, seed, start, stop), start):
            layout = _chooser(seed, index).choice(_LAYOUTS[language]) if problem.steps else _BARE[language]
            text = layout.format(question=problem.question, steps=problem.steps, answer=problem.answer)
            yield text, {"task": problem.task}

    return make


def _conversations(language: str, problems: Problems) -> Callable[[Sequence[str], int, int, int], Iterator[Item]]:
    def make(tasks: Sequence[str], seed: int, start: int, stop: int) -> Iterator[Item]:
        for problem in problems(tasks, seed, start, stop):
            reply = _REPLY[language].format(steps=problem.steps, answer=problem.answer).strip()
            turns = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": reply}]
            yield render(turns), {"messages": turns, "task": problem.task, "answer": problem.answer}

    return make


def _preferences(language: str, problems: Problems) -> Callable[[Sequence[str], int, int, int], Iterator[Item]]:
    """Half of the rejected answers are bare wrong guesses, half keep the form of the right one and end wrong."""

    def make(tasks: Sequence[str], seed: int, start: int, stop: int) -> Iterator[Item]:
        for index, problem in enumerate(problems(tasks, seed, start, stop), start):
            chooser = _chooser(seed, index)
            wrong = problem.wrong_answer(chooser)
            chosen = _REPLY[language].format(steps=problem.steps, answer=problem.answer).strip()
            guessed = chooser.random() < 0.5
            rejected = (_GUESS if guessed else _REPLY)[language].format(steps=problem.steps, answer=wrong).strip()
            prompt = [{"role": "user", "content": problem.question}]
            notes = {"task": problem.task, "error": "guess" if guessed else "last step"}
            yield (
                "\n".join((render(prompt), chosen, rejected)),
                {
                    "prompt": prompt,
                    "chosen": chosen,
                    "rejected": rejected,
                    **notes,
                    "right": problem.answer,
                    "wrong": wrong,
                },
            )

    return make


def _chooser(seed: int, index: int) -> random.Random:
    return random.Random(seed * 1_000_003 + index)


GENERATORS = {
    "english_problems": Generator("documents", problems_en.TASKS, _documents("en", problems_en.problems)),
    "english_tutoring": Generator("conversations", problems_en.TASKS, _conversations("en", problems_en.problems)),
    "english_judged": Generator("preferences", problems_en.TASKS, _preferences("en", problems_en.problems)),
    "chinese_problems": Generator("documents", problems_zh.TASKS, _documents("zh", problems_zh.problems)),
    "chinese_tutoring": Generator("conversations", problems_zh.TASKS, _conversations("zh", problems_zh.problems)),
    "chinese_judged": Generator("preferences", problems_zh.TASKS, _preferences("zh", problems_zh.problems)),
}
