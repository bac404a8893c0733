"""Generated problems: item i depends on nothing but the seed and i; right answers are right and wrong ones wrong."""

import ast
import random
import re

import pytest

from pipelines.data.sources import problems_en, problems_zh
from pipelines.data.sources.generators import GENERATORS


@pytest.mark.parametrize("name", GENERATORS)
def test_any_range_is_the_same_text(name: str) -> None:
    make = GENERATORS[name].make
    whole = list(make((), 5, 0, 60))
    assert list(make((), 5, 40, 60)) == whole[40:]
    assert list(make((), 6, 0, 60)) != whole
    assert len({text for text, _ in whole}) > 50


@pytest.mark.parametrize("language", [problems_en, problems_zh])
def test_the_verifier_tells_right_from_wrong(language: object) -> None:
    chooser = random.Random(0)
    for problem in language.problems((), 3, 0, 190):  # type: ignore[attr-defined]
        assert problem.verify(problem.answer), problem
        assert not problem.verify(problem.wrong_answer(chooser)), problem


def test_every_written_step_is_true() -> None:
    """Every `a op b = c` in a worked solution, computed again."""
    checked = 0
    for language in (problems_en, problems_zh):
        for problem in language.problems((), 9, 0, 400):
            text = problem.steps.replace("×", "*").replace("÷", "/")
            for left, right in re.findall(
                r"((?:-?\d+|\([-+\d ]+\))(?: [-+*/] (?:-?\d+|\([-+\d ]+\)))+) = (-?\d+(?: [-+*] \d+)*)(?! "
                r"余)(?=[.。，；元千米页条岁天 ]|$)",
                text,
            ):
                assert calculate(left) == calculate(right), (problem.task, problem.steps)
                checked += 1
    assert checked > 500


def test_preferences_differ_only_in_the_end() -> None:
    for _, pair in GENERATORS["chinese_judged"].make((), 1, 0, 100):
        assert pair["chosen"] != pair["rejected"]
        if pair["error"] == "last step":
            assert pair["chosen"].rsplit("答案是", 1)[0] == pair["rejected"].rsplit("答案是", 1)[0]


def calculate(expression: str) -> float:
    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body):
                return value(body)
            case ast.Constant(number):
                return float(number)  # type: ignore[arg-type]
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.BinOp(left, operator, right):
                a, b = value(left), value(right)
                return {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b, ast.Div: a / b if b else 0.0}[type(operator)]
        raise ValueError(expression)

    return value(ast.parse(expression, mode="eval"))
