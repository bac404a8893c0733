"""What a person sees of drops: the plan's trial, `show_dropped`, the table and the note at the end, the data card."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.errors import DataError
from pipelines.store.artifact import Artifact
from tests.commands import run_here
from tests.notes_sample import notes
from tests.unit.test_corpus import article, config_of, make
from workflows.corpus import _begun, _copies_in_words, _held_out_strangely, _report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of notes, and a lab's conf that reads it as prose, which nobody said it is not."""
    place = tmp_path_factory.mktemp("drops")
    (place / "in").mkdir()
    for name, text in notes().items():
        (place / "in" / f"{name}.md").write_text(text, encoding="utf-8")
    (place / "in" / "essay.txt").write_text(article(1), encoding="utf-8")
    (place / "conf" / "corpus").mkdir(parents=True)
    (place / "conf" / "corpus" / "kept.yaml").write_text(
        "defaults: [rules@_here_: standard, _self_]\n"
        f"sources: {{mine: {{licence: MIT, reader: {{type: files, path: {place / 'in'}}}}}}}\n"
    )
    return place


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Artifact, CorpusConfig]:
    source = {"language": "auto", "reader": {"type": "files", "path": str(folder / "in")}}
    config = config_of({"mine": source}, name="kept")
    return make(folder / "store", config), config


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_plan_that_would_lose_most_of_a_source_says_so(folder: Path) -> None:
    ended = run_here("corpus", "--config-dir", str(folder / "conf"), "corpus=kept", "name=p", "dry_run=true")
    told = flat(ended.out)
    assert ended.code == 0
    assert "of 68 documents of mine were dropped, most" in told
    assert "are these notes, lists or mails? then ++corpus.sources.mine.content=notes; else" in told
    assert "corpus.quality.prose.min_words=50 corpus.quality.prose.min_words=25" in told
    kept = run_here(
        "corpus", "--config-dir", str(folder / "conf"), "corpus=kept", "name=p", "dry_run=true",
        "++corpus.sources.mine.content=notes",
    )  # fmt: skip
    assert "68 read, 68 kept; 0.0% of the clean ones go as copies" in flat(kept.out)
    assert "were dropped" not in kept.out


def test_the_end_of_a_corpus_says_which_key_to_change_and_how_to_look(
    made: tuple[Artifact, CorpusConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, config = made
    session: Any = SimpleNamespace(typed=lambda command: command)
    _report(config, corpus, session)
    told = flat(capsys.readouterr().out)
    assert "dropped for documents of governed by to drop fewer" in told
    assert "corpus.quality.prose.min_words=50 corpus.quality.prose.min_words=25" in told
    assert "examples: python -m workflows.corpus name=kept show_dropped=quality.too_short" in told
    assert "what you take of it works with on_change=rebuild, or under another name= note:" in told
    assert "copies: none No two sampled documents resemble" in told


def test_examples_stand_with_their_key_whatever_recipe_was_typed(
    folder: Path, made: tuple[Artifact, CorpusConfig]
) -> None:
    ended = run_here("corpus", f"store={folder / 'store'}", "name=kept", "show_dropped=quality.too_short")
    told = flat(ended.out)
    assert ended.code == 0
    assert "en-" in told
    assert "corpus.sources.mine.content=prose ++corpus.sources.mine.content=notes" in told


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("too_short", ": did you mean show_dropped=quality.too_short?"),
        ("quality.to_short", ": did you mean show_dropped=quality.too_short?"),
        ("quality.bulets", ": quality.bullets is a reason, and dropped nothing either"),
        ("dedup.near", ""),
        ("hello", ""),
    ],
)
def test_a_reason_that_dropped_nothing_is_told_with_the_near_one(
    folder: Path, made: tuple[Artifact, CorpusConfig], asked: str, answer: str
) -> None:
    ended = run_here("corpus", f"store={folder / 'store'}", "name=kept", f"show_dropped={asked}")
    assert ended.code == 2
    assert f"show_dropped={asked}: corpus/kept dropped nothing for it; reasons there: quality.too_short (" in ended.err
    assert ended.err.rstrip().endswith(answer or ")")


def test_the_data_card_has_the_keys(made: tuple[Artifact, CorpusConfig]) -> None:
    page = made[0].path("data_card.html").read_text(encoding="utf-8")
    assert "<h3>By which key</h3>" in page
    assert "corpus.quality.prose.min_words=50" in page
    assert "++corpus.sources.mine.content=notes" in page


