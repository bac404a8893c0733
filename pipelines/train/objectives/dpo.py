"""Direct preference optimisation: Rafailov et al. (arXiv 2305.18290) eq. 7."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipelines.config import config_class
from pipelines.train.objectives.preference import PreferenceObjective

if TYPE_CHECKING:
    from torch import Tensor


class Dpo(PreferenceObjective):
    """−log σ(β·h): the preference is a Bradley-Terry model of rewards β·log(π/ρ)."""

    @config_class
    class Settings(PreferenceObjective.Settings):
        """MiniCPM's beta is unpublished; 0.1 is the common choice."""

        name: Literal["dpo"] = "dpo"

    settings: Settings

    def losses(self, differences_P: Tensor) -> Tensor:
        import torch.nn.functional as F

        return -F.logsigmoid(self.settings.beta * differences_P)
