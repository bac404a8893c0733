"""The whole recipe: every stage in turn in one Ray, from raw text to an exported model, and a report.

    python -m workflows.recipe +experiment=demo                       about 10 minutes on 2 CPU cores
    python -m workflows.recipe +experiment=demo sources=permissive name=permissive
    python -m workflows.recipe +experiment=own corpus=mine name=mine hours=0.1      your own data, to the end
    python -m workflows.recipe +experiment=demo dry_run=true          the stages and what they would do
    python -m workflows.recipe +experiment=demo pretrain.steps=800    a key of one workflow's stages

Each stage is a workflow with its own artifact: run again, and what is finished is found; stop anywhere, and the same
command goes on from there.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import os
import re
import shlex
import time
import typing
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.config import WorkflowConfig, config_class, plain, runtime
from pipelines.display.progress import announce, duration, human, say, table
from pipelines.errors import ConfigError, TrunklineError
from pipelines.store.artifact import Artifact
from pipelines.store.references import Reference
from pipelines.train.plan import sizing
from pipelines.train.spec import TrainConfig
from pipelines.train.stages import TRAINED
from workflows.command_line import foreign, places
from workflows.command_line.commands import make
from workflows.command_line.composing import compose_config
from workflows.entry import entry
from workflows.running.rebuilding import Rebuild
from workflows.running.session import DryRun, Session
from workflows.running.training import with_speed

if TYPE_CHECKING:
    from pipelines.display.report import StageResult

# what all stages have of the recipe, whole, whatever their own YAML says
SHARED = tuple(
    field.name for field in dataclasses.fields(WorkflowConfig) if field.name not in ("name", "dry_run", "on_change")
)
CODE = (
    "pipelines.display.evaluation",
    *(
        f"pipelines.display.report.{module}"
        for module in ("results", "claims", "figures", "drawing", "curves", "scores", "mixtures", "page", "style")
    ),
)


Needed = Literal["conversations", "preferences"]


@config_class
class RecipeStage:
    """One command of the recipe."""

    workflow: str
    name: str
    overrides: list[str]  # `<last>` in one is the last run before it, e.g. parent=<last>
    needs: Needed | None = None  # it is left out where the tokens hold none
    unless: Needed | None = None  # it is left out where the tokens hold some

    def fits(self, kinds: Collection[str]) -> bool:
        """Whether it is run on data of these kinds."""
        return (self.needs is None or self.needs in kinds) and (self.unless is None or self.unless not in kinds)


@dataclasses.dataclass(frozen=True)
class ComposedStage:
    """A stage that will run: its row, its config, its module."""

    stage: RecipeStage
    config: Any
    module: Any

    @property
    def folder(self) -> str:
        return f"{'tokens' if self.stage.workflow == 'tokenize' else self.stage.workflow}/{self.stage.name}"


@config_class
class RecipeConfig(WorkflowConfig):
    """Which stages, in which order."""

    experiment: str  # folder of conf/experiment whose overlays the stages take
    # key -> the workflows whose stages it is handed on to when it is typed for the recipe, e.g. {hours: [pretrain]}
    takes: dict[str, list[str]] = runtime(default_factory=dict)
    handed: tuple[str, ...] = ()  # such words, as typed; `workflows/command_line/composing.py` puts them here
    stages: list[RecipeStage]

    HANDS_ON: ClassVar[str] = "handed"


def run(config: RecipeConfig, session: Session) -> Artifact:
    """Run every stage, then draw the report as `recipe/<name>`."""
    if not config.stages:
        raise ConfigError("the recipe has no stages: choose one, e.g. +experiment=demo")
    # ── Compose and validate all of it before anything starts ─────────────────────────────────────────────────────────
    steps = compose_stages(config)
    announce(f"recipe/{config.name}", _announcement(config, steps))
    if config.dry_run:
        plan_stages(steps, session)
        raise DryRun
    # ── Work ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    began = time.monotonic()
    session.within_recipe = True
    typed = session.made_with
    rebuilding = Rebuild(
        session.store.storage, f"recipe/{config.name}", plain(config.stages), config.on_change == "rebuild"
    )
    artifacts: list[Artifact] = []
    i = 0
    while i < len(steps):
        stage, folder = steps[i].stage, steps[i].folder
        say(
            f"\n━━ {i + 1}/{len(steps)} {stage.workflow} {stage.name}  "
            f"({duration(time.monotonic() - began)} since the start)"
        )
        session.made_with = _command(stage, config)
        artifacts.append(steps[i].module.run(rebuilding.once(steps[i].config, folder), session))
        rebuilding.done(folder)
        if folder.startswith("tokens/"):  # now it is known what there is to train on
            steps = compose_stages(config, kinds_of(artifacts[-1]))
            for line in left_out(config, steps).values():
                say(f"   left out: {line}")
        i += 1
    session.made_with = typed
    # ── Report ────────────────────────────────────────────────────────────────────────────────────────────────────────
    announcement = {
        "stages": f"{len(steps)}, all finished",
        "report": "report.html with the plots, results.json with the numbers",
    }
    # not above: every command that names what follows it imports this module, and would import matplotlib
    from pipelines.display.report import claims, figures, stage_table, write_report

    draft = session.begin("recipe", config, announcement, _unique(artifacts), CODE)
    results = stage_results(session, artifacts)
    if isinstance(draft, Artifact):
        draft.compare()
        report = draft
    else:
        with session.track(draft, config, artifacts[-1:]) as tracker:
            corpus = next((artifact for artifact in artifacts if artifact.manifest["kind"] == "corpus"), None)
            page, numbers = draft.scratch("report.html"), draft.scratch("results.json")
            write_report(page, results, corpus.statistics if corpus else None, f"Trunkline: {config.name}")
            numbers.write_text(
                json.dumps([plain(result) for result in results], indent=1, ensure_ascii=False), encoding="utf-8"
            )
            drawn = {}
            for name, figure in figures(results).items():
                drawn[f"plots/{name}.png"] = path = draft.scratch(f"plots/{name}.png")
                figure.savefig(path, dpi=110, format="png")
            draft.publish("report", {"report.html": page, "results.json": numbers, **drawn})
            for name in ("report.html", *drawn):
                tracker.file(draft.storage.fetch(f"{draft.folder}/{name}"), "plots" if name in drawn else "")
            report = draft.commit(plain(config), {"stages": len(steps)})
    rebuilding.over()
    if results:  # of a recipe that evaluates something
        say("\n" + table(*stage_table(results)) + "\n")
    for claim in (claim for claim in claims(results) if claim.compares) if results else ():
        sign = {True: "✓", False: "✗", None: "?"}[claim.holds]
        say(f"   {sign} {claim.text}: {claim.numbers}")
    if delivered := [artifact for artifact in artifacts if artifact.manifest["kind"] in ("export", "quantize")]:
        say("\n" + table(*_delivered(delivered)) + "\n")
        model = delivered[0]
        say(f"   model   {session.store.uri}/{model.folder}  (loads with transformers)")
        store = (
            ""
            if config.store == os.environ.get("TRUNKLINE_STORE", "store")
            else f" {shlex.quote(f'store={config.store}')}"
        )
        for artifact in delivered:
            needs = (
                f"  (GGUF: after `{make('llama')}`)"
                if artifact.manifest["identity"]["config"].get("format") == "gguf"
                else ""
            )
            say(f"   chat    python -m workflows.chat model={artifact.folder}{store}{needs}")
    say(f"   report  {session.store.uri}/{report.folder}/report.html")
    say(f"   MLflow  {make('ui')}  (all of it took {duration(time.monotonic() - began)})")
    return report


def stage_results(session: Session, artifacts: Sequence[Artifact]) -> list[StageResult]:
    """What the report shows: one entry per evaluated checkpoint of a training run, in the order of the stages."""
    return [_result_of(session, artifact) for artifact in artifacts if artifact.manifest["kind"] == "evaluate"]


def _result_of(session: Session, evaluated: Artifact) -> StageResult:
    """An evaluation with the curve of the run that it is of."""
    from pipelines.display.report import StageResult
    from pipelines.train.checkpoint.committed import open_checkpoint
    from pipelines.train.results.evaluate import read_results
    from pipelines.train.results.heldout import heldout_of
    from pipelines.train.run.loop import read_metrics
    from pipelines.train.stages import AVERAGE, STAGES

    storage, evaluation = session.store.storage, read_results(evaluated)
    run_folder, _, at = evaluation["parent"].partition("@")
    trained = session.store.get(run_folder)
    checkpoint = open_checkpoint(storage, run_folder, at or "latest")
    if "averaged" in trained.statistics:  # no training of its own: a point, not a curve
        return StageResult(
            kind=AVERAGE,
            reference=evaluation["parent"],
            parent=list(trained.statistics["averaged"])[-1],
            tokens_start=checkpoint.state["tokens"],
            tokens_end=checkpoint.state["tokens"],
            evaluation=evaluation,
            heldout=heldout_of(evaluated),
            artifact=trained.folder,
        )
    kind, start = Reference.parse(run_folder).kind, trained.statistics["start"]
    curve = [row for row in read_metrics(storage, run_folder) if row["step"] <= checkpoint.step]
    segments = checkpoint.state["segments"]
    asked = {source["name"]: source["weight"] for source in segments[-1]["plan"]["sources"]} if segments else {}
    # a run of an older version names no objective: it had its stage's
    objective = trained.manifest["identity"]["config"].get("objective") or {}
    loss_counts = _loss_counts(
        objective.get("name", STAGES[kind].objective), session.store.get(evaluation["tokens"]), list(asked)
    )
    return StageResult(
        kind=kind,
        reference=evaluation["parent"],
        parent=f"{start['run']}@step-{start['step']}" if start["run"] else None,
        tokens_start=start["tokens"],
        tokens_end=checkpoint.state["tokens"],
        curve=curve,
        colour=STAGES[kind].colour,
        loss_counts=loss_counts,
        asked=asked,
        delivered=trained.statistics["delivered"],
        evaluation=evaluation,
        heldout=heldout_of(evaluated),
        seconds=sum(row["step_duration_s"] for row in curve),
        artifact=trained.folder,
    )


def _loss_counts(objective: str, tokens: Artifact, sources: Sequence[str]) -> str:
    """What the loss of a run is a mean over: pairs, tokens, of conversations the assistant's alone."""
    from pipelines.train.objectives import OBJECTIVES

    unit = OBJECTIVES[objective].unit
    kinds = {tokens.statistics["sources"].get(name, {}).get("kind") for name in sources}
    return "assistant tokens" if unit == "tokens" and kinds == {"conversations"} else unit


