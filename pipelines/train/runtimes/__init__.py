"""Programs that run a delivered model: one file each, and this table. `contract.py` says what a row holds."""

from pipelines.train.runtimes.contract import Runtime

RUNTIMES: dict[str, Runtime] = {}
