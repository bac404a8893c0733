"""The held-out rule: a share by hash, the same for any split, at least a handful, never much of a small source."""

import numpy as np

from pipelines.data.holdout import held_out, position


def positions(count: int) -> np.ndarray:
    return np.array([position(f"web/{i}") for i in range(count)], np.uint64)


def test_share_of_a_large_source() -> None:
    assert 700 < held_out(positions(50_000), 0.016, 8).sum() < 900


def test_a_document_is_judged_alone() -> None:
    whole = positions(20_000)
    chosen = held_out(whole, 0.05, 0)
    assert np.array_equal(chosen[5_000:9_000], held_out(whole[5_000:9_000], 0.05, 0))


def test_small_sources_hold_out_a_handful_but_at_most_a_tenth() -> None:
    assert held_out(positions(120), 0.0001, 8).sum() == 8
    assert held_out(positions(30), 0.0001, 8).sum() == 3
    assert held_out(positions(1), 0.0001, 8).sum() == 0
    assert held_out(positions(0), 0.5, 8).sum() == 0
    assert held_out(positions(1_000), 0.0, 8).sum() == 0


def test_position_is_fixed_for_ever() -> None:
    assert (
        position("web/0") == 0x2F9F6C915A826ECB
    )  # another value here is another held-out set in every corpus ever made
