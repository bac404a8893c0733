"""Every config key that a message names exists: `set schedule.decay_steps=0` must be something that can be set.

And no article stands before what is filled in: "is a evaluate" would be read one day.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import parts_of
from tests.unit.test_ranges import classes_in, config_classes

ROOT = Path(__file__).parents[2]
_ASSIGNED = re.compile(r"(?<![\w./?&$\"'}-])([a-z_]+(?:\.[a-z_]+)*)=(?![\"'=])")
_DOTTED = re.compile(r"(?<![\w./@:-])([a-z_]+(?:\.[a-z_]+)+)(?![\w/(])")
# what looks like a key and is none of ours
_OTHERS = {
    "key": "the word itself, in advice on how to write an override",
    "group": "likewise", "group.key": "likewise",
    "keep": "compute.keep, in the announcement's line about memory",
    "bytes": "a header of HTTP",
    "hydra.run.dir": "Hydra's own", "hydra.sweep.dir": "Hydra's own", "hydra.output_subdir": "Hydra's own",
    "hydra.searchpath": "Hydra's own",
}  # fmt: skip
# modules whose strings are texts to test with, code to show, or HTML
_TEXTS = (
    "pipelines/data/tokens/tokenizer.py",
    "pipelines/data/tokens/chat.py",
    "pipelines/train/results/model_card.py",
    "pipelines/train/results/sample_question.py",
    "pipelines/display/charts.py",
    "workflows/completion.py",
)


def accepted() -> tuple[set[str], set[str]]:
    """Dotted paths of all workflows' configs, and those below which any name may stand (a mapping's keys)."""
    paths: set[str] = set()
    open_: set[str] = set()
    for config in config_classes():
        walk(config, "", paths, open_)
    return paths, open_


def walk(cls: type, where: str, paths: set[str], open_: set[str]) -> None:
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if name not in {field.name for field in dataclasses.fields(cls)}:  # type: ignore[arg-type]
            continue
        path = f"{where}{name}"
        paths.add(path)
        if typing.get_origin(hint) is dict and (rows := parts_of(hint)):
            for row, inner_hint in rows.items():
                paths.add(f"{path}.{row}")
                for inner in classes_in(inner_hint):
                    walk(inner, f"{path}.{row}.", paths, open_)
            continue
        if "dict" in str(hint):
            open_.add(path)
        for inner in classes_in(hint):
            walk(inner, f"{path}.", paths, open_)


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Every string of a module that is no docstring, with a placeholder for what is filled in."""
    tree = ast.parse(path.read_text())
    passed = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed |= {id(part) for part in node.values}
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in passed:
            yield node.lineno, node.value


PATHS, OPEN = accepted()
ROOTS = {path for path in PATHS if "." not in path}
GROUPS = {path.split(".")[0] for path in PATHS if "." in path}


def unknown_in(text: str) -> list[str]:
    """Keys that a text names and that no workflow takes."""
    # a command's arguments of another program, and what stands in an HTML tag
    text = re.sub(r"<[^<>]*>|https?://\S+|\?[a-z]+=\S*|\S+\.(json|safetensors|weight)\b", " ", text)
    named = {match[1] for match in _ASSIGNED.finditer(text)}
    named |= {match[1] for match in _DOTTED.finditer(text) if match[1].split(".")[0] in GROUPS}
    return sorted(
        name
        for name in named
        if name not in PATHS and name not in _OTHERS and not any(name.startswith(f"{path}.") for path in OPEN)
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["it was not measured (dedup.quality_report=false)", "set decay_steps=0", "schedule.peek_lr is 3"]
)
def test_a_key_that_is_not_there_is_seen(text: str) -> None:
    assert unknown_in(text)


@pytest.mark.parametrize(
    "text", ["set schedule.decay_steps=0, or {}=3", "corpus.sources.web.reader.path=x", "conf/corpus/a.yaml"]
)
def test_one_that_is_there_is_not(text: str) -> None:
    assert not unknown_in(text)


def test_every_key_that_a_message_names_exists() -> None:
    wrong: dict[str, Any] = {}
    for folder in ("pipelines", "workflows"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            for line, text in messages(path) if name not in _TEXTS else ():
                if "import " in text:  # a program of its own, such as what cluster_check runs on a node
                    continue
                if unknown := unknown_in(text):
                    wrong[f"{name}:{line}"] = unknown
    assert not wrong


_FILLED = re.compile(r"\b[Aa]n? \{\}")
_BEFORE_VOWEL = re.compile(r"\b[Aa] (?!one\b|once\b|u[nst]|eu)[aeio][a-z]+", re.ASCII)


@pytest.mark.parametrize("text", ["parent={} is a {}", "an {} of", "it is a evaluate", "A export that"])
def test_a_wrong_article_is_seen(text: str) -> None:
    assert _FILLED.search(text) or _BEFORE_VOWEL.search(text)


def test_no_message_has_an_article_that_may_be_wrong() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}:{line}": text
        for folder in ("pipelines", "workflows")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in messages(path)
        if _FILLED.search(text) or (_BEFORE_VOWEL.search(text) and " " in text and "import " not in text)
    }
    assert not wrong
