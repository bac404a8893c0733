"""Addresses, paths and licences: what is dropped for them, by name, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import parse
from pipelines.data.cleaning.origins import UrlConfig, licence_of, refuse, refuse_path
from pipelines.data.cleaning.passes import clean_batch
from pipelines.data.corpus.recipe import CorpusConfig, CorpusRecipe
from pipelines.data.text.document import Document, Dropped
from pipelines.data.text.licences import is_permissive
from pipelines.errors import ConfigError

CODE = '''import math


def area(radius):
    """The area of a circle of that radius."""
    return math.pi * radius**2
'''


@pytest.mark.parametrize(
    ("url", "denied"),
    [
        ("https://spam.example/page", True),
        ("http://www.Spam.example:8080/", True),
        ("spam.example/page", True),
        ("https://notspam.example/", False),
        ("https://good.org/casino-bonus", True),
        ("https://good.org/?u=spam.example", False),
        ("http://[spam.example/", False),  # no host can be read
        ("http://[spam.example/casino", True),
        (None, False),
    ],
)
def test_addresses(url: str | None, denied: bool) -> None:
    rules = UrlConfig(deny=["spam.example", "/casino|poker/"])
    assert (refuse({"url": url}, rules) == "url.denied") is denied
    assert refuse({"url": url}, UrlConfig()) is None


@pytest.mark.parametrize(
    ("document_id", "metadata", "reason"),
    [
        ("js/web/node_modules/left-pad/index.js", {}, "path.vendored"),
        ("js/x.jsonl@12", {"path": "third_party/zlib/zlib.c"}, "path.vendored"),
        ("js/third_party/part-1.jsonl.gz@12", {}, None),  # the file of many records lies there, not the code
        ("js/static/jquery.min.js", {}, "path.minified"),
        ("js/app/package-lock.json", {}, "path.lock"),
        ("js/app/vendoring.py", {}, None),
        ("js/x", {"max_stars_repo_path": "a/poetry.lock"}, "path.lock"),
    ],
)
def test_paths(document_id: str, metadata: dict[str, Any], reason: str | None) -> None:
    assert refuse_path(document_id, metadata, ["vendored", "minified", "lock"]) == reason
    assert refuse_path(document_id, metadata, []) is None


@pytest.mark.parametrize(
    ("head", "licence", "permissive"),
    [
        ("// SPDX-License-Identifier: GPL-2.0-only\n", "GPL-2.0-only", False),
        ("/* SPDX-License-Identifier: (MIT OR GPL-2.0) */\n", "(MIT OR GPL-2.0)", True),
        ("# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\n", "Apache-2.0 WITH LLVM-exception", True),
        ("# Licensed under the Apache License, Version 2.0\n", "Apache-2.0", True),
        ("# under the terms of the GNU\n# General Public License", "GPL-2.0-or-later", False),
        ("# under the terms of the GNU General Public License\n", "GPL-2.0-or-later", False),
        ("# the GNU Lesser General Public License\n", "LGPL-2.1-or-later", False),
        ("# Permission is hereby granted, free of charge, to any person\n", "MIT", True),
        ("# nothing is said here\n", None, None),
    ],
)
def test_licence_headers(head: str, licence: str | None, permissive: bool | None) -> None:
    assert licence_of(head + CODE, {}) == licence
    assert licence is None or is_permissive(licence) is permissive
    assert licence_of(head + CODE, {"license": "mit"}) == "mit"
    assert is_permissive("mit")


def test_code_under_another_licence_is_dropped_when_asked() -> None:
    source = {"content": "code", "language": "code", "licence": "MIT", "reader": {"type": "files", "path": "x"}}
    texts = [CODE, "# SPDX-License-Identifier: GPL-3.0-only\n" + CODE, "# SPDX-License-Identifier: ISC\n" + CODE]
    for licences, kept in (("any", [True, True, True]), ("permissive", [True, False, True])):
        recipe = parse(CorpusRecipe, {"sources": {"s": source}, "quality": {"code": {"licences": licences}}})
        documents = [Document(text=text, id=f"s/{i}.py", metadata={}) for i, text in enumerate(texts)]
        found = clean_batch(documents, recipe.sources["s"], recipe)
        assert [isinstance(item, Document) for item in found] == kept
        assert [d.metadata.get("code_licence") for d in documents] == [None, "GPL-3.0-only", "ISC"]
        assert all(item.reason == "code.licence" for item in found if isinstance(item, Dropped))


@pytest.mark.parametrize("rule", ["http://x.org/", "/(/", "a b", ""])
def test_rules_that_cannot_work_are_refused(rule: str) -> None:
    source = {"licence": "MIT", "reader": {"type": "files", "path": "x"}}
    with pytest.raises(ConfigError, match="corpus.url.deny"):
        parse(CorpusConfig, {"name": "t", "corpus": {"sources": {"s": source}, "url": {"deny": [rule]}}})
