"""What an export takes: memory and seconds of writing, of checking, and of asking the programs that load it.

    python -m benchmarks.export                                             0.2B, 1 GB of float32 weights; a minute
    python -m benchmarks.export --models minicpm_1b --folder /mnt/disk      1.2B: needs 11 GB of disk
    python -m benchmarks.export --models wind_tunnel_0.5b --formats llama --dtypes float32 bfloat16
    python -m benchmarks.export --models minicpm_1b --prompts 2 --tokens 8  a few greedy tokens stand for all: their
                                                                            number costs time and no memory

The weights are random, drawn and written tensor by tensor without an engine; nothing is trained. What counts is the
peak of resident memory (VmHWM, which also counts the pages of files that are mapped), what the process had before taken
off. `clear_refs` puts the peak back to what is there now, before the write and before the check.

Each model, format and dtype has a process of its own. Checking includes asking: a program that loads the model has
all of it in memory as it is stored (in float32 below `gate.EXACT_BYTES`).

Accepted: writing in the bytes of the largest tensor plus 2 GB, checking in 12 GB at 2.4B.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

RUN = "pretrain/random"
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


def build(folder: Path, name: str) -> int:
    """A store with `RUN`, a run of random weights of `conf/model/<name>.yaml`. Returns: float32 bytes of the model."""
    import torch
    from torch import Tensor

    from pipelines.config import plain
    from pipelines.store.artifacts import ArtifactStore
    from pipelines.store.draft import Draft
    from pipelines.train.checkpoint import write_weights
    from pipelines.train.network.architecture import parameter_counts
    from pipelines.train.network.roles import roles
    from pipelines.train.plan.planning import tokenizer_of
    from pipelines.train.spec import TrainConfig
    from tests.untrained import commit_tokens
    from workflows.command_line.composing import compose_config

    model = compose_config("pretrain", TrainConfig, [f"model={name}"]).model
    assert model is not None
    store = ArtifactStore(str(folder))
    tokens = commit_tokens(store, TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    config = {"data": tokens.folder, "batch": {"sequence_length": 16}}
    draft = store.begin(*RUN.split("/"), config, [tokens])
    assert isinstance(draft, Draft)
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Iterator[tuple[str, Tensor]]:
        for parameter, role in roles(model).items():
            value = torch.ones(role.shape)
            yield parameter, value if role.init_std is None else value.normal_(0, role.init_std, generator=generator)

    state = {
        "model": plain(model),
        "segments": [{"plan": {"tokens": tokens.folder, "tokens_fingerprint": tokens.fingerprint}}],
        "tokens": 1000,
        "sequence_length": 16,
        "tokenizer": tokenizer_of(tokens),
        "learning_rate": 0.01,
    }
    shapes = {parameter: role.shape for parameter, role in roles(model).items()}
    write_weights(store.storage, RUN, 1, state, shapes, drawn())
    draft.commit(config, {"steps": 1, "tokens": 1000, "train_seconds": 1.0})
    return 4 * parameter_counts(model)["total"]


def measure(folder: Path, format_name: str, dtype: str, prompts: int, tokens: int) -> dict[str, float]:
    """Write and check one export, in this process. Returns: bytes and seconds."""
    import transformers

    from pipelines.store.artifacts import ArtifactStore
    from pipelines.train.formats import FORMATS, questions
    from pipelines.train.formats.parents import open_source

    assert transformers.AutoModelForCausalLM  # loads the modules that the check would load
    questions.PROMPTS, questions.GREEDY_TOKENS = prompts, tokens
    source = open_source(ArtifactStore(str(folder)), RUN)
    format_ = FORMATS[format_name]
    target = Path(tempfile.mkdtemp(dir=folder))
    before = memory("VmRSS")
    measured: dict[str, float] = {}

    def write() -> None:
        format_.write(source, target, dtype)

    def check() -> None:
        made = format_.verify(source, target, dtype)
        measured["difference"] = made.kl if made.largest_difference is None else made.largest_difference
        measured["greedy_tokens"] = sum(asked.greedy_tokens for asked in made.asked)
        measured["greedy_agreeing"] = sum(asked.greedy_agreeing for asked in made.asked)

    try:
        for step, act in (("write", write), ("check", check)):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            began = time.monotonic()
            act()
            measured[f"{step}_seconds"] = time.monotonic() - began
            measured[step] = memory("VmHWM") - before
        measured["written"] = sum(path.stat().st_size for path in target.iterdir())
    finally:
        shutil.rmtree(target)
    return measured


def memory(kind: str) -> int:
    """Bytes of this process: VmRSS, resident now; VmHWM, at most since the last `clear_refs`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each model in each format and dtype, and print a table."""
    from pipelines.display.progress import human, table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["wind_tunnel_0.2b"], help="names in conf/model")
    parser.add_argument("--formats", nargs="+", default=["llama", "minicpm"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--folder", type=Path, help="where the store is made and deleted; default: a temporary folder")
    parser.add_argument("--prompts", type=int, default=20, help="of the greedy answers")
    parser.add_argument("--tokens", type=int, default=64, help="of each greedy answer")
    parser.add_argument("--measure", nargs=3, metavar=("STORE", "FORMAT", "DTYPE"), help="in this process")
    chosen = parser.parse_args(arguments)
    if chosen.measure:
        folder, format_name, dtype = chosen.measure
        print(json.dumps(measure(Path(folder), format_name, dtype, chosen.prompts, chosen.tokens)))
        return
    asked = ["--prompts", str(chosen.prompts), "--tokens", str(chosen.tokens)]
    rows = []
    for name in chosen.models:
        store = Path(tempfile.mkdtemp(dir=chosen.folder))
        try:
            size = build(store, name)
            for format_name, dtype in ((f, d) for f in chosen.formats for d in chosen.dtypes):
                line = [sys.executable, "-m", "benchmarks.export", *asked, "--measure", str(store), format_name, dtype]
                said = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
                taken = json.loads(said.splitlines()[-1])
                rows.append([
                    name, format_name, dtype, human(size, "B"), human(taken["written"], "B"),
                    human(taken["write"], "B"), f"{taken['write_seconds']:.0f}",
                    human(taken["check"], "B"), f"{taken['check_seconds']:.0f}",
                    f"{taken['difference']:.1e}", f"{taken['greedy_agreeing']}/{taken['greedy_tokens']}",
                ])  # fmt: skip
        finally:
            shutil.rmtree(store)
    header = (
        "model",
        "format",
        "dtype",
        "float32 weights",
        "written",
        "write: memory",
        "s",
        "check: memory",
        "s",
        "logits or KL",
        "greedy",
    )
    print(table(header, rows))


if __name__ == "__main__":
    main()
