"""The exported folder as a stranger meets it: loaded by `transformers`, compared with the checkpoint."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.config import TrackingConfig
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ArtifactError, CheckpointError, ConfigError, StorageError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.sealed import sealed
from pipelines.train.checkpoint import read_weights
from pipelines.train.checkpoint.lineage import lineage, open_run, tokens_of
from pipelines.train.formats import FORMATS, llama, minicpm, mlc, questions
from pipelines.train.formats import folder as formats_folder
from pipelines.train.formats.contract import Source
from pipelines.train.formats.gate import ask_transformers_tokenizer
from pipelines.train.formats.llama import fold, llama_config
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.results.evaluate import EvaluateConfig, read_results
from pipelines.train.results.model_card import find_evaluation
from pipelines.train.tasks import TASKS
from tests import tiny
from tests.numpy_model import NumpyModel
from tests.untrained import commit_run, commit_tokens
from tests.waits import PATIENCE_SECONDS
from workflows import evaluate as evaluating
from workflows import export as workflow
from workflows.export import ExportConfig
from workflows.running.session import Session

# formats whose folder a Llama of transformers is made of, with the dtypes that store float32 and half as many bits
FOLDERS = {"llama": ("float32", "bfloat16"), "minicpm": ("float32", "float16"), "mlc": ("q0f32", "q4f16_1")}

# every constant differs from Llama's default, so that one left out of config.json shows
MODEL = ModelConfig(
    layers=3, d_model=48, d_ff=80, heads=6, kv_heads=2, vocabulary=320, max_positions=96, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=3e-5,
)  # fmt: skip
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A lineage from corpus to dpo, with weights that training could have left (norms are not 1)."""
    path = tmp_path_factory.mktemp("trained")
    store = ArtifactStore(str(path))
    tokens = commit_tokens(store, TEXTS, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    network = Transformer(MODEL).initialise(3)
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    for name, value in weights.items():
        if value.dim() == 1:
            value += torch.linspace(-0.3, 0.3, len(value))
        assert value.abs().sum() > 0, name
    parent = None
    for kind in ("pretrain", "anneal", "sft", "dpo"):
        parent = commit_run(store, f"{kind}/d", MODEL, tokens, parent, weights)
    return path


@pytest.fixture(autouse=True)
def few_questions(monkeypatch):
    """What the gate asks in seconds, not minutes; what it asks in full, `test_gate.py` and campaigns ask once."""
    monkeypatch.setattr(questions, "STRINGS", 150)
    monkeypatch.setattr(questions, "PROMPTS", 4)
    monkeypatch.setattr(questions, "GREEDY_TOKENS", 6)


@pytest.fixture
def store(trained, tmp_path):
    """A copy of it, to write into."""
    return ArtifactStore(str(shutil.copytree(trained, tmp_path / "store")))


def config(store, **changes):
    values = {
        "name": "e",
        "parent": "dpo/d",
        "store": store.uri,
        "tracking": TrackingConfig(enabled=False),
        "dtype": "float32",
    }
    return ExportConfig(**{**values, **changes})


def exported(store, **changes):
    wanted = config(store, **changes)
    with Session(wanted) as session:
        return workflow.run(wanted, session)


def source_of(store):
    run = open_run(store, "dpo/d")
    return Source(run, tokens_of(store, run))


def our_logits(store, ids):
    network = Transformer(MODEL)
    network.load_state_dict({**read_weights(open_run(store, "dpo/d").checkpoint)})
    with torch.no_grad():
        return network.logits(network(ModelInput(inputs=ids, positions=torch.arange(ids.shape[1]).expand_as(ids))))


def test_transformers_loads_it_and_agrees_to_1e_4(store):
    artifact = exported(store)
    folder = store.storage.root / artifact.folder
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert not list(folder.glob("*.py"))  # no remote code
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    ids = torch.randint(0, 320, (3, 90), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (model(ids).logits - our_logits(store, ids)).abs().max()
    assert difference <= 1e-4
    assert artifact.statistics["largest_difference"] <= 1e-4

    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = Encoder((folder / "tokenizer.json").read_text(), fast=False)
    messages = [{"role": "user", "content": "你好, 1 + 1?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert inputs["input_ids"][0].tolist() == encoder.encode_prompt(messages).tolist()
    output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert inputs["input_ids"].shape[1] < output.shape[1] <= inputs["input_ids"].shape[1] + 5
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0
    assert tokenizer.decode(encoder.encode([TEXTS["zh"][0]])[0]) == TEXTS["zh"][0]


def test_bfloat16_is_stored_as_such_and_its_cost_reported(store):
    artifact = exported(store, dtype="bfloat16")
    model = AutoModelForCausalLM.from_pretrained(store.storage.root / artifact.folder, dtype="auto")
    assert {value.dtype for value in model.state_dict().values()} == {torch.bfloat16}
    assert artifact.statistics["largest_difference"] <= 1e-4 < artifact.statistics["stored_difference"]


def test_large_models_are_written_in_parts(store, monkeypatch):
    monkeypatch.setattr(formats_folder, "PART_BYTES", 40_000)
    folder = store.storage.root / exported(store).folder
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert parts[-1].name == f"model-{len(parts):05d}-of-{len(parts):05d}.safetensors"
    assert not (folder / "model.safetensors").exists()
    AutoModelForCausalLM.from_pretrained(folder)


def test_parts_hold_every_weight_once_and_keep_to_the_limit():
    sizes = {str(i): size for i, size in enumerate((12, 12, 200, 4, 4))}
    assert list(formats_folder.split(sizes, 24)) == [["0", "1"], ["2"], ["3", "4"]]


@pytest.mark.parametrize("damage", ["residual_scale", "rope_theta"])
def test_an_export_that_disagrees_is_refused_and_nothing_is_left(store, monkeypatch, damage):
    if damage == "residual_scale":

        def wrong(weights, model):
            for name, value in fold(weights, model):
                yield name, value * 1.05 if name == "model.layers.1.mlp.down_proj.weight" else value

        monkeypatch.setattr(llama, "fold", wrong)
    else:
        monkeypatch.setattr(llama, "llama_config", lambda *a: {**llama_config(*a), "rope_theta": 10_000.0})
    with pytest.raises(ArtifactError, match=r"logits differ.*accepted is 0\.0001"):
        exported(store)
    assert store.find("export/e") is None
    left = [path.name for path in (store.storage.root / "export/e").rglob("*")]
    assert left == ["claim.json"]


def test_a_tokenizer_with_other_ids_is_refused(store, tmp_path):
    folder = store.storage.root / exported(store).folder
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = settings["chat_template"].replace("'<AI>'", "'<AI> '")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ArtifactError, match=r"gives other ids .* for the conversation .*What is 12 plus 7"):
        ask_transformers_tokenizer(folder, source_of(store))


def test_a_damaged_checkpoint_is_not_exported(store):
    path = store.storage.root / "dpo/d/checkpoints/step-000001/rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        exported(store)
    assert store.find("export/e") is None


def test_without_a_tokenizer_there_is_nothing_to_export(tmp_path):
    store = tiny.build(str(tmp_path))
    commit_run(store, "pretrain/a", MODEL, store.get("tokens/tiny"))
    with pytest.raises(ArtifactError, match="holds no tokenizer"):
        exported(store, parent="pretrain/a")


def measuring(store, name, parent):
    """The config of an evaluation of two tasks."""
    return EvaluateConfig(
        name=name,
        parent=parent,
        store=store.uri,
        tracking=TrackingConfig(enabled=False),
        tasks={name: TASKS[name].Settings() for name in ("text", "preferences")},
    )


def test_the_model_card_tells_data_licences_lineage_and_numbers(store):
    measure = measuring(store, "m", "dpo/d")
    other = measuring(store, "a", "sft/d")
    with Session(measure) as session:
        measured = evaluating.run(measure, session)
        evaluating.run(other, session)
    folder = store.storage.root / exported(store).folder
    card, licence = (folder / "README.md").read_text(), (folder / "LICENSE.md").read_text()
    assert "**Licence unclear:** pairs." in card
    assert "**No clear upstream licence: pairs.**" in licence
    assert "- prose: MIT" in licence
    places = [card.index(f"`{link.folder}` | `{link.fingerprint}`") for link in lineage(store, store.get("dpo/d"))]
    assert places == sorted(places)
    assert len(places) == 6  # corpus, tokens, pretrain, anneal, sft, dpo
    bits = measured.json("results.json")["tasks"]["text"]["rows"]["prose"]["bits_per_byte"]
    assert f"| {bits:.3f} |" in card
    assert f"| all pairs | – | {measured.statistics['preference_accuracy']:.1%} |" in card
    assert "AutoModelForCausalLM.from_pretrained" in card


def test_an_evaluation_of_an_older_version_is_named_and_passed_over(store, capsys):
    with Session(config := measuring(store, "m", "dpo/d")) as session:
        made = evaluating.run(config, session)
    path = store.storage.root / made.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["statistics"]["tasks"]
    path.write_bytes(sealed({key: value for key, value in manifest.items() if key != "sha256"}))
    assert find_evaluation(store, open_run(store, "dpo/d")) is None
    assert "evaluate/m was made by an older version of Trunkline and is passed over" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match=r"evaluate/m was made by an older version.*on_change=rebuild"):
        read_results(store.get("evaluate/m"))


def test_an_evaluation_made_later_does_not_make_the_export_stale(store, capsys):
    first = exported(store)
    measure = measuring(store, "m", "dpo/d")
    with Session(measure) as session:
        evaluating.run(measure, session)
    assert exported(store).manifest == first.manifest
    assert "finished already" in capsys.readouterr().out


def test_a_finished_export_is_compared_before_it_is_reused(store):
    path = store.storage.root / exported(store).folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"model.safetensors does not match its checksum .*make it anew"):
        exported(store)
    exported(store, on_change="rebuild")
    exported(store)


# ── MiniCPM's own format ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_minicpm_folder_holds_the_weights_of_training_and_says_how_they_are_scaled(store):
    folder = store.storage.root / exported(store, format="minicpm").folder
    written = json.loads((folder / "config.json").read_text())
    assert (written["architectures"], written["model_type"]) == (["MiniCPMForCausalLM"], "minicpm")
    assert (written["scale_emb"], written["scale_depth"], written["dim_model_base"]) == (9.0, 1.1, 16)
    assert written["tie_word_embeddings"] is True
    assert "auto_map" not in written
    assert not list(folder.glob("*.py"))  # no remote code
    trained = read_weights(open_run(store, "dpo/d").checkpoint)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
        assert torch.equal(file.get_tensor("model.embed_tokens.weight"), trained["embed_tokens.weight"])
        down = "layers.2.mlp.down_proj.weight"
        assert torch.equal(file.get_tensor(f"model.{down}"), trained[down])


def test_the_minicpm_folder_alone_gives_our_logits_by_the_published_formulas(store):
    """Read without any code of the export: NumPy's decoder on what the files and config.json say."""
    folder = store.storage.root / exported(store, format="minicpm").folder
    said = json.loads((folder / "config.json").read_text())
    keys = {
        "layers": "num_hidden_layers",
        "d_model": "hidden_size",
        "d_ff": "intermediate_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "vocabulary": "vocab_size",
        "max_positions": "max_position_embeddings",
        "scale_emb": "scale_emb",
        "scale_depth": "scale_depth",
        "dim_model_base": "dim_model_base",
        "rope_base": "rope_theta",
        "norm_eps": "rms_norm_eps",
    }
    stored = {name.removeprefix("model."): value for name, value in load_file(folder / "model.safetensors").items()}
    for layer in range(said["num_hidden_layers"]):
        for fused, maps in (("self_attn.qkv", "self_attn.{}_proj q k v"), ("mlp.gate_up", "mlp.{}_proj gate up")):
            pattern, *parts = maps.split()
            pieces = [stored.pop(f"layers.{layer}.{pattern.format(part)}.weight") for part in parts]
            stored[f"layers.{layer}.{fused}_proj.weight"] = torch.cat(pieces)
    numpys = NumpyModel(ModelConfig(**{ours: said[theirs] for ours, theirs in keys.items()}), stored)
    ids = torch.randint(0, 320, (2, 40), generator=torch.Generator().manual_seed(0))
    logits = numpys.logits(ids.numpy(), np.tile(np.arange(40), (2, 1)))
    assert np.abs(logits - our_logits(store, ids).numpy()).max() < 1e-4


@pytest.mark.parametrize("key", ["scale_emb", "scale_depth", "dim_model_base", "rope_theta"])
def test_a_minicpm_config_that_says_something_else_is_refused(store, monkeypatch, key):
    real = minicpm.minicpm_config
    monkeypatch.setattr(minicpm, "minicpm_config", lambda *a: {**real(*a), key: 2 * real(*a)[key]})
    with pytest.raises(ArtifactError, match=r"logits differ.*accepted is 0\.0001"):
        exported(store, format="minicpm")
    assert store.find("export/e") is None


# ── MLC's ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_mlc_folder_says_what_the_model_is_and_how_it_chats(store, capsys):
    folder = store.storage.root / exported(store, format="mlc", dtype="q4f16_1").folder
    said = json.loads((folder / "mlc-chat-config.json").read_text())
    model = said["model_config"]
    assert (said["model_type"], said["quantization"]) == ("llama", "q4f16_1")
    assert (model["position_embedding_base"], model["rms_norm_eps"]) == (5000.0, 3e-5)
    assert (model["head_dim"], model["num_key_value_heads"], model["context_window_size"]) == (8, 2, 96)
    assert said["tokenizer_files"] == [path.name for path in sorted(folder.glob("tokenizer*"))]
    questions_ = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
    ]
    assert mlc.rendered(said["conv_template"], questions_) == "<用户>1?<AI>2</s><用户>3<AI>"
    for device in ("android", "iphone"):
        package = json.loads((folder / f"mlc-package-config.{device}.json").read_text())
        assert package["device"] == device
        assert package["model_list"][0]["model"] == "dist/trunkline-q4f16_1-MLC"
        assert package["model_list"][0]["bundle_weight"] is True
    card = (folder / "README.md").read_text()
    out = capsys.readouterr().out
    assert "MLC-LLM was not asked: it is on no package index" in out
    assert f"F=$(realpath {folder})" in out
    assert "reads typed markers as markers" in card


