"""What a written file holds besides its number of documents: lengths, languages and scripts, for the data card.

Enters: the Arrow table of one output file. Leaves: small counts that add up over files, whatever way the files were
cut.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_PARTS = ("lengths", "languages", "scripts", "masked")
_SCRIPTS = ("hans", "hant")  # what `language.detect` calls simplified and traditional Chinese


def profile(table: pa.Table, kind: str) -> dict[str, dict[str, int]]:
    """Counts of one table of documents, conversations or preferences.

    Returns:
        lengths: floor(log2(UTF-8 bytes of content)) as a decimal string -> documents; "0" has the empty ones too.
        languages: language -> bytes of content. scripts: of Chinese, "hans" (simplified) or "hant" -> documents.
        masked: kind of personal data -> replacements.
    """
    sizes = content_bytes(table, kind)
    exponents = np.frexp(np.maximum(sizes, 1))[1] - 1
    languages: Counter[str] = Counter()
    names = table.column("language").combine_chunks().dictionary_encode()
    for code, name in enumerate(names.dictionary.to_pylist()):
        languages[name] += int(sizes[np.asarray(names.indices) == code].sum())
    scripts = {
        script: pc.sum(pc.match_substring(table.column("metadata"), f'"script": "{script}"')).as_py() or 0
        for script in _SCRIPTS
    }
    notes = table.column("metadata")
    masked: Counter[str] = Counter()
    for note in notes.filter(pc.match_substring(notes, '"masked": {')).to_pylist():
        masked.update(json.loads(note)["masked"])
    return {
        "masked": dict(sorted(masked.items())),
        "lengths": {str(e): int(n) for e, n in enumerate(np.bincount(exponents)) if n},
        "languages": dict(sorted(languages.items())),
        "scripts": {script: int(n) for script, n in scripts.items() if n},
    }


def merged(profiles: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """The sum of the profiles of several files; a mapping may hold other things beside them."""
    total: dict[str, Counter[str]] = {part: Counter() for part in _PARTS}
    for one in profiles:
        for part in _PARTS:
            total[part].update(one[part])
    return {part: dict(sorted(counts.items())) for part, counts in total.items()}


def content_bytes(table: pa.Table, kind: str) -> npt.NDArray[np.int64]:
    """(documents,) UTF-8 bytes of the text, of all turns, or of prompt and both answers."""
    if kind == "documents":
        return _lengths(table.column("text"))
    if kind == "conversations":
        return _turns(table.column("messages"))
    return _turns(table.column("prompt")) + _lengths(table.column("chosen")) + _lengths(table.column("rejected"))


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    return np.asarray(pc.binary_length(column.combine_chunks()), np.int64)


def _turns(column: Any) -> npt.NDArray[np.int64]:
    turns = column.combine_chunks()
    sizes = np.asarray(pc.binary_length(pc.struct_field(pc.list_flatten(turns), "content")), np.float64)
    parents = np.asarray(pc.list_parent_indices(turns), np.int64)
    return np.bincount(parents, sizes, minlength=len(turns)).astype(np.int64)
