"""What lies under a path: links, names that look like patterns, what is passed over and under which reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.sources.listing import Listing, list_files
from pipelines.errors import DataError

WHERE = "corpus.sources.mine.reader"


def listed(*paths: Path | str, form: str | None = None) -> Listing:
    return list_files(WHERE, [str(path) for path in paths], form)


def labels(*paths: Path | str, form: str | None = None) -> list[str]:
    return [file.label for file in listed(*paths, form=form).files]


def fill(folder: Path, *names: str, text: str = "x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    blobs = fill(tmp_path / "blobs", "1f0c", "2a44", text="four")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to(blobs / "1f0c")
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "test.jsonl").symlink_to("../blobs/2a44")
    (snapshot / "more").symlink_to(tmp_path / "shelf")
    for path in (snapshot, f"{snapshot}/**", f"{snapshot}/**/*.jsonl"):
        assert labels(path) == ["more/test.jsonl", "train.jsonl"]
        assert [file.size for file in listed(path).files] == [4, 4]  # of what the link leads to
    assert labels(f"{snapshot}/*.jsonl") == labels(snapshot / "train.jsonl") == ["train.jsonl"]


@pytest.mark.parametrize("form", [None, "jsonl", "text"])
def test_a_hub_cache_is_read_by_its_snapshots_at_every_level(tmp_path: Path, form: str | None) -> None:
    cache = fill(tmp_path / "hub", "version.txt", "datasets--a--b/refs/main") / "datasets--a--b"
    snapshot = cache / "snapshots" / ("c" * 40)
    for name, blob in (
        ("data/a.jsonl", "1" * 64),
        ("b.jsonl.gz", "2" * 64),
        ("README.md", "3" * 40),
        (".gitattributes", "4" * 40),
    ):
        fill(cache / "blobs", blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(cache / "blobs" / blob, (snapshot / name).parent))
    for path in (tmp_path, tmp_path / "hub", cache, cache / "snapshots", snapshot, f"{cache}/**", f"{tmp_path}/hub/*"):
        found = listed(path, form=form)
        assert [Path(file.path) for file in found.files] == [snapshot / "b.jsonl.gz", snapshot / "data" / "a.jsonl"]
        assert {Path(label).name for label in found.passed_over["about the data"]} == {"README.md"}
    assert {Path(label).name for label in listed(tmp_path).passed_over["bookkeeping"]} == {
        "version.txt", "main", "1" * 64, "2" * 64, "3" * 40, "4" * 40,
    }  # fmt: skip
    assert labels(cache / "blobs", form="jsonl") == ["1" * 64, "2" * 64, "3" * 40, "4" * 40]  # asked for


def test_of_a_files_names_the_one_that_tells_a_format_counts(tmp_path: Path) -> None:
    fill(tmp_path, "store/0001", "store/0002", "other")
    (tmp_path / "a.jsonl.gz").symlink_to("store/0001")
    (tmp_path / "b").symlink_to("store/0002")
    assert labels(tmp_path, form="jsonl") == ["a.jsonl.gz", "other", "store/0002"]
    assert listed(tmp_path, form="jsonl").passed_over["the same file under another name"] == ["store/0001", "b"]


def test_broken_links_and_loops_are_named_and_end(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "deep/b.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    (tmp_path / "self.jsonl").symlink_to("self.jsonl")
    (tmp_path / "deep" / "up").symlink_to("..")
    (tmp_path / "again").symlink_to("deep")
    (tmp_path / "c.jsonl").symlink_to("a.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    found = listed(tmp_path)
    assert [file.label for file in found.files] == ["a.jsonl", "deep/b.jsonl"]
    assert found.passed_over["a link to nothing"] == ["gone.jsonl"]
    assert found.passed_over["a loop of links"] == ["deep/up"]
    assert found.passed_over["the same folder under another name"] == ["again"]
    assert found.passed_over["the same file under another name"] == ["c.jsonl"]
    assert found.passed_over["no regular file"] == ["pipe.jsonl"]
    assert "self.jsonl" in found.in_words()
    for name, said in (
        ("gone.jsonl", "a link to nothing"),
        ("self.jsonl", "a link that cannot be followed"),
        ("pipe.jsonl", "no reg"),
    ):
        with pytest.raises(DataError, match=f"{name} is {said}.*correct {WHERE}.path"):
            listed(tmp_path / name)


def test_folders_linked_crosswise_are_entered_once(tmp_path: Path) -> None:
    for level in range(30):  # 2**30 ways down
        fill(tmp_path, f"d{level}/x.jsonl")
        for name in ("left", "right"):
            (tmp_path / f"d{level}" / name).symlink_to(tmp_path / f"d{level + 1}")
    assert len(labels(tmp_path / "d0")) == 30


@pytest.mark.parametrize(
    "name",
    [
        "part-[1].jsonl",
        "dir [v2]/a.jsonl",
        "a::b.jsonl",
        "what?.jsonl",
        "star*.jsonl",
        "100%.jsonl",
        "a#b c.jsonl",
        "{a,b}.jsonl",
        "Zürich 二.jsonl",
        "A.JSONL",
        "B.JSONL.GZ",
        "C.Parquet",
        "x.jsonl:y.jsonl",
        "simplecache::c.jsonl",
        ".JSONL",
        "~x.jsonl",
        "$HOME.jsonl",
    ],
)
def test_a_name_that_exists_is_no_pattern(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, name, "part-1.jsonl", "starfish.jsonl", "whats.jsonl", "dir v/a.jsonl")
    assert labels(tmp_path / name) == [name.rsplit("/", 1)[-1]]
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in listed(name).files] == [str(tmp_path / name)]


def test_a_pattern_below_a_folder_whose_name_looks_like_one(tmp_path: Path) -> None:
    fill(tmp_path, "dir [v2]/a.jsonl", "dir [v2]/b.jsonl", "dir [v2]/sub/c.jsonl", "dir v/z.jsonl")
    assert labels(tmp_path / "dir [v2]") == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert labels(f"{tmp_path}/dir [v2]/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert labels(f"{tmp_path}/dir [v2]/**/*.jsonl") == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert labels(f"{tmp_path}/dir [uvw]/*.jsonl") == ["dir v/z.jsonl"]
    assert labels(f"{tmp_path}/*/[ab].jsonl") == ["dir [v2]/a.jsonl", "dir [v2]/b.jsonl"]


def test_a_folder_that_a_pattern_matches_stands_for_its_files(tmp_path: Path) -> None:
    fill(tmp_path, "day=1/part-0.jsonl", "day=2/part-0.jsonl", "other/x.jsonl", "out.jsonl/part-0.jsonl")
    assert labels(f"{tmp_path}/day=*") == ["day=1/part-0.jsonl", "day=2/part-0.jsonl"]
    assert labels(f"{tmp_path}/*.jsonl") == ["out.jsonl/part-0.jsonl"]
    assert labels(f"{tmp_path}/**/day=?") == ["day=1/part-0.jsonl", "day=2/part-0.jsonl"]


def test_what_is_no_data_is_passed_over_by_name(tmp_path: Path) -> None:
    folder = fill(
        tmp_path,
        "data/a.jsonl",
        "data/b.JSONL.gz",
        "README.md",
        "readme_zh.md",
        "LICENSE",
        "card.md",
        "data/load.py",
        "notes.txt",
        "_SUCCESS",
        "data/.a.jsonl.crc",
        "data/a.jsonl.crc",
        ".gitattributes",
        "dataset_infos.json",
        ".cache/x.jsonl",
        "x.jsonl.tmp",
        ".x.jsonl.swp",
        "x.jsonl.lock",
        "y.jsonl.incomplete",
        "z.jsonl~",
        "_temporary/0/part.jsonl",
        "_delta_log/0.json",
        "photo.png",
    )
    found = listed(folder)
    assert [file.label for file in found.files] == ["data/a.jsonl", "data/b.JSONL.gz", "notes.txt"]
    assert {reason: sorted(names) for reason, names in found.passed_over.items()} == {
        "about the data": ["LICENSE", "README.md", "readme_zh.md"],
        "text beside records": ["card.md", "data/load.py"],
        "bookkeeping": ["_SUCCESS", "_delta_log/0.json", "data/a.jsonl.crc", "dataset_infos.json"],
        "hidden": [".cache/x.jsonl", ".gitattributes", ".x.jsonl.swp", "data/.a.jsonl.crc"],
        "unfinished or a lock": [
            "_temporary/0/part.jsonl",
            "x.jsonl.lock",
            "x.jsonl.tmp",
            "y.jsonl.incomplete",
            "z.jsonl~",
        ],
        "its name tells no format": ["photo.png"],
    }
    assert found.in_words().startswith("19 files: LICENSE, README.md, readme_zh.md (about the data); ")
    assert found.counts()["its name tells no format"] == {"files": 1, "first": ["photo.png"]}
    assert [file.label for file in listed(f"{folder}/**").files] == [file.label for file in found.files]


def test_what_is_asked_for_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "README.md", "card.md", ".hidden/b.jsonl", "_SUCCESS")
    assert labels(tmp_path / "README.md") == ["README.md"]
    assert labels(f"{tmp_path}/*.md") == ["card.md"]
    assert labels(f"{tmp_path}/.h*/*.jsonl") == [".hidden/b.jsonl"]
    assert labels(tmp_path / ".hidden") == ["b.jsonl"]
    assert labels(fill(tmp_path / "notes", "a.md", "b.rst", "c.py")) == ["a.md", "b.rst", "c.py"]


@pytest.mark.parametrize(
    ("form", "read"),
    [
        ("text", ["a.txt", "b", "c.html", "d.json", "g.md"]),
        ("jsonl", ["a.txt", "b", "d.json"]),
        ("parquet", ["b", "e.parquet"]),
        ("html", ["a.txt", "b", "c.html", "g.md"]),
        ("warc", ["b", "f.warc.gz"]),
        (None, ["a.txt", "c.html", "d.json", "e.parquet", "f.warc.gz"]),  # g.md stands beside records
    ],
)
def test_the_format_that_is_set_decides_what_a_folder_is_read_for(
    tmp_path: Path, form: str | None, read: list[str]
) -> None:
    fill(tmp_path, "a.txt", "b", "c.html", "d.json", "e.parquet", "f.warc.gz", "g.md", "README.md", "_SUCCESS", "b.crc")
    assert labels(tmp_path, form=form) == read


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["README.md", "_SUCCESS"],
            r"passed over: 2 files: README.md \(about the data\); _SUCCESS \(bookkeeping\); "
            r"accepted: names that end in .txt",
        ),
        (["a.png"], r"passed over: 1 file: a.png \(its name tells no format\)"),
        (["a.docx"], r"passed over: 1 file: a.docx \(not read: make Markdown of it, as pandoc a.docx -o a.md does\)"),
        ([], "source mine: nothing matches"),
    ],
)
def test_nothing_left_says_what_was_there(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=f"{said}.*correct {WHERE}.path, name a file itself, or set {WHERE}.format"):
        listed(fill(tmp_path, *names))


def test_a_named_file_without_a_format_is_refused_before_any_work(tmp_path: Path) -> None:
    fill(tmp_path, "a.docx", "a.dat")
    with pytest.raises(DataError, match="its name tells no format"):
        listed(tmp_path / "a.dat")
    with pytest.raises(DataError, match=rf"a.docx is not read: make Markdown of it.*correct {WHERE}.path"):
        listed(tmp_path / "a.docx")
    assert labels(tmp_path / "a.docx", form="text") == ["a.docx"]


@pytest.mark.parametrize("path", ["gone.jsonl", "no[1].jsonl", "*.jsonl", "nowhere/**", "nowhere/*/a.jsonl", " "])
def test_a_path_to_nothing_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match=f"correct {WHERE}.path"):
        listed(f"{tmp_path}/{path}" if path.strip() else path)


def test_several_paths_list_no_file_twice(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl")
    assert labels(f"{tmp_path}/*.jsonl", tmp_path / "b.jsonl", tmp_path) == ["0/a.jsonl", "0/b.jsonl"]


def test_a_folder_that_two_paths_lead_to_is_read_once(tmp_path: Path) -> None:
    fill(tmp_path, "real/a.jsonl", "real/deep/b.jsonl")
    (tmp_path / "real too").symlink_to("real")
    (tmp_path / "real/deep/hard.jsonl").hardlink_to(tmp_path / "real/deep/b.jsonl")  # another file, to whoever made it
    for paths in ([tmp_path / "real*"], [tmp_path / "real", tmp_path / "real too"]):
        found = listed(*paths)
        assert [file.label.split("/", 1)[1] for file in found.files] == ["a.jsonl", "deep/b.jsonl", "deep/hard.jsonl"]
        assert len(found.passed_over["the same file under another name"]) == 3


def test_a_listing_does_not_depend_on_the_order_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(f"{i}/{j}.jsonl" for i in range(3) for j in range(3)))
    before, listdir = listed(tmp_path), os.listdir

    def backwards(path: Any) -> list[str]:
        return sorted(listdir(path), reverse=True)

    monkeypatch.setattr(os, "listdir", backwards)
    assert listed(tmp_path) == before


def test_a_file_that_may_not_be_read_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a.jsonl", "secret.jsonl")
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path))  # root may read everything
    with pytest.raises(DataError, match=r"source mine: cannot read .*secret\.jsonl: permission denied"):
        listed(tmp_path)


def test_a_tree_of_code_or_documentation_is_read_for_its_texts(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "package.json",
        "setup.py",
        "docs/guide.md",
        "docs/_meta.json",
        "src/a.py",
        "tests/data/rows.jsonl",
        "tests/b.py",
    )
    assert labels(tmp_path) == [
        "docs/_meta.json",
        "docs/guide.md",
        "package.json",
        "setup.py",
        "src/a.py",
        "tests/b.py",
        "tests/data/rows.jsonl",
    ]


def test_a_name_in_another_unicode_form_is_told(tmp_path: Path) -> None:
    fill(tmp_path, "cafe\u0301.jsonl")
    with pytest.raises(DataError, match=r"does not exist; 'cafe\\u0301.jsonl' does, which looks the same"):
        listed(tmp_path / "caf\u00e9.jsonl")


def test_an_archive_is_no_manual_page(tmp_path: Path) -> None:
    fill(tmp_path, "a.7z", "b.3gp", "c.1", "d.3perl")
    assert labels(tmp_path) == ["c.1", "d.3perl"]


def test_a_folder_of_mixed_kinds_says_what_it_takes_as_what(tmp_path: Path) -> None:
    notes = [f"notes/{i} über.md" for i in range(4)]
    fill(tmp_path, *notes, "b.markdown", "c.mdx", "d.txt", "e.html", "e f.HTM", "chats.jsonl", "README.md")
    unread = ["a.docx", "b.epub", "c.pdf", "d.pptx", "e.xlsx", "f.csv", "g.zip", "h.tar.gz", "i.png"]
    found = listed(fill(tmp_path, *unread))
    assert found.by_format() == {
        "Markdown": {"files": 6, "bytes": 6},
        "HTML": {"files": 2, "bytes": 2},
        "JSON Lines": {"files": 1, "bytes": 1},
        "text": {"files": 1, "bytes": 1},
    }
    words = f"10 files, 10 B, below {tmp_path}: 6 Markdown, 2 HTML, 1 JSON Lines, 1 text"
    assert found.taken_in_words() == words
    assert listed(tmp_path / "notes").taken_in_words() == f"4 Markdown files, 4 B, below {tmp_path}/notes"
    said = found.in_words()
    for part in (
        "a.docx, b.epub (not read: make Markdown of it, as pandoc a.docx -o a.md does)",
        "c.pdf (not read: make text of it, as pdftotext a.pdf a.txt does)",
        "d.pptx (not read: save it as .txt, .html or .docx",
        "e.xlsx, f.csv (not read: write its rows as JSON Lines or Parquet)",
        "g.zip, h.tar.gz (not read: unpack it)",
        "i.png (its name tells no format)",
    ):
        assert part in said


def test_a_binary_document_is_no_text_whatever_format_is_set(tmp_path: Path) -> None:
    fill(tmp_path, "a.md", "b.csv", "c.pdf", "d.docx", "e.zip")
    assert labels(tmp_path, form="text") == ["a.md", "b.csv"]


def test_notes_are_data_where_they_are_more_than_the_records_among_them(tmp_path: Path) -> None:
    fill(tmp_path, "chats.jsonl", *(f"{i}.md" for i in range(3)))
    assert labels(tmp_path) == ["chats.jsonl"]
    assert (
        "(text beside records: name the file, or a pattern such as **/*.md, to have it read)"
        in listed(tmp_path).in_words()
    )
    assert labels(fill(tmp_path, "4.rst")) == ["0.md", "1.md", "2.md", "4.rst", "chats.jsonl"]
    assert labels(fill(tmp_path, *(f"part-{i}.jsonl" for i in range(3)))) == [
        "chats.jsonl",
        *(f"part-{i}.jsonl" for i in range(3)),
    ]


def test_where_records_with_fields_are_read_a_text_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "b.html", "c.jsonl", "d.md")
    found = list_files(WHERE, [str(tmp_path)], objects=True)
    assert [file.label for file in found.files] == ["c.jsonl"]
    assert found.passed_over == {
        "a text, where records are read": ["a.txt", "b.html"],
        "text beside records": ["d.md"],
    }
    for name, called in (("a.txt", "text"), ("b.html", "HTML"), ("d.md", "Markdown")):
        with pytest.raises(DataError, match=f"{name} is {called}; expected records with fields.*{WHERE}.format"):
            list_files(WHERE, [str(tmp_path / name)], objects=True)
    assert list_files(WHERE, [str(tmp_path / "a.txt")], "jsonl", objects=True).files
    (tmp_path / "c.jsonl").unlink()
    with pytest.raises(DataError, match=r"accepted: names that end in \.json, \.jsonl, \.ndjson, \.parquet, \.warc "):
        list_files(WHERE, [str(tmp_path)], objects=True)


def test_home_is_expanded_and_a_relative_path_says_where_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "home/notes of mine/é.md", "here/b.md")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    assert labels("~/notes of mine") == ["é.md"]
    assert labels("b.md") == ["b.md"]
    with pytest.raises(DataError, match=rf"a relative path begins in {tmp_path}/here, where the command was started"):
        listed("notes")
    with pytest.raises(DataError, match="does not exist") as raised:
        listed("~/diary")
    assert "a relative path" not in str(raised.value)
