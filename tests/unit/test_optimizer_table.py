"""The table of optimizers: a row that contradicts itself fails by its name, and state that would be lost is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.train.optimizers import OPTIMIZERS, check_table
from pipelines.train.optimizers.adamw import AdamWRow, AdamWSettings
from pipelines.train.optimizers.contract import OptimizerRow


class WithoutSettings(OptimizerRow):
    """Forgets its settings."""

    def build(self, groups: list[dict[str, Any]], settings: Any) -> torch.optim.Optimizer:
        raise NotImplementedError

    def bytes_kept(self, kind: str) -> int:
        return 0


def test_a_row_without_settings_or_of_another_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"OPTIMIZERS\['mine'\] has no `Settings`"):
        check_table({**OPTIMIZERS, "mine": WithoutSettings()})
    with pytest.raises(TypeError, match=r"OPTIMIZERS\['mine'\]\.Settings says that its kind is 'adamw'"):
        check_table({**OPTIMIZERS, "mine": AdamWRow()})


def test_state_that_no_checkpoint_keeps_is_refused_by_name() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = OPTIMIZERS["adamw"].build([{"params": [weight]}], AdamWSettings())
    OPTIMIZERS["adamw"].check_state(optimizer)  # no state at all
    optimizer.state[weight] = {"exp_avg": torch.zeros(3, 2), "step": torch.tensor(1.0)}
    OPTIMIZERS["adamw"].check_state(optimizer)
    optimizer.state[weight] |= {"row": torch.zeros(3), "column": torch.zeros(2), "calls": 1}
    with pytest.raises(ConfigError, match=r"adamw keeps calls, column, row of a tensor \[3, 2\]"):
        OPTIMIZERS["adamw"].check_state(optimizer)
