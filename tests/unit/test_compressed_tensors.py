"""The packed folder as a stranger meets it: plain `transformers` computes with the very values that were measured."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.formats import compressed_tensors as layout
from pipelines.train.formats.contract import Source
from pipelines.train.formats.folder import write_tensors
from pipelines.train.formats.llama import fold
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.quantization.contract import Grid, Quantized
from tests.untrained import commit_run, commit_tokens

# rows that are no multiple of eight: what is packed along them has to be filled up
MODEL = ModelConfig(
    layers=3, d_model=96, d_ff=160, heads=3, kv_heads=1, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    store = ArtifactStore(str(tmp_path_factory.mktemp("trained")))
    texts = {"prose": ["Once upon a time there was a model, and it was small."] * 30}
    tokens = commit_tokens(store, texts, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    commit_run(store, "dpo/d", MODEL, tokens)
    run = open_run(store, "dpo/d")
    return Source(run, tokens_of(store, run))


def grids_of(source, choose):
    """Args: choose, the grid of a map's name, None for one that is kept."""
    chosen = {
        name: choose(name)
        for name, value in fold(source.weights(), source.model)
        if value.dim() == 2 and "layers" in name
    }
    return {name: grid for name, grid in chosen.items() if grid is not None}


def quantized(source, grids, kept, seed=0):
    """A stream with codes, scales and zeros drawn by a seed: every code is used, whatever the weights are."""
    random = torch.Generator().manual_seed(seed)
    for name, value in fold(source.weights(), source.model):
        if name not in grids:
            yield name, value
            continue
        grid = grids[name]
        groups = (value.shape[0], value.shape[1] // grid.group_size)
        codes = torch.randint(0, grid.codes, value.shape, generator=random).to(torch.uint8)
        codes[0, 0], codes[0, 1] = 0, grid.codes - 1
        zeros = None if grid.symmetric else torch.randint(0, grid.codes, groups, generator=random).to(torch.uint8)
        scales = (torch.rand(groups, generator=random) * 0.01 + 1e-4).to(getattr(torch, kept))
        yield name, Quantized(codes=codes, scales=scales, zeros=zeros, grid=grid)


def one(bits, group_size, symmetric):
    return lambda name: Grid(bits=bits, group_size=group_size, symmetric=symmetric)


def mixed(name):
    """Bits by map and layer, as bits=auto makes them."""
    return Grid(bits=8 if "down_proj" in name or "layers.0.self_attn" in name else 4, group_size=32, symmetric=True)


CASES = {
    "4 bits": (one(4, 32, True), "bfloat16"),
    "4 bits, zeros": (one(4, 32, False), "bfloat16"),
    "8 bits": (one(8, 32, True), "bfloat16"),
    "8 bits, zeros": (one(8, 32, False), "bfloat16"),
    "mixed": (mixed, "bfloat16"),
    "mixed, float32": (mixed, "float32"),
    "zeros, float32": (one(4, 32, False), "float32"),
    "mixed, float16": (mixed, "float16"),
}


@pytest.mark.parametrize("case", CASES)
def test_transformers_computes_with_the_values_bit_by_bit(source, tmp_path, case):
    choose, kept = CASES[case]
    grids = grids_of(source, choose)
    layout.write_quantized(tmp_path, source, quantized(source, grids, kept), grids, kept)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        model(torch.arange(5, 20)[None])  # which unpacks a symmetric one
    theirs = dict(model.named_parameters())
    expected = dict(layout.dequantized(quantized(source, grids, kept)))
    assert len(expected) == 3 + 9 * MODEL.layers
    for name, value in expected.items():
        own = value if name in grids else value.to(getattr(torch, kept))
        assert theirs[name].dtype == getattr(torch, kept)
        assert torch.equal(theirs[name].float(), own.float()), name
    assert len(set(grids.values())) == len(
        json.loads((tmp_path / "config.json").read_text())["quantization_config"]["config_groups"]
    )


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_read_back(source, tmp_path, case):
    choose, kept = CASES[case]
    grids = grids_of(source, choose)
    layout.write_quantized(tmp_path, source, quantized(source, grids, kept), grids, kept)
    assert layout.stored_grids(tmp_path) == grids
    names = []
    for (name, read), (expected_name, expected) in zip(
        layout.read_quantized(tmp_path), quantized(source, grids, kept), strict=True
    ):
        names.append(name)
        assert name == expected_name
        if name in grids:
            assert torch.equal(read.codes, expected.codes)
            assert read.scales.dtype == expected.scales.dtype
            assert torch.equal(read.scales, expected.scales)
            assert (read.zeros is None) == (expected.zeros is None)
            assert read.zeros is None or torch.equal(read.zeros, expected.zeros)
        else:
            assert torch.equal(read, expected.to(getattr(torch, kept)).float())
    delivered = layout.read(tmp_path)
    assert delivered.config["hidden_size"] == MODEL.d_model
    assert [name for name, _ in delivered.weights()] == names


def test_it_is_packed_as_the_library_packs(source):
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    random = torch.Generator().manual_seed(0)
    for bits in (4, 8):
        codes = torch.randint(0, 1 << bits, (13, 64), generator=random).to(torch.uint8)
        signed = (codes.int() - (1 << bits - 1)).to(torch.int8)
        assert torch.equal(layout.pack(codes, bits), pack_to_int32(signed, bits))
        assert torch.equal(layout.pack(codes.T, bits).T, pack_to_int32(signed, bits, packed_dim=0))
        assert torch.equal(layout.unpack(layout.pack(codes.T, bits), bits, 13), codes.T)
        zeros = codes[:8, :1]  # of maps as wide as one group: one column, stored turned
        stored = layout.pack(zeros.T, bits).T.contiguous()
        assert torch.equal(layout.unpack(stored.T, bits, 8).T, zeros)
        assert torch.equal(layout.unpack(layout.pack(zeros, bits).T.contiguous().T, bits, 1), zeros)


def test_its_size_is_known_before(source, tmp_path):
    for choose, kept in (CASES["mixed"], CASES["zeros, float32"]):
        grids = grids_of(source, choose)
        foreseen = layout.stored_bytes(source, grids, kept)
        layout.write_quantized(tmp_path, source, quantized(source, grids, kept), grids, kept)
        tensors = load_file(tmp_path / "model.safetensors")
        assert foreseen["total"] == sum(value.nbytes for value in tensors.values())
        assert foreseen["linear"] == sum(value.nbytes for name, value in tensors.items() if "_proj.weight_" in name)


def test_tensors_of_several_types_are_written_as_the_library_writes_them(tmp_path):
    tensors = {
        "b": torch.arange(6, dtype=torch.int32),
        "a": torch.arange(3, dtype=torch.int64),
        "d": torch.ones(5, 2, dtype=torch.bfloat16),
        "c": torch.zeros(7, dtype=torch.bfloat16),
    }
    shapes = {name: value.shape for name, value in tensors.items()}
    others = {"a": torch.int64, "b": torch.int32}
    write_tensors(tmp_path, shapes, tensors.items(), "bfloat16", others)
    save_file(tensors, tmp_path / "theirs.safetensors", {"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_a_group_that_does_not_divide_is_refused_before_anything_is_written(source, tmp_path):
    grids = grids_of(source, one(4, 64, True))
    with pytest.raises(ConfigError, match="has 96 inputs, which groups of 64 do not divide"):
        layout.write_quantized(tmp_path, source, quantized(source, grids, "bfloat16"), grids, "bfloat16")
    assert not list(tmp_path.iterdir())


def test_grids_that_transformers_would_read_wrongly_are_refused(source, tmp_path):
    grids = grids_of(source, lambda name: Grid(bits=8 if "down" in name else 4, group_size=32, symmetric=False))
    with pytest.raises(ConfigError, match="2 grids .* expected symmetric grids"):
        layout.write_quantized(tmp_path, source, quantized(source, grids, "bfloat16"), grids, "bfloat16")
    assert not list(tmp_path.iterdir())


def test_another_folder_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"holds no pack-quantized weights.*says nothing of it"):
        layout.read(tmp_path)