def _delivered(artifacts: Sequence[Artifact]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: what each delivered model weighs, and what it lost against full precision."""
    rows = []
    for artifact in artifacts:
        chosen, told = artifact.manifest["identity"]["config"], artifact.statistics
        weights = sum(
            entry["bytes"]
            for name, entry in artifact.manifest["files"].items()
            if name.endswith((".safetensors", ".gguf"))
        )
        stored = (
            f"{told['method']}, {told['bits_per_weight']:.3g} bits a weight"
            if artifact.manifest["kind"] == "quantize"
            else f"{chosen.get('format', 'llama')}, {chosen.get('dtype', 'float32')}"
        )
        lost, kl, top1 = (told.get(name) for name in ("lost_bits_per_byte", "kl", "top1"))
        rows.append(
            [
                artifact.folder,
                stored,
                human(weights, "B"),
                "–" if lost is None else f"{lost:+.4f}",
                "–" if kl is None else f"{kl:.4f}",
                "–" if top1 is None else f"{top1:.1%}",
            ]
        )
    return ["delivered", "weights", "size", "bits/byte lost", "KL, nats/token", "same likeliest id"], rows


def _command(stage: RecipeStage, config: RecipeConfig) -> str:
    """The stage by itself, as a command."""
    given = [f"+experiment={config.experiment}", f"name={stage.name}", f"store={config.store}", *stage.overrides]
    return shlex.join(["python", "-m", f"workflows.{stage.workflow}", *given])


def compose_stages(config: RecipeConfig, kinds: Collection[str] | None = None) -> list[ComposedStage]:
    """The stages that will run, each composed.

    Args: kinds, of the sources that the tokens hold; None before there are tokens: those that the corpus declares.
    Raises: ConfigError for a key that no stage takes.
    """
    _check_stages(config)
    _check_handed(config)
    composed: list[ComposedStage] = []
    last = ""
    for row in config.stages:
        declared = next((one.config.chosen for one in composed if hasattr(one.config, "chosen")), None)
        if kinds is None and declared is not None:
            kinds = {source.kind for source in declared.values()}
        if kinds is not None and not row.fits(kinds):
            continue
        if not last and (word := next((word for word in row.overrides if "<last>" in word), None)):
            raise ConfigError(
                f"stage {row.workflow} {row.name}: {word}, and no stage before it trains ({', '.join(TRAINED)}): name "
                "a run, <kind>/<name>"
            )
        overrides = [word.replace("<last>", last) for word in row.overrides]
        stage = dataclasses.replace(row, overrides=[*overrides, *_handed_to(row.workflow, config)])
        composed.append(ComposedStage(stage, *compose_stage(stage, config)))
        if row.workflow in TRAINED:
            last = f"{row.workflow}/{row.name}"
    return composed


def kinds_of(tokens: Artifact) -> set[str]:
    """The kinds of sources that hold something to train on."""
    sources = tokens.statistics["sources"].values()
    return {source["kind"] for source in sources if source["train"]["tokens"]}


def left_out(config: RecipeConfig, steps: Sequence[ComposedStage]) -> dict[str, str]:
    """Of each kind of data that there is none of, which stages need it."""
    run = {(one.stage.workflow, one.stage.name) for one in steps}
    lines: dict[str, str] = {}
    for needed in typing.get_args(Needed):
        rows = [row for row in config.stages if row.needs == needed and (row.workflow, row.name) not in run]
        if rows:
            names = ", ".join(f"{row.workflow} {row.name}" for row in rows)
            lines[needed] = f"{names}: the data has no {needed}"
    return lines


def _announcement(config: RecipeConfig, steps: Sequence[ComposedStage]) -> dict[str, str]:
    told = {
        f"{i + 1:>2} {one.stage.workflow}": f"{one.stage.name}  {' '.join(one.stage.overrides)}"
        for i, one in enumerate(steps)
    }
    for needed, line in left_out(config, steps).items():
        told[f"no {needed}"] = f"left out: {line}"
    return told


def plan_stages(steps: Sequence[ComposedStage], session: Session) -> None:
    """Plan every stage whose inputs are there, and refuse what it would refuse.

    Raises: as the stages do.
    """
    session.within_recipe = True
    made: list[str] = []
    refused: list[TrunklineError] = []
    for one in steps:
        waits = [reference for reference in _references(one.config) if _is_to_come(reference, made, session)]
        made.append(one.folder)
        if waits:
            say(f"\n   {one.folder}: planned when {' and '.join(waits)} is there")
            _foresee_size(one, session)
            continue
        try:
            one.module.run(dataclasses.replace(one.config, dry_run=True), session)
        except DryRun as dry:
            if dry.refused is not None:
                refused.append(dry.refused)
    if refused:
        raise refused[0]


def _foresee_size(one: ComposedStage, session: Session) -> None:
    """What model a fresh run would have, of the text that the trial on a sample has found."""
    config = one.config
    if not isinstance(config, TrainConfig) or config.hours is None or session.foreseen_bytes is None:
        return
    sized = sizing.foresee(with_speed(config), session.foreseen_bytes, config.cluster.workers)
    say(f"   foreseen of about {human(session.foreseen_bytes, 'B')} of text and {config.hours:g} hours:\n")
    say(table(list(sizing.HEADER), sized.rows))
    for line in sized.announcement.values():
        say(f"   {line}")


def _references(config: Any) -> list[str]:
    """The artifacts that a stage reads."""
    values = (getattr(config, key, None) for key in ("data", "tokens", "parent"))
    return [value for value in values if isinstance(value, str)]


def _is_to_come(reference: str, made: Collection[str], session: Session) -> bool:
    """Whether an earlier stage makes it, and has not yet."""
    folder = reference.partition("@")[0]
    return folder in made and session.store.find(folder) is None


def _check_stages(config: RecipeConfig) -> None:
    """Raises: ConfigError for what a recipe's YAML names and nobody knows."""
    for number, row in enumerate(config.stages):
        if row.workflow not in places.workflows() or not _leaves_artifact(row.workflow):
            known = [name for name in places.workflows() if _leaves_artifact(name)]
            close = difflib.get_close_matches(row.workflow, known, n=1)
            raise ConfigError(
                f"stages[{number}].workflow is {row.workflow!r}; expected one of {', '.join(known)}"
                + (f": did you mean {close[0]}?" if close else "")
            )
        for word in row.overrides:
            if (named := re.search(r"<\w+>", word)) is not None and named[0] != "<last>":
                raise ConfigError(
                    f"stage {row.workflow} {row.name}: {word}: of such names there is <last>, the last run before it: "
                    f"write {word.replace(named[0], '<last>')}"
                )
    for key, takers in config.takes.items():
        if strange := next((name for name in takers if name not in places.workflows()), None):
            close = difflib.get_close_matches(strange, places.workflows(), n=1)
            raise ConfigError(
                f"takes.{key} names {strange}, which is no command; expected some of {', '.join(places.workflows())}"
                + (f": did you mean {close[0]}?" if close else "")
            )


def _leaves_artifact(workflow: str) -> bool:
    """Whether what the workflow's `run` returns is an artifact, so that a stage after it can read it."""
    run = getattr(importlib.import_module(f"workflows.{workflow}"), "run", None)
    return run is not None and typing.get_type_hints(run).get("return") is Artifact


def _check_handed(config: RecipeConfig) -> None:
    """Raises: ConfigError for a key that neither the recipe nor one of its stages takes."""
    workflows = dict.fromkeys(row.workflow for row in config.stages)
    for word in config.handed:
        key = _key(word)
        if key in config.takes or (key in workflows and re.match(r"[+~]*\w+\.", word)):
            continue
        if (said := _of_a_stage(word, list(workflows))) is not None:
            raise ConfigError(said)
        own = [field.name for field in dataclasses.fields(RecipeConfig) if field.name not in ("takes", "handed")]
        close = difflib.get_close_matches(key, [*own, *config.takes, "experiment"], n=1)
        handed_on = ", ".join(f"{name} (to {', '.join(to)})" for name, to in config.takes.items())
        raise ConfigError(
            f"unknown key {key}; a recipe takes {', '.join([*own, '+experiment'])}, hands on {handed_on}, and takes "
            f"<workflow>.<key>=… for the stages of a workflow ({', '.join(workflows)})"
            + (f": did you mean {close[0]}?" if close else "")
        )


def _of_a_stage(word: str, workflows: Sequence[str]) -> str | None:
    """What is said of a word whose key a stage has, by ours or by another program's name; None for others."""
    key, _, value = word.lstrip("+~").partition("=")
    if key in workflows:
        return f"{word}: {key} is a stage of this recipe: its keys are written {key}.<key>=…"
    classes = {name: _config_class(name) for name in workflows}
    having = [f"{name}.{key}={value or '…'}" for name, cls in classes.items() if foreign.has(cls, key)]
    if having:
        return f"{word}: the recipe itself has no {key}; of its stages: {' or '.join(having)}"
    for name, cls in classes.items():
        if (said := foreign.ours(cls, key, value)) is not None:
            return said if " is no key" in said else f"{said}; in a recipe with the stage before it, {name}.<key>=…"
    return None


def _config_class(workflow: str) -> type:
    """The config class of a stage's workflow."""
    config_class: type = typing.get_type_hints(importlib.import_module(f"workflows.{workflow}").run)["config"]
    return config_class


def _handed_to(workflow: str, config: RecipeConfig) -> list[str]:
    """What was typed for the recipe and is this workflow's."""
    words = []
    for word in config.handed:
        key = _key(word)
        if key in config.takes:
            if workflow in config.takes[key]:
                words.append(word)
        elif key == workflow:
            words.append(re.sub(rf"^([+~]*){key}\.", r"\1", word))
    return words


def _key(word: str) -> str:
    """The first part of the key that a word sets."""
    return re.split("[.=@]", word.lstrip("+~"))[0]


def compose_stage(stage: RecipeStage, config: RecipeConfig) -> tuple[Any, Any]:
    """A stage's config, as its own command would compose it but for what all stages share, and its module."""
    module = importlib.import_module(f"workflows.{stage.workflow}")
    class_of_stage = _config_class(stage.workflow)
    for override in stage.overrides:
        key = re.split("[.=@]", override.lstrip("+~"))[0]
        if key in SHARED:  # there is one of each: what a stage said would be planned and not done
            raise ConfigError(
                f"stage {stage.workflow} {stage.name} has the override {override}, but all stages of a recipe share "
                f"one {key}: set it for the recipe ({override}), or run this stage by its own command"
            )
    own = [f"+experiment={config.experiment}", f"name={stage.name}", f"on_change={config.on_change}", *stage.overrides]
    try:
        composed: Any = compose_config(stage.workflow, class_of_stage, own)
    except ConfigError as error:
        if re.match(r"\S+\.yaml:", str(error)):  # the file says which stage it is of
            raise
        raise ConfigError(f"stage {stage.workflow} {stage.name}: {error}") from error
    return dataclasses.replace(composed, **{name: getattr(config, name) for name in SHARED}), module


def _unique(artifacts: Sequence[Artifact]) -> list[Artifact]:
    return list({artifact.folder: artifact for artifact in artifacts}.values())


main = entry(RecipeConfig, run, "recipe")

if __name__ == "__main__":
    main()
