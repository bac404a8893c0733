"""What an evaluation left, as tables and numbers, whatever its tasks are.

Enters: the content of `results.json`, where each task's numbers stand beside the words that they are read with
(`pipelines/train/tasks/task.py` says which). Leaves: cells of tables, lines, metrics. No task is known here by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.display.progress import say, table

Content = Mapping[str, Any]  # of results.json, or of one task in it


def numbers(results: Content | None) -> dict[str, Content]:
    """The summaries' numbers of all tasks: name -> value and how it is read."""
    tasks = (results or {}).get("tasks", {})
    return {name: number for task in tasks.values() for name, number in task["numbers"].items()}


def values(results: Content) -> dict[str, float | None]:
    """The same, the values alone."""
    return {name: number["value"] for name, number in numbers(results).items()}


def metrics(results: Content) -> dict[str, float]:
    """Every number that there is, under the name that MLflow shows."""
    told = values(results)
    for task in results["tasks"].values():
        for key, column in task["columns"].items():
            if column["metric"]:
                told.update({f"{column['metric']}/{name}": row[key] for name, row in task["rows"].items()})
    return {name: value for name, value in told.items() if value is not None}


def shown(value: Any, share: bool, digits: int) -> Any:
    """A value as a cell of a table: a share in percent, another number rounded."""
    if share and value is not None:
        return f"{value:.1%}"
    return round(value, digits) if isinstance(value, float) else value


def task_table(task: Content, digits: int) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of a task: its own rows, and below them the numbers that sum up a column."""
    columns = task["columns"]
    rows = [
        [name, *(shown(row[key], column["share"], digits) for key, column in columns.items())]
        for name, row in task["rows"].items()
    ]
    totals: dict[str, dict[str, Any]] = {}  # label -> column -> cell
    for number in task["numbers"].values():
        if number["column"] and number["value"] is not None:
            cells = totals.setdefault(number["label"], {})
            cells[number["column"]] = shown(number["value"], number["share"], digits)
    rows += [[label, *(cells.get(key) for key in columns)] for label, cells in totals.items()]
    return [task["row"], *(column["heading"] for column in columns.values())], rows


def lone_numbers(task: Content, digits: int) -> list[str]:
    """The numbers that sum up no column, a sentence each."""
    lines = []
    for number in task["numbers"].values():
        if not number["column"] and number["value"] is not None:
            value = shown(number["value"], number["share"], digits)
            lines.append(f"{number['label']}: {value} {number['unit']} ({number['better']} is better)")
    return lines


def print_results(results: Content) -> None:
    """Print every task: its table, its numbers, what was not measured, and its samples."""
    for task in results["tasks"].values():
        header, rows = task_table(task, digits=4)
        if rows:
            say(f"   {task['title']}")
            say(table(header, rows) + "\n")
        for line in lone_numbers(task, digits=4):
            say(f"   {line}")
        for name, reason in task["unmeasured"].items():
            say(f"   {name} was not measured: {reason}")
        for sample in task["samples"]:
            say(f"   {sample['prompt']!r} ({sample['note']}) → {sample['text']!r}")
