"""English problems from reasoning-gym (Apache-2.0), each with its steps where the steps are known.

Enters: tasks, a seed, a range of indices. Leaves: problems with reasoning-gym's own answer and verifier
(`score_answer`).

gsm_symbolic is left out: its templates descend from GSM8K's test items, and a model trained on them could not be
measured on GSM8K any more. Numbers are kept small where the task allows: these are problems for small models.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipelines.data.sources.problem import Problem

Entry = dict[str, Any]

_SETTINGS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "leg_counting": {"min_animals": 1, "max_animals": 3, "max_instances": 6},
    "gcd": {"max_value": 120},
    "lcm": {"max_value": 40},
    "simple_equations": {"max_terms": 3, "max_value": 30},
    "spell_backward": {"min_word_len": 3, "max_word_len": 7},
    "letter_counting": {"min_words": 3, "max_words": 8},
    "fraction_simplification": {"max_value": 60, "max_factor": 20, "styles": ["plain"]},
    "prime_factorization": {"max_value": 300},
    "count_bits": {"max_n": 4095},
    "base_conversion": {"max_value": 500, "max_base": 16},
    "calendar_arithmetic": {},
    "word_sorting": {"min_words": 3, "max_words": 6},
    "number_filtering": {"max_numbers": 6},
    "syllogism": {},
    "aiw": {},
    "caesar_cipher": {"max_words": 6},
    "sentence_reordering": {"max_words_in_sentence": 8},
}
TASKS = tuple(_SETTINGS)


def problems(tasks: Sequence[str], seed: int, start: int, stop: int) -> Iterator[Problem]:
    """Problems number `start` to `stop`; tasks take turns, all of them when `tasks` is empty."""
    names = list(tasks) or list(TASKS)
    for index in range(start, stop):
        name = names[index % len(names)]
        dataset = _dataset(name, seed)
        entry = dataset[index // len(names)]
        question = " ".join(part for part in re.split(r"[ \t]*\n+", entry["question"].strip()) if part)
        steps = _STEPS[name](entry) if name in _STEPS else ""
        yield Problem(name, question, steps, entry["answer"], functools.partial(_is_right, dataset, entry))


def _is_right(dataset: Any, entry: Entry, answer: str) -> bool:
    return bool(dataset.score_answer(answer, entry) >= 1.0)


@functools.cache
def _dataset(name: str, seed: int) -> Any:
    import reasoning_gym

    make: Any = reasoning_gym.create_dataset
    return make(name, size=1 << 40, seed=seed, **_SETTINGS[name])


def _chain_sum(entry: Entry) -> str:
    terms = entry["metadata"]["expression"].split()
    total, lines = int(terms[0]), []
    for sign, term in zip(terms[1::2], terms[2::2], strict=True):
        result = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total} {sign} {term} = {result}.")
        total = result
    return " ".join(lines)


def _products(entry: Entry) -> str:
    left, right = (int(n) for n in entry["metadata"]["expression"].split(" * "))
    digits = [int(d) * 10**i for i, d in enumerate(reversed(str(right))) if d != "0"][::-1]
    if len(digits) < 2:
        return f"{left} * {right} = {left * right}."
    parts = [f"{left} * {digit} = {left * digit}." for digit in digits]
    return " ".join(parts) + f" {' + '.join(str(left * digit) for digit in digits)} = {left * right}."


def _legs(entry: Entry) -> str:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    counts = entry["metadata"]["animals"]
    lines = [
        f"One {animal} has {ANIMALS[animal]} legs: {n} * {ANIMALS[animal]} = {n * ANIMALS[animal]}."
        for animal, n in counts.items()
    ]
    sums = [str(n * ANIMALS[animal]) for animal, n in counts.items()]
    return " ".join(lines) + (f" {' + '.join(sums)} = {entry['answer']}." if len(sums) > 1 else "")


def _gcd(entry: Entry) -> str:
    a, b = sorted(entry["metadata"]["numbers"], reverse=True)
    lines = []
    while b:
        lines.append(f"{a} = {a // b} * {b} + {a % b}.")
        a, b = b, a % b
    return " ".join(lines) + f" The last divisor is {a}."


def _lcm(entry: Entry) -> str:
    a, b = entry["metadata"]["numbers"]
    common = math.gcd(a, b)
    return f"{a} * {b} = {a * b}. The greatest common divisor is {common}. {a * b} / {common} = {a * b // common}."


def _equation(entry: Entry) -> str:
    numbers = entry["metadata"]
    left, right = numbers["equation"].replace(numbers["variable"], f"({entry['answer']})").split(" = ")
    return f"Put {numbers['variable']} = {entry['answer']} into the equation: {left} is {right}, as asked."


def _backward(entry: Entry) -> str:
    word = entry["metadata"]["word"]
    return f"The letters are {' '.join(word)}. Backward they are {' '.join(word[::-1])}."


def _letters(entry: Entry) -> str:
    letter = entry["metadata"]["target_letter"]
    counts = [(word, word.lower().count(letter)) for word in entry["metadata"]["span"]]
    counted = [f"{word} has {n}" for word, n in counts if n]
    return ("; ".join(counted) + ".") if counted else f"No word has the letter {letter}."


def _fraction(entry: Entry) -> str:
    numbers = entry["metadata"]
    factor = numbers["reduction_factor"]
    return (
        f"Both numbers can be divided by {factor}: {numbers['numerator']} / {factor} = "
        f"{numbers['simplified_numerator']} and {numbers['denominator']} / {factor} = "
        f"{numbers['simplified_denominator']}."
    )


def _bits(entry: Entry) -> str:
    return f"In binary it is {entry['metadata']['binary']}."


def _bases(entry: Entry) -> str:
    numbers = entry["metadata"]
    return (
        f"{numbers['source_repr']} in base {numbers['source_base']} is {numbers['decimal_value']} in base 10, "
        f"which is {numbers['target_repr']} in base {numbers['target_base']}."
    )


_STEPS: dict[str, Callable[[Entry], str]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "leg_counting": _legs,
    "gcd": _gcd,
    "lcm": _lcm,
    "simple_equations": _equation,
    "spell_backward": _backward,
    "letter_counting": _letters,
    "fraction_simplification": _fraction,
    "count_bits": _bits,
    "base_conversion": _bases,
}
