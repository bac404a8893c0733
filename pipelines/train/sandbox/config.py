"""The config of the wind tunnel: studies, each an experiment, the keys that vary, what is measured, which law is asked.

Enters: conf/sandbox.yaml with the studies of conf/sandbox/<scale>/<study>.yaml. Leaves: dataclasses. What stands under
`vary` is read by `axes.py`, and made into trials by `expand.py`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal

from pipelines.config import Chosen, ChosenByName, Count, Positive, Seed, WorkflowConfig, config_class, runtime
from pipelines.errors import ConfigError
from pipelines.train.measures import MEASURES
from pipelines.train.measures.measure import MeasureSettings
from pipelines.train.sandbox.space import SearchSettings, check_search
from pipelines.train.stages import STAGES
from pipelines.train.studies import STUDIES
from pipelines.train.studies.contract import StudySettings

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MIXTURE = "mixture"  # the one stage of a chain that is not trained: it is made in the driver, for the stage behind it


# a key of the mapping picks a row of the table, and with it the class of the rest
ChosenStudy = Annotated[StudySettings, Chosen("kind", lambda: STUDIES)]
ChosenMeasure = Annotated[MeasureSettings | None, ChosenByName(lambda: MEASURES)]


@config_class
class StudyStage:
    """One command of each trial: a stage that trains, or the mixture that the next one reads."""

    workflow: str
    label: str | None = None  # what its keys are prefixed with; null: the workflow's name
    experiment: str | None = None  # folder of conf/experiment whose overlay it takes
    overrides: list[str] = dataclasses.field(default_factory=list)

    @property
    def prefix(self) -> str:
        """What its keys begin with where a chain has several stages."""
        return self.label or self.workflow

    def __post_init__(self) -> None:
        """Raises: ConfigError for a workflow that is neither trained nor a mixture."""
        if self.workflow not in (*STAGES, MIXTURE):
            raise ConfigError(
                f"a stage of a study has the workflow {self.workflow}; expected one of {', '.join((MIXTURE, *STAGES))}"
            )


@config_class
class StudyConfig:
    """One study: every combination of what varies, times the seeds, is a trial."""

    study: ChosenStudy
    stages: list[StudyStage]
    vary: dict[str, Any] = dataclasses.field(default_factory=dict)  # `axes.py` has the forms
    seeds: Count | list[Seed] = 3  # so many, from 0; or these
    measures: dict[str, ChosenMeasure] = dataclasses.field(default_factory=dict)
    search: SearchSettings | None = None  # proposals beside what varies (`search.py`)

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)


@config_class
class PriceConfig:
    """Where the same trials would be priced; its speed and its price are stated, since this machine cannot measure
    them.
    """

    gpus: Count = runtime(8)
    gpu: str = runtime("a100")  # a file of conf/device


@config_class
class SandboxConfig(WorkflowConfig):
    """A wind tunnel: some studies, whose trials share steps, processes and a page."""

    GROUPS = ("sandbox",)  # of conf/, whose choices add studies and are no field

    studies: dict[str, StudyConfig]
    lanes: Count | None = runtime(None)  # groups of processes that train trials side by side; null: as many as fit
    threads: Count | None = runtime(None)  # of a trial on a CPU; null: the cores, shared among the lanes
    trials_per_gpu: Count | Literal["auto"] = runtime("auto")  # auto measures 1, 2 and 4
    # of one lane, until finished runs tell: 2e10 is a core of 2020 with a model of 0.1M parameters
    flops_per_second: Positive = runtime(2e10)
    without_failed: bool = runtime(False)  # be done although trials failed, instead of asking to try them again
    page_every_seconds: Positive = runtime(20.0)  # how often sandbox.html is drawn anew, at most
    price: PriceConfig = runtime(default_factory=PriceConfig)

    def __post_init__(self) -> None:
        """Raises: ConfigError for no study at all, and for chains that cannot be."""
        super().__post_init__()
        for name, study in self.studies.items():
            _check_chain(name, study)


def _check_chain(name: str, study: StudyConfig) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a study is called {name!r}; expected letters, digits, _ and - alone, since folders are named after it"
        )
    trained = [stage for stage in study.stages if stage.workflow != MIXTURE]
    if not trained:
        raise ConfigError(
            f"studies.{name}.stages has no stage that trains; expected a list that ends with one of {', '.join(STAGES)}"
        )
    if study.stages[-1].workflow == MIXTURE:
        raise ConfigError(f"studies.{name}.stages ends with a mixture, which no stage reads: put it before one")
    prefixes = [stage.prefix for stage in study.stages]
    if twice := sorted({prefix for prefix in prefixes if prefixes.count(prefix) > 1}):
        raise ConfigError(
            f"studies.{name}.stages has several called {', '.join(twice)}, so no key could say which is meant: give "
            f"each a label, e.g. {{workflow: {twice[0]}, label: second_{twice[0]}}}"
        )
    if study.search is not None:
        check_search(study.search, varied=study.vary, where=f"studies.{name}.search")
    if isinstance(study.seeds, list) and len(set(study.seeds)) != len(study.seeds):
        raise ConfigError(f"studies.{name}.seeds is {study.seeds}; expected each seed once")
    if not study.seed_list:
        raise ConfigError(f"studies.{name}.seeds is empty; expected a number of seeds, or a list of them")
