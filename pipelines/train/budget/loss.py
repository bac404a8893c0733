"""The loss that a law foresees for a plan: `law.json` of `workflows.fit` in, a number with its interval out.

Enters: the file, the model's non-embedding parameters and the tokens of all stages. Leaves: the loss. A law of
another shape than loss against parameters and tokens is refused. A place beyond what was fitted is said, and its
interval is wider (`pipelines/laws/fitting.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError
from pipelines.laws.law import Estimate, FittedLaw

# laws that give a loss for parameters and tokens
LOSS_LAWS = ("chinchilla", "minicpm")


@dataclass(frozen=True)
class ForeseenLoss:
    """A loss with its interval, and what speaks against trusting it."""

    estimate: Estimate
    unit: str
    level: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        """E.g. `0.79 bits per byte (0.75 to 0.84, 95 %)`."""
        value = self.estimate
        return f"{value.value:.4g} {self.unit} ({value.low:.4g} to {value.high:.4g}, {self.level:.0%})"


def read_law(path: str) -> FittedLaw:
    """The law in a file, or in the folder that `workflows.fit` left. Raises: ConfigError where there is none."""
    place = Path(path)
    file = place / "law.json" if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(
            f"law={path}: there is no such file; expected the law.json that "
            "`python -m workflows.fit law=chinchilla data=points.csv` writes"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return FittedLaw.read(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"law={path} is no law of workflows.fit ({error!r}): fit it again, and name its law.json"
        ) from error


def foreseen_loss(law: FittedLaw, parameters: int, tokens: int) -> ForeseenLoss:
    """The loss at a size. Args: parameters, non-embedding. Raises: ConfigError for a law of something else."""
    from pipelines.laws.fitting import predict

    if law.law not in LOSS_LAWS:
        raise ConfigError(
            f"law {law.law} says nothing of the loss of {parameters:,} parameters after {tokens:,} tokens; expected "
            f"one of {', '.join(LOSS_LAWS)}: fit that to your runs"
        )
    predicted = predict(law, {"params": float(parameters), "tokens": float(tokens)})
    return ForeseenLoss(
        Estimate(predicted.value, predicted.low, predicted.high),
        law.unit or "in the unit of its points",
        law.level,
        (*law.warnings, *predicted.warnings),
    )
