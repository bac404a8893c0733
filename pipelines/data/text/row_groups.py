"""Some rows of a Parquet file, by reading only the row groups that hold one.

Enters: a file of this machine, and numbers of rows. Leaves: these rows as an Arrow table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq


def take_rows(path: Path, rows: npt.NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
    """These rows of a file, in their order. Args: rows, ascending, at least one; columns, None for all."""
    file, start, tables = pq.ParquetFile(path), 0, []
    names = None if columns is None else list(columns)
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        here = rows[(rows >= start) & (rows < stop)]
        if len(here):
            tables.append(file.read_row_group(group, columns=names).take(here - start))
        start = stop
    return pa.concat_tables(tables)
