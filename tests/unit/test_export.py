"""The exported folder as a stranger meets it: loaded by `transformers`, compared with the checkpoint."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.config import TrackingConfig
from pipelines.data.tokens.tokenizer import Encoder
from pipelines.errors import ArtifactError, CheckpointError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.sealed import sealed
from pipelines.train.checkpoint.lineage import lineage, open_run
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import ModelInput
from pipelines.train.network.model import Transformer
from pipelines.train.results import export
from pipelines.train.results.evaluate import EvaluateConfig, read_results
from pipelines.train.results.export import ExportConfig, fold, llama_config, split, verify_tokenizer
from pipelines.train.results.model_card import find_evaluation
from tests import tiny
from tests.untrained import commit_run, commit_tokens
from workflows import evaluate as evaluating
from workflows import export as workflow
from workflows.session import Session

# every constant differs from Llama's default, so that one left out of config.json shows
MODEL = ModelConfig(
    layers=3, d_model=48, d_ff=80, heads=6, kv_heads=2, vocabulary=320, max_positions=96, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=3e-5,
)  # fmt: skip
TEXTS = {
    "prose": ["Once upon a time there was a model, and it was small."] * 30,
    "zh": ["话说天下大势，分久必合。"] * 30,
}


@pytest.fixture
def store(tmp_path):
    """A lineage from corpus to dpo, with weights that training could have left (norms are not 1)."""
    store = ArtifactStore(str(tmp_path))
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
    return store


def config(store, **changes):
    values = {"name": "e", "parent": "dpo/d", "store": store.uri, "tracking": TrackingConfig(enabled=False)}
    return ExportConfig(**{**values, **changes})


def exported(store, **changes):
    wanted = config(store, **changes)
    with Session(wanted) as session:
        return workflow.run(wanted, session)


def our_logits(store, ids):
    network = Transformer(MODEL)
    network.load_state_dict({**export.read_weights(open_run(store, "dpo/d").checkpoint)})
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
    monkeypatch.setattr(export, "SHARD_BYTES", 40_000)
    folder = store.storage.root / exported(store).folder
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert parts[-1].name == f"model-{len(parts):05d}-of-{len(parts):05d}.safetensors"
    assert not (folder / "model.safetensors").exists()
    AutoModelForCausalLM.from_pretrained(folder)


def test_parts_hold_every_weight_once_and_keep_to_the_limit():
    weights = {str(i): torch.zeros(size) for i, size in enumerate((3, 3, 50, 1, 1))}
    assert [list(part) for part in split(weights, 24)] == [["0", "1"], ["2"], ["3", "4"]]


@pytest.mark.parametrize("damage", ["residual_scale", "rope_theta"])
def test_an_export_that_disagrees_is_refused_and_nothing_is_left(store, monkeypatch, damage):
    if damage == "residual_scale":

        def wrong(weights, model):
            found = fold(weights, model)
            found["model.layers.1.mlp.down_proj.weight"] *= 1.05
            return found

        monkeypatch.setattr(export, "fold", wrong)
    else:
        monkeypatch.setattr(export, "llama_config", lambda *a: {**llama_config(*a), "rope_theta": 10_000.0})
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
    with pytest.raises(ArtifactError, match="other ids for chat"):
        verify_tokenizer(folder, store.get("tokens/t"))


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
        tasks={"text": {}, "preferences": {}},
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
