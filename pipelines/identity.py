"""What decides the result of a run, and its fingerprint.

Enters: configs and plain data. Leaves: the identity, which an artifact's claim records; 16 digits of its hash; and the lines
that say what differs between two of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any


def identity(value: Any) -> Any:
    """`plain` without the `runtime()` fields: what decides the result of a run."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: identity(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.metadata.get("runtime")
        }
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits of SHA-256 over the canonical JSON of `value`."""
    # names of files may hold bytes that are no UTF-8, which Python gives as lone surrogates
    return hashlib.sha256(_canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def flatten(value: Any, where: str = "") -> dict[str, Any]:
    """Dotted paths to leaves: `{"model": {"layers": 4}}` becomes `{"model.layers": 4}`."""
    if isinstance(value, Mapping) and (value or not where):
        return {
            path: leaf
            for key, item in value.items()
            for path, leaf in flatten(item, f"{where}.{key}" if where else str(key)).items()
        }
    if isinstance(value, list) and value:
        return {path: leaf for i, item in enumerate(value) for path, leaf in flatten(item, f"{where}[{i}]").items()}
    return {where: value}


def difference(before: Any, after: Any) -> list[str]:
    """One line per leaf that differs, `model.layers: 4 -> 6`, sorted by path."""
    old, new = flatten(before), flatten(after)
    absent = "(absent)"
    return [
        f"{path}: {json.dumps(old[path], ensure_ascii=False) if path in old else absent} -> "
        f"{json.dumps(new[path], ensure_ascii=False) if path in new else absent}"
        for path in sorted(set(old) | set(new))
        if (path in old) != (path in new) or old.get(path) != new.get(path)
    ]
