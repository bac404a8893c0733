"""The held-out rule: a share by hash, the same for any split, at least a handful, never much of a small source."""

from pipelines.data.dedup.holdout import held_out_below, position


def chosen(count: int, fraction: float, minimum: int) -> list[bool]:
    positions = [position(f"web/{i}") for i in range(count)]
    below = held_out_below(sorted(positions)[:minimum], count, fraction, minimum)
    return [place < below for place in positions]


def test_share_of_a_large_source() -> None:
    assert 700 < sum(chosen(50_000, 0.016, 8)) < 900


def test_a_document_is_judged_alone() -> None:
    assert chosen(20_000, 0.05, 0)[:4_000] == chosen(4_000, 0.05, 0)


def test_small_sources_hold_out_a_handful_but_at_most_a_tenth() -> None:
    assert sum(chosen(120, 0.0001, 8)) == 8
    assert sum(chosen(30, 0.0001, 8)) == 3
    assert sum(chosen(1, 0.0001, 8)) == 0
    assert sum(chosen(0, 0.5, 8)) == 0
    assert sum(chosen(1_000, 0.0, 8)) == 0


def test_position_is_fixed_for_ever() -> None:
    assert (
        position("web/0") == 0x2F9F6C915A826ECB
    )  # another value here is another held-out set in every corpus ever made
