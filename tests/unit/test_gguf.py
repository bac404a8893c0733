"""The GGUF file: what is written is read back by `gguf`'s own code, and what is wrong is refused. No llama.cpp here."""

import dataclasses
import json
import shutil
import sys

import jinja2
import numpy as np
import pytest
import torch

from pipelines.config import TrackingConfig
from pipelines.data.tokens.chat import GUARD, TEMPLATE
from pipelines.errors import ArtifactError, ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.train.checkpoint.lineage import open_run, tokens_of
from pipelines.train.formats import FORMATS, gguf, gguf_quants, gguf_tokenizer
from pipelines.train.formats.check import agreement, heldout_rows
from pipelines.train.formats.compressed_tensors import read_quantized, write_quantized
from pipelines.train.formats.contract import Delivered, Source
from pipelines.train.formats.gguf_file import GgufFile
from pipelines.train.formats.gguf_tokenizer import GGUF_TEMPLATE, vocabulary_of
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.quantization.contract import Grid, Quantized
from tests.untrained import commit_run, commit_tokens
from workflows import export as workflow
from workflows.export import ExportConfig
from workflows.running.session import Session

# every constant differs from Llama's default; rows of 128 and 160 divide by 32, not by 256
MODEL = ModelConfig(
    layers=2, d_model=128, d_ff=160, heads=4, kv_heads=2, vocabulary=320, max_positions=96, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=3e-5,
)  # fmt: skip
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


