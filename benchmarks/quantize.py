"""What quantizing takes: memory and seconds, from a checkpoint to a finished folder, in a process of its own.

    python -m benchmarks.quantize                                            0.2B, round to nearest; a minute
    python -m benchmarks.quantize --models minicpm_1b --folder /mnt/disk     1.2B: needs 7 GB of disk
    python -m benchmarks.quantize --methods rtn gptq --rows 64               calibrated on random ids

The weights are random (`benchmarks/export.py` makes the run); what counts is the peak of resident memory (VmHWM), what
the process had before taken off. The folder is compressed-tensors' layout, and it is read back tensor by tensor.

Accepted for round to nearest: twice the float32 bytes of the largest tensor (the embedding, once more as the output
matrix) plus 1 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.export import RUN, build, memory


def measure(folder: Path, method_name: str, group_size: int, rows: int, length: int) -> dict[str, float]:
    """Quantize the run and write the folder, in this process. Returns: bytes and seconds."""
    import torch

    from pipelines.display.progress import Progress
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.checkpoint.lineage import open_run, tokens_of
    from pipelines.train.formats import compressed_tensors
    from pipelines.train.formats.contract import Source
    from pipelines.train.formats.llama import fold
    from pipelines.train.network.roles import roles
    from pipelines.train.quantization import METHODS
    from pipelines.train.quantization.contract import CalibrationRows
    from pipelines.train.quantization.grids import uniform_grids
    from pipelines.train.quantization.walk import quantize_stream

    store = ArtifactStore(str(folder))
    run = open_run(store, RUN)
    source, method = Source(run, tokens_of(store, run)), METHODS[method_name]
    model = source.model
    grids = uniform_grids(model, 4, group_size, symmetric=True)
    by_map = {
        f"model.{map_}": grids[name]
        for name, role in roles(model).items()
        if name in grids
        for map_, _ in role.parts or ((name, 0),)
    }
    calibration = None
    if method.calibrated:
        ids = torch.randint(0, model.vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
        calibration = CalibrationRows(
            ids, torch.arange(length).expand_as(ids), torch.ones_like(ids, dtype=torch.bool), {"random": ids.numel()}
        )
    largest = 4.0 * max(role.numel for role in roles(model).values())
    measured: dict[str, float] = {"before": memory("VmRSS"), "largest": largest}
    target = Path(tempfile.mkdtemp(dir=folder))
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        began = time.monotonic()
        progress = Progress(method_name, model.layers, "layers", stream=sys.stderr)
        stream = quantize_stream(
            fold(source.weights(), model),
            model,
            method,
            method.Settings(),
            grids,
            calibration,
            torch.bfloat16,
            progress,
        )
        compressed_tensors.write_quantized(target, source, stream, by_map, "bfloat16")
        measured["seconds"] = time.monotonic() - began
        measured["peak"] = memory("VmHWM") - measured["before"]
        measured["written"] = sum(path.stat().st_size for path in target.iterdir())
        measured["read"] = sum(1 for _ in compressed_tensors.read_quantized(target))
    finally:
        shutil.rmtree(target)
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Quantize each model by each method, and print a table."""
    from pipelines.display.progress import human, table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["wind_tunnel_0.2b"], help="names in conf/model")
    parser.add_argument("--methods", nargs="+", default=["rtn"])
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=32, help="to calibrate on")
    parser.add_argument("--length", type=int, default=512, help="ids of a row")
    parser.add_argument("--folder", type=Path, help="where the store is made and deleted; default: a temporary folder")
    parser.add_argument("--measure", nargs=2, metavar=("STORE", "METHOD"), help="in this process")
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        folder, method_name = chosen.measure
        print(json.dumps(measure(Path(folder), method_name, chosen.group_size, chosen.rows, chosen.length)))
        return
    numbers = [f"--group-size={chosen.group_size}", f"--rows={chosen.rows}", f"--length={chosen.length}"]
    lines = []
    for name in chosen.models:
        store = Path(tempfile.mkdtemp(dir=chosen.folder))
        try:
            size = build(store, name)
            for method_name in chosen.methods:
                line = [sys.executable, "-m", "benchmarks.quantize", "--measure", str(store), method_name, *numbers]
                said = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
                taken = json.loads(said.splitlines()[-1])
                lines.append([
                    name, method_name, human(size, "B"), human(taken["written"], "B"), human(taken["before"], "B"),
                    human(taken["peak"], "B"), human(taken["largest"], "B"), f"{taken['seconds']:.0f}",
                ])  # fmt: skip
        finally:
            shutil.rmtree(store)
    header = (
        "model", "method", "float32 weights", "written", "memory before", "peak above it", "largest tensor", "s",
    )  # fmt: skip
    print(table(header, lines))


if __name__ == "__main__":
    main()
