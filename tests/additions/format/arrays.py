"""A format of NumPy arrays, one file for each parameter, in float32: for whoever reads weights without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.errors import ArtifactError
from pipelines.train.formats.contract import Check, Description, Format, HowToRun, Source, Stored
from pipelines.train.formats.folder import write_tokenizer, writing
from pipelines.train.network.architecture import parameter_counts


def write(source: Source, folder: Path, dtype: str) -> None:
    for name, value in source.weights(verify=True):
        with writing(folder / f"{name}.npy"):
            np.save(folder / f"{name}.npy", value.numpy())
    write_tokenizer(source, folder)


def verify(source: Source, folder: Path, dtype: str) -> Check:
    for name, value in source.weights():
        if not np.array_equal(np.load(folder / f"{name}.npy"), value.numpy()):
            raise ArtifactError(f"{name} in {folder} differs from that of {source.run}")
    return Check()


def describe(source: Source, dtype: str) -> Description:
    return Description(
        announcement="NumPy arrays",
        size_bytes=4 * parameter_counts(source.model)["total"],
        title="NumPy",
        card="Every parameter is a file",
        loads="NumPy loads it.",
        library=None,
    )


def run(folder: str) -> tuple[HowToRun, ...]:
    text = f'import numpy as np\n\nprint(np.load("{folder}/norm.weight.npy").shape)\n'
    return (HowToRun(program="NumPy", language="python", text=text),)


FORMAT = Format(
    dtypes={"float32": Stored(bits=32, words="float32")}, write=write, verify=verify, describe=describe, run=run
)
