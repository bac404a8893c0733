"""Which sources `heldout` and `answers` read: documents and conversations, never pairs; or those that are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.store.artifact import Artifact
from pipelines.train.measures import MEASURES
from pipelines.train.measures.answers import AnswersSettings
from pipelines.train.measures.heldout import HeldoutSettings, _read
from tests import tiny


@pytest.fixture
def tokens(tmp_path: Path) -> Artifact:
    return tiny.build(str(tmp_path / "store")).get("tokens/tiny")


def test_each_measure_reads_its_own_kind_of_source(tokens: Artifact) -> None:
    assert set(_read(HeldoutSettings(), tokens, 32, "documents").texts) == {"walks", "jumps"}
    answers = _read(AnswersSettings(), tokens, 32, "conversations")
    assert set(answers.texts) == {"chat"}
    # the first third of each conversation is the user's, which does not count
    counted = sum(int(batch.loss_mask.sum()) for batch in answers.batches)
    read = sum(int(batch.loss_mask.numel()) for batch in answers.batches)
    assert 0 < counted < 0.75 * read
    assert MEASURES["answers"].Settings is AnswersSettings


def test_named_sources_are_read_whatever_their_kind(tokens: Artifact) -> None:
    assert set(_read(HeldoutSettings(sources=("chat", "walks")), tokens, 32, "documents").texts) == {"chat", "walks"}
    with pytest.raises(ConfigError, match=r"measures\.answers\.sources has poems"):
        _read(AnswersSettings(sources=("poems",)), tokens, 32, "conversations")
