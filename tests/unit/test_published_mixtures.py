"""The published mixtures: every percentage, and an open dataset that the corpus can read for each line."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines.config import parse
from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.data.sources.records import RECORDS
from pipelines.data.stream.mixture import MixtureRecipe
from pipelines.data.text.document import Document
from pipelines.errors import ArtifactError
from workflows.command_line.composing import compose_config
from workflows.mixture import MixtureConfig, run
from workflows.running.session import DryRun, Session

CONF = Path(__file__).parents[2] / "conf"
PUBLISHED = {
    "minicpm_stable": {
        "cc-zh": 25,
        "code": 25,
        "dolma": 24,
        "c4": 15,
        "pile": 8,
        "open-web-math": 1,
        "arxiv": 1,
        "pes2o": 1,
    },
    "minicpm_decay": {
        "code": 19.6,
        "dolma": 15.7,
        "cc-zh": 14.6,
        "c4": 9.5,
        "wikipedia": 6.7,
        "pile": 5.1,
        "sft-mixed": 4.8,
        "baike-zh": 4.5,
        "code-sft": 3.8,
        "book-zh": 2.8,
        "knowledge-sft": 2.5,
        "ultrachat": 2.0,
        "math-synthetic": 1.9,
        "other": 1.3,
        "stackexchange": 1.1,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_line_of_a_published_mixture_names_what_the_corpus_reads_for_it(name):
    file = CONF / "mixture" / f"{name}.yaml"
    mixture = parse(MixtureRecipe, yaml.safe_load(file.read_text()), "mixture")
    sources = yaml.safe_load((CONF / "corpus" / "minicpm.yaml").read_text())["sources"]
    shares = {source: round(100 * weight, 6) for source, weight in mixture.weights.items()}
    assert {source: shares[source] for source in PUBLISHED[name]} == PUBLISHED[name]
    small = [share for source, share in shares.items() if source not in PUBLISHED[name]]
    assert small == ([] if name == "minicpm_stable" else [0.41] * 10)  # "remaining 4.1 %, each small"
    comments = {
        line.split(":")[0].strip(): line.partition("#")[2]
        for line in file.read_text().partition("weights:")[2].splitlines()
    }
    for source in mixture.weights:
        if source in mixture.no_stand_in:
            assert source not in sources
            assert "no stand-in" in comments[source]
        else:
            reader = sources[source]["reader"]
            named = " ".join(part for part in (reader["dataset"], reader.get("subset")) if part)
            licence = sources[source]["licence"].split(" (")[0]
            assert f": {named}, {licence.split(' AND CC-BY-NC')[0]}" in comments[source]


def test_a_dry_run_plans_before_there_are_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["mixture=minicpm_decay", "tokens=tokens/later", f"store={tmp_path}"]
    planned = compose_config("mixture", MixtureConfig, [*asked, "dry_run=true"])
    with Session(planned) as session, pytest.raises(DryRun):
        run(planned, session)
    said = capsys.readouterr().out
    assert "planned by weight alone, epochs unknown: tokens/later does not exist" in said
    assert (
        "book-zh (2.80%), other (1.30%), logic-sft (0.41%): 4.51% in all; every other weight is multiplied by 1.0472"
        in said
    )
    assert re.search(r"code +19\.60% +20\.53% +14,931,419,164\n", said)
    assert not any(tmp_path.iterdir())
    meant = compose_config("mixture", MixtureConfig, asked)
    with Session(meant) as session, pytest.raises(ArtifactError, match=r"workflows\.tokenize store=\S+ name=later"):
        run(meant, session)


TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
SHAREGPT = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
# a row with the columns of each dataset's card; of the others, text is the one that is read
ROWS = {
    "sft-mixed": {"id": "1", "messages": TURNS, "source": "x"},
    "ultrachat": {"prompt": "Q", "prompt_id": "1", "messages": TURNS},
    "code-sft": {"id": "1", "input": "Q", "output": "A", "domain": "generic", "unit_tests": "[]"},
    "knowledge-sft": {
        "orig_question": "q",
        "orig_answer": "a",
        "source": "x",
        "question": "Q",
        "answer": "A",
        "index": 1,
    },
    "math-sft": {"problem": "Q", "generated_solution": "A", "expected_answer": "4", "problem_source": "math"},
    "sharegpt4": {"conversations": SHAREGPT},
    "slim-orca": {
        "conversations": [{"from": "system", "value": "S", "weight": None}, *({**t, "weight": 1.0} for t in SHAREGPT)]
    },
    "oss-instruct": {"lang": "python", "raw_index": 1, "index": 1, "seed": "x", "problem": "Q", "solution": "A"},
    "evol-instruct": {"idx": "1", "conversations": SHAREGPT},
}


@pytest.mark.slow
def test_every_source_reads_the_columns_of_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each dataset as a local folder whose card declares the subset and the split that the source asks for."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    sources = yaml.safe_load((CONF / "corpus" / "minicpm.yaml").read_text())["sources"]
    for name, values in sources.items():
        config = parse(SourceConfig, values, name)
        folder, row = tmp_path / name, ROWS.get(name, {"id": "1", "text": "T", "source": "x", "meta": {"a": 1}})
        folder.mkdir()
        (folder / "0.jsonl").write_text(json.dumps(row) + "\n")
        card = {
            "config_name": config.reader.subset or "default",
            "data_files": [{"split": config.reader.split, "path": "*.jsonl"}],
        }
        (folder / "README.md").write_text(f"---\nconfigs: {json.dumps([card])}\n---\n")
        local = dataclasses.replace(config, reader=dataclasses.replace(config.reader, dataset=str(folder)))
        (piece,) = plan_pieces(name, local, 1 << 20)
        (item,) = read_piece(piece, local)
        assert isinstance(item, Document), (name, item)
        if config.kind == "documents":
            assert item.text == "T", name
        else:
            assert [turn["content"] for turn in item.metadata["messages"]][-2:] == ["Q", "A"], name


def test_questions_and_answers_under_the_names_that_those_datasets_use() -> None:
    records = [
        {"problem": "P", "solution": "S", "lang": "python"}, {"question": "Q", "answer": "A", "orig_answer": "B"},
        {"input": "I", "output": "O"}, {"problem": "P", "generated_solution": "G", "expected_answer": "4"},
    ]  # fmt: skip
    found = [RECORDS["instruction"].read(record, "text") for record in records]
    turns = [[turn["content"] for turn in content[1]["messages"]] for content in found if content]
    assert turns == [["P", "S"], ["Q", "A"], ["I", "O"], ["P", "G"]]
    assert RECORDS["instruction"].read({"problem": "P", "expected_answer": "4"}, "text") is None


def test_a_share_of_a_dataset_reads_so_many_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "set").mkdir()
    for i in range(4):
        (tmp_path / "set" / f"{i}.jsonl").write_text(json.dumps({"text": f"of file {i}"}) + "\n")
    texts = {}
    for share in (1.0, 0.5, 0.1):
        reader = ReaderConfig(type="huggingface", dataset=str(tmp_path / "set"), share=share)
        config = SourceConfig(licence="MIT", reader=reader)
        items = [item for piece in plan_pieces("mine", config, 1 << 20) for item in read_piece(piece, config)]
        texts[share] = [item.text for item in items if isinstance(item, Document)]
    assert texts == {1.0: [f"of file {i}" for i in range(4)], 0.5: ["of file 0", "of file 2"], 0.1: ["of file 0"]}
