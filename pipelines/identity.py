"""What decides the result of a run, and its fingerprint.

Enters: configs and plain data. Leaves: the identity, which an artifact's claim records; 16 digits of its hash; and the
lines that say what differs between two of them.

A field at its founding default is no part of an identity. Everything was made with that value before the field was
there, so adding a field makes nothing stale. The founding default is the one that the field had when it was added
(`pipelines.config.changed` records it); tests/unit/test_founding.py fails where a default changes and nobody records
it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pipelines.config import Chosen, chosen, default_of, is_config


def decisive(value: Any) -> Any:
    """`plain` without the `runtime()` fields: what decides the result, with every default written out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: decisive(getattr(value, field.name)) for field in _decisive_fields(value)}
    if isinstance(value, Mapping):
        return {str(key): decisive(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [decisive(item) for item in value]
    return value


def identity(value: Any) -> Any:
    """`decisive` without the fields of config classes that are at their founding defaults."""
    if is_config(value):
        told = {}
        for field in _decisive_fields(value):
            choice = chosen(type(value), field.name)
            own, founding = _named(getattr(value, field.name), choice), _founding(field, choice)
            if founding is dataclasses.MISSING or _canonical(own) != _canonical(founding):
                told[field.name] = own
        return told
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return decisive(value)


def with_defaults(told: Any, config: Any) -> Any:
    """An identity with the founding defaults that it leaves out, so that it reads like one that lists them.

    Args:
        told: the identity of a config, or the part of one.
        config: whose classes say which fields there are; where its values are of other classes nothing is added.
    """
    if is_config(config) and isinstance(told, Mapping):
        full = dict(told)
        for field in _decisive_fields(config):
            own = told.get(field.name, _founding(field, chosen(type(config), field.name)))
            if own is not dataclasses.MISSING:
                full[field.name] = with_defaults(own, getattr(config, field.name))
        return full
    if isinstance(config, Mapping) and isinstance(told, Mapping):
        return {key: with_defaults(item, config.get(key)) for key, item in told.items()}
    if isinstance(config, (list, tuple)) and isinstance(told, (list, tuple)) and len(config) == len(told):
        return [with_defaults(item, own) for item, own in zip(told, config, strict=True)]
    return decisive(told)


def founding_defaults(cls: type) -> dict[str, Any]:
    """The founding default of each field of a config class that has one: what `identity` leaves out."""
    fields = (field for field in dataclasses.fields(cls) if not field.metadata.get("runtime"))
    defaults = {field.name: _founding(field, chosen(cls, field.name)) for field in fields}
    return {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}


def _decisive_fields(value: Any) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(value) if not field.metadata.get("runtime"))


def _named(value: Any, choice: Chosen | None) -> Any:
    """The identity of a field's value; with the name of its row, which the row's own class has as a default.

    A field may hold several values that a table chooses: each of a list or a mapping is told with its row's name.
    """
    if choice and isinstance(value, Mapping):
        return {str(key): _named(item, choice) for key, item in value.items()}
    if choice and isinstance(value, (list, tuple)):
        return [_named(item, choice) for item in value]
    told = identity(value)
    return {choice.key: getattr(value, choice.key), **told} if choice and is_config(value) else told


def _founding(field: dataclasses.Field[Any], choice: Chosen | None) -> Any:
    """The identity of a field's founding default; MISSING for a field that has to be given."""
    if "founding" in field.metadata:
        return _named(field.metadata["founding"], choice)
    default = default_of(field)
    # a config class by itself as the factory: all fields of it at *their* founding defaults, whatever these are now
    if is_config(default) and cast(Any, field.default_factory) is type(default):
        return {choice.key: getattr(default, choice.key)} if choice else {}
    return default if default is dataclasses.MISSING else _named(default, choice)


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
