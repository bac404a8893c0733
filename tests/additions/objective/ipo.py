"""Identity preference optimisation: Azar et al. (arXiv 2310.12036) eq. 17."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipelines.config import config_class
from pipelines.train.objectives.preference import PreferenceObjective


class Ipo(PreferenceObjective):
    """(h − 1/(2β))²: the preference is drawn towards a margin, and not, as by DPO, beyond every one."""

    @config_class
    class Settings(PreferenceObjective.Settings):
        """The paper calls beta τ."""

        name: Literal["ipo"] = "ipo"

    settings: Settings

    def losses(self, differences_P: Tensor) -> Tensor:
        return (differences_P - 1 / (2 * self.settings.beta)).square()
