"""Inputs that lie on another device than the model are refused, before anything is computed with them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pipelines.train.network.attention import attend, locate
from tests.gpu.cases import batches, case, curve, running


@pytest.mark.cuda
@pytest.mark.parametrize("part", ["inputs", "positions", "targets", "loss_mask", "everything"])
def test_a_batch_on_the_host_is_refused(part: str) -> None:
    one = case()
    with running(one) as engine:
        model = engine.deepspeed.module.model
        batch = batches(one, 0, model)[0]
        names = ["inputs", "positions", "targets", "loss_mask", "sources"] if part == "everything" else [part]
        moved: dict[str, Any] = {name: getattr(batch, name).cpu() for name in names}
        if "positions" in moved:  # what is located in them is found where they are
            moved["documents"] = None
        with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
            engine.forward(engine.objective.sums, dataclasses.replace(batch, **moved))


@pytest.mark.cuda
@pytest.mark.parametrize("kernel", ["varlen", "dense"])
def test_documents_on_the_host_are_refused(kernel: Any) -> None:
    q, k, v = (torch.randn(1, 256, n, 64, device="cuda", dtype=torch.bfloat16) for n in (4, 2, 2))
    documents = locate((torch.arange(256) % 100)[None], kernel, masking=True)
    with pytest.raises((RuntimeError, ValueError)):
        attend(q, k, v, documents)


def test_after_inputs_on_the_host_the_device_still_works() -> None:
    assert curve({**case(), "steps": 1})["loss"][0] > 0
