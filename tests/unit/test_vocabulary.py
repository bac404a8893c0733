"""How many ids a tokenizer gets by itself."""

from __future__ import annotations

import pytest

from pipelines.data.tokens.vocabulary import ids_for


@pytest.mark.parametrize(
    ("text_bytes", "ids"),
    [(0, 512), (100_000, 512), (1_000_000, 1024), (16_000_000, 4096), (270_000_000, 16_384), (10**13, 65_536)],
)
def test_ids_grow_with_the_root_of_the_text(text_bytes: int, ids: int) -> None:
    assert ids_for(text_bytes) == ids
