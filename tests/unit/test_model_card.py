"""The model card of made-up checks and measurements: what it says, and that a stranger's program reads its head."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from pipelines.train.checkpoint.lineage import lineage, open_run, tokens_of
from pipelines.train.formats import FORMATS
from pipelines.train.formats.contract import Asked, Check, HowToRun, Source
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.results.model_card import licence_note, model_card
from tests.commands import run_here
from tests.untrained import commit_run, commit_tokens

MODEL = ModelConfig(
    layers=2, d_model=32, d_ff=48, heads=4, kv_heads=2, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=16, rope_base=5000.0, norm_eps=1e-5,
)  # fmt: skip
ESTIMATE = {"mean": {"value": 0.0123, "low": 0.01, "high": 0.02}}
LEVELS = {"bits_per_byte": {"by_source": {}, "mean": 1.5}, "assistant_loss": 2.5, "preference_accuracy": None}
QUANTIZATION = {
    "parent": "dpo/d@step-1",
    "method": "gptq",
    "words": "errors of one column mended in those behind it",
    "dtype": "bfloat16",
    "bits_per_weight": 4.5,
    "bytes": {"linear": 2_800, "total": 5_000, "bfloat16": {"linear": 10_000, "total": 12_200}},
    "calibration": {"words": "64 conversations", "tokens": "tokens/t", "seed": 7},
    "tokens": "tokens/t",
    "measured": {
        "level": 0.95,
        "sources": {"prose": {"compared_tokens": 300}, "zh": {"compared_tokens": 200}},
        "models": {
            "full": LEVELS,
            "gptq": {**LEVELS, "lost_bits_per_byte": ESTIMATE, "kl": ESTIMATE, "top1": {"mean": {"value": 0.97}}},
            "rtn": {**LEVELS, "lost_bits_per_byte": {"mean": None}, "kl": ESTIMATE, "top1": ESTIMATE},
        },
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    store = ArtifactStore(str(tmp_path_factory.mktemp("store")))
    texts = {"prose": ["Once upon a time there was a model, and it was small."] * 20, "zh": ["话说天下大势。"] * 20}
    tokens = commit_tokens(store, texts, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    parent = None
    for kind in ("pretrain", "anneal", "sft", "dpo"):
        parent = commit_run(store, f"{kind}/d", MODEL, tokens, parent)
    return store


@pytest.fixture
def source(store: ArtifactStore) -> Source:
    run = open_run(store, "dpo/d")
    return Source(run, tokens_of(store, run))


def card(store: ArtifactStore, source: Source, check: Check = Check(), dtype: str = "float32") -> str:  # noqa: B008
    links = lineage(store, source.quantized or source.run.artifact)
    return model_card("demo", source, links, FORMATS["llama"], dtype, check, None)


def test_its_head_is_yaml_with_what_the_hub_knows(store: ArtifactStore, source: Source) -> None:
    from huggingface_hub import ModelCard

    text = card(store, source)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "other"
    assert head["license_name"] == head["license_name"].lower()
    assert head["license_link"] == "LICENSE.md"
    assert (head["pipeline_tag"], head["library_name"]) == ("text-generation", "transformers")
    assert head["language"] == ["en"]
    assert "base_model" not in head
    assert ModelCard(text).data.to_dict() == head


def test_sources_come_with_their_share_and_unclear_ones_first(store: ArtifactStore, source: Source) -> None:
    text = card(store, source)
    rows = [line for line in text.partition("## Data and licences")[2].splitlines() if line.startswith("| ")]
    assert rows[0] == "| source | kind | language | tokens | share | licence |"
    tokens = {name: one["train"]["tokens"] for name, one in source.tokens.statistics["sources"].items()}
    share = tokens["pairs"] / sum(tokens.values())
    assert rows[1] == f"| pairs | preferences | en | {tokens['pairs']} | {share:.1%} | **unclear-upstream (test)** |"
    assert text.index("**Licence unclear:** pairs.") < text.index("## How to run it")
    assert "pairs" in licence_note(source.tokens).partition("**No clear upstream licence:")[2]


def test_a_source_without_a_licence_is_unclear_too(store: ArtifactStore, source: Source) -> None:
    manifest = source.tokens.manifest
    sources = {name: {**one, "licence": None} for name, one in manifest["statistics"]["sources"].items()}
    bare = {**manifest, "licences": {"chat": "MIT"}, "statistics": {**manifest["statistics"], "sources": sources}}
    tokens = dataclasses.replace(source.tokens, manifest=bare)
    text = card(store, dataclasses.replace(source, tokens=tokens))
    assert "**Licence unclear:** pairs, prose, zh." in text
    assert "| **not recorded** |" in text


def test_the_way_from_corpus_to_format_stands_in_one_line(store: ArtifactStore, source: Source) -> None:
    way = "`corpus/c` → `tokens/t` → `pretrain/d@step-1` → `anneal/d@step-1` → `sft/d@step-1` → `dpo/d@step-1` → Llama"
    assert f"{way}, float32\n" in card(store, source)


def test_it_says_which_programs_were_asked_and_which_were_not(store: ArtifactStore, source: Source) -> None:
    asked = Asked("transformers 5.23.0", "", 5000, 3, 20, 20, 1280, None, 1279, ("three strings differ by NFC",))
    silent = Asked("llama_cpp", "pip install llama-cpp-python")
    text = card(store, source, Check(256, 1e-6, 2e-3, (1e-7, 2e-7), None, None, (asked, silent)))
    checked = text.partition("## What was checked")[2].partition("\n## ")[0]
    assert "- on 256 held-out tokens: logits within 1.0e-06 (float32), 2.0e-03 as stored" in checked
    assert "hidden states after each block within 2.0e-07" in checked
    assert "5,000 strings tokenized like in training (3 differ, see below); 20 conversations" in checked
    assert "1,279 of 1,280" in checked
    assert "three strings differ by NFC" in checked
    assert "- **llama_cpp was not asked**: pip install llama-cpp-python" in checked
    assert "no program of others" not in checked
    assert "- no program of others was asked" in card(store, source, Check(asked=(silent,)))


def test_it_says_what_four_bits_cost(store: ArtifactStore, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Artifact(store.storage, "quantize/q", {**source.run.artifact.manifest, "files": {"quantization.json": {}}})
    monkeypatch.setattr(Artifact, "json", lambda self, file: QUANTIZATION if file == "quantization.json" else None)
    text = model_card(
        "q", dataclasses.replace(source, quantized=made), lineage(store, source.run.artifact), FORMATS["llama"],
        "bfloat16", Check(256, kl=0.0123, top1=0.97), None,
    )  # fmt: skip
    cost = text.partition("## What quantizing cost")[2].partition("\n## ")[0]
    assert "4.50 bits" in cost
    assert "2.8 kB instead of 10 kB in bfloat16 (28.0%)" in cost
    assert "64 conversations of `tokens/t`, seed 7" in cost
    assert "| **gptq** | 1.5000 | 0.0123 (0.01 to 0.02) | 0.0123 (0.01 to 0.02) | 97.0% | 2.500 | – |" in cost
    assert "| full | 1.5000 | – | – | – | 2.500 | – |" in cost
    assert "Exported from `quantize/q`" in text
    assert "0.0123 nats of KL per token away from the model in full precision" in text
    assert "- quantized\n" in text.split("---\n")[1]


def test_every_way_to_run_it_is_there(store: ArtifactStore, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = (HowToRun(program="one", language="bash", text="run it"), HowToRun(program="two", language="text", text="x"))
    monkeypatch.setitem(FORMATS, "llama", dataclasses.replace(FORMATS["llama"], run=lambda folder: ways))
    text = card(store, source)
    assert "### one\n\n```bash\nrun it\n```\n\n### two\n\n```text\nx\n```" in text


def test_a_gguf_file_is_not_told_of_what_the_tokenizer_of_others_does(store: ArtifactStore, source: Source) -> None:
    assert "split_special_tokens=True" in card(store, source)
    links = lineage(store, source.run.artifact)
    text = model_card("demo", source, links, FORMATS["gguf"], "q4_0", Check(256, kl=0.1, top1=0.9), None)
    assert "split_special_tokens" not in text
    assert "the chat template refuses other roles" in text


def test_a_model_that_was_not_taught_to_answer_says_so(store: ArtifactStore) -> None:
    run = open_run(store, "anneal/d")
    assert "it was not taught to answer" in card(store, Source(run, tokens_of(store, run)))


def test_no_place_of_this_machine_is_in_it(store: ArtifactStore, source: Source, tmp_path: Path) -> None:
    assert str(tmp_path) not in card(store, source)
    assert str(store.uri) not in card(store, source)


def test_what_was_quantized_is_published_with_a_card_of_its_own(
    store: ArtifactStore, source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its folder has none: the card is made where it is sent."""
    monkeypatch.setitem(FORMATS, "compressed-tensors", FORMATS["llama"])
    draft = store.begin("quantize", "q", {"method": "gptq"}, [source.run.artifact, source.tokens])
    assert isinstance(draft, Draft)
    paths = {}
    files = {"model/model.safetensors": "weights", "model/config.json": "{}"}
    for name, text in {**files, "quantization.json": json.dumps(QUANTIZATION), "quantization.html": ""}.items():
        paths[name] = draft.scratch(name)
        paths[name].write_text(text, encoding="utf-8")
    draft.publish("model", paths)
    draft.commit({"dtype": "bfloat16"}, {"parent": "dpo/d@step-1", "kl": 0.01, "top1": 0.9}, {"prose": "MIT"})
    place = tmp_path / "place"
    line = ("parent=quantize/q", f"to={place}", f"store={store.uri}", "tracking.enabled=false")
    ended = run_here("publish", *line)
    assert ended.code == 2
    # of its tokens, though its own manifest names no such source
    assert "pairs (unclear-upstream (test))" in ended.err
    ended = run_here("publish", *line, "unclear_licences=allow")
    assert ended.code == 0, ended.output
    assert {path.name for path in place.iterdir()} == {
        "model.safetensors", "config.json", "README.md", "LICENSE.md", "SHA256SUMS", "trunkline.json",
    }  # fmt: skip
    text = (place / "README.md").read_text(encoding="utf-8")
    assert "## What quantizing cost" in text
    assert "→ `quantize/q` → Llama, bfloat16" in text
    assert "- on 500 held-out tokens: 0.01 nats of KL per token" in text
    assert "**No clear upstream licence: pairs.**" in (place / "LICENSE.md").read_text(encoding="utf-8")