def test_a_chat_format_that_mlc_would_render_otherwise_is_refused(store, monkeypatch):
    real = mlc.conversation()
    monkeypatch.setattr(mlc, "conversation", lambda: {**real, "seps": ["\n", "</s>"]})
    with pytest.raises(ArtifactError, match=r"MLC's chat format gives other ids than training for the conversation"):
        exported(store, format="mlc", dtype="q0f32")
    assert store.find("export/e") is None


def test_the_commands_find_the_quantization_in_the_folder(store):
    folder = store.storage.root / exported(store, format="mlc", dtype="q4f32_1").folder
    phone = next(way for way in mlc.run(str(folder)) if way.program.startswith("MLC-LLM"))
    line = next(line for line in phone.text.splitlines() if line.startswith("Q="))
    found = subprocess.run(["bash", "-c", f"F={folder}; {line}; echo $Q"], capture_output=True, text=True, check=True)
    assert found.stdout == "q4f32_1\n"


# ── Every format ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "parent"), [*((name, "dpo/d") for name in FOLDERS), ("llama", "anneal/d")], ids=[*FOLDERS, "a base model"]
)
def test_the_code_in_the_model_card_runs_and_gives_our_logits(store, name, parent):
    artifact = exported(store, format=name, dtype=FOLDERS[name][0], parent=parent)
    folder = store.storage.root / artifact.folder
    card = (folder / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    assert FORMATS[name].describe(source_of(store), FOLDERS[name][0]).loads in card
    variables: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code.replace("path/to/this/folder", str(folder)), variables)
    ids = torch.randint(0, 320, (1, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (variables["model"].eval()(ids).logits - our_logits(store, ids)).abs().max() < 1e-4
    assert variables["output"].shape[1] > variables["inputs"]["input_ids"].shape[1]
    asked = variables["tokenizer"].decode(variables["inputs"]["input_ids"][0])
    assert asked == ("<用户>1 + 1?<AI>" if parent == "dpo/d" else "Once upon a time there was a model,")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_announced_size_is_that_of_the_weights(store, name):
    for dtype in FOLDERS[name]:
        path = store.storage.root / exported(store, name=f"x-{dtype}", format=name, dtype=dtype).folder
        with safe_open(path / "model.safetensors", "pt") as file:
            size = sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
        assert FORMATS[name].describe(source_of(store), dtype).size_bytes == size


@pytest.mark.parametrize("name", FOLDERS)
def test_a_byte_that_the_disk_changed_is_found_and_nothing_is_committed(store, monkeypatch, name):
    def verify(source, folder, dtype):
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(data)
        return FORMATS[name].verify(source, folder, dtype)

    monkeypatch.setattr(workflow, "FORMATS", {name: dataclasses.replace(FORMATS[name], verify=verify)})
    with pytest.raises(ArtifactError, match=r"read back from .* is not what was written; nothing was committed"):
        exported(store, format=name, dtype=FOLDERS[name][0])
    assert [path.name for path in (store.storage.root / "export/e").rglob("*")] == ["claim.json"]


def test_a_full_disk_is_told_and_leaves_nothing(store, monkeypatch):
    def full(file, piece):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(formats_folder, "write_all", full)
    with pytest.raises(StorageError, match=r"model.safetensors.*No space left on device.*nothing was committed"):
        exported(store)
    assert [path.name for path in (store.storage.root / "export/e").rglob("*")] == ["claim.json"]


def test_a_killed_export_is_made_anew_by_the_same_command(store):
    code = (
        "import os, signal\nfrom pipelines.train.formats import folder\nfrom workflows import export\n"
        "real, left = folder.write_all, [20]\n"
        "def stop(file, piece):\n"
        "    left[0] -= 1\n    real(file, piece)\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "folder.write_all = stop\nexport.main()\n"
    )
    line = [sys.executable, "-c", code, "parent=dpo/d", "name=e", f"store={store.uri}", "tracking.enabled=false"]
    ended = subprocess.run([*line, "dtype=float32"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert store.find("export/e") is None
    assert list((store.storage.root / "export/e").rglob("*.safetensors"))
    folder = store.storage.root / exported(store).folder
    AutoModelForCausalLM.from_pretrained(folder)
    assert not list(folder.glob(".partial-*"))


def test_an_unknown_format_is_refused_with_the_known_ones(store):
    with pytest.raises(ConfigError, match=r"format is 'ggml'; expected one of llama, minicpm"):
        config(store, format="ggml")


def test_a_dtype_of_another_format_is_refused_with_the_known_ones(store):
    with pytest.raises(ConfigError, match=r"dtype is 'q4f16_1'; format=llama stores weights as bfloat16, float16, fl"):
        config(store, dtype="q4f16_1")
    assert config(store, dtype=None).stored == "bfloat16"
    assert config(store, dtype=None, format="mlc").stored == "q4f16_1"
