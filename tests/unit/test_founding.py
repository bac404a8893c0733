"""No default of a config changes unmarked: what was made with the old one would be taken for made with the new one.

`founding_defaults.json` holds what each field's default was when the field was added. A field that is missing there is
new: write it in with `python -m tests.unit.test_founding`. A field that differs has changed: declare it with
    `changed(new, founding=old)`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.identity import founding_defaults
from tests.unit.test_ranges import config_classes, fields_of

TABLE = Path(__file__).with_name("founding_defaults.json")


def founded() -> dict[str, Any]:
    """The founding default of every field of every config that there is, by its class."""
    seen: set[type] = set()
    for config in config_classes():
        list(fields_of(config, seen))
    return {
        f"{cls.__qualname__}.{name}": json.loads(json.dumps(default))
        for cls in sorted(seen, key=lambda cls: cls.__qualname__)
        for name, default in sorted(founding_defaults(cls).items())
    }


def test_no_default_has_changed_unmarked() -> None:
    recorded = json.loads(TABLE.read_text(encoding="utf-8"))
    now = founded()
    changed = {
        name: (recorded[name], now[name]) for name in now.keys() & recorded.keys() if now[name] != recorded[name]
    }
    assert changed == {}, "declare each with changed(new, founding=old): pipelines/config.py"
    assert now.keys() - recorded.keys() == set(), "new fields: python -m tests.unit.test_founding writes them down"


def test_every_config_has_a_name_of_its_own() -> None:
    """The table is by name."""
    seen: set[type] = set()
    for config in config_classes():
        list(fields_of(config, seen))
    assert len({cls.__qualname__ for cls in seen}) == len(seen)


if __name__ == "__main__":
    # what is recorded stays: a changed default is marked, and not written over
    kept = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    now = founded()
    table = {name: kept.get(name, now[name]) for name in now}
    TABLE.write_text(json.dumps(table, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
