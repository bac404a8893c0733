"""The corpus's data card: one escaped page that fetches nothing, and the counts it shows."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from pipelines.cluster.cluster import serial_map
from pipelines.config import parse
from pipelines.data.corpus.assemble import build
from pipelines.data.corpus.data_card import data_card
from pipelines.data.corpus.profile import merged, profile
from pipelines.data.corpus.recipe import CorpusConfig
from pipelines.data.text.document import schema
from pipelines.display.charts import Series, columns, curves
from pipelines.identity import identity
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft
from tests.unit.test_corpus import article

EVIL = "<script>alert('x')</script> & \"quotes\""


class Checker(HTMLParser):
    """Fails on tags that do not close in order; collects ids and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "li", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("card")
    copies = [article(i).replace(" ", " changed ", 1) for i in range(12)]
    texts = [*(article(i) for i in range(60)), *copies, article(3), EVIL]
    lines = "".join(json.dumps({"text": text, "key": f"<{i}>"}) + "\n" for i, text in enumerate(texts))
    (folder / "raw.jsonl").write_text(lines)
    reader = {"type": "files", "path": str(folder / "raw.jsonl"), "id_field": "key"}
    sources = {"web": {"licence": "unclear-upstream (<b>none</b>)", "language": "en", "reader": reader}}
    config = parse(CorpusConfig, {"name": "card", "corpus": {"sources": sources}})
    draft = ArtifactStore(str(folder / "store")).begin("corpus", "card", identity(config))
    assert isinstance(draft, Draft)
    return build(config, draft, serial_map)


def test_the_page_is_well_formed_and_needs_nothing_else(corpus: Artifact) -> None:
    page = corpus.path("data_card.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert {link.removeprefix("#") for link in checker.links} <= checker.ids
    assert all(link.startswith("#") for link in checker.links)
    assert "script" not in checker.tags
    assert not re.search(r"https?://|@import|url\(", page)
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_the_page_says_what_was_dropped_with_escaped_examples(corpus: Artifact) -> None:
    page = corpus.path("data_card.html").read_text(encoding="utf-8")
    assert "Licence not clear, or not permissive: web" in page
    assert "unclear-upstream (&lt;b&gt;none&lt;/b&gt;)" in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp;" in page
    dropped = corpus.statistics["sources"]["web"]["dropped"]
    assert dropped["dedup.near"] + dropped.get("dedup.near_heldout", 0) == 12
    assert f"of {sum(dropped.values()) + 60:,} records dropped" in page
    for reason in dropped:
        assert f"<code>{reason}</code>" in page
    assert re.search(r"near(_heldout)? · web/&lt;\d+&gt; +Jaccard 0\.9", page)
    assert re.search(r"<(ins|del)>[^<]*changed", page)
    assert "sampled documents" in page
    assert corpus.json("dedup_quality.json")["documents"] > 10


def test_profiles_count_lengths_languages_and_scripts() -> None:
    common = {"source": "s", "licence": "MIT"}
    documents = [
        {"id": "1", "text": "x" * 100, "language": "en", "metadata": "{}", **common},
        {"id": "2", "text": "字" * 100, "language": "zh", "metadata": '{"script": "hans"}', **common},
        {"id": "3", "text": "", "language": "en", "metadata": "{}", **common},
    ]
    found = profile(pa.Table.from_pylist(documents, schema=schema("documents")), "documents")
    assert found == {
        "lengths": {"0": 1, "6": 1, "8": 1},
        "languages": {"en": 100, "zh": 300},
        "scripts": {"hans": 1},
        "masked": {},
    }
    turns = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "字"}]
    talk = [{"id": "1", "messages": turns, "language": "en", "metadata": "{}", **common}] * 2
    assert profile(pa.Table.from_pylist(talk, schema=schema("conversations")), "conversations")["lengths"] == {"2": 2}
    pair = [
        {"id": "1", "prompt": turns, "chosen": "c" * 3, "rejected": "", "language": "zh", "metadata": "{}", **common}
    ]
    assert profile(pa.Table.from_pylist(pair, schema=schema("preferences")), "preferences")["languages"] == {"zh": 8}
    empty = profile(schema("documents").empty_table(), "documents")
    assert empty == {"lengths": {}, "languages": {}, "scripts": {}, "masked": {}}
    assert merged([{**found, "file": "a"}, found, empty])["languages"] == {"en": 200, "zh": 600}


def test_charts_place_values_where_they_belong() -> None:
    drawn = columns([1, 0, 4], ["a<", "", "c"], "title")
    assert re.findall(r'height="([\d.]+)"', drawn) == ["24.0", "96.0"]
    assert "a&lt;" in drawn
    line = curves([Series("one", [(0.5, 0.0), (1.0, 1.0)])], (0.5, 1.0), "t", "x")
    assert 'points="38.0,246.0 450.0,28.0"' in line
    dots = curves([Series("two", [(0.75, 0.5)], dots=True, ranges=[(0.0, 1.0)])], (0.5, 1.0), "t", "x", marker=0.75)
    assert 'cx="244.0" cy="137.0"' in dots
    assert 'y1="246.0" x2="244.0" y2="28.0"' in dots


def test_what_not_every_corpus_has_is_shown_where_there_is_some(corpus: Artifact) -> None:
    config = parse(CorpusConfig, {"name": "card", **corpus.config})
    statistics = corpus.statistics
    bare = data_card(config, statistics, {"web": []}, [], None)
    assert "boilerplate" not in bare
    assert "it was not measured" in bare
    statistics["sources"]["web"]["masked"] = {"email": 1234}
    statistics["dedup"]["boilerplate"] = {
        "removed": 77,
        "documents": 5,
        "examples": [{"text": "<hr>", "documents": 40}],
    }
    page = data_card(config, statistics, {"web": []}, [], None)
    assert "1,234" in page
    assert "77 lines of 5 documents" in page
    assert "&lt;hr&gt;" in page


def test_files_and_items_that_were_not_read_are_named(corpus: Artifact) -> None:
    config = parse(CorpusConfig, {"name": "card", **corpus.manifest["identity"]["config"]})
    facts = dict(corpus.statistics)
    assert "passed over" not in data_card(config, facts, {"web": []}, [], None)
    facts["passed over"] = {"web": {"about the data": {"files": 1_234, "first": ["README.md", "<b>.md"]}}}
    facts["unread evaluation items"] = {"exam": {"read.not_json": 5}}
    page = data_card(config, facts, {"web": []}, [], None)
    assert all(part in page for part in ("about the data", "1,234", "README.md, &lt;b&gt;.md", "exam", "read.not_json"))
    Checker().feed(page)
