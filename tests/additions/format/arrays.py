"""A format of NumPy arrays, one file for each parameter, in float32: for whoever reads weights without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.errors import ArtifactError
from pipelines.train.formats.contract import Check, Description, Dtype, Format, Source
from pipelines.train.formats.folder import write_tokenizer, writing
from pipelines.train.network.architecture import ModelConfig, parameter_counts


def write(source: Source, folder: Path, dtype: Dtype) -> None:
    for name, value in source.weights(verify=True):
        with writing(folder / f"{name}.npy"):
            np.save(folder / f"{name}.npy", value.numpy())
    write_tokenizer(source, folder)


def verify(source: Source, folder: Path) -> Check:
    for name, value in source.weights():
        if not np.array_equal(np.load(folder / f"{name}.npy"), value.numpy()):
            raise ArtifactError(f"{name} in {folder} differs from that of {source.run}")
    return Check()


def describe(model: ModelConfig, dtype: Dtype) -> Description:
    return Description(
        announcement="NumPy arrays",
        size_bytes=4 * parameter_counts(model)["total"],
        title="NumPy",
        card="Every parameter is a file",
        loads="NumPy loads it.",
        library=None,
    )


def snippet(folder: str) -> str:
    return f'import numpy as np\n\nprint(np.load("{folder}/norm.weight.npy").shape)\n'


FORMAT = Format(write=write, verify=verify, describe=describe, snippet=snippet)
