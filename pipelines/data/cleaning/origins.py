"""Where a document comes from, and under which terms its code stands: rules on addresses, paths and licence headers.

Enters: the id and metadata of a document, and of code its text. Leaves: None, or a reason: `url.denied`,
`path.vendored`, `path.minified`, `path.lock`, `code.licence`.

A page's address is its `url`; a file's path is what its record calls `path` (or `max_stars_repo_path`, as The Stack
does), else the document's id, where that is made of it. A licence is what the record's `license` says, else what the
first lines of the file say: an SPDX tag (https://spdx.dev) or the words that the common licences begin with. What is
found is noted in the metadata as `code_licence`; code that says nothing stands under its source's terms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal
from urllib.parse import urlsplit

from pipelines.config import config_class

_HEAD = 3_000  # characters of a file that its header may take
_PATH_FIELDS = ("path", "file_path", "max_stars_repo_path")
_VENDORED = re.compile(
    r"(^|/)(node_modules|bower_components|_?vendor|_?vendors|third[_-]?party|3rdparty|external|"
    r"site-packages|dist-packages|\.venv|Pods)/",
    re.IGNORECASE,
)
_MINIFIED = re.compile(r"[.-]min\.(js|css|mjs)$|\.bundle\.js$|\.(js|css)\.map$", re.IGNORECASE)
_LOCK = re.compile(
    r"(^|/)(package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|composer\.lock|"
    r"Gemfile\.lock|poetry\.lock|uv\.lock|"
    r"Pipfile\.lock|Cargo\.lock|go\.sum|flake\.lock|mix\.lock|pubspec\.lock)$"
)
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([^\n*/#;]+)")
# words of the headers themselves; the first that is found names the licence
_HEADERS = tuple(
    (name, re.compile(pattern.replace(" ", r"[\s#*/;-]+"), re.IGNORECASE))  # words may lie on two lines of a comment
    for name, pattern in (
        ("AGPL-3.0-or-later", r"GNU Affero General Public"),
        ("LGPL-2.1-or-later", r"GNU (Lesser|Library) General Public"),
        ("GPL-2.0-or-later", r"GNU General Public Licen[sc]e"),
        ("MPL-2.0", r"Mozilla Public Licen[sc]e"),
        ("EPL-2.0", r"Eclipse Public Licen[sc]e"),
        ("Apache-2.0", r"Apache Licen[sc]e,? Version 2"),
        ("MIT", r"Permission is hereby granted,? free of charge"),
        ("BSD-3-Clause", r"Redistribution and use in source and binary forms"),
        ("ISC", r"Permission to use, copy, modify,? and/or distribute"),
        (
            "proprietary",
            r"All rights reserved[^\n]*(confidential|proprietary)|(confidential|proprietary) and "
            r"(confidential|proprietary)",
        ),
    )
)
_TELLING = ("general", "licens", "licenc", "permission", "redistribution", "proprietary")  # one is in each of them
_RECORDS = re.compile(
    r"\.(jsonl?|ndjson|parquet|warc)(\.(gz|dz|zst|bz2))?[@:#]", re.IGNORECASE
)  # files of many documents: no document's own path
Skipped = Literal["vendored", "minified", "lock"]


@config_class
class UrlConfig:
    """Which addresses are not wanted."""

    deny: list[str] = field(default_factory=list)  # example.com (and what lies under it), or /a regular expression/


def refuse(metadata: Mapping[str, Any], urls: UrlConfig) -> str | None:
    """Why a document of any content is dropped for its address."""
    url = metadata.get("url")
    if not urls.deny or not isinstance(url, str):
        return None
    try:
        host = (urlsplit(url if "//" in url else f"//{url}").hostname or "").lower()
    except ValueError:  # http://[broken: no host, but the expressions still read it
        host = ""
    for rule in urls.deny:
        if rule.startswith("/") and rule.endswith("/"):
            if re.search(rule[1:-1], url):
                return "url.denied"
        elif host == rule.lower() or host.endswith("." + rule.lower()):
            return "url.denied"
    return None


def refuse_path(document_id: str, metadata: Mapping[str, Any], skip: Sequence[Skipped]) -> str | None:
    """Why a file of code is dropped for its path: copies of other projects, minified files, lists of versions."""
    stated = next((metadata[key] for key in _PATH_FIELDS if isinstance(metadata.get(key), str)), None)
    path = stated or document_id.partition("/")[2]
    if stated is None and _RECORDS.search(path):
        return None
    for name, pattern in (("vendored", _VENDORED), ("minified", _MINIFIED), ("lock", _LOCK)):
        if name in skip and pattern.search(path):
            return f"path.{name}"
    return None


def licence_of(text: str, metadata: Mapping[str, Any]) -> str | None:
    """The licence that a record or a file's header states; None when neither says anything."""
    stated = metadata.get("license")
    if isinstance(stated, str) and stated.strip():
        return stated.strip()
    head = text[:_HEAD]
    if "SPDX" in head and (tag := _SPDX.search(head)):
        return tag[1].strip().rstrip("-> ")
    folded = head.lower()
    if not any(word in folded for word in _TELLING):  # ten expressions cost fifty times as much
        return None
    return next((name for name, pattern in _HEADERS if pattern.search(head)), None)
