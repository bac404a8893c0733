"""What the fields of a record may hold: text is a string, and nothing else is made one.

Enters: a value of a record. Leaves: the value, or `Unfit` with the reason for which the record is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Unfit(Exception):
    """The record is not of the shape that its kind reads; `reason` names how."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def object_of(record: Any) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise Unfit("records.not_an_object")
    return record


def list_of(value: Any) -> list[Any]:
    """A list; what is missing is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unfit("records.not_a_list")
    return value


def text_of(value: Any) -> str:
    """A string; what is missing is an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unfit("records.not_text")
    return value


def first_text(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The text under the first of the names that has any."""
    return next((text for text in (text_of(record.get(name)) for name in names) if text), "")
