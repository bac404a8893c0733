"""The table of objectives and what they read, against counts by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.train.batches.pairs import Pairs
from pipelines.train.objectives import OBJECTIVES, Objective, ObjectiveSettings, check_table
from pipelines.train.objectives.dpo import Dpo
from pipelines.train.objectives.next_token import NextToken
from tests import tiny


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    store = tiny.build(str(tmp_path_factory.mktemp("objectives") / "store"))
    return Pairs(store.get("tokens/tiny"), (), seed=4, sequence_length=24)


@pytest.mark.parametrize("entry", ["Settings", "unit", "batches", "count", "sums"])
def test_a_row_that_misses_an_entry_is_refused_with_its_name(entry: str) -> None:
    own = {name: vars(NextToken)[name] for name in ("Settings", "unit", "batches", "count", "sums") if name != entry}
    with pytest.raises(TypeError, match=rf"OBJECTIVES\['mine'\] has no `{entry}`"):
        check_table({**OBJECTIVES, "mine": type("Mine", (Objective,), own)})


def test_a_row_under_another_name_than_its_settings_say_is_refused() -> None:
    with pytest.raises(TypeError, match=r"OBJECTIVES\['other'\].Settings says that its name is 'dpo'"):
        check_table({"other": Dpo})


def test_an_objective_tells_its_settings_and_its_unit() -> None:
    settings: ObjectiveSettings = Dpo.Settings(beta=0.2)
    assert str(Dpo(settings)) == "dpo (beta=0.2), a mean over pairs"
    assert str(NextToken()) == "next_token, a mean over tokens"


def test_tokens_of_pairs_are_counted_over_epochs(pairs: Pairs) -> None:
    """What `read` delivers, without padding: also where samples [first, last) run over the end of an epoch."""
    epoch = pairs.epoch_samples
    for first, last in ((0, 0), (0, 7), (3, epoch), (epoch - 2, epoch + 5), (5, 3 * epoch + 1)):
        numbers = pairs.preferences.pairs(np.arange(first, last))
        expected = int(pairs.preferences.pair_tokens[numbers].sum())
        assert pairs.tokens_in(first, last) == expected == sum(pairs.tokens_by_source(first, last).values())


def test_what_is_attached_to_pairs_comes_with_their_rows(pairs: Pairs) -> None:
    values = np.arange(2 * pairs.epoch_samples, dtype=np.float32).reshape(-1, 2)
    pairs.attach("reference", values)
    indices = np.array([5, 2, pairs.epoch_samples + 1])
    numbers = pairs.preferences.pairs(indices)
    delivered: dict[str, Any] = pairs.read(indices)
    assert delivered["sidecars"]["reference"].tolist() == [x for i in numbers for x in (2.0 * i, 2.0 * i + 1)]
    assert np.array_equal(delivered["tokens"], pairs.stored(numbers)["tokens"])


def test_names_in_configs_are_those_of_the_table() -> None:
    root = Path(__file__).parents[2]
    assert {path.stem for path in (root / "conf/objective").glob("*.yaml")} == set(OBJECTIVES)
