"""JSON documents that vouch for themselves: the last key of one is the SHA-256 of the text before it.

Enters: a mapping, or the text of one. Leaves: text, or the mapping again when no bit of the text has changed. JSON
Lines likewise: a last line is the SHA-256 of the lines before it, and such texts may be put one behind the other.

A manifest's checksums guard the files that it names, and nothing would guard the manifest: a flipped bit in a number is
another number, and the JSON stays whole. Manifests, claims and receipts are written this way.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

# what claims, receipts and manifests held before they were sealed
PLAIN_CLAIM = ("fingerprint", "identity", "kept_despite")
PLAIN_RECEIPT = ("files", "statistics")
PLAIN_MANIFEST = (
    *PLAIN_CLAIM,
    "kind",
    "name",
    "config",
    "statistics",
    "licences",
    "files",
    "code_version",
    "created",
)
_SEAL_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})"\}')
_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n?\Z')


def sealed(value: Mapping[str, Any]) -> bytes:
    """The mapping as JSON text that ends with its own checksum. Args: value, with at least one key, none of them
    `sha256`.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False).encode()
    return text.removesuffix(b"\n}") + f',\n "sha256": "{hashlib.sha256(text).hexdigest()}"\n}}\n'.encode()


def unsealed(text: bytes, plain_keys: Collection[str] | None) -> dict[str, Any]:
    """The mapping without its seal, if it is as it was written.

    Args: plain_keys, all keys that a document of this kind had before there were seals: one with no others may lack it;
        None, any may.
    Raises: ValueError saying what is wrong with it, to be put behind the document's name.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error
    seal = _SEAL.search(text)
    if seal is None:
        # a damaged seal leaves a key that was never there
        if not isinstance(value, dict) or (plain_keys is not None and not set(value) <= set(plain_keys)):
            raise ValueError("has lost its own checksum")
    elif hashlib.sha256(text[: seal.start()] + b"\n}").hexdigest().encode() != seal[1]:
        raise ValueError("does not match its own checksum")
    else:
        del value["sha256"]
    mapping: dict[str, Any] = value
    return mapping


def sealed_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as JSON Lines, and a line with the checksum of them."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return text + f'{{"sha256": "{hashlib.sha256(text).hexdigest()}"}}\n'.encode()


def unsealed_lines(text: bytes, key: str) -> list[dict[str, Any]]:
    """The rows, if they are as they were written; lines without any seal are taken as they are.

    Args: key, which every row has, so that a damaged seal is not taken for one.
    Raises: ValueError saying what is wrong, to be put behind the file's name.
    """
    rows: list[dict[str, Any]] = []
    digest, seals, unguarded = hashlib.sha256(), 0, 0
    for line in text.splitlines(keepends=True):
        if seal := _SEAL_LINE.fullmatch(line.rstrip(b"\n")):
            if digest.hexdigest().encode() != seal[1]:
                raise ValueError("does not match its own checksum")
            digest, seals, unguarded = hashlib.sha256(), seals + 1, 0
            continue
        digest.update(line)
        unguarded += 1
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"holds a line that is no JSON ({error})") from error
        if not isinstance(row, dict) or key not in row:
            raise ValueError("has lost its own checksum")
        rows.append(row)
    if seals and unguarded:
        raise ValueError("has lost its own checksum")
    return rows
