"""The whole recipe through its command: every stage, the lineage in MLflow, the second run, sources=permissive,
sweeps.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.store.artifacts import ArtifactStore
from tests.commands import run_here
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]


def command(store: Path, workflow: str, *arguments: str, code: int = 0) -> str:
    """A workflow that starts nothing, in this process; returns what it printed, both streams."""
    done = run_here(workflow, *arguments, f"store={store}")
    assert done.code == code, done.output[-6000:]
    return done.output


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The recipe as a user runs it: its store and what it printed, both streams."""
    store = tmp_path_factory.mktemp("recipe") / "store"
    line = [sys.executable, "-m", "workflows.recipe", "+experiment=smoke", f"store={store}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return store, done.stdout + done.stderr


def test_every_stage_leaves_its_artifact_and_the_report(smoke: tuple[Path, str]) -> None:
    path, output = smoke
    store = ArtifactStore(str(path))
    for folder in (
        "corpus/smoke",
        "tokens/smoke",
        "mixture/smoke_stable",
        "mixture/smoke_decay",
        "pretrain/smoke",
        "average/smoke",
        "anneal/smoke",
        "sft/smoke",
        "dpo/smoke",
        "export/smoke",
        "quantize/smoke",
        "export/smoke-gguf",
        "recipe/smoke",
    ):
        assert store.get(folder).fingerprint
    assert store.get("dpo/smoke").statistics["tokens"] > store.get("sft/smoke").statistics["tokens"] > 0
    assert output.count("workers: the 2 processes of the stage before") == 3  # anneal, sft, dpo in those of pretrain
    assert "The annealed branch ends below the trunk" in output
    # what it ends with: each delivered model's size and loss, and how to chat with it
    ending = output.partition("delivered")[2]
    for words in ("quantize/smoke", "gguf, q4_0", "workflows.chat model=export/smoke-gguf", "same likeliest id"):
        assert words in ending
    assert store.get("export/smoke-gguf").statistics["kl"] < 0.5
    assert 'AutoTokenizer.from_pretrained("' not in output  # how to run each is said by its own command
    page = store.get("recipe/smoke").verified("report.html").read_text()
    for words in ("anneal", "PSF-2.0", "data:image/", "Problem: "):
        assert words in page
    assert 'src="http' not in page
    card = store.get("corpus/smoke").verified("data_card.html").read_text()
    assert "Apache-2.0" in card


def test_the_exported_model_loads_and_answers(smoke: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smoke[0] / "export/smoke"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2 plus 3?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > prompt["input_ids"].shape[1]
    assert torch.isfinite(model(**prompt).logits).all()


def test_mlflow_shows_the_tree_from_corpus_to_export(smoke: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{smoke[0]}/mlflow.db")
    experiment = client.get_experiment_by_name("trunkline")
    assert experiment is not None
    found: dict[str, Any] = {
        run.data.tags["trunkline.artifact"]: run
        for run in client.search_runs([experiment.experiment_id], max_results=100)
    }
    assert len(found) == 18  # one run per artifact, rank zero alone
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    line = [
        "export/smoke",
        "dpo/smoke",
        "sft/smoke",
        "anneal/smoke",
        "pretrain/smoke",
        "mixture/smoke_stable",
        "tokens/smoke",
        "corpus/smoke",
    ]
    for child, parent in itertools.pairwise(line):
        assert found[child].data.tags["trunkline.parent_run"] == found[parent].info.run_id, child
    # in the page's tree a trunk stands at the top, its branches below it
    assert "mlflow.parentRunId" not in found["pretrain/smoke"].data.tags
    assert found["anneal/smoke"].data.tags["mlflow.parentRunId"] == found["pretrain/smoke"].info.run_id
    trained = found["pretrain/smoke"]
    points = client.get_metric_history(trained.info.run_id, "loss")
    assert [point.step for point in points] == [10, 20, 30]
    assert [p.step for p in client.get_metric_history(trained.info.run_id, "loss_by_tokens")] == [10240, 20480, 30720]
    assert trained.data.params["model.layers"] == "2"
    assert {entry.dataset.name for entry in trained.inputs.dataset_inputs} == {"mixture/smoke_stable", "tokens/smoke"}
    assert any(file.path.endswith(".png") for file in client.list_artifacts(found["recipe/smoke"].info.run_id, "plots"))


def test_the_registry_holds_what_was_exported_and_mlflow_loads_it(
    smoke: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow import MlflowClient

    uri = f"sqlite:///{smoke[0]}/mlflow.db"
    client = MlflowClient(uri)
    (version,) = client.search_model_versions("name = 'smoke'")
    assert version.source == str(smoke[0] / "export/smoke")  # the weights are there once
    told = version.tags
    assert told["trunkline.parent"].startswith("dpo/smoke@step-")
    assert {told[f"trunkline.{kind}"] for kind in ("corpus", "tokens")} == {"corpus/smoke", "tokens/smoke"}
    assert "mixture/smoke_stable" in told["trunkline.mixture"]
    assert "stdlib: PSF-2.0" in told["trunkline.licences"]
    assert float(told["bits_per_byte"]) > 0
    assert told["trunkline.heldout"].startswith("tokens/smoke ")
    assert client.get_run(str(version.run_id)).data.tags["trunkline.artifact"] == "export/smoke"
    # a format that MLflow has no flavour for is listed, with the way to run it
    (gguf,) = client.search_model_versions("name = 'smoke-gguf'")
    assert gguf.tags["trunkline.format"] == "gguf"
    assert "workflows.chat model=export/smoke-gguf" in str(gguf.description)
    assert not (smoke[0] / "export/smoke-gguf/MLmodel").exists()

    # not set_tracking_uri, which writes its last word into the environment of all commands that follow
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    answers = mlflow.transformers.load_model("models:/smoke@current")
    question = [{"role": "user", "content": "What is 2 plus 3?"}]
    (answer,) = answers(question, max_new_tokens=5, do_sample=False)
    assert answer["generated_text"][-1]["role"] == "assistant"
    assert answer["generated_text"][-1]["content"]


def test_a_second_run_finds_everything_finished(smoke: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    output = command(smoke[0], "recipe", "+experiment=smoke")
    assert output.count("finished already") == 18
    assert "weights:" not in output  # no worker was started
    assert len(MlflowClient(f"sqlite:///{smoke[0]}/mlflow.db").search_model_versions("name = 'smoke'")) == 1


def test_another_config_under_the_same_name_is_refused_with_the_diff(smoke: tuple[Path, str]) -> None:
    output = command(smoke[0], "pretrain", "+experiment=smoke", "schedule.peak_lr=0.02", code=2)
    assert "pretrain/smoke" in output
    assert "config.schedule.peak_lr: 0.01 -> 0.02" in output
    assert "on_change=rebuild" in output


def test_an_mlflow_run_id_names_a_parent(smoke: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{smoke[0]}/mlflow.db")
    runs = client.search_runs(["1"], "tags.`trunkline.artifact` = 'anneal/smoke'")
    output = command(
        smoke[0], "sft", "+experiment=smoke", f"parent={runs[0].info.run_id}", "name=other", "dry_run=true"
    )
    assert "parent: anneal/smoke@step-10" in output
    assert "dry run: nothing was started" in output


def test_a_parent_of_another_architecture_is_refused(smoke: tuple[Path, str]) -> None:
    output = command(smoke[0], "anneal", "+experiment=smoke", "+model=demo", "name=wrong", code=2)
    assert "parent pretrain/smoke@step-20 is of another architecture (d_ff: 160 -> 320" in output
    assert "leave model null" in output


def test_dropped_documents_can_be_looked_at(smoke: tuple[Path, str]) -> None:
    output = command(smoke[0], "corpus", "+experiment=smoke", "show_dropped=dedup.exact")
    assert "math-" in output


def test_a_sweep_makes_one_run_each(smoke: tuple[Path, str]) -> None:
    output = command(
        smoke[0],
        "pretrain",
        "-m",
        "+experiment=smoke",
        "dry_run=true",
        "schedule.peak_lr=0.005,0.02",
        "name=lr_${schedule.peak_lr}",
    )
    assert "── pretrain: 2 runs" in output
    assert re.search(r"pretrain/lr_0\.005 +0\.005 +30 +its beginning", output), output
    assert re.search(r"pretrain/lr_0\.02 +0\.02 +30 +its beginning", output), output


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "error: interrupted; committed work is kept"),
        (signal.SIGTERM, 143, "error: ended by SIGTERM; committed work is kept"),
    ],
)
def test_a_command_that_is_ended_keeps_what_is_committed_and_says_so(
    number: signal.Signals, code: int, said: str, smoke: tuple[Path, str]
) -> None:
    from mlflow import MlflowClient

    name = f"stopped-{number.name}"

    line = [
        sys.executable,
        "-m",
        "workflows.pretrain",
        "+experiment=smoke",
        f"name={name}",
        "steps=700",
        f"store={smoke[0]}",
    ]
    process = subprocess.Popen(
        line,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # tests that were started in the background have inherited an ignored SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    committed = smoke[0] / f"pretrain/{name}/checkpoints/step-000010/manifest.json"
    wait_until(lambda: committed.exists() or process.poll() is not None, f"{committed}")
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, output[-3000:]
    assert output.splitlines()[-1].startswith(said)
    assert "Traceback" not in output
    assert "PC: @" not in output, "Ray's own handler prints addresses"
    client = MlflowClient(f"sqlite:///{smoke[0]}/mlflow.db")
    run = client.search_runs(["1"], f"tags.`trunkline.artifact` = 'pretrain/{name}'")[0]
    assert run.info.status == "KILLED"
