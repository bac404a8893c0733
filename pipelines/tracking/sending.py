"""Items of a spool to their run: what MLflow will never take is found by halves, named, and left out.

Enters: a server, the header of a run with its id, and items (`tracker.py` makes them). Leaves: how many were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.tracking.errors import first_line, kind_of
from pipelines.tracking.making import Server, alive, ended, evaluated, lost
from pipelines.tracking.registry import register

_LARGEST_STEP = 2**63 - 1  # what MLflow's databases hold


def send(
    server: Server, run: Mapping[str, Any], items: Sequence[Mapping[str, Any]], tell: Callable[[str], None]
) -> int:
    """Send items to their run. What MLflow will never take is told by name and left out.

    Returns: how many items were left out, in whole or in part. Raises: Deleted; whatever a server that is away makes
        MLflow raise.
    """
    refused: dict[int, str] = {}
    rows = [(i, row) for i, item in enumerate(items) for row in item.get("metrics", [])]
    for first in range(0, len(rows), 900):  # MLflow takes at most 1,000 a call
        _send_metrics(server, run, rows[first : first + 900], refused)
    for i, item in enumerate(items):
        calls: dict[str, Callable[[], Any]] = {
            f"tag {name}": partial(server.client.set_tag, run["run_id"], name, value)
            for name, value in item.get("tags", {}).items()
        }
        if "file" in item and not Path(item["file"]).exists():
            refused[i] = f"the file {item['file']}: it is not on this machine any more"
        elif "file" in item:
            calls[f"file {item['file']}"] = partial(
                server.client.log_artifact, run["run_id"], item["file"], item["folder"] or None
            )
        if "evaluated" in item:
            calls[f"evaluation of {item['evaluated']}"] = partial(evaluated, server, run, item)
        if "model" in item:
            calls["registration of the model"] = partial(register, server, run, item["model"])
        if "end" in item:
            calls["end"] = partial(ended, server, run, run["run_id"], item)
        if "lost" in item:
            calls["end"] = partial(lost, server, run, run["run_id"], item["lost"])
        for name, call in calls.items():
            _unless_invalid(server, run, i, name, refused, call)
    if refused:
        tell(
            f"   MLflow cannot take {len(refused)} of {len(items)} entries of {run['folder']}, first "
            f"{next(iter(refused.values()))}"
        )
    return len(refused)


def entries(count: int) -> str:
    """`1 entry`, `7 entries`."""
    return f"{count:,} {'entry' if count == 1 else 'entries'}"


def _send_metrics(
    server: Server, run: Mapping[str, Any], rows: Sequence[tuple[int, Any]], refused: dict[int, str]
) -> None:
    """Log rows of metrics; one that is refused is searched for by halves, so that it costs the others nothing."""

    def log() -> None:
        if any(abs(row[3]) > _LARGEST_STEP for _, row in rows):
            raise OverflowError(f"its step has more than 64 bits; accepted are those up to {_LARGEST_STEP}")
        server.log_metrics(run["run_id"], [row for _, row in rows])

    if len(rows) == 1:
        (i, (name, _, _, step)) = rows[0]
        _unless_invalid(server, run, i, f"metric {name!r} at step {step}", refused, log)
        return
    try:
        log()
    except Exception as error:
        if kind_of(error) != "invalid":
            raise
        half = len(rows) // 2
        _send_metrics(server, run, rows[:half], refused)
        _send_metrics(server, run, rows[half:], refused)


def _unless_invalid(
    server: Server, run: Mapping[str, Any], i: int, name: str, refused: dict[int, str], call: Callable[[], Any]
) -> None:
    """Send one thing; where MLflow will never take it, note that under the number of its item."""
    try:
        call()
    except Exception as error:
        if kind_of(error) != "invalid":
            raise
        alive(server, run, run["run_id"])  # a deleted run is refused in the same words
        refused[i] = f"the {name}: {first_line(error)}"
