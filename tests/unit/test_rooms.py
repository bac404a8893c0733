"""The heavy libraries are imported only in the files that CONTRIBUTING.md names, and within functions."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "Hydra, OmegaConf": ("hydra", "omegaconf"),
    "Ray": ("ray",),
    "DeepSpeed": ("deepspeed",),
    "MLflow": ("mlflow",),
    "boto3": ("boto3", "botocore"),
    "gguf": ("gguf",),
    "llama.cpp": ("llama_cpp", "xllamacpp"),
    "huggingface_hub": ("huggingface_hub",),
    "cuDNN's front end": ("cudnn",),
    "torchao": ("torchao",),
}


@functools.cache
def imported() -> list[tuple[str, str, bool]]:
    """File, top-level package that it imports, and whether outside functions; parsed once for all tests."""
    found: list[tuple[str, str, bool]] = []
    for folder in ("pipelines", "workflows"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            ahead: list[tuple[ast.AST, bool]] = [(ast.parse(path.read_text()), True)]
            while ahead:
                node, outside = ahead.pop()
                modules = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else []
                )
                found += [(str(path.relative_to(ROOT)), module.split(".")[0], outside) for module in modules]
                inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                ahead += [(child, outside and not inside) for child in ast.iter_child_nodes(node)]
    return found


def importers(names: tuple[str, ...]) -> dict[str, bool]:
    """Files that import one of the libraries, and whether one of them does so outside a function."""
    found: dict[str, bool] = {}
    for file, package, outside in imported():
        if package in names:
            found[file] = found.get(file, False) or outside
    return found


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_where_contributing_says_and_nowhere_else(library: str) -> None:
    (row,) = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith(f"| {library} |")]
    rooms = re.findall(r"`((?:pipelines|workflows)/[\w/.]*)`", row)
    found = importers(LIBRARIES[library])
    assert {
        name
        for name in found
        if not any(name == room or (room.endswith("/") and name.startswith(room)) for room in rooms)
    } == set()
    assert not any(found.values()), "imported outside a function"
    pages = [ROOT / "docs/design.md", *(ROOT / "docs/design").glob("*.md")]
    design = "".join(page.read_text() for page in pages)
    assert all(Path(room).name in design for room in rooms)


DATA_ROOMS = (
    "text",
    "sources",
    "cleaning",
    "dedup",
    "corpus",
    "plan",
)  # in the order of the flow, as the design lists them


@pytest.mark.parametrize("room", DATA_ROOMS)
def test_a_room_of_data_imports_only_from_those_before_it(room: str) -> None:
    later = DATA_ROOMS[DATA_ROOMS.index(room) + 1 :]
    climbs = [
        f"{path.name}: {name}"
        for path in (ROOT / "pipelines/data" / room).glob("*.py")
        for name in re.findall(r"^\s*from pipelines\.data\.(\w+)", path.read_text(), re.MULTILINE)
        if name in later
    ]
    assert climbs == []


def test_deepspeed_is_imported_in_the_two_files_that_the_design_names() -> None:
    assert set(importers(("deepspeed",))) == {
        "pipelines/train/update/engine.py",
        "pipelines/train/verification.py",
    }


@pytest.mark.parametrize(
    "workflow",
    [
        "anneal", "checkpoints", "cluster_check", "completion", "corpus", "dpo", "evaluate", "fit", "mixture", "new",
        "plan", "pretrain", "recipe", "sft", "submit", "tokenize", "ui",
    ],
)  # fmt: skip
def test_a_command_starts_without_torch_where_another_process_computes(workflow: str) -> None:
    """It takes two seconds to import, of a command that answers in one."""
    program = f"import sys, workflows.{workflow}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
