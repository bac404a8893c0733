"""Optimizers: one file each, and this table.

    contract.py   what a file here says of its optimizer; planning asks it, so it imports no torch
    *_step.py     what the optimizer of that name computes
    groups.py     parameters by role, with muP's learning rates

To add one: write its file, and a row here. The engine, checkpoints and the prediction of memory ask the row.
"""

from collections.abc import Mapping

from pipelines.train.optimizers import adamw, muon
from pipelines.train.optimizers.contract import OptimizerRow, OptimizerSettings

OPTIMIZERS: dict[str, OptimizerRow] = {
    "adamw": adamw.AdamWRow(),
    "muon": muon.MuonRow(),
}


def check_table(optimizers: Mapping[str, OptimizerRow]) -> None:
    """Refuse a row without settings, or whose settings say another name. Raises: TypeError naming the row."""
    for name, row in optimizers.items():
        if not hasattr(row, "Settings"):
            raise TypeError(f"OPTIMIZERS[{name!r}] has no `Settings`: see pipelines/train/optimizers/contract.py")
        kind = row.Settings().kind  # type: ignore[call-arg]
        if kind != name:
            raise TypeError(f"OPTIMIZERS[{name!r}].Settings says that its kind is {kind!r}")


check_table(OPTIMIZERS)


def row_of(settings: OptimizerSettings) -> OptimizerRow:
    """The row that settings belong to."""
    return OPTIMIZERS[settings.kind]
