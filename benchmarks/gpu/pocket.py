"""The pocket model's shape trained on the card by the product's worker, and its weights packed to be brought back.

    python -m benchmarks.gpu.pocket                      on the card: leaves pocket.tar.00 … in $OUT, 15 MiB each
    cat pocket.tar.?? | tar x -C STORE                   here; STORE is the one that `data.sh` made, with the tokens
    python -m workflows.evaluate parent=pretrain/pocket store=STORE name=pocket

Enters: `data.tar.xz`, with the spec `pocket` (see `data.sh`). Leaves: the run `pretrain/pocket` with its curve, and its
last checkpoint as weights alone, in float32: a third of what it is with AdamW's moments. An evaluation, an SFT and a
quantization need no more.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from benchmarks.gpu.record import OUT, TINY, part, put
from benchmarks.gpu.worker import start, unpack
from pipelines.store.storage import FolderStorage
from pipelines.train.checkpoint import committed_steps, open_checkpoint, write_weights
from pipelines.train.checkpoint.weights import weighted_mean
from pipelines.train.run.loop import read_metrics

SECTION, RUN = "pocket", "pretrain/pocket"
PIECE_BYTES = 15 << 20


def main() -> None:
    """Train, say how it went, pack."""
    specs = unpack(Path(os.environ.get("WORK", "/tmp/gpu_work"), "pocket"))
    if TINY:
        spec = json.loads((specs / "pocket.json").read_text(encoding="utf-8"))
        few = {"steps": 2, "batch": {**spec["batch"], "global_batch": 2, "micro_batch": 2}}
        (specs / "pocket.json").write_text(json.dumps({**spec, **few}), encoding="utf-8")
    store = FolderStorage(specs.parent / "store")
    with part(SECTION, "trained", needs=40):
        start("pocket", specs)
    with part(SECTION, "curve"):
        rows = read_metrics(store, RUN)
        tokens = [row["tokens"] for row in rows]
        later = rows[len(rows) // 8 :]
        seconds = sum(row["step_duration_s"] for row in later)
        put(SECTION, "curve", {
            "loss": {row["step"]: round(row["loss"], 4) for row in rows[:: max(1, len(rows) // 16)] + rows[-1:]},
            "tokens": tokens[-1],
            "tokens_per_s": round((tokens[-1] - tokens[len(rows) // 8 - 1]) / seconds) if len(rows) > 8 else None,
        })  # fmt: skip
    with part(SECTION, "packed", needs=5):
        put(SECTION, "packed", packed(store))


def packed(store: FolderStorage) -> list[str]:
    """The run with weights alone, in pieces. Returns: their names."""
    step = committed_steps(store, RUN)[-1]
    checkpoint = open_checkpoint(store, RUN, f"step-{step}")
    back = store.root.with_name("back")
    shutil.rmtree(back, ignore_errors=True)

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, _, value in weighted_mean([checkpoint], [1.0]):
            yield name, value

    state = {key: value for key, value in checkpoint.state.items() if key != "attempt"}
    write_weights(FolderStorage(back), RUN, step, state, checkpoint.state["shapes"], weights())
    for name in ("claim.json", "manifest.json", "metrics"):
        there, copy = store.root / RUN / name, back / RUN / name
        if there.is_dir():
            shutil.copytree(there, copy)
        elif there.exists():
            shutil.copy(there, copy)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(back / RUN, RUN)
    body, names = made.getvalue(), []
    for number, first in enumerate(range(0, len(body), PIECE_BYTES)):
        names.append(f"pocket.tar.{number:02d}")
        (OUT / names[-1]).write_bytes(body[first : first + PIECE_BYTES])
    return names


if __name__ == "__main__":
    main()
