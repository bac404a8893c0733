"""Passes that a recipe asks for by name, beside those that every corpus goes through (see `passes`).

Enters: nothing. Leaves: the table `FURTHER`. To add one: a file with a `Settings` class and a `run`, and a row here. A recipe asks for
it with `passes: [{name: …, …}]`; its reasons are counted, sampled and shown like all others, and the plan names what it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.config import config_class
from pipelines.data.cleaning.batch import Batch


@config_class
class FurtherSettings:
    """What every such pass is told; its own `Settings` extend this with `name: Literal["…"] = "…"`."""

    name: str


@dataclass(frozen=True)
class FurtherPass:
    """A pass that a recipe can ask for.

    Attributes: Settings, what the mapping in the recipe is parsed as. run, which drops documents of a batch for named reasons
        (`batch.drop`). again: whether documents that lost lines as boilerplate are judged anew.
    """

    Settings: type[FurtherSettings]
    run: Callable[[Batch, Any], None]
    again: bool = True


FURTHER: dict[str, FurtherPass] = {
    # name: file.PASS
}
