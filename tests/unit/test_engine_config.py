"""What of the engine's config is refused, and what reaches DeepSpeed."""

import pytest

from pipelines.errors import ConfigError
from pipelines.train.optimizers.muon import MuonSettings
from pipelines.train.update.zero import ZeroConfig, check


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ZeroConfig(stage=0, precision="float32", offload="cpu"), "zero.stage=1"),
        (ZeroConfig(stage=0, precision="bfloat16"), "set zero.stage=1"),
    ],
)
def test_combinations_that_do_not_do_what_they_say_are_refused(config: ZeroConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(config)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_states_may_be_offloaded_where_they_are_split(stage: int) -> None:
    check(ZeroConfig(stage=stage, offload="cpu"))  # type: ignore[arg-type]


def test_a_momentum_that_forgets_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="optimizer.momentum is 1.0"):
        MuonSettings(momentum=1.0)
