"""Who sits where in a group of training processes, and what a rank's error means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipelines.cluster.train_group import LostError, _verdict
from pipelines.cluster.train_group_lines import Listener
from pipelines.cluster.train_group_rank import Place, Seat, seats
from pipelines.errors import CheckpointError, ClusterError, StorageError, TrunklineError
from pipelines.train.optimizers.adamw_step import AdamW
from tests.waits import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


def test_ranks_of_a_node_lie_together_and_see_each_others_gpus() -> None:
    places = [
        Place("b", "10.0.0.2", ("1",), 41),
        Place("a", "10.0.0.1", ("3",), 42),
        Place("b", "10.0.0.2", ("0",), 43),
    ]
    there = seats(places)
    assert [seat.rank for seat in there] == [2, 0, 1]
    assert [seat.local_rank for seat in there] == [1, 0, 0]
    assert [seat.local_world for seat in there] == [2, 1, 2]
    assert {(seat.address, seat.port) for seat in there} == {("10.0.0.1", 42)}  # rank zero's
    # LOCAL_RANK is an index into what is visible
    assert [seat.visible_gpus for seat in there] == [("0", "1"), ("3",), ("0", "1")]
    assert there[0].environment()["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in Seat(0, 1, 0, 1, "10.0.0.1", 42, ()).environment()


@pytest.mark.parametrize(
    ("cause", "restarts"),
    [
        (StorageError("no answer"), True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:41"), True),
        (CheckpointError("damaged"), False),
        (OverflowError("Python int too large to convert to C long"), False),
        (MemoryError("tried to allocate 3 GiB"), False),
    ],
)
def test_only_what_may_pass_restarts_a_group(cause: Exception, restarts: bool) -> None:
    from ray.exceptions import RayTaskError

    verdict = _verdict(RayTaskError("run", "Traceback …", cause))
    assert isinstance(verdict, LostError) is restarts
    assert restarts or verdict is cause
    if isinstance(verdict, LostError):  # a disk that stays full ends the command as that, whatever it has tried
        assert verdict.ends_as is (StorageError if isinstance(cause, StorageError) else ClusterError)


def test_a_dead_process_restarts_a_group() -> None:
    from ray.exceptions import ActorDiedError

    assert str(_verdict(ActorDiedError())) == "a worker was lost"
    assert not issubclass(LostError, TrunklineError)


def test_an_exception_that_cannot_be_made_again_is_no_lost_worker() -> None:
    from ray.exceptions import RayTaskError, TaskCancelledError, UnserializableException

    error = UnserializableException("Traceback …\nlibrary.Error: two arguments")
    assert _verdict(error) is error
    assert isinstance(_verdict(RayTaskError("run", "Traceback …", TaskCancelledError())), LostError)


class SlowRay:
    """A channel's answer that comes after a first wait has run out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, listener_lines: list[list[str]]):
        import ray
        from ray.exceptions import GetTimeoutError

        waited: set[int] = set()

        def get(answer: list[str], timeout: float) -> list[str]:
            if id(answer) not in waited:
                waited.add(id(answer))
                raise GetTimeoutError
            return answer

        monkeypatch.setattr(ray, "get", get)
        self.drain = SimpleNamespace(remote=lambda seconds: listener_lines.pop(0) if listener_lines else [])


def test_a_slow_channel_loses_no_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Listener(SlowRay(monkeypatch, [["step 1"], ["step 2", "step 3"], ["committed"]])).stop()
    Listener(SlowRay(monkeypatch, [["the last line"]])).stop()
    said = capsys.readouterr().out
    assert said.index("step 1") < said.index("the last line")


def test_adamw_is_torchs_to_the_bit() -> None:
    updated = []
    for kind in (torch.optim.AdamW, AdamW):
        generator = torch.Generator().manual_seed(0)
        weights = [
            torch.nn.Parameter(torch.randn(5, 3, generator=generator)),
            torch.nn.Parameter(torch.randn(7, generator=generator)),
        ]
        optimizer = kind(weights, lr=0.01, weight_decay=0.1, fused=True)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
            optimizer.zero_grad()
        updated.append(
            [*(weight.detach() for weight in weights), *(state["exp_avg_sq"] for state in optimizer.state.values())]
        )
        assert all(weight.grad is None for weight in weights)
    assert all(torch.equal(a, b) for a, b in zip(*updated, strict=True))


_ONE_STEP = """
import sys
import torch
from pipelines.train.update.engine import start_distributed
start_distributed()
from pipelines.train.objectives.next_token import NextToken
from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.model import Transformer
from pipelines.train.network.batch import Batch
from pipelines.train.update.engine import Engine
from pipelines.train.update.zero import ZeroConfig
from pipelines.train.optimizers import OPTIMIZERS
config = ModelConfig(layers=1, d_model=32, d_ff=48, heads=2, kv_heads=2, vocabulary=64, max_positions=16, dim_model_base=16)
model = Transformer(config).initialise(0)
engine = Engine(model, NextToken(), ZeroConfig(stage=1, precision="float32"), OPTIMIZERS[sys.argv[1]].Settings(), 2, 1, 1)
tokens, positions = torch.randint(0, 64, (2, 17)), torch.arange(16).expand(2, 16)
batch = Batch.shifted(tokens, positions, torch.ones(2, 16), torch.zeros(2, dtype=torch.int64), documents=model.locate(positions))
print("loss", engine.step([batch], 1e-3).loss)
print("beside it", [name for name in ("torch._dynamo", "torch._inductor", "mlflow", "sympy") if name in sys.modules])
input()
"""


@pytest.mark.slow
def test_lone_processes_step_side_by_side_without_the_compiler() -> None:
    """Neither a fixed port, nor the imports that cost a start most: of torch's compiler and of MLflow."""
    command = [sys.executable, "-c", _ONE_STEP]
    processes = [
        subprocess.Popen(
            [*command, kind], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for kind in ("adamw", "muon")
    ]
    said = []
    for process in processes:  # both are alive while the other is asked
        assert process.stdout is not None
        said.append([process.stdout.readline(), process.stdout.readline()])
    errors = [process.communicate("\n", timeout=PATIENCE_SECONDS)[1] for process in processes]
    assert [line[0].split()[:1] for line in said] == [["loss"], ["loss"]], errors
    assert [line[1] for line in said] == ["beside it []\n"] * 2
