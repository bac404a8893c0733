"""Optimizers: one file each, and this table.

    contract.py   what a file here says of its optimizer
    groups.py     parameters by role, with muP's learning rates

To add one: write its file, and a row here. The engine, checkpoints and the prediction of memory ask the row.
"""

from pipelines.train.optimizers import adamw, muon
from pipelines.train.optimizers.contract import OptimizerRow, OptimizerSettings

OPTIMIZERS: dict[str, OptimizerRow] = {
    "adamw": adamw.AdamWRow(),
    "muon": muon.MuonRow(),
}


def row_of(settings: OptimizerSettings) -> OptimizerRow:
    """The row that settings belong to."""
    return OPTIMIZERS[settings.kind]
