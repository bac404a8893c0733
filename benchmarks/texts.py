"""Text to measure on that every machine has: the documentation, docstrings and modules of the installed packages.

Leaves: documents of a few kB, deterministic for one environment, with planted near-copies whose answer is known.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path


def documents(megabytes: float, seed: int = 0) -> list[str]:
    """English technical prose: docstrings joined per module, and .rst/.md/.txt files, until `megabytes` of UTF-8."""
    roots = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    files = sorted(path for root in roots for path in root.rglob("*") if path.suffix in {".py", ".rst", ".md", ".txt"})
    random.Random(seed).shuffle(files)
    found, seen, size = [], set(), 0
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
            if path.suffix == ".py":
                text = "\n\n".join(_docstrings(text))
        except (UnicodeDecodeError, SyntaxError, ValueError, OSError, RecursionError):
            continue
        for start in range(0, len(text), 8000):
            part = text[start : start + 8000]
            if len(part) > 600 and part not in seen:
                seen.add(part)
                found.append(part)
                size += len(part.encode())
        if size > megabytes * 1e6:
            break
    return found


@dataclass(frozen=True)
class Planted:
    """Documents in a shuffled order, and which of them are near-copies of which."""

    texts: list[str]
    pairs: dict[int, list[tuple[int, int]]]  # percent of words edited -> (original, copy)


def plant(texts: list[str], every: int = 8, edits: tuple[int, ...] = (0, 1, 2, 5, 10), seed: int = 0) -> Planted:
    """Add a copy of every `every`-th text with that percentage of its words replaced; a third get a random header."""
    rng = random.Random(seed)
    vocabulary = sorted({word for text in texts[:500] for word in text.split()})
    owned: list[tuple[str, int, int]] = [(text, i, -1) for i, text in enumerate(texts)]
    for number, i in enumerate(range(0, len(texts), every)):
        percent = edits[number % len(edits)]
        words = texts[i].split(" ")
        for place in rng.sample(range(len(words)), len(words) * percent // 100):
            words[place] = rng.choice(vocabulary)
        header = " ".join(rng.choices(vocabulary, k=rng.randint(5, 15))) + "\n" if rng.random() < 1 / 3 else ""
        owned.append((header + " ".join(words), i, percent))
    order = list(range(len(owned)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    pairs: dict[int, list[tuple[int, int]]] = {percent: [] for percent in edits}
    for old, (_, original, percent) in enumerate(owned):
        if percent >= 0:
            pairs[percent].append((place[original], place[old]))
    return Planted([owned[old][0] for old in order], pairs)


def _docstrings(source: str) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        text for node in ast.walk(ast.parse(source)) if isinstance(node, kinds) and (text := ast.get_docstring(node))
    ]
