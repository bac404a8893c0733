"""The code that makes a result, as hashes in its fingerprint.

Enters: dotted names of modules. Leaves: a hash for each, and the modules of the row that a config chose from a table.

A hash tells behaviour. Comments, layout and docstrings are no part of it, nor are the annotated fields of a
`config_class`: their values are in the identity, where a field at its default is left out. So a field that is added
changes no hash, nor do the imports that only it needs. Methods and properties of such a class compute, and stay.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pipelines
from pipelines.errors import ConfigError

_ROOT = Path(pipelines.__file__).parents[1]
_ROOMS = ("pipelines", "workflows", "conf")


@functools.cache
def source_fingerprint(module: str) -> str:
    """12 hexadecimal digits over what a module does."""
    return behaviour(_tree(module))


def behaviour(tree: ast.Module) -> str:
    """12 hexadecimal digits over what a syntax tree does, which this takes to pieces."""
    tree.body = [statement for statement in tree.body if not _only_fields(statement)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and _is_config_class(node):
            node.body = [statement for statement in node.body if not _is_field(statement)]
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    _drop_unused_imports(tree)
    return hashlib.sha256(_skeleton(tree).encode()).hexdigest()[:12]


def chosen_modules(table: str, names: Iterable[str], beside: Iterable[str] = ()) -> tuple[str, ...]:
    """The modules of the rows that a config chose: those that are hashed, where the rest of the table is not.

    A row's modules are the one that the table imports it from, and what that imports of its own package. All of it is
    read from the source: a table is a module or package with a dictionary `{"name": Row, ...}`.

    Args:
        table: dotted name of the module that holds the table, e.g. `pipelines.train.optimizers`.
        names: names of rows.
        beside: further packages whose modules are followed as those of the table's own, e.g. of batches.

    Raises: ConfigError for a name that is no row's.
    """
    modules_of = rows(table)
    wanted = list(names)
    if unknown := [name for name in wanted if name not in modules_of]:
        raise ConfigError(f"{table} has no row {', '.join(unknown)}; there are {', '.join(sorted(modules_of))}")
    if inline := [name for name in wanted if modules_of[name] == table]:
        raise ConfigError(
            f"{table} holds {', '.join(inline)} itself, and no table is hashed: give each a file of its own, and have "
            "the table only name it"
        )
    package = table if _is_package(table) else table.rpartition(".")[0]
    rooms = (package, *beside)
    modules: list[str] = []
    ahead = [modules_of[name] for name in wanted]
    while ahead:
        module = ahead.pop()
        if module not in (*modules, table):
            modules.append(module)
            ahead += [name for name in imports_of(module) if any(f"{name}.".startswith(f"{room}.") for room in rooms)]
    return tuple(sorted(modules))


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of Trunkline that a module imports, within functions too, but not for the type checker alone."""
    tree = _tree(module)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    named: set[str] = set()
    for node in ast.walk(tree):
        if id(node) not in for_types:
            named |= {origin for _, origin in _bound(node)}
            if isinstance(node, ast.ImportFrom) and node.module:
                named.add(node.module)
    return frozenset(name for name in named if name.startswith("pipelines") and _file(name) is not None)


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """The commit of this code, and whether its files differ from it; (None, None) where the code has no history.

    An environment may lie inside the checkout of something else: its commit says nothing of an installed Trunkline.
    """
    try:
        top, commit = _git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != _ROOT.resolve():
            return None, None
        # what is new in these folders decides as much as what was changed
        changed = _git("status", "--porcelain", "--", *(room for room in _ROOMS if (_ROOT / room).exists()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changed.strip())


@functools.cache
def code_version() -> str:
    """`0.1.0+1a2b3c4d5e6f` from git, with `.dirty` when files differ; the version alone outside a checkout."""
    commit, dirty = git_state()
    return pipelines.__version__ + (f"+{commit[:12]}{'.dirty' if dirty else ''}" if commit else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=True).stdout


def rows(table: str) -> dict[str, str]:
    """Row's name -> the module that the table takes the row from; the table itself where it says more than a name."""
    tree = _tree(table)
    origins = {
        name: origin if _file(origin) else origin.rpartition(".")[0]
        for node in ast.walk(tree)
        for name, origin in _bound(node)
    }
    modules: dict[str, str] = {}
    for statement in tree.body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Dict):
            for key, value in zip(statement.value.keys, statement.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    modules[key.value] = origins.get(_only_name(value) or "") or table
    return modules


def _only_name(value: ast.expr) -> str | None:
    """`lion` of `lion`, `lion.ROW` and `lion.Row()`; None for what holds anything else, which no hash would see."""
    if isinstance(value, ast.Call) and not value.args and not value.keywords:
        value = value.func
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else None


def _bound(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that an import binds, with where each comes from: `muon` of `pipelines.train.optimizers.muon`."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0], alias.name
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _is_config_class(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        isinstance(decorator, ast.Name) and decorator.id == "config_class" for decorator in node.decorator_list
    )


def _only_fields(statement: ast.stmt) -> bool:
    """Whether a statement defines a config class that computes nothing, nor inherits what does."""
    return (
        isinstance(statement, ast.ClassDef)
        and _is_config_class(statement)
        and not statement.bases
        and all(
            _is_field(inner) or (isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant))
            for inner in statement.body
        )
    )


def _is_field(statement: ast.stmt) -> bool:
    """Whether a statement of a config class is one whose value the identity tells: that of a `ClassVar` it does not."""
    return isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation)


def _drop_unused_imports(tree: ast.Module) -> None:
    """Take away the imports that nothing needs any more, once fields are gone."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        for body in (getattr(node, part, None) for part in ("body", "orelse")):
            if not isinstance(body, list):
                continue
            for statement in body:
                if isinstance(statement, (ast.Import, ast.ImportFrom)):
                    bound = (alias.asname or alias.name.split(".")[0] for alias in statement.names)
                    pairs = zip(statement.names, bound, strict=True)
                    statement.names = [alias for alias, name in pairs if name in used]
            body[:] = [
                statement
                for statement in body
                if not isinstance(statement, (ast.Import, ast.ImportFrom)) or statement.names
            ]


def _skeleton(node: Any) -> str:
    """A syntax tree as text, empty fields left out: later versions of Python add fields, and those are empty."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({','.join(f'{name}={_skeleton(value)}' for name, value in fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_skeleton, node))}]"
    return repr(node)


def _tree(module: str) -> ast.Module:
    path = _file(module)
    if path is None:
        raise ConfigError(f"cannot find the source of {module}")
    tree = ast.parse(path.read_bytes())
    package = module.split(".") if _is_package(module) else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:  # `from .helper import x`
            above = package[: len(package) + 1 - node.level]
            node.module, node.level = ".".join([*above, *filter(None, [node.module])]), 0
    return tree


@functools.cache
def _file(module: str) -> Path | None:
    """Where a module's source lies, found without importing anything; None where there is none."""
    path = _ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _is_package(module: str) -> bool:
    path = _file(module)
    return path is not None and path.name == "__init__.py"