def committed(path, model=MODEL, factor=2):
    """A dpo run with weights that training could have left: norms are not 1, and some ids are much likelier."""
    store = ArtifactStore(str(path))
    tokens = commit_tokens(store, TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    weights = {name: value.detach().clone() for name, value in Transformer(model).initialise(3).named_parameters()}
    for value in weights.values():
        value *= factor
        if value.dim() == 1:
            value += factor * torch.linspace(-0.3, 0.3, len(value))
    commit_run(store, "dpo/d", model, tokens, None, weights)
    return store


def source_of(store):
    run = open_run(store, "dpo/d")
    return Source(run, tokens_of(store, run))


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
    return source_of(store)


def written(source, folder, dtype="q4_0"):
    folder.mkdir()
    gguf.write(source, folder, dtype)
    return folder


def folded(source):
    return dict(fold(source.weights(), source.model))


# ── Written and read back ─────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_of_a_head_are_put_in_pairs():
    rows = torch.arange(16.0)[:, None]  # two heads of 8
    expected = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert gguf.permute(rows, 2)[:, 0].tolist() == expected
    assert torch.equal(gguf.unpermute(gguf.permute(rows, 2), 2), rows)


@pytest.mark.parametrize(("dtype", "accuracy"), [("f32", 0), ("f16", 2**-11), ("bf16", 2**-8)])
def test_floats_are_read_back_as_they_were_rounded(source, tmp_path, dtype, accuracy):
    folder = written(source, tmp_path / "model", dtype)
    assert [path.name for path in folder.iterdir()] == [f"model-{dtype}.gguf"]
    delivered = gguf.read(folder)
    number = gguf_quants.FLOAT_TYPES[dtype]
    expected = folded(source)
    read_back = dict(delivered.weights())
    assert list(read_back) == list(expected)
    for name, value in expected.items():
        rounded = value if value.dim() == 1 else value.to(number).float()
        assert torch.equal(read_back[name], rounded), name
    told, wanted = delivered.config, llama_config(source.model, "float32")
    assert {name for name in wanted if told[name] != wanted[name]} <= {"rms_norm_eps"}  # float32 in the file
    check = gguf.verify(source, folder, dtype)
    assert check.largest_difference < 1e-4
    assert len(check.layer_differences) == 2
    assert check.kl is None
    assert (check.stored_difference > check.largest_difference) == (accuracy > 0)
    assert "pip install" in check.asked[0].not_asked


@pytest.mark.parametrize(("dtype", "block_type"), [("q8_0", "q8_0"), ("q4_0", "q4_0")])
def test_small_numbers_are_those_of_the_definition(source, tmp_path, dtype, block_type):
    folder = written(source, tmp_path / "model", dtype)
    places = gguf.open_file(folder).places
    assert {place.type for name, place in places.items() if "_norm" in name} == {"f32"}
    assert {places[name].type for name in ("token_embd.weight", "output.weight")} == {"q8_0"}
    matrices = {place.type for name, place in places.items() if name.startswith("blk.") and "_norm" not in name}
    assert matrices == {block_type}
    read_back, expected = dict(gguf.read(folder).weights()), folded(source)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"):
        groups = expected[name].reshape(-1, 32)
        largest = groups.gather(1, groups.abs().argmax(1, keepdim=True))
        exact = largest / -8 if read_is_four_bits(name, dtype) else largest.abs() / 127
        # half a step, the last step of a side that 4 bits do not have, and the scale in float16
        bound = exact.abs() * (1 if read_is_four_bits(name, dtype) else 0.5) + largest.abs() * 2**-10
        assert ((read_back[name].reshape(-1, 32) - groups).abs() <= bound).all(), name
    check = gguf.verify(source, folder, dtype)
    assert 0 < check.kl < gguf_quants.DTYPES[dtype].most_kl
    assert check.tokens > 100
    assert "KL" in str(check)


def read_is_four_bits(name, dtype):
    return dtype == "q4_0" and name.startswith("model.layers.")


def test_metadata_are_those_that_llama_cpp_reads(source, tmp_path):
    told = gguf.open_file(written(source, tmp_path / "model")).metadata
    assert told["general.architecture"] == "llama"
    assert told["general.name"] == "dpo/d@step-1"
    assert told["general.file_type"] == 2  # MOSTLY_Q4_0
    assert not [name for name in told if "author" in name]
    assert told["llama.context_length"] == 96
    assert told["llama.rope.freq_base"] == 5000.0
    assert told["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(3e-5)
    assert (told["llama.attention.head_count"], told["llama.attention.head_count_kv"]) == (4, 2)
    assert told["llama.rope.dimension_count"] == told["llama.attention.key_length"] == 32
    assert told["tokenizer.ggml.tokens"][:3] == ["</s>", "<用户>", "<AI>"]
    assert told["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    assert told["tokenizer.ggml.eos_token_id"] == 0
    assert told["tokenizer.ggml.add_bos_token"] is False
    made = json.loads(source.tokens.path("tokenizer/tokenizer.json").read_text())
    assert told["tokenizer.ggml.merges"] == [" ".join(pair) for pair in made["model"]["merges"]]
    assert {token: id_ for id_, token in enumerate(told["tokenizer.ggml.tokens"])} == made["model"]["vocab"]


def test_rows_that_do_not_divide_stay_float16_and_are_named(tmp_path, capsys):
    model = dataclasses.replace(MODEL, d_ff=144)  # not divisible by 32
    source = source_of(committed(tmp_path / "store", model))
    folder = written(source, tmp_path / "model")
    places = gguf.open_file(folder).places
    assert [name for name, place in places.items() if place.type == "f16"] == [
        f"blk.{layer}.ffn_down.weight" for layer in range(2)
    ]
    assert "2 ffn_down (f16, rows of 144)" in capsys.readouterr().out
    gguf.verify(source, folder, "q4_0")


def test_ids_that_the_tokenizer_never_gives_have_names(tmp_path):
    source = source_of(committed(tmp_path / "store", dataclasses.replace(MODEL, vocabulary=352)))
    folder = written(source, tmp_path / "model", "f16")
    told = gguf.open_file(folder).metadata
    assert told["tokenizer.ggml.tokens"][320:322] == ["[PAD320]", "[PAD321]"]
    assert set(told["tokenizer.ggml.token_type"][320:]) == {5}
    gguf.verify(source, folder, "f16")


def test_no_tensor_but_one_is_in_memory_while_it_is_written(source, tmp_path, monkeypatch):
    import weakref

    alive: list[weakref.ref] = []
    most = 0
    to_bytes = gguf.to_bytes

    def watched(value, type_):
        nonlocal most
        data = np.array(to_bytes(value, type_))
        alive.append(weakref.ref(data))
        most = max(most, sum(one() is not None for one in alive))
        return data

    monkeypatch.setattr(gguf, "to_bytes", watched)
    written(source, tmp_path / "model")
    assert len(alive) == 2 * 9 + 3
    assert most <= 2  # the one that is written, and the one that is made


# ── From what workflows.quantize made ─────────────────────────────────────────────────────────────────────────────────


def quantized(rows, columns, grid, scale_dtype=torch.bfloat16, smallest=0.01):
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(0, grid.codes, (rows, columns), generator=generator, dtype=torch.uint8)
    scales = smallest * (1 + torch.rand(rows, columns // grid.group_size, generator=generator))
    return Quantized(codes, scales.to(scale_dtype), None, grid)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_blocks_hold_the_very_same_codes_and_scales(bits, group_size, dtype):
    matrix = quantized(6, 256, Grid(bits, group_size, True), dtype)
    blocks, changed = gguf_quants.code_blocks(matrix, "m")
    exact = (matrix.codes.float() - 2 ** (bits - 1)) * matrix.scales.float().repeat_interleave(group_size, 1)
    assert torch.equal(gguf_quants.from_bytes(blocks, f"q{bits}_0", (6, 256)), exact)
    assert changed == 0


def test_scales_that_float16_has_not_are_counted_or_refused():
    small = quantized(6, 256, Grid(4, 32, True), smallest=3e-6)
    blocks, changed = gguf_quants.code_blocks(small, "m")
    assert changed > 0
    difference = gguf_quants.from_bytes(blocks, "q4_0", (6, 256)) - small.values()
    assert difference.abs().max() <= 2**-22 + 3e-8  # values() rounds to bfloat16 itself
    with pytest.raises(ConfigError, match="scales that float16 cannot hold"):
        gguf_quants.code_blocks(quantized(6, 256, Grid(4, 32, True), torch.float32), "m")
    with pytest.raises(ConfigError, match="scales that float16 cannot hold"):
        gguf_quants.code_blocks(quantized(6, 256, Grid(4, 32, True), smallest=1e5), "m")
    with pytest.raises(ConfigError, match="asymmetric groups of 32"):
        gguf_quants.type_of_codes(Grid(4, 32, False), "m")


def commit_quantized(store, bits):
    """`quantize/q`, its first layer 8 bits where `bits` is "mixed"."""
    source = source_of(store)
    shapes = {name: tuple(value.shape) for name, value in folded(source).items()}
    maps = [name for name, shape in shapes.items() if len(shape) == 2 and name.startswith("model.layers.")]
    grids = {name: Grid(8 if bits == 8 or (bits == "mixed" and "layers.0." in name) else 4, 32, True) for name in maps}
    values = folded(source)
    for name, grid in grids.items():
        groups = values[name].reshape(len(values[name]), -1, 32)
        scales = (groups.abs().amax(-1) / (grid.codes // 2 - 1)).bfloat16()
        codes = (groups / scales.float()[..., None]).round().add(grid.codes // 2).clamp(0, grid.codes - 1)
        values[name] = Quantized(codes.reshape(values[name].shape).to(torch.uint8), scales, None, grid)
    draft = store.begin("quantize", "q", {}, [source.run.artifact, source.tokens])
    folder = draft.scratch("model")
    folder.mkdir(parents=True)
    write_quantized(folder, source, iter(values.items()), grids, "bfloat16")
    draft.publish("model", {f"model/{path.name}": path for path in folder.iterdir()})
    draft.commit({}, {"parent": str(source.run)})
    return dataclasses.replace(source, quantized=store.get("quantize/q"))


@pytest.mark.parametrize(("bits", "types"), [(4, {"q4_0"}), (8, {"q8_0"}), ("mixed", {"q4_0", "q8_0"})])
def test_a_quantized_parent_is_not_rounded_again(store, tmp_path, bits, types):
    source = commit_quantized(store, bits)
    folder = written(source, tmp_path / "model")  # the dtype that null means
    name = "q8_0" if bits == 8 else "q4_0"
    assert [path.name for path in folder.iterdir()] == [f"model-{name}.gguf"]
    places = gguf.open_file(folder).places
    assert {place.type for key, place in places.items() if key.startswith("blk.") and "_norm" not in key} == types
    expected = dict(read_quantized(store.storage.root / "quantize/q/model"))
    for key, value in gguf.read(folder).weights():
        if isinstance(expected[key], Quantized):
            matrix = expected[key]
            exact = (matrix.codes.float() - matrix.grid.codes // 2) * matrix.scales.float().repeat_interleave(32, 1)
            assert torch.equal(value, exact), key
    check = gguf.verify(source, folder, "q4_0")
    assert 0 < check.kl < 0.5
    assert "quantize/q" in gguf.describe(source, "q4_0").announcement
    with pytest.raises(ConfigError, match="a second time"):
        gguf.refuse(source, "q6_k")
    assert f"model-{name}.gguf" in {path.name for path in folder.iterdir()}


# ── What is wrong is refused ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_checkpoint_of_other_weights_is_seen(source, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    wrong: dict[str, dict] = {
        "not permuted": {"permute": lambda rows, heads: rows},
        "a scale left out": {
            "fold": lambda weights, model: fold(weights, dataclasses.replace(model, scale_depth=model.layers**0.5))
        },
    }
    for changes in wrong.values():
        with monkeypatch.context() as patch:
            for name, value in changes.items():
                patch.setattr(gguf, name, value)
            written(source, folder)
        with pytest.raises(ArtifactError, match="is not what was written"):
            gguf.verify(source, folder, "q4_0")
        shutil.rmtree(folder)


@pytest.mark.parametrize("place", ["blk.1.ffn_gate.weight", "token_embd.weight", "output_norm.weight"])
def test_a_changed_byte_is_seen(source, tmp_path, place):
    folder = written(source, tmp_path / "model")
    file = gguf.open_file(folder)
    with file.path.open("r+b") as handle:
        handle.seek(file.places[place].begin + 3)
        byte = handle.read(1)[0]
        handle.seek(-1, 1)
        handle.write(bytes([byte ^ 1]))
    with pytest.raises(ArtifactError, match="is not what was written"):
        gguf.verify(source, folder, "q4_0")


def test_limits_see_what_weights_do_not_say(tmp_path):
    """A model whose heads are in another order, with a scale or two matrices exchanged, is beyond every limit."""
    source = source_of(committed(tmp_path / "store", factor=3))
    weights, config = folded(source), llama_config(source.model, "float32")
    gate, up = (f"model.layers.0.mlp.{map_}_proj.weight" for map_ in ("gate", "up"))
    query = "model.layers.0.self_attn.q_proj.weight"
    down = "model.layers.0.mlp.down_proj.weight"
    rows = heldout_rows(source)
    wrong = {
        "right": {},
        "not permuted": {
            name: gguf.unpermute(value, 4 if "q_proj" in name else 2)
            for name, value in weights.items()
            if name.endswith(("q_proj.weight", "k_proj.weight"))
        },
        "no scale": {down: weights[down] * 12},
        "exchanged": {gate: weights[up], up: weights[gate]},
    }
    told = {
        name: agreement(source, Delivered(config, lambda changes=changes: iter({**weights, **changes}.items())), rows)
        for name, changes in wrong.items()
    }
    assert query in wrong["not permuted"]
    assert told.pop("right")[0] < 1e-6
    limits = [stored for stored in gguf_quants.DTYPES.values() if not stored.is_float]
    for name, (kl, top1) in told.items():
        assert all(kl > limit.most_kl or top1 < limit.least_top1 for limit in limits), (name, kl, top1)


def test_another_tokenizer_or_shape_is_seen(source, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(gguf_tokenizer, "GGUF_TEMPLATE", GGUF_TEMPLATE.replace("<AI>", "<ai>"))
        written(source, folder)
    with pytest.raises(ArtifactError, match="chat_template read back"):
        gguf.verify(source, folder, "q4_0")
    file = gguf.open_file(folder)
    with pytest.raises(ArtifactError, match="says rope_theta = 5000.0; the checkpoint has 10000.0"):
        gguf._refuse_config(file, dataclasses.replace(source.model, rope_base=10_000.0))


@pytest.mark.parametrize("kept", [0, 10, 3000, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(source, tmp_path, kept):
    path = gguf.open_file(written(source, tmp_path / "model")).path
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ArtifactError, match="no whole GGUF file"):
        gguf.read(path.parent)


def test_what_is_no_gguf_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds 0 GGUF files"):
        gguf.read(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"not a model at all" * 100)
    with pytest.raises(ArtifactError, match="no whole GGUF file"):
        gguf.read(tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"")
    with pytest.raises(ArtifactError, match="a.gguf, b.gguf"):
        gguf.read(tmp_path)


def test_k_quants_without_llama_cpp_are_refused_before_any_work(store):
    wanted = ExportConfig(
        name="e", parent="dpo/d", store=store.uri, format="gguf", dtype="q4_k_m", tracking=TrackingConfig(enabled=False)
    )
    before = sorted(path for path in store.storage.root.rglob("*"))
    with pytest.raises(ConfigError, match="not installed: pip install .*dtype=q4_0"), Session(wanted) as session:
        workflow.run(wanted, session)
    assert not (store.storage.root / "export").exists()
    assert [path for path in before if not path.exists()] == []


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(source, monkeypatch):
    made = json.loads(source.tokens.path("tokenizer/tokenizer.json").read_text())
    assert gguf_tokenizer._unlike(made) == ""
    assert "normalises" in gguf_tokenizer._unlike({**made, "normalizer": {"type": "NFC"}})
    assert "another way" in gguf_tokenizer._unlike({**made, "pre_tokenizer": {"type": "Whitespace"}})
    assert "plain BPE" in gguf_tokenizer._unlike({**made, "model": {"type": "Unigram"}})
    assert "markers" in gguf_tokenizer._unlike({**made, "added_tokens": made["added_tokens"][:2]})
    with pytest.raises(ConfigError, match="ids up to 319 and the model 300"):
        vocabulary_of(source.tokens, 300)
    state = source.run.checkpoint.state
    deep = dataclasses.replace(source.run.checkpoint, state={**state, "model": {**state["model"], "layers": 600}})
    with pytest.raises(ConfigError, match="at most 512"):
        gguf.refuse(dataclasses.replace(source, run=dataclasses.replace(source.run, checkpoint=deep)), "q4_0")


# ── Chat template, and the whole command ──────────────────────────────────────────────────────────────────────────────


def render(template, messages, **settings):
    def refuse(message):
        raise ValueError(message)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    made = environment.from_string(template)
    return made.render(messages=messages, raise_exception=refuse, **settings)


def test_the_template_writes_what_that_of_training_writes():
    assert "generation %}" not in GGUF_TEMPLATE
    assert GGUF_TEMPLATE.replace("{%", "").replace("%}", "") in TEMPLATE.replace("{% generation %}", "").replace(
        "{% endgeneration %}", ""
    ).replace("{%", "").replace("%}", "")
    messages = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "a</s>b <用户> c <AI> d"},
        {"role": "assistant", "content": "19"}, {"role": "user", "content": "  好  "},
    ]  # fmt: skip
    assert render(GGUF_TEMPLATE, messages, add_generation_prompt=True) == (
        f"<用户>Be brief.\na<{GUARD}/s>b <{GUARD}用户> c <{GUARD}AI> d<AI>19</s><用户>  好  <AI>"
    )
    for refused in ([{"role": "tool", "content": "x"}], [{"role": "assistant", "content": "x"}], []):
        with pytest.raises(ValueError, match="this model was not|messages are"):
            render(GGUF_TEMPLATE, refused)


def test_the_command_writes_a_folder_with_its_ways_to_run(store, capsys):
    wanted = ExportConfig(
        name="e", parent="dpo/d", store=store.uri, format="gguf", tracking=TrackingConfig(enabled=False)
    )
    with Session(wanted) as session:
        artifact = workflow.run(wanted, session)
    folder = store.storage.root / artifact.folder
    assert (folder / "model-q4_0.gguf").exists()
    assert not list(folder.glob("*.safetensors"))
    GgufFile(folder / "model-q4_0.gguf")
    told = capsys.readouterr().out
    assert "embedding and output matrix 8 bits" in told
    assert "pip install" in told
    ways = {way.program: way.text for way in FORMATS["gguf"].run(str(folder))}
    assert next(iter(ways)) == "llama-cpp-python"
    compile(ways["llama-cpp-python"], "example", "exec")
    assert f"llama-cli -m {folder}/*.gguf" in ways["llama.cpp"]
    assert "<用户>{{prompt}}<AI>" in ways["LLMFarm (iPhone)"]
