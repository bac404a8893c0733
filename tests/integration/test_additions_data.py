"""A cleaning pass and a file format, each added as one file and one row; nothing else is opened."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.additions import Tree

FORMATS = "pipelines/data/sources/formats/__init__.py"
IMPORT = "from pipelines.data.sources.formats import csv_rows"
PASSES = "pipelines/data/cleaning/further/__init__.py"
BUILD = """
import json, sys
from pipelines.cluster.cluster import serial_map
from pipelines.config import parse
from pipelines.data.corpus.assemble import build, dropped_examples
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.plan.estimate import estimate, show
from pipelines.data.sources.readers import formats_of, listings
from pipelines.errors import TrunklineError
from pipelines.identity import identity
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.code import chosen_modules
try:
    config = parse(CorpusConfig, json.loads(sys.argv[1]))
except TrunklineError as error:
    sys.exit(str(error))
if sys.argv[3:] == ["plan"]:
    show(estimate(config), config)
    sys.exit()
corpus = build(config, ArtifactStore(sys.argv[2]).begin("corpus", config.name, identity(config)), serial_map)
asked = [further.name for further in config.corpus.passes]
print(json.dumps({
    "statistics": corpus.statistics,
    "card": corpus.path("data_card.html").read_text(),
    "shouting": dropped_examples(corpus, "quality.shouting")[0],
    "formats": formats_of(config.chosen, listings(config.chosen)),
    "hashed": chosen_modules("pipelines.data.cleaning.further", asked),
}))
"""
QUIET = "Number {0} is a plain sentence about a river, a bridge and the people of town {0} who cross it every morning."
LOUD = "BUY NUMBER {0} NOW, IT IS THE BEST OF ALL THE BRIDGES IN TOWN {0} AND THE PRICE IS LOW FOR ONE DAY ONLY TODAY."


def recipe(path: Path, **further: Any) -> dict[str, Any]:
    """A corpus of one source, judged as math: short texts stay."""
    reader = {"type": "files", "path": str(path)}
    source = {"licence": "MIT", "language": "en", "content": "math", "reader": reader}
    return {"name": "new", "quality_report": False, "corpus": {"sources": {"own": source}, **further}}


def run(tree: Tree, config: dict[str, Any], store: Path, *mode: str) -> str:
    """What the script prints, or the error that it ends with."""
    (tree.folder / "make.py").write_text(BUILD, encoding="utf-8")
    done = tree.run("make", json.dumps(config), str(store), *mode)
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.slow
def test_a_new_pass_is_one_file_and_one_row(tmp_path: Path) -> None:
    texts = [QUIET.format(i) for i in range(40)] + [LOUD.format(i) for i in range(7)]
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    tree = Tree(tmp_path)
    tree.add("pipelines/data/cleaning/further/shouting.py", "cleaning/shouting.py")
    tree.row(PASSES, after="import FurtherPass", line="from pipelines.data.cleaning.further import shouting")
    tree.row(PASSES, after='# "name"', line='    "shouting": shouting.PASS,')

    made = json.loads(run(tree, recipe(data, passes=[{"name": "shouting"}]), tmp_path / "asked").splitlines()[-1])
    assert made["statistics"]["sources"]["own"]["dropped"]["quality.shouting"] == 7
    assert "quality.shouting" in made["card"]
    assert {row["text"] for row in made["shouting"]} <= set(texts[40:])
    assert made["hashed"] == ["pipelines.data.cleaning.further.shouting"]
    plain = json.loads(run(tree, recipe(data), tmp_path / "plain").splitlines()[-1])
    assert "quality.shouting" not in plain["statistics"]["sources"]["own"]["dropped"]
    assert plain["hashed"] == []

    # ── refused with the known ones; planned by name ──
    unknown = run(tree, recipe(data, passes=[{"name": "whisper"}]), tmp_path / "none")
    assert "corpus.passes[0].name is 'whisper'; expected one of shouting" in unknown
    loud = recipe(data, passes=[{"name": "shouting", "max_capitals": 2}])
    assert "corpus.passes[0].max_capitals is 2" in run(tree, loud, tmp_path / "none")
    assert "shouting" in run(tree, recipe(data, passes=[{"name": "shouting"}]), tmp_path / "none", "plan")
    (tree.folder / "make.py").unlink()
    assert tree.opened() == []


@pytest.mark.slow
def test_a_new_file_format_is_one_file_and_one_row(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = "".join(f'{i},"{QUIET.format(i)}"\n' for i in range(40))
    (folder / "a.csv.gz").write_bytes(gzip.compress(f"number,text\n{rows}".encode()))
    (folder / "notes.md").write_text("About the data.\n", encoding="utf-8")
    tree = Tree(tmp_path)
    tree.add("pipelines/data/sources/formats/csv_rows.py", "reader/csv_rows.py")
    tree.row(FORMATS, after="import FileFormat", line=IMPORT)
    tree.row(FORMATS, after='"warc"', line='    "csv": csv_rows.FORMAT,')

    made = json.loads(run(tree, recipe(folder), tmp_path / "told").splitlines()[-1])
    counts = made["statistics"]["sources"]["own"]
    assert counts["train"]["documents"] + counts["heldout"]["documents"] == 40
    assert made["formats"] == ["csv"]
    config = recipe(folder)
    config["corpus"]["sources"]["own"]["reader"]["format"] = "tsv"
    assert "reader.format is 'tsv'; expected one of text, markdown, json, jsonl, parquet, html, warc, csv" in run(
        tree, config, tmp_path / "none"
    )
    (tree.folder / "make.py").unlink()
    assert tree.opened() == []
