"""Record layouts: poems, dictionary lines and manual pages as the text a reader would see."""

from pipelines.data.sources.records import glosses, manual_page, poem


def test_a_poem_is_its_heading_and_its_lines() -> None:
    record = {
        "title": "静夜思",
        "author": "李白",
        "paragraphs": ["牀前看月光，疑是地上霜。", "", "舉頭望山月，低頭思故鄉。"],
        "id": "x",
    }
    assert poem(record, "") == ("静夜思\n李白\n牀前看月光，疑是地上霜。\n舉頭望山月，低頭思故鄉。", {})
    assert poem({"rhythmic": "導引", "paragraphs": ["一"]}, "") == ("導引\n一", {})
    assert poem({"title": "nothing", "paragraphs": []}, "") is None


def test_glosses_keep_words_and_meaning() -> None:
    lines = [
        "  1 This software and database is being provided to you | as is",
        "00004258 03 n 02 living_thing 0 animate_thing 0 003 @ 00003553 n 0000 | a living (or once living) entity  ",
        "00004475 03 n 0a " + " ".join(f"w{i} 0" for i in range(10)) + " 000 | ten words",
    ]
    expected = (
        "living thing, animate thing: a living (or once living) entity.\n"
        + ", ".join(f"w{i}" for i in range(10))
        + ": ten words."
    )
    assert glosses("\n".join(lines), "") == (expected, {})
    assert glosses("no data", "") is None


def test_a_manual_page_loses_its_markup_and_keeps_its_text() -> None:
    page = r""".\" a comment
.TH OPEN 2 2023-02-05 "Linux man-pages 6.03"
.SH NAME
open, openat \- open and possibly create a file
.SH DESCRIPTION
The
.BR open ()
system call opens the file
specified by
.IR pathname .
See \fBopenat\fP(2), and \(lqfiles\(rq.
.PP
A second paragraph.
.nf
    int fd;
    fd = open("a\e", 0);
.fi
.TP
.B O_RDONLY
for reading
"""
    text, metadata = manual_page(page, "") or ("", {})
    assert text == (
        "NAME\n\nopen, openat - open and possibly create a file\n\nDESCRIPTION\n\n"
        "The open() system call opens the file specified by pathname. See openat(2), and “files”.\n\n"
        'A second paragraph.\n\n    int fd;\n    fd = open("a\\", 0);\n\nO_RDONLY for reading'
    )
    assert metadata == {}
    assert manual_page(".so man2/open.2\n", "") is None


def test_lines_of_a_chinese_manual_page_are_joined_without_a_space() -> None:
    page = ".SH 名称\nls \\- 列出\n目录内容\n"
    assert manual_page(page, "") == ("名称\n\nls - 列出目录内容", {})
