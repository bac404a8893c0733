"""One optimizer step as the formulas say it, in float64 and one process: what the engine is compared with.

The gradient comes from plain autograd on the model in float64; clipping, AdamW, Muon, learning rates and decay are
NumPy, written from docs/recipe.md and sharing no code with `pipelines.train.optimizers`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.train.network.architecture import ModelConfig
from pipelines.train.network.batch import Batch
from pipelines.train.network.model import Transformer

Arrays = dict[str, np.ndarray]


def global_batch(case: dict[str, Any], step: int) -> Batch:
    """Step `step`'s rows of a case: unequal masks, two sources, some rows (and with `empty` whole micro-batches)
    uncounted.
    """
    rows = case["rows"] * (2 if case.get("objective") == "dpo" else 1)
    length, vocabulary = case["length"], case["model"]["vocabulary"]
    random = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, vocabulary, (rows, length + 1), generator=random)
    tokens[:, 1::2] = (tokens[:, 0:-1:2] + 1) % vocabulary  # half of it can be learnt
    share = torch.rand(rows, 1, generator=random)
    mask = (torch.rand(rows, length, generator=random) < share).float()
    mask[:, 0] = 1.0
    for row in case.get("empty", []):
        mask[row] = 0.0
    starts = torch.randint(1, length, (rows, 1), generator=random)
    positions = torch.arange(length).repeat(rows, 1)
    positions = torch.where(positions >= starts, positions - starts, positions)  # two documents a row
    dpo = case.get("objective") == "dpo"
    sidecars = {"reference": -20 + torch.randn(rows, generator=random)} if dpo else {}
    return Batch.shifted(tokens, positions, mask, torch.arange(rows) % 2, sidecars=sidecars)


def micro_batch(whole: Batch, start: int, count: int) -> Batch:
    """Rows (pairs) [start, start + count) of a global batch."""
    pair = 2 if "reference" in whole.sidecars else 1
    rows = slice(start * pair, (start + count) * pair)
    return Batch(
        inputs=whole.inputs[rows],
        targets=whole.targets[rows],
        positions=whole.positions[rows],
        loss_mask=whole.loss_mask[rows],
        sources=whole.sources[rows],
        sidecars={name: sidecar[rows] for name, sidecar in whole.sidecars.items()},
    )


def reference_run(case: dict[str, Any]) -> Arrays:
    """The case's curve and final weights: `loss`, `norm`, `count` (steps,) float64, and weights by name."""
    config, optimizer = ModelConfig(**case["model"]), {**_OPTIMIZER, **case["optimizer"]}
    model = Transformer(config).initialise(1).double()
    state: dict[str, Arrays] = {}
    found: dict[str, list[float]] = {"loss": [], "norm": [], "count": []}
    for step, rate in enumerate(case["rates"]):
        loss, count = _mean_loss(model, global_batch(case, step), case.get("objective", "lm"))
        model.zero_grad()
        loss.backward()
        weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        norm = float(np.sqrt(sum((g**2).sum() for g in gradients.values())))
        found["loss"].append(loss.item())
        found["norm"].append(norm)
        found["count"].append(count)
        clip = optimizer["gradient_clip"]
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        for name, weight in weights.items():
            update = muon_update if optimizer["kind"] == "muon" and "_proj" in name else adamw_update
            weight -= update(
                name, weight, gradients[name] * scale, state.setdefault(name, {}), step + 1, rate, config, optimizer
            )
    final = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return {**{name: np.array(values) for name, values in found.items()}, **final}


_OPTIMIZER = {
    "kind": "adamw",
    "momentum": 0.95,
    "betas": (0.9, 0.95),
    "eps": 1e-8,
    "weight_decay": 0.1,
    "gradient_clip": 1.0,
    "mup_lr": True,
}


def adamw_update(
    name: str,
    weight: np.ndarray,
    g: np.ndarray,
    state: Arrays,
    t: int,
    rate: float,
    config: ModelConfig,
    optimizer: dict[str, Any],
) -> np.ndarray:
    """What AdamW takes off a weight at update `t`; `g` is clipped already.

    lr is the group's own: rate·256-base/width for hidden matrices under muP, rate for embedding and norms; the decay is
    lr·wd·w.
    """
    hidden = weight.ndim == 2 and "embed" not in name
    lr = rate * (config.dim_model_base / config.d_model if hidden and optimizer["mup_lr"] else 1.0)
    b1, b2 = optimizer["betas"]
    m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    v = state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g**2
    direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + optimizer["eps"])
    return lr * direction + lr * optimizer["weight_decay"] * weight


def muon_update(
    name: str,
    weight: np.ndarray,
    g: np.ndarray,
    state: Arrays,
    t: int,
    rate: float,
    config: ModelConfig,
    optimizer: dict[str, Any],
) -> np.ndarray:
    """What Muon takes off a weight: each map of a fused product on its own, lr = rate·√(base/width) under muP."""
    lr = rate * (np.sqrt(config.dim_model_base / config.d_model) if optimizer["mup_lr"] else 1.0)
    beta = optimizer["momentum"]
    m = state["m"] = beta * state.get("m", 0.0) + (1 - beta) * g
    nesterov = beta * m + (1 - beta) * g
    D, KV, F = config.d_model, config.kv_heads * config.d_head, config.d_ff
    cuts = {"qkv_proj": [D, D + KV], "gate_up_proj": [F]}.get(name.split(".")[-2], [])
    direction = [0.2 * np.sqrt(max(part.shape)) * newton_schulz(part) for part in np.split(nesterov, cuts)]
    return lr * np.concatenate(direction) + lr * optimizer["weight_decay"] * weight


def newton_schulz(g: np.ndarray) -> np.ndarray:
    """Five steps of K. Jordan's quintic on the singular values, by the singular value decomposition itself."""
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / (np.sqrt((s**2).sum()) + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ vt


def _mean_loss(model: Transformer, batch: Batch, objective: str) -> tuple[torch.Tensor, float]:
    """Mean over every target (pair) that counts, in float64."""
    logits = model.logits(model(batch))
    assert logits.dtype == torch.float64
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view(batch.targets.shape)
    losses = losses * batch.loss_mask.double()
    if objective == "lm":
        count = batch.loss_mask.sum().item()
        return losses.sum() / count, count
    margins = -losses.sum(dim=1) - batch.sidecars["reference"].double()
    pairs = margins.shape[0] // 2
    return -F.logsigmoid(0.1 * (margins[0::2] - margins[1::2])).sum() / pairs, float(pairs)
