"""The GGUF file: what is written is read back by `gguf`'s own code, and what is wrong is refused. No llama.cpp here."""

import shutil
import sys

import pytest
import torch

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.formats import gguf
from pipelines.train.formats.contract import Source
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from tests.untrained import commit_run, commit_tokens

# every constant differs from Llama's default; rows of 64 and 96 divide by 32, not by 256
MODEL = ModelConfig(
    layers=2, d_model=64, d_ff=96, heads=4, kv_heads=2, vocabulary=320, max_positions=96, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=3e-5,
)  # fmt: skip
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


def committed(path, model=MODEL):
    """A dpo run with weights that training could have left: norms are not 1, and what it says is not uniform."""
    store = ArtifactStore(str(path))
    tokens = commit_tokens(store, TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    weights = {name: value.detach().clone() for name, value in Transformer(model).initialise(3).named_parameters()}
    for value in weights.values():
        if value.dim() == 1:
            value += torch.linspace(-0.3, 0.3, len(value))
    commit_run(store, "dpo/d", model, tokens, None, weights)
    return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return committed(tmp_path_factory.mktemp("trained")).storage.root


@pytest.fixture(autouse=True)
def no_llama_cpp(monkeypatch):
    """As for users who have not installed it; `tests/integration/test_llama_cpp.py` asks it."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)


@pytest.fixture
def store(trained, tmp_path):
    return ArtifactStore(str(shutil.copytree(trained, tmp_path / "store")))


@pytest.fixture
def source(store):
    run = open_run(store, "dpo/d")
    return Source(run, tokens_of(store, run))


def written(source, folder, dtype):
    folder.mkdir()
    gguf.write(source, folder, dtype)
    return folder


@pytest.mark.parametrize("dtype", ["q4_0", "q8_0", "f16", "bf16", "f32"])
def test_what_is_written_is_read_back(source, tmp_path, dtype):
    folder = written(source, tmp_path / "model", dtype)
    assert [path.name for path in folder.iterdir()] == [f"model-{dtype}.gguf"]
    check = gguf.verify(source, folder, dtype)
    assert check.tokens > 100
    assert check.asked[0].not_asked
