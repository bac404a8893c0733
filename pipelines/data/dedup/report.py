"""How good near-duplicate removal was on this corpus: LSH beside exact Jaccard on a sample.

Enters: the cleaned texts, and what was decided about them. Leaves: `dedup_quality.json` and its figure in the data
card.

    sketch    cleaning leaves for every document the hash of the shingle that is least under one more permutation. Two
              documents agree in it with probability J, so near-copies are sampled together, as a plain sample would
              almost never do. A task per 64 pieces collects those below a threshold that gives some 200,000 documents
    choose    the documents whose hash another one has, in the order of the hashes, at most 8 of a hash, until there are
              4,000
    compare   all pairs of these by exact Jaccard, through an inverted index of their shingles (one task)

The sample does not look at the signatures, so within a bin of similarity the share of pairs that LSH proposes is an
unbiased estimate of its recall. Across bins a pair is sampled in proportion to J; where bins are added up (precision) a
pair weighs 1/J (Horvitz & Thompson 1952). The sample is a function of the documents alone, however the input was cut.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.cluster.cluster import ShardMap
from pipelines.data.dedup.deduplicate import Settled
from pipelines.data.dedup.members import read_texts, removes_near
from pipelines.data.dedup.minhash import MinHashConfig, keys_and_samples, shingles
from pipelines.data.dedup.places import Job, Placed
from pipelines.data.dedup.resolve import HELDOUT
from pipelines.display.charts import Series, curves
from pipelines.store.draft import Draft

FILE = "dedup_quality.json"
FROM, WIDTH = 0.3, 0.05  # the bins of similarity: [0.3, 0.35) ... [0.95, 1]
DOCUMENTS = 4_000  # compared with each other
_CONSIDERED = 200_000  # documents whose hashes are looked at
_PIECES = 64  # of one sketching task
_SKETCH = np.dtype([("hash", "<u8"), ("node", "<i8"), ("kept", "?")])
_ALIKE = 8  # of one hash: a boilerplate page that is there a thousand times must not fill the sample


@dataclass(frozen=True)
class SketchTask:
    """Some pieces, each with the file of its documents' fates; hashes below `below` are collected."""

    job: Job
    pieces: tuple[tuple[Placed, str], ...]
    below: int


@dataclass(frozen=True)
class CompareTask:
    """The chosen documents, ascending, and whether each stayed in the corpus."""

    job: Job
    nodes: tuple[int, ...]
    kept: tuple[bool, ...]


def publish_report(draft: Draft, settled: Settled, map_shards: ShardMap) -> None:
    """Write `dedup_quality.json`, before the work folder is deleted."""
    job, census = settled.job, settled.job.census()
    compared = [
        (place, done["fates"])
        for place, done in settled.pieces
        if place.documents and removes_near(census.parties[place.party])
    ]
    below = int(threshold(sum(place.documents for place, _ in compared)))
    tasks = [SketchTask(job, tuple(compared[i : i + _PIECES]), below) for i in range(0, len(compared), _PIECES)]
    sketches = [np.empty(0, _SKETCH), *map_shards(sketch_pieces, tasks, "report: sketch")] if tasks else []
    sketch = np.concatenate(sketches) if sketches else np.empty(0, _SKETCH)
    chosen = np.sort(sketch[choose(sketch["hash"])], order="node")
    task = CompareTask(job, tuple(chosen["node"].tolist()), tuple(chosen["kept"].tolist()))
    report = map_shards(compare_sample, [task], "report: compare")[0]
    path = draft.scratch(FILE)
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    draft.publish("dedup_quality", {FILE: path})


def sketch_pieces(task: SketchTask) -> npt.NDArray[Any]:
    """(documents below the threshold,) records of hash, node, and whether it stayed."""
    sketches = [np.empty(0, _SKETCH)]
    storage, work = task.job.work.storage, task.job.work.folder
    for place, file in task.pieces:
        hashes = place.read_facts(storage)["sample"]
        rows = np.flatnonzero(hashes < np.uint64(task.below))
        fates = np.load(storage.fetch(f"{work}/{file}"))[rows]
        part = np.empty(len(rows), _SKETCH)
        part["hash"], part["node"], part["kept"] = hashes[rows], rows + place.first, fates <= HELDOUT
        sketches.append(part)
    return np.concatenate(sketches)


