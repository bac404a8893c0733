"""An untrained model as `workflows.export` would deliver it: for tests of what loads it."""

from __future__ import annotations

from pathlib import Path

from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.checkpoint.lineage import open_run
from pipelines.train.formats import llama, minicpm
from pipelines.train.formats.contract import Source
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from tests.gguf_file import write_gguf
from tests.untrained import commit_run, commit_tokens

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=64, heads=4, kv_heads=2, vocabulary=320, max_positions=96, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16,
)  # fmt: skip
_TEXTS = {"prose": ["Once upon a time there was a model."] * 30, "zh": ["话说天下大势，分久必合。"] * 30}


def deliver(path: Path) -> None:
    """Leave in `path`: `store` with `dpo/d` and `export/d`; the export as `folder` (Llama), `minicpm`, `model.gguf`."""
    store = ArtifactStore(str(path / "store"))
    tokens = commit_tokens(store, _TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    parent = None
    for kind in ("pretrain", "sft", "dpo"):
        # weights large enough that one id is clearly likelier than the others
        network = Transformer(MODEL).initialise(3)
        weights = {name: value.detach() * (1 if value.dim() == 1 else 3) for name, value in network.named_parameters()}
        parent = commit_run(store, f"{kind}/d", MODEL, tokens, parent, weights)
    source = Source(open_run(store, "dpo/d"), tokens)
    for name, row in (("folder", llama), ("minicpm", minicpm)):
        (path / name).mkdir()
        row.write(source, path / name, "float32")
    write_gguf(path / "folder", path / "model.gguf")
    draft = store.begin("export", "d", {}, [source.run.artifact])
    assert isinstance(draft, Draft)
    copies = {}
    for file in (path / "folder").iterdir():
        copies[file.name] = draft.scratch(file.name)
        copies[file.name].write_bytes(file.read_bytes())
    draft.publish("model", copies)
    draft.commit({}, {}, {})
