"""The profile's table: device time by priority, and a traced step that sums to its wall time."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
import torch
from torch.profiler import record_function

from pipelines.store.opening import open_storage
from pipelines.tracking.tracker import Tracker
from pipelines.train.run.profile import StepProfiler, device_parts, step_parts, table_text


def test_every_microsecond_of_a_step_belongs_to_one_part() -> None:
    kernels = [
        ("sm90_xmma_gemm_bf16", 0.0, 40.0),
        ("ncclDevKernel_AllReduce", 30.0, 60.0),  # 10 of its 30 are hidden behind the product
        ("flash_fwd_kernel", 55.0, 70.0),  # and 5 behind attention
        ("vectorized_elementwise_kernel", 90.0, 130.0),  # 20 of them in the step after
    ]
    parts = device_parts(kernels, [(0.0, 110.0)])
    assert parts == {
        "matrix products": 40.0,
        "communication": 15.0,
        "attention": 15.0,
        "GPU idle": 20.0,
        "normalisation, elementwise": 20.0,
    }
    text = table_text(parts, 2, "steps 1 to 2")
    assert "0.1 ms each" in text
    assert "GPU idle" in text.splitlines()[-1]


def test_a_traced_step_sums_to_its_wall_time() -> None:
    weight = torch.randn(256, 256, requires_grad=True)
    tokens = torch.randint(256, (64,))
    with torch.profiler.profile(schedule=torch.profiler.schedule(wait=0, warmup=1, active=2, repeat=1)) as profiler:
        for _ in range(3):
            with record_function("step/data"):
                time.sleep(0.02)
            with record_function("step/forward"):
                q = (torch.randn(64, 256) @ weight).relu().view(1, 4, 64, 64)
                y = torch.nn.functional.scaled_dot_product_attention(q, q, q).view(64, 256)
                with record_function("step/loss"):
                    loss = torch.nn.functional.cross_entropy(y @ weight, tokens)
            with record_function("step/backward"):
                loss.backward()
            with record_function("step/optimizer"):
                weight.data.sub_(weight.grad)
            profiler.step()
    events = profiler.events()
    parts = step_parts(events)
    spans = [event.time_range for event in events if event.name.startswith("ProfilerStep")]
    assert sum(parts.values()) == pytest.approx(sum(span.end - span.start for span in spans), rel=0.02)
    assert parts["data wait"] >= 0.9 * 2 * 20_000
    assert {"matrix products", "attention", "loss", "optimizer", "normalisation, elementwise"} <= set(parts)


@pytest.mark.parametrize(
    ("steps", "said"), [((2, 3), "trace: "), ((5, 9), "this start had only 4 steps: nothing was traced")]
)
def test_a_profile_is_published_or_missed_aloud(tmp_path: Path, steps: tuple[int, int], said: str) -> None:
    lines: list[str] = []
    profiler = StepProfiler(steps, open_storage(str(tmp_path)), "pretrain/run", lines.append, Tracker(None))
    for _ in range(4):
        torch.randn(8, 8) @ torch.randn(8, 8)
        profiler.step()
    profiler.close()
    assert said in lines[-1]
    traces = list(tmp_path.glob("pretrain/run/profile/trace-rank0.json.gz"))
    assert [b"traceEvents" in gzip.decompress(trace.read_bytes()) for trace in traces] == (
        [True] if steps == (2, 3) else []
    )
