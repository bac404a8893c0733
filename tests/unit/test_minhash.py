"""MinHash: words folded as promised, signatures that estimate Jaccard, candidates at the rate the curve predicts."""

import random

import numpy as np
import pytest

from pipelines.data.dedup.minhash import MinHashConfig, band_keys, detection_curve, jaccard, shingles, signatures

CONFIG = MinHashConfig()


def text_of(chooser: random.Random, count: int) -> list[str]:
    return ["".join(chooser.choice("abcdefghijklm") for _ in range(6)) for _ in range(count)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("The cat sat, on the mat; twice!", "the CAT sat on   the mat\ntwice"),
        ("ÉCOLE Straße ПРИВЕТ", "école straße привет"),
        ("今天天气很好，我们去公园。", "今天天气很好我们去公园"),
    ],
)
def test_case_and_punctuation_are_folded(left: str, right: str) -> None:
    assert np.array_equal(shingles(left), shingles(right))


def test_shingle_counts() -> None:
    assert len(shingles("one two three four five six")) == 2
    assert len(shingles("今天天气很好")) == 2  # six characters, each a word
    assert len(shingles("one two")) == 1  # shorter than a shingle: the whole text is one
    assert len(shingles(" ,.!?， ")) == 0
    assert len(shingles("naïve café déjà vu encore")) == 1  # an accent does not split a word


def test_documents_without_words_have_no_keys() -> None:
    _, has_words = band_keys(["", "...", "word", "😀"], CONFIG)
    assert has_words.tolist() == [False, False, True, True]


def test_keys_do_not_depend_on_the_batch() -> None:
    chooser = random.Random(3)
    texts = [" ".join(text_of(chooser, n)) for n in (1, 4, 5, 50, 900)]
    together, _ = band_keys(texts, CONFIG)
    for text, keys in zip(texts, together, strict=True):
        assert np.array_equal(band_keys([text], CONFIG)[0][0], keys)


def test_signatures_estimate_jaccard_without_bias() -> None:
    chooser = random.Random(0)
    errors = []
    for _ in range(150):
        words = text_of(chooser, 300)
        edited = [chooser.choice(words) if chooser.random() < 0.05 else word for word in words]
        pair = [" ".join(words), " ".join(edited)]
        left, right = signatures(pair, CONFIG)
        errors.append((left == right).mean() - jaccard(shingles(pair[0]), shingles(pair[1])))
    # one estimate has a standard deviation of at most √(¼/112) = 0.047; their mean of 0.047/√150 = 0.004
    assert abs(np.mean(errors)) < 0.012
    assert np.std(errors) < 0.06


def test_candidates_appear_at_the_predicted_rate() -> None:
    chooser = random.Random(1)
    predicted, found = [], []
    for _ in range(300):
        words = text_of(chooser, 200)
        edited = [*words[: 200 - 40], *text_of(chooser, 40)]
        pair = [" ".join(words), " ".join(edited)]
        similarity = jaccard(shingles(pair[0]), shingles(pair[1]))
        predicted.append(1 - (1 - similarity**8) ** 14)
        keys, _ = band_keys(pair, CONFIG)
        found.append(bool((keys[0] == keys[1]).any()))
    assert abs(np.mean(found) - np.mean(predicted)) < 0.09  # three standard deviations of 300 coin flips


def test_curve() -> None:
    curve = detection_curve(CONFIG, [0.5, 0.8])
    assert curve == {"0.50": pytest.approx(0.0533, abs=1e-4), "0.80": pytest.approx(0.9235, abs=1e-4)}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("می‌خواهم به خانه بروم و بخوابم", "میخواهم به خانه بروم و بخوابم"),  # a zero-width non-joiner
        ("one ex\u00adample of soft hyphens here", "one example of soft hyphens here"),
        ("葛\U000e0100城市の天気は晴れ", "葛城市の天気は晴れ"),  # a variation selector
        ("♥\ufe0f I love this very much", "♥ I love this very much"),
    ],
)
def test_what_only_the_renderer_reads_makes_no_difference(left: str, right: str) -> None:
    assert shingles(left).tolist() == shingles(right).tolist()


def test_signs_belong_to_the_letter_they_stand_on() -> None:
    assert len(shingles("กำกี่กุ้กั๊กู่")) == 2  # five letters and a vowel letter, with their signs
    assert jaccard(shingles("ที่นี่มีน้ำดี"), shingles("ทีนี้มี่นำดี่")) < 1
    assert len(shingles("सभी मनुष्यों को गौरव और अधिकारों")) == 2  # six words
