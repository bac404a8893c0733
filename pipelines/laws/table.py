"""Anyone's numbers as columns: CSV, TSV, JSON Lines, JSON.

Enters: a file. Leaves: a `Table`, columns of values as they stand there; `points.py` makes numbers of them. A nested
record of JSON has its keys joined by dots: `{"model": {"params": 1}}` has the column `model.params`.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError, DataError

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_SHOWN = 12  # columns that a refusal names


@dataclass(frozen=True)
class Table:
    """Attributes: source, for people; columns, name -> a value each row, None where it has none."""

    source: str
    columns: Mapping[str, list[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def column(self, name: str, wanted: str) -> list[Any]:
        """A column's values. Args: wanted, the law's name of it, for a refusal. Raises: ConfigError without one."""
        if name in self.columns:
            return list(self.columns[name])
        names = list(self.columns)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        raise ConfigError(
            f"{self.source} has no column {name}; it has {shown or 'none'}: write "
            f"columns.{wanted}={close[0] if close else '<name of the column>'}"
        )


def read_table(path: Path) -> Table:
    """The table of a file. Raises: ConfigError for a file that is not there or of another kind, DataError for one that
    cannot be read as what its name says."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"data={path} ends in {ending or 'nothing'}; expected one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise ConfigError(f"data={path} is not there: name a file of points, or mlflow:<query>")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text in UTF-8: {error}") from error
    if ending in (".csv", ".tsv"):
        return _of_lines(str(path), text, "\t" if ending == ".tsv" else ",")
    return table_of(str(path), _records(path, text, ending == ".json"))


def table_of(source: str, records: Iterable[Mapping[str, Any]]) -> Table:
    """Records as columns, in the order in which their keys first come."""
    rows = [_flat(record) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(source, {name: [row.get(name) for row in rows] for name in names})


def _of_lines(source: str, text: str, separator: str) -> Table:
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, line))]
    lines = [line for line in lines if not line[0].lstrip().startswith("#")]
    if not lines:
        raise DataError(f"{source} is empty; expected a line of names and a line for each point")
    header = [name.strip() for name in lines[0]]
    if all(map(_is_number, header)):
        raise DataError(f"{source}: its first line is numbers ({', '.join(header)}); expected the names of the columns")
    if len(set(header)) < len(header):
        twice = sorted({name for name in header if header.count(name) > 1})
        raise DataError(f"{source} has two columns called {', '.join(twice)}: name each once")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise DataError(
                f"{source}: line {number} has {len(line)} values, and the first line names {len(header)} columns: mend "
                "it"
            )
    return Table(source, {name: [line[place].strip() for line in lines[1:]] for place, name in enumerate(header)})


def _records(path: Path, text: str, whole: bool) -> Sequence[Mapping[str, Any]]:
    try:
        records = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"{path} is no {'JSON' if whole else 'JSON Lines'}: {error}") from error
    if not isinstance(records, list) or not all(isinstance(record, Mapping) for record in records):
        raise DataError(f"{path} holds something else than records; expected one {{…}} for each point")
    return records


def _flat(record: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
