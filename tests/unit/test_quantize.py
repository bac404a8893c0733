"""The command: what it leaves is what it measured, and what it cannot do it says before any work."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipelines.config import TrackingConfig, parse, plain
from pipelines.errors import ConfigError, DataError, TrunklineError
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.sealed import sealed
from pipelines.train.checkpoint.lineage import open_run
from pipelines.train.formats import compressed_tensors, packed
from pipelines.train.formats.parents import open_source
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.quantization.calibration import CalibrationConfig, plan_calibration
from tests.commands import run_here
from tests.untrained import commit_run, commit_tokens
from workflows import quantize as workflow
from workflows.quantize import QuantizeConfig
from workflows.running.session import Session

MODEL = ModelConfig(
    layers=2, d_model=64, d_ff=96, heads=2, kv_heads=1, vocabulary=320, max_positions=64, scale_emb=9.0,
    scale_depth=1.1, dim_model_base=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    store = ArtifactStore(str(path))
    texts = {
        "prose": [f"Once upon a time there were {n} models, and each was small. " * (1 + n % 3) for n in range(20)],
        "zh": ["话说天下大势，分久必合。" * 3] * 12,
    }
    pairs = [(f"{n} + 2?", f"{n + 2}", "fish") for n in range(9)]
    tokens = commit_tokens(store, texts, [(f"{n} + 1?", f"{n + 1}, I think") for n in range(9)], pairs)
    parent = None
    for kind in ("pretrain", "anneal", "sft", "dpo"):
        parent = commit_run(store, f"{kind}/d", MODEL, tokens, parent)
    return path


@pytest.fixture
def store(trained, tmp_path):
    return ArtifactStore(str(shutil.copytree(trained, tmp_path / "store")))


def config(store, **changes):
    values = {
        "name": "q", "parent": "dpo/d", "store": store.uri, "method": "gptq", "calibration": {"rows": 8},
        "measure": {"max_tokens": 300, "max_pairs": 8, "kl_tokens": 100},
        "tracking": plain(TrackingConfig(enabled=False)),
    }  # fmt: skip
    return parse(QuantizeConfig, {**values, **changes})


def quantized(store, **changes):
    wanted = config(store, **changes)
    with Session(wanted) as session:
        return workflow.run(wanted, session)


def test_it_leaves_the_model_that_it_measured_with_every_number(store):
    artifact = quantized(store, compare=["rtn"])
    folder = store.storage.root / artifact.folder
    content = json.loads((folder / "quantization.json").read_text("utf-8"))
    assert (folder / "quantization.html").exists()
    assert list(content["measured"]["models"]) == ["full", "gptq", "rtn"]
    assert content["bytes"]["linear"] / content["bytes"]["bfloat16"]["linear"] < 0.29
    assert {source["kind"] for source in content["calibration"]["sources"]} == {"documents", "conversations"}
    assert artifact.statistics["parent"] == content["parent"] == "dpo/d@step-1"
    assert {error["parameter"] for error in content["made"]["gptq"]["errors"]} == set(content["grids"])
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    with torch.no_grad():
        model(torch.arange(5, 20)[None])
    theirs = dict(model.named_parameters())
    for name, value in compressed_tensors.read(folder / "model").weights():
        assert torch.equal(theirs[name].float(), value), name
    assert quantized(store, compare=["rtn"]).fingerprint == artifact.fingerprint  # found again


def test_what_was_made_is_exported_as_it_is(store, tmp_path):
    artifact = quantized(store, measure=None)
    source = open_source(store, "quantize/q")
    out = tmp_path / "out"
    out.mkdir()
    packed.write(source, out, "packed")
    for name, file in packed.files_of(artifact).items():
        assert (out / name).read_bytes() == (store.storage.root / artifact.folder / file).read_bytes()
    assert packed.describe(source, "packed").size_bytes == (out / "model.safetensors").stat().st_size
    with pytest.raises(ConfigError, match="quantize it first with `python -m workflows.quantize parent=dpo/d"):
        packed.write(open_source(store, "dpo/d"), out, "packed")


def test_a_budget_mixes_bits_and_is_kept(store):
    small = quantized(store, name="four", method="rtn", measure=None).statistics["weights_bytes"]
    large = quantized(store, name="eight", method="rtn", bits=8, measure=None).statistics["weights_bytes"]
    budget = (small + large) // 2
    artifact = quantized(store, method="rtn", bits="auto", budget=str(budget), measure=None)
    content = artifact.json("quantization.json")
    assert {grid["bits"] for grid in content["grids"].values()} == {4, 8}
    assert content["bytes"]["total"] <= budget
    assert len(content["choice"]["rows"]) == len(content["grids"])
    folder = store.storage.root / artifact.folder / "model"
    assert {grid.bits for grid in compressed_tensors.stored_grids(folder).values()} == {4, 8}


def test_without_measuring_no_whole_model_is_loaded(store, monkeypatch):
    def whole(*_):
        raise AssertionError("a whole model was asked for")

    monkeypatch.setattr(workflow, "untied_model", whole)
    assert quantized(store, measure=None).json("quantization.json")["measured"] is None


def test_a_failure_while_measuring_leaves_nothing_half_written(store, monkeypatch):
    def fails(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(workflow, "answers", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        quantized(store)
    assert store.find("quantize/q") is None
    assert [path.name for path in (store.storage.root / "quantize/q").rglob("*")] == ["claim.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "best"}, "method is best; expected some of rtn"),
        ({"compare": ["best"]}, "compare is best; expected some of rtn"),
        ({"compare": ["rtn"], "measure": None}, "measure is null: nothing would be seen"),
        ({"budget": "1GB"}, "a budget goes with bits=auto"),
        ({"bits": "auto"}, "a budget goes with bits=auto"),
        ({"bits": "auto", "budget": "200kB", "symmetric": False}, "expected symmetric grids"),
        ({"group_size": 64}, "down_proj has 96 inputs, which groups of 64 do not divide"),
        ({"group_sizes": {"up_proj": 32}}, "group_sizes names up_proj"),
        ({"parent": "tokens/t"}, "parent=tokens/t is of kind tokens"),
        ({"calibration": {"rows": 100_000}}, "calibration asks for"),
        ({"calibration": {"rows": 100_000, "documents": 1}}, r"\): set calibration.rows=\d+$"),
        ({"bits": 5}, "bits is 5"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(store, changes, message):
    with pytest.raises(TrunklineError, match=message):
        quantized(store, **changes)
    assert not (store.storage.root / "quantize").exists()


def test_as_many_rows_are_advised_as_there_are(store):
    for share in (0.5, 1, 0):
        with pytest.raises(DataError) as refused:
            quantized(store, calibration={"rows": 100_000, "documents": share})
        rows = int(re.search(r"calibration.rows=(\d+)", str(refused.value))[1])
        run, tokens = open_run(store, "dpo/d"), store.get("tokens/t")
        plan_calibration(run, tokens, CalibrationConfig(rows=rows, documents=share))
        with pytest.raises(DataError, match=rf"calibration asks for .*calibration.rows={rows}\b"):
            plan_calibration(run, tokens, CalibrationConfig(rows=rows + 2, documents=share))


def test_calibration_of_another_tokenizer_is_refused(store):
    other = store.get("tokens/t")
    files = {**other.manifest["files"], "tokenizer/tokenizer.json": {"bytes": 1, "sha256": "0" * 64}}
    draft = store.begin("tokens", "foreign", {})
    draft.commit({}, other.statistics, {})
    path = store.storage.root / "tokens/foreign/manifest.json"
    manifest = {**json.loads(path.read_text()), "files": files}
    manifest.pop("sha256", None)
    path.write_bytes(sealed(manifest))
    with pytest.raises(TrunklineError, match="another tokenizer"):
        quantized(store, calibration={"rows": 8, "tokens": "tokens/foreign"})


def test_a_dry_run_says_bytes_memory_and_calibration(store):
    said = run_here(
        "quantize",
        "parent=dpo/d",
        "name=q",
        f"store={store.uri}",
        "calibration.rows=8",
        "dry_run=true",
        "compare=[rtn]",
    )
    assert said.code == 0, said.err
    for words in ("4 bits in groups of 32", "before in bfloat16", "8 rows of 16 ids", "rtn beside it", "to quantize"):
        assert words in said.out
    assert not (store.storage.root / "quantize").exists()
