"""What the tree looks like: sizes, long lines, circles, imports that point up, lines that stand twice.

    python -m benchmarks.structure                    this tree
    python -m benchmarks.structure ../before .        two trees beside each other

Enters: folders of the project. Leaves: a table in Markdown, a column a tree. Counted are `pipelines/` and `workflows/`;
imports inside functions count as imports. An import points up when a room below imports one above it (`LEVELS`). Lines
stand twice when at least six in a row, blank lines and indentation aside, stand so elsewhere too.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

LEVELS = (  # from the ground up; a module belongs to the longest prefix that fits
    ("pipelines.config", "pipelines.errors", "pipelines.identity", "pipelines.uris"),
    ("pipelines.display",),
    ("pipelines.laws",),
    ("pipelines.store",),
    ("pipelines.cluster", "pipelines.tracking"),
    ("pipelines.data",),
    ("pipelines.train",),
    ("workflows",),
)
_LONGEST = 120
_ALIKE = 6  # lines in a row


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module below `pipelines` and `workflows`."""
    files = (path for folder in ("pipelines", "workflows") for path in (root / folder).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports(files: dict[str, Path]) -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports, but for the type checker alone."""
    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        named: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and id(node) not in typing_only:
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing_only:
                inner_modules = {f"{node.module}.{alias.name}" for alias in node.names} & set(files)
                # `from package import module` needs the package's own file only for names that are no modules
                named |= inner_modules or {node.module}
        edges[name] = (named & set(files)) - {name}
    return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, in a round: strongly connected components of more than one (Tarjan)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    open_modules: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        open_modules.append(name)
        for other in sorted(edges[name]):
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in open_modules:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            at = open_modules.index(name)
            group = open_modules[at:]
            del open_modules[at:]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return groups


def room(module: str) -> str:
    """The folder that a module stands in; within `pipelines.data` and `pipelines.train` the folder there."""
    parts = module.split(".")
    deep = len(parts) > 2 and parts[1] in ("data", "train")
    return ".".join(parts[:3] if deep else parts[:2]) if parts[0] == "pipelines" else parts[0]


def between_rooms(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports of whole rooms."""
    rooms: dict[str, set[str]] = {room(name): set() for name in edges}
    for name, others in edges.items():
        rooms[room(name)] |= {room(other) for other in others} - {room(name)}
    return rooms


def level(module: str) -> int:
    """The place of a module's room in `LEVELS`; -1 where no room is named."""
    for place, rooms in enumerate(LEVELS):
        if any(module == room or module.startswith(f"{room}.") for room in rooms):
            return place
    return -1


def upward(edges: dict[str, set[str]]) -> list[str]:
    """`module -> module` for every import of a room above."""
    return sorted(
        f"{name} -> {other}" for name, others in edges.items() for other in others if level(other) > level(name) >= 0
    )


def function_lengths(files: dict[str, Path]) -> list[int]:
    """Lines of every function and method."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def standing_twice(files: dict[str, Path]) -> int:
    """Lines in stretches of at least six that stand elsewhere too, imports aside."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, path in files.items():
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if line and not line.startswith(("import ", "from "))]
        for at in range(len(lines) - _ALIKE + 1):
            places[tuple(lines[at : at + _ALIKE])].append((name, at))
    twice = {(name, at + i) for spots in places.values() if len(spots) > 1 for name, at in spots for i in range(_ALIKE)}
    return len(twice)


def measured(root: Path) -> dict[str, str]:
    """Label -> figure of one tree."""
    files = modules(root)
    edges = imports(files)
    between = between_rooms(edges)
    texts = [path.read_text(encoding="utf-8").splitlines() for path in files.values()]
    sizes, functions = [len(text) for text in texts], function_lengths(files)
    return {
        "files": f"{len(files)}",
        "lines": f"{sum(sizes):,}",
        "lines of a file: median, 90th percentile, most": _spread(sizes),
        "lines of a function: median, 90th percentile, most": _spread(functions),
        f"lines over {_LONGEST} columns": f"{sum(len(line) > _LONGEST for text in texts for line in text):,}",
        "circles of modules, modules in them": f"{len(circles(edges))}, {sum(map(len, circles(edges)))}",
        "circles of rooms, rooms in them": f"{len(circles(between))}, {sum(map(len, circles(between)))}",
        "imports that point up": f"{len(upward(edges))}",
        "lines that stand twice": f"{standing_twice(files):,}",
        "YAML files, lines": _yaml(root),
    }


def _yaml(root: Path) -> str:
    paths = list((root / "conf").rglob("*.yaml"))
    return f"{len(paths)}, {sum(len(path.read_text(encoding='utf-8').splitlines()) for path in paths):,}"


def _spread(values: list[int]) -> str:
    return f"{statistics.median(values):g}, {sorted(values)[int(0.9 * len(values))]}, {max(values)}"


def _rows(roots: list[Path]) -> Iterator[str]:
    columns = [measured(root) for root in roots]
    yield "| | " + " | ".join(str(root) for root in roots) + " |"
    yield "|---|" + "---|" * len(roots)
    for label in columns[0]:
        yield f"| {label} | " + " | ".join(column[label] for column in columns) + " |"


def main() -> None:
    """Entry point."""
    roots = [Path(argument) for argument in sys.argv[1:]] or [Path()]
    print("\n".join(_rows(roots)))
    for root in roots:
        edges = imports(modules(root))
        for group in (*circles(edges), *circles(between_rooms(edges))):
            print(f"{root}: circle: {' '.join(group)}")
        for line in upward(edges):
            print(f"{root}: up: {line}")


if __name__ == "__main__":
    main()