def test_a_source_of_which_nothing_is_left_is_refused_with_the_key(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("- milk\n- bread and eggs\n", encoding="utf-8")
    config = config_of({"mine": {"reader": {"type": "files", "path": str(tmp_path / "a.md")}}})
    with pytest.raises(DataError, match=r"source mine leaves no document \(quality.too_short 1\).*content=notes; else"):
        make(tmp_path / "store", config)


def test_a_source_that_is_all_in_another_language_is_refused_with_that_language(tmp_path: Path) -> None:
    text = "Im Frühling führt der Fluss viel Wasser, weil der Schnee in den Bergen schmilzt und lange Regen fallen.\n"
    (tmp_path / "a.txt").write_text(text * 6, encoding="utf-8")
    config = config_of({"mine": {"reader": {"type": "files", "path": str(tmp_path / "a.txt")}}})
    with pytest.raises(DataError, match=r"\(language.other 1\); .*corpus.language.accept=\[en,zh,de\]"):
        make(tmp_path / "store", config)


def test_a_csv_that_is_not_read_is_told_with_a_command_that_makes_parquet_of_it(folder: Path, tmp_path: Path) -> None:
    source, typed = tmp_path / "in", ["corpus", "--config-dir", str(folder / "conf"), "corpus=kept", "name=p"]
    typed += ["dry_run=true", f"corpus.sources.mine.reader.path={source}"]
    source.mkdir()
    rows = "".join(f'{number},"{article(number)}"\n' for number in range(12))
    (source / "a.csv").write_text(f"id,text\n{rows}", encoding="utf-8")
    refused = run_here(*typed)
    assert refused.code == 2
    (source / "essay.txt").write_text(article(99), encoding="utf-8")
    planned = run_here(*typed)
    command = re.search(r'of a\.csv: python -c "(.*?)"', refused.err)
    assert command is not None
    assert command[0] in planned.out
    subprocess.run([sys.executable, "-c", command[1]], cwd=source, check=True)
    assert pq.read_table(source / "a.parquet").column_names == ["id", "text"]


def test_a_source_of_which_nothing_is_held_out_is_told_with_a_share_that_takes_some(tmp_path: Path) -> None:
    def told(heldout: float) -> tuple[int, list[str]]:
        config = config_of({"mine": {"reader": {"type": "files", "path": str(tmp_path / "*.txt")}, "heldout": heldout}})
        sources = make(tmp_path / f"store-{heldout}", config).statistics["sources"]
        return sources["mine"]["heldout"]["documents"], _held_out_strangely(config, sources)

    for number in range(6):
        (tmp_path / f"{number}.txt").write_text(article(number), encoding="utf-8")
    held, [sentence] = told(0.01)
    assert held == 0
    assert sentence == (
        "nothing of mine is held out, so nothing can be measured on it: it has 6 documents, and beyond the share of "
        "1.0% at most a tenth is taken; ++corpus.sources.mine.heldout=0.3 takes about a third"
    )
    held, sentences = told(0.3)
    assert held > 0
    assert sentences == []
    assert told(0.0) == (0, [])


def test_copies_are_counted_in_words() -> None:
    counts = {"exact_copies": 3, "near_pairs": 2, "near_clusters": 1, "largest_cluster": 3}
    assert _copies_in_words(counts) == (
        "3 exact, 2 near in 1 cluster; the largest cluster has 3 documents (show_clusters=10 shows some)"
    )
    assert _copies_in_words(dict.fromkeys(counts, 0)) == "none"


@pytest.mark.parametrize("replaces", [True, False])
def test_a_refusal_says_how_the_corrected_command_gets_through(tmp_path: Path, replaces: bool) -> None:
    """Its name is taken by then, and a corrected command is another configuration; a rebuild says so itself."""
    (tmp_path / "a.md").write_text("- milk\n- bread and eggs\n", encoding="utf-8")
    config = config_of({"mine": {"reader": {"type": "files", "path": str(tmp_path / "a.md")}}}, name="kept")
    draft: Any = SimpleNamespace(folder="corpus/kept", replaces=replaces)
    with pytest.raises(DataError, match="source mine leaves no document") as refused, _begun(draft):
        make(tmp_path / "store", config)
    way = ". corpus/kept has begun by now: with what you correct type on_change=rebuild, or another name="
    assert str(refused.value).endswith(way) is not replaces


def test_drops_in_one_language_are_told_with_its_keys_alone(folder: Path, made: tuple[Artifact, CorpusConfig]) -> None:
    """English and Chinese are accepted; all ten notes that were dropped for lines without a full stop are Chinese."""
    ended = run_here("corpus", f"store={folder / 'store'}", "name=kept", "show_dropped=quality.line_punctuation")
    assert "corpus.quality.chinese.min_punctuated_lines" in ended.out
    assert "corpus.quality.prose" not in ended.out


def test_a_plan_says_how_files_without_a_telling_name_are_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text(article(number), encoding="utf-8")
        (tmp_path / "in" / f"MINUTES-{number}").write_text(article(10 + number), encoding="utf-8")
    typed = ["corpus", "--config-dir", str(folder / "conf"), "corpus=kept", "name=p", "dry_run=true"]
    typed.append(f"corpus.sources.mine.reader.path={tmp_path / 'in'}")
    told = flat(run_here(*typed).out)
    assert "3 files: MINUTES-0, MINUTES-1, MINUTES-2 (its name tells no format); ++corpus.sources.mine." in told
    advice = "++corpus.sources.mine.reader.format=text"
    assert f"{advice} reads all files there as text" in told
    assert "6 read, 6 kept" in flat(run_here(*typed, advice).out)
