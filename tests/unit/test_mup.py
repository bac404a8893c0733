"""muP at work: what a step changes at several widths, and where the best learning rate lies. Arms as in
`benchmarks/mup.py`.
"""

import numpy as np
import pytest
import torch

from benchmarks.mup import PARTS, best_exponent, coordinate_check, library_bytes, slope, train

WIDTHS = [64, 128, 256, 512]


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose time to more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slopes(arm: str) -> dict[str, list[float]]:
    """Per part the exponent of its change in the width, after each of three steps."""
    moved = coordinate_check(arm, [(width, 2) for width in WIDTHS], seeds=3, steps=3)
    return {part: [slope(WIDTHS, moved[part][:, step]) for step in range(3)] for part in PARTS}


def test_changes_are_flat_across_widths() -> None:
    found = slopes("muP")
    # the random part of the logits falls as 1/√m towards what is learnt, which is flat: docs/recipe.md
    logits = found.pop("all logits")
    assert -0.3 < min(logits) <= max(logits) < 0.0
    for part, values in found.items():
        assert max(map(abs, values)) < 0.08, part


def test_changes_grow_with_the_width_when_the_scalings_are_off() -> None:
    found = slopes("off")
    for part, least in {"attention": 1.0, "feed-forward": 1.0, "target's logit": 0.5, "all logits": 0.4}.items():
        assert min(found[part]) > least, part


@pytest.mark.slow
def test_the_best_learning_rate_stays_with_the_scalings_and_moves_without() -> None:
    ids = library_bytes(0.5)

    def best(arm: str, width: int, exponents: range) -> float:
        losses = [
            float(np.mean([train(ids, arm, width, 2.0**e, 60, 32, seed, layers=1, window=32) for seed in range(2)]))
            for e in exponents
        ]
        return best_exponent(exponents, losses)

    narrow = best("muP", 32, range(-7, -3))  # m = 1: both arms are this model here
    assert abs(best("muP", 128, range(-7, -3)) - narrow) < 1
    assert best("off", 128, range(-9, -5)) < narrow - 1.5