def compare_sample(task: CompareTask) -> dict[str, Any]:
    """The report on the chosen documents: see `compare`. Equal texts are no near-copies; of each one is compared."""
    kept = dict(zip(task.nodes, task.kept, strict=True))
    texts: dict[str, bool] = {}
    for place, rows in task.job.census().places_of(np.array(task.nodes, np.int64)):
        for row, text in read_texts(task.job, place, rows).items():
            texts[text] = texts.get(text, False) or kept[place.first + row]
    dedup = task.job.dedup
    return compare(list(texts), list(texts.values()), dedup.minhash, dedup.threshold if dedup.verify else None)


def threshold(documents: int) -> np.uint64:
    """The hash below which some 200,000 of so many documents lie."""
    return np.uint64(min((1 << 64) - 2, (1 << 64) * _CONSIDERED // max(documents, 1)))


def choose(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Indices of the documents to compare: those whose hash is not theirs alone.

    Args:
        hashes: (considered,) uint64 in the corpus's order.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(ordered) else order
    counts = np.diff(np.append(first, len(ordered)))
    place = np.arange(len(ordered)) - np.repeat(first, counts)
    taken = (place < _ALIKE) & (np.repeat(counts, counts) > 1)
    return order[taken][:DOCUMENTS]


def compare(
    texts: Sequence[str], kept: Sequence[bool], minhash: MinHashConfig, verified_at: float | None
) -> dict[str, Any]:
    """Recall and precision of the sample's pairs.

    Args:
        texts: different texts. kept: whether each is still in the corpus. verified_at: least exact similarity of what
            counts as a near-copy; None where candidates were not compared.

    Returns: JSON-able: documents, pairs, `bins` (from, pairs, proposed, expected, resolved), precision.
    """
    sets = [shingles(text, minhash.ngram) for text in texts]
    left, right, similarity = similar_pairs(sets, FROM)
    keys, _, samples = keys_and_samples(texts, minhash)
    stays = np.asarray(kept, bool)
    proposed = _share_a_key(keys, left, right)
    resolved = ~(stays[left] & stays[right])
    expected = 1 - (1 - similarity**minhash.rows) ** minhash.bands
    count = round((1 - FROM) / WIDTH)
    place = np.minimum(((similarity - FROM) / WIDTH + 1e-9).astype(np.int64), count - 1)
    bins = [
        {
            "from": round(FROM + b * WIDTH, 2),
            "pairs": int((place == b).sum()),
            "proposed": int(proposed[place == b].sum()),
            "expected": round(float(expected[place == b].sum()), 1),
            "resolved": int(resolved[place == b].sum()),
        }
        for b in range(count)
    ]
    least = verified_at if verified_at is not None else 0.7
    precision = _precision(sets, keys, samples, least)
    return {
        "documents": len(texts),
        "pairs": len(left),
        "bins": bins,
        "threshold": least,
        "verified": verified_at is not None,
        "candidate_precision": precision,
    }


def similar_pairs(
    sets: Sequence[npt.NDArray[np.uint64]], least: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """All pairs of at least that exact Jaccard similarity: indices left < right, and the similarity.

    An inverted index from each shingle to the sets that hold it; a set is counted against all that share any with it,
    so the cost is the sum of squares of the lists' lengths.
    """
    sizes = np.array([len(one) for one in sets], np.int64)
    owner = np.repeat(np.arange(len(sets)), sizes)
    joined = np.concatenate([np.empty(0, np.uint64), *sets])
    _, identity = np.unique(joined, return_inverse=True)
    by_shingle = np.argsort(identity, kind="stable")
    holders = owner[by_shingle]
    begins = np.searchsorted(identity[by_shingle], np.arange(identity.max(initial=-1) + 2))
    mine = np.split(identity, np.cumsum(sizes)[:-1]) if len(sets) else []
    pairs = []
    for i, ids in enumerate(mine):
        lengths = begins[ids + 1] - begins[ids]
        before = np.cumsum(lengths) - lengths
        places = np.repeat(begins[ids] - before, lengths) + np.arange(int(lengths.sum()))
        common = np.bincount(holders[places], minlength=len(sets))
        common[: i + 1] = 0
        others = np.flatnonzero(common)
        similarity = common[others] / (sizes[i] + sizes[others] - common[others])
        near = similarity >= least
        pairs.append((np.full(int(near.sum()), i), others[near], similarity[near]))
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    left, right, similarities = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return left, right, similarities


def figure(minhash: MinHashConfig, quality: Mapping[str, Any] | None) -> str:
    """The detection curve, and what was measured of it where it was, as HTML."""
    theory = [(s / 100, 1 - (1 - (s / 100) ** minhash.rows) ** minhash.bands) for s in range(30, 101)]
    series = [Series("proposed by LSH, by theory", theory)]
    if quality is None:
        chart = curves(series, (FROM, 1.0), "detection curve", "Jaccard similarity of a pair")
        words_ = "Probability that a pair becomes a candidate; it was not measured (quality_report=false)."
        return f'<figure class="wide">{chart}<figcaption>{words_}</figcaption></figure>'
    bins = [one for one in quality["bins"] if one["pairs"]]
    named = {"proposed": "proposed, measured on a sample", "resolved": "no longer both in the corpus"}
    for (field, name), colour, aside in zip(named.items(), ("one", "two"), (-0.004, 0.004), strict=True):
        points = [(one["from"] + WIDTH / 2 + aside, one[field] / one["pairs"]) for one in bins]
        ranges = [interval(one[field], one["pairs"]) for one in bins]
        series.append(Series(name, points, colour, dots=True, ranges=ranges))
    chart = curves(
        series, (FROM, 1.0), "recall by similarity", "exact Jaccard similarity of a pair", quality["threshold"]
    )
    return (
        f'<figure class="wide">{chart}<figcaption>{quality["pairs"]:,} pairs of {quality["documents"]:,} sampled '
        "documents, "
        f"compared exactly; bars are 95 % intervals. {words(quality)}</figcaption></figure>"
    )


def words(quality: Mapping[str, Any]) -> str:
    """The report in two sentences."""
    above = [one for one in quality["bins"] if one["from"] >= quality["threshold"] - 1e-9]
    pairs, proposed, resolved = (sum(one[key] for one in above) for key in ("pairs", "proposed", "resolved"))
    if not pairs:
        return f"No two sampled documents resemble each other by {quality['threshold']} or more."
    recall = (
        f"Of pairs of similarity {quality['threshold']} or more LSH proposes {proposed / pairs:.1%} "
        f"(theory: {sum(one['expected'] for one in above) / pairs:.1%}), and {resolved / pairs:.1%} are no longer "
        "both in the corpus."
    )
    precision = quality["candidate_precision"]
    if precision is None:
        return recall
    checked = (
        ("the others are kept, because candidates are compared exactly")
        if quality["verified"]
        else "the others are dropped all the same"
    )
    return f"{recall} Of the pairs that LSH proposes {precision:.1%} are that similar; {checked}."


def interval(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    reach = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _share_a_key(keys: Any, left: Any, right: Any) -> npt.NDArray[np.bool_]:
    shared = np.zeros(len(left), bool)
    for band in range(
        keys.shape[1] if len(left) else 0
    ):  # one at a time: of templates every pair of the sample is here
        shared |= keys[left, band] == keys[right, band]
    return shared


def _precision(sets: Sequence[Any], keys: Any, samples: Any, least: float) -> float | None:
    """Of the proposed pairs, weighted as if each could be in the sample, the share that is similar."""
    similarity = []
    for group in _groups(samples):
        for place, i in enumerate(group):
            for j in group[place + 1 :]:
                if (keys[i] == keys[j]).any():
                    common = len(np.intersect1d(sets[i], sets[j], assume_unique=True))
                    similarity.append(common / (len(sets[i]) + len(sets[j]) - common))
    if not similarity:
        return None
    similarities = np.array(similarity)
    return float((1 / similarities[similarities >= least]).sum() / (1 / similarities).sum())


def _groups(hashes: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(hashes, kind="stable")
    cuts = np.flatnonzero(np.diff(hashes[order])) + 1
    return [group for group in np.split(order, cuts) if len(group) > 1]
