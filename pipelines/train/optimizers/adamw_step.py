"""AdamW's update: torch's own, without what torch wraps around it for its compiler.

The wrappers import the whole of that compiler at the first use of an optimizer, which nothing here compiles: 1.3 s of
CPU in each worker before its first step is done, as much as torch itself takes. What is computed is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def _inner(method: Callable[..., Any]) -> Any:
    """The method that a decorator of torch's went around; the method itself where there is no decorator."""
    return getattr(method, "__wrapped__", method)


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, to the bit."""

    step = torch.no_grad()(_inner(torch.optim.AdamW.step))
    add_param_group = _inner(Optimizer.add_param_group)
    zero_grad = _inner(Optimizer.zero_grad)
    state_dict = _inner(Optimizer.state_dict)
    load_state_dict = _inner(Optimizer.load_state_dict)
