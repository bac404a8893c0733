"""The cases whose curves the CPU computes in float32, by name."""

from __future__ import annotations

from typing import Any

from tests.gpu.cases import case

_PLAIN: dict[str, Any] = {"zero": {"precision": "float32"}}
DPO: dict[str, Any] = {"objective": "dpo", "masks": "pairs", "optimizer": {"mup_lr": False, "weight_decay": 0.0}}
SFT: dict[str, Any] = {"masks": "answers"}
MUON: dict[str, Any] = {"optimizer": {"kind": "muon"}}
CLIPPED: dict[str, Any] = {"optimizer": {"gradient_clip": 0.3}}  # norms are 0.4 to 1: it binds in every step
REFERENCES = {
    "pretrain": case(**_PLAIN),
    "sft": case(**_PLAIN, **SFT),
    "dpo": case(**_PLAIN, **DPO),
    "muon": case(**_PLAIN, **MUON),
    "clipped": case(**_PLAIN, **CLIPPED),
}
