"""`10d`, `36h`, `90m`: how long a plan may take."""

from __future__ import annotations

import re

from pipelines.errors import ConfigError

_HOURS = {"m": 1 / 60, "h": 1.0, "d": 24.0, "w": 168.0}


def deadline_hours(text: str) -> float:
    """Hours. Raises: ConfigError for anything else than a number above 0 and a unit."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mhdw])\s*", text)
    if match is None or not float(match[1]):
        raise ConfigError(
            f"deadline is {text!r}; expected a number above 0 and a unit, m, h, d or w: e.g. deadline=10d"
        )
    return float(match[1]) * _HOURS[match[2]]
