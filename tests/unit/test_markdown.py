"""Markdown files: front matter becomes metadata, the rest stays as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.sources.config import ReaderConfig, SourceConfig
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.data.text.document import Document, Dropped, to_row

BODY = """# Title

| a | b |
|---|---|
| 1 | 2 |

```yaml
---
key: value

other: 1
---
```

Euler: $e^{i\\pi} + 1 = 0$

---

The end.
"""


def read(path: Path, **changes: Any) -> tuple[list[Document], list[Dropped]]:
    source = SourceConfig(licence="MIT", reader=ReaderConfig(type="files", path=str(path), **changes))
    items = [item for piece in plan_pieces("notes", source, 1 << 20) for item in read_piece(piece, source)]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Dropped)]


def one(tmp_path: Path, data: str | bytes, **changes: Any) -> tuple[str, dict[str, Any]]:
    """(text, what a row of the corpus keeps as metadata) of a file with these contents."""
    (tmp_path / "a.md").write_bytes(data.encode() if isinstance(data, str) else data)
    (document,), dropped = read(tmp_path / "a.md", **changes)
    assert not dropped
    document.metadata["language"] = "en"
    return document.text, json.loads(to_row(document, "documents")["metadata"])


@pytest.mark.parametrize(
    ("front", "metadata"),
    [
        (
            "---\ntitle: T\ndate: 2024-05-01\ntags: [x, y]\n---\n",
            {"title": "T", "date": "2024-05-01", "tags": ["x", "y"]},
        ),
        ('---\r\ntitle: "T: t"\r\n---\r\n', {"title": "T: t"}),
        ("---\ntitle: Ü\n...\n", {"title": "Ü"}),
        ("--- \n# of the site\na:\n  b: {c: 1.5}\n---\n", {"a": {"b": {"c": 1.5}}}),
        ('+++\ntitle = "T"\ndate = 2024-05-01T10:00:00Z\n+++\n', {"title": "T", "date": "2024-05-01T10:00:00+00:00"}),
        ("---\n---\n", {}),
        (
            "---\nn: .nan\nb: !!binary aGk=\ns: !!set {x, y}\n1: true\n---\n",
            {"n": "nan", "b": "b'hi'", "s": ["x", "y"], "1": True},
        ),
        # keys that mean something else in a row stand apart
        (
            "---\nlanguage: de\nmessages: [a]\ntitle: T\n---\n",
            {"front_matter": {"language": "de", "messages": ["a"]}, "title": "T"},
        ),
    ],
)
def test_front_matter_is_metadata_and_no_text(tmp_path: Path, front: str, metadata: dict[str, Any]) -> None:
    assert one(tmp_path, front + BODY) == (BODY, metadata)
    assert one(tmp_path, b"\xef\xbb\xbf" + (front + BODY).encode()) == (BODY, metadata)
    assert one(tmp_path, (front + BODY).encode("utf-16")) == (BODY, metadata)
    whole, said = one(tmp_path, front + BODY, document_bytes=10_000)
    assert (whole, said) == (BODY, metadata)
    assert one(tmp_path, front + BODY, format="text") == (front + BODY, {})  # as it always was


@pytest.mark.parametrize(
    "front",
    [
        "---\ntitle: Foo: bar\n---\n",  # the commonest slip
        "---\ntags: [a\n---\n",
        "---\ndate: 2024-13-45\n---\n",
        "---\na: &x [1, 2, 3, 4, 5, 6, 7, 8]\n"
        + "".join(f"{k}: &{k} [{', '.join(['*' + (chr(ord(k) - 1) if k > 'b' else 'x')] * 9)}]\n" for k in "bcdefgh")
        + "---\n",
        "---\na: &a {b: *a}\n---\n",
        "---\na: " + "[" * 5_000 + "\n---\n",
        "---\na: !ruby/object:Thing {}\n---\n",
        "+++\ntitle = T\n+++\n",
    ],
)
def test_broken_front_matter_is_named_and_is_no_text(tmp_path: Path, front: str) -> None:
    assert one(tmp_path, front + BODY) == (BODY, {"unreadable": "front matter"})
    assert one(tmp_path, front + BODY, document_bytes=10_000) == (BODY, {"unreadable": "front matter"})


@pytest.mark.parametrize(
    ("data", "metadata"),
    [
        (BODY, {}),
        ("---\n\nA line across the page: it is none.\n\n---\n" + BODY, {}),
        ("---\nSome words\n---\n" + BODY, {}),
        ("---\n- a\n- b\n---\n" + BODY, {}),
        ("text\n---\ntitle: T\n---\n", {}),
        ("----\ntitle: T\n----\n", {}),
        ("---\ntitle: no end\n\nwords", {"unreadable": "front matter"}),
        ("---\ntitle: no end\n\nwords: [\n\n---\n" + BODY, {"unreadable": "front matter"}),
        ("---", {}),
        ("+++\nx", {}),
    ],
)
def test_what_is_no_front_matter_stays_byte_for_byte(tmp_path: Path, data: str, metadata: dict[str, Any]) -> None:
    assert one(tmp_path, data) == (data, metadata)
    assert one(tmp_path, data, document_bytes=10_000) == (data, metadata)


def test_every_suffix_of_markdown_is_read_and_a_row_of_front_matter_alone_is_counted(tmp_path: Path) -> None:
    for suffix in ("md", "markdown", "mdx", "qmd", "Rmd", "MD"):
        (tmp_path / f"{suffix}.{suffix}").write_text(f"---\nid: {suffix}\n---\nof {suffix}")
    (tmp_path / "z.md").write_text("---\ntitle: T\n---\n")
    (tmp_path / "zz.md").write_text("")
    documents, dropped = read(tmp_path, id_field="id")
    assert sorted((d.id, d.text) for d in documents) == [
        (f"notes/{s}", f"of {s}") for s in ("MD", "Rmd", "markdown", "md", "mdx", "qmd")
    ]
    assert [(d.reason, Path(d.where).name) for d in dropped] == [("read.no_text", "z.md"), ("read.empty_file", "zz.md")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_paragraph_keeps_its_code_and_its_heading(tmp_path: Path, encoding: str) -> None:
    text = "---\ntitle: T\n---\n# One\n\nfirst\nline\n\n\n~~~py\na = 1\n\n```\nb = 2\n~~~\n\nlast é\n"
    (tmp_path / "a.md").write_bytes(text.encode(encoding))
    documents, dropped = read(tmp_path, document="paragraph")
    assert [d.text for d in documents] == ["# One\n\nfirst\nline", "~~~py\na = 1\n\n```\nb = 2\n~~~", "last é"]
    assert {d.metadata["title"] for d in documents} == {"T"}
    assert not dropped
    data = (tmp_path / "a.md").read_bytes()
    for d in documents:
        at = int(d.id.split("@")[1])
        assert data[at:].startswith(d.text.encode("utf-8" if encoding == "utf-8" else "utf-16-le"))
