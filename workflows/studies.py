"""From the config of a sandbox to its studies: which were chosen, what their stages compose to, what decides them.

Enters: a `SandboxConfig` and the YAMLs of conf/sandbox/. Leaves: each study with all its trials; the identity of the
sandbox, with the stages as they compose, so that a change of an experiment's overlay is a change of the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.config import parse
from pipelines.errors import ConfigError, TrunklineError
from pipelines.identity import identity
from pipelines.store.code import chosen_modules
from pipelines.train.sandbox.config import MIXTURE, SandboxConfig, StudyStage
from pipelines.train.sandbox.expand import SHARED, Composed, Expander, TrialStage
from pipelines.train.sandbox.ledger import StudyState
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import stage_named
from pipelines.train.studies import STUDIES
from workflows.command_line import places
from workflows.command_line.composing import composed_values
from workflows.running.training import CODE as TRAINING_CODE
from workflows.running.training import code_of

# how a command line chooses studies
_CHOICE = "sandbox" + "="
# what makes trials of a study, and results of trials; the runs' own code, the measures' and the analyses' is beside it
DECIDES = tuple(f"pipelines.train.sandbox.{module}" for module in ("axes", "expand", "planned", "results", "ledger"))


def study_state(name: str, config: SandboxConfig) -> StudyState:
    """A study with all trials of its YAML. Raises: ConfigError."""
    study, workers = config.studies[name], config.cluster.workers
    expander = Expander(
        name, study, config, lambda stage, choices: compose_stage(name, stage, choices, workers), groups()
    )
    row = STUDIES[getattr(study.study, "kind")]  # noqa: B009, of the row's own class
    return StudyState(name, study, row, expander, expander.trials())


def groups() -> set[str]:
    """Config groups of conf/."""
    return set(places.groups()) - {"experiment", "sandbox", "base"}


def compose_stage(study: str, stage: StudyStage, choices: Sequence[str], workers: int = 1) -> Composed:
    """A stage's values as its own command would compose them. Args: workers, of a lane. Raises: ConfigError."""
    config_class = _class_of(stage.workflow)
    for override in stage.overrides:
        key = override.lstrip("+~").split("=")[0].split(".")[0].split("@")[0]
        if key in SHARED and override != f"cluster.workers={workers}":
            raise ConfigError(
                f"studies.{study}.stages has the override {override}, but all trials of a sandbox share one {key}: "
                "set it for the sandbox"
            )
    experiment = [f"+experiment={stage.experiment}"] if stage.experiment else []
    overrides = [*experiment, *stage.overrides, *choices]
    try:
        return Composed(config_class, composed_values(stage.workflow, config_class, overrides))
    except TrunklineError as error:
        raise type(error)(f"study {study}, stage {stage.prefix}: {error}") from error


def _class_of(workflow: str) -> Any:
    if workflow == MIXTURE:
        from workflows.mixture import MixtureConfig

        return MixtureConfig
    return TrainConfig


def chosen_studies() -> list[str]:
    """What `sandbox=` names on the command line, or in the experiment's overlay; none outside a command."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    given = HydraConfig.get().overrides.task
    named: Any = next((each.partition("=")[2] for each in given[::-1] if each.startswith(_CHOICE)), None)
    if named is not None:
        return [name.strip(" '\"") for name in named.strip("[]").split(",") if name.strip()]
    overlay = next((each.partition("=")[2] for each in given if each.lstrip("+").startswith("experiment=")), None)
    if overlay is None:
        return []
    path = places.find(f"experiment/{overlay}.yaml")
    chosen = (_loaded(path) if path else {}).get("defaults") or []
    lists = [list(value) for entry in chosen if not isinstance(entry, str) for key, value in entry.items() if
             key == "override /sandbox" and not isinstance(value, str)]  # fmt: skip
    return [str(name) for names in lists for name in names]


def check_chosen(names: Sequence[str]) -> None:
    """Refuse two files that define a study of one name: Hydra would make one of both. Raises: ConfigError."""
    files: dict[str, list[str]] = {}
    for name in names:
        path = places.find(f"sandbox/{name}.yaml")
        studies = _loaded(path).get("studies") or {} if path else {}
        for study in studies:
            files.setdefault(str(study), []).append(name)
    for study, defining in files.items():
        if len(defining) > 1:
            raise ConfigError(
                f"{' and '.join(defining)} both define the study {study}, and one name means one study: run them as "
                "two sandboxes (name=…), or rename the study in one of the files"
            )


def _loaded(path: Path) -> Any:
    """A YAML of conf/, as plain data."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(path))


def study_files() -> list[str]:
    """Names of all studies of conf/sandbox/, as `sandbox=` takes them."""
    return places.choices("sandbox", deep=True) or ["<scale>/<study>"]


def identity_of(config: SandboxConfig, states: Sequence[StudyState]) -> dict[str, Any]:
    """What decides the sandbox: each study, with what its stages compose to."""
    studies = {}
    for state in states:
        own = identity(state.config)
        stages = []
        for stage, (workflow, values) in zip(state.config.stages, state.expander.base_values(), strict=True):
            whole = parse(_class_of(workflow), {**values, "name": stage.prefix})
            stages.append({"workflow": workflow, "label": stage.prefix, "config": identity(whole)})
        studies[state.name] = {**own, "stages": stages}
    return {"studies": studies}


def code_of_studies(states: Sequence[StudyState]) -> tuple[str, ...]:
    """Modules that the studies chose: analyses, measures, and the rows that their runs train with."""
    trained = [stage for state in states for trial, _ in state.foreseen for stage in trial.trained]
    rows = {
        (
            own.name if (own := stage.config.objective) else stage_named(stage.workflow).objective,
            stage.config.optimizer.kind,
        )
        for stage in trained
    }
    modules = {module for objective, optimizer in rows for module in code_of(objective, optimizer)} - set(TRAINING_CODE)
    kinds = {getattr(state.config.study, "kind") for state in states}  # noqa: B009
    measures = {name for state in states for name in state.config.measures}
    return (
        *sorted(modules),
        *chosen_modules("pipelines.train.studies", sorted(kinds)),
        *chosen_modules("pipelines.train.measures", sorted(measures), beside=["pipelines.train.tasks"]),
    )


def _objective_of(stage: TrialStage) -> str:
    own = stage.config.objective
    return str(own.name) if own is not None else stage_named(stage.workflow).objective
