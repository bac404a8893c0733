"""The wind tunnel: studies of many small runs that find the recipe of your own data before you pay for the big one.

    python -m workflows.sandbox 'sandbox=[laptop/lr,laptop/wsd]' name=mine
    python -m workflows.sandbox 'sandbox=[laptop/lr]' name=mine dry_run=true      trials, tokens, memory, hours, money
    python -m workflows.sandbox 'sandbox=[laptop/lr]' name=more studies.lr.seeds=5

Steps that trials have in common are trained once, in processes that live on from trial to trial. The page
`sandbox/<name>/sandbox.html` grows while they run. Stop it anywhere: the same command goes on from the last committed
piece. `python -m workflows.plan recipe=sandbox/<name> target=2b` makes a config of what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.config import plain
from pipelines.display.progress import announce, human, say, table
from pipelines.errors import ArtifactError, ConfigError, TrainingError
from pipelines.laws import LAWS
from pipelines.store.artifact import Artifact
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.code import chosen_modules
from pipelines.train.plan.memory import GIB, Memory
from pipelines.train.sandbox.config import MIXTURE, SandboxConfig
from pipelines.train.sandbox.costs import Costs
from pipelines.train.sandbox.ledger import Ledger, StudyState, failed
from pipelines.train.sandbox.planned import check_in_store, lane_memory, lanes_foreseen
from pipelines.train.sandbox.writing import NUMBERS, PAGE, Writer, say_findings
from workflows.entry import entry
from workflows.running import onward
from workflows.running.session import DryRun, Session
from workflows.running.training import CODE as TRAINING_CODE
from workflows.running.trials import TrialRun, costs_of
from workflows.studies import (
    DECIDES,
    check_chosen,
    chosen_studies,
    code_of_studies,
    identity_of,
    study_files,
    study_state,
)

# and what each study chose: `code_of_studies`
CODE = (
    *DECIDES,
    *TRAINING_CODE,
    *chosen_modules("pipelines.laws", LAWS),
    "pipelines.laws.fitting",
    "pipelines.laws.mixing",
    "pipelines.laws.optimum",
)


def run(config: SandboxConfig, session: Session) -> Artifact:
    """Run every trial of every study, then write what they say as `sandbox/<name>`."""
    store = session.store
    # ── Compose, and refuse what cannot work ──────────────────────────────────────────────────────────────────────────
    check_chosen(chosen_studies())
    if not config.studies:
        files = study_files()
        raise ConfigError(
            f"the sandbox has no study: choose some, e.g. 'sandbox=[{files[0]}]'; there are {', '.join(files)} "
            "(conf/sandbox)"
        )
    states = [study_state(name, config) for name in config.studies]
    for state in states:
        state.plan(state.trials, store)
        state.foresee(store)
        state.check()
    lanes = lanes_foreseen(config)
    largest = _largest(states, lanes)
    costs = costs_of(config, states, store, lanes)
    announcement = _announcement(states, costs, largest)
    if config.dry_run:
        announce(f"sandbox/{config.name}", {**announcement, **_data_there(states, store), "store": store.uri})
        say(table(["study", "trials", "varied", "seeds", "tokens alone"], [_row(state) for state in states]))
        session.check_cluster()
        raise DryRun
    # ── Claim it, or find it finished ─────────────────────────────────────────────────────────────────────────────────
    inputs = [store.get(folder) for folder in data_of(states)]
    check_in_store([trial for state in states for trial, _ in state.foreseen], store)
    identity = identity_of(config, states)
    code = (*CODE, *code_of_studies(states))
    draft = session.begin("sandbox", config, announcement, inputs, code, identity, on_ray=True)
    if isinstance(draft, Artifact):
        return session.reused(_tell_finished(draft, store), *onward.after_sandbox(session, config.name))
    began = session.began
    say(table(["study", "trials", "varied", "seeds", "tokens alone"], [_row(state) for state in states]))
    # ── Trials; no inputs are named to MLflow, which would fold the sandbox under its mixture ─────────────────────────
    with session.track(draft, config) as tracker:
        writer = Writer(draft, config.name, session.made_with or "", config.page_every_seconds)
        trials = TrialRun(session, states, Ledger(draft), tracker, writer, costs)
        trials.run_all(config)
        # ── Page ──────────────────────────────────────────────────────────────────────────────────────────────────────
        costs, lost = trials.costs(), failed(states)
        finished = not lost or config.without_failed
        pages = writer.last(states, costs, finished)
        say()
        say_findings(pages)
        say(f"\n   page    {store.uri}/{draft.folder}/{PAGE}")
        if not finished:
            state, result = lost[0]
            raise TrainingError(
                f"{len(lost)} of {costs.trials:,} trials failed, first {state.name}, {result.name}: {result.reason}. "
                "What ended is kept and drawn: run the same command to try them again, or without_failed=true to be "
                "done without them"
            )
        for name in (PAGE, NUMBERS):
            tracker.file(draft.storage.fetch(f"{draft.folder}/{name}"))
        tracker.metrics({"tokens": costs.tokens_shared, "tokens_without_sharing": costs.tokens_naive}, step=0)
        artifact = draft.commit(plain(config), {"trials": costs.trials, "tokens": costs.tokens_shared})
    session.began = began  # and not when the last mixture was
    return session.done(artifact, *onward.after_sandbox(session, config.name))


def _tell_finished(artifact: Artifact, store: ArtifactStore) -> Artifact:
    """Say what a finished sandbox has found."""
    results = artifact.json(NUMBERS)
    for name, study in results["studies"].items():
        for finding in study["findings"]:
            say(f"   {name}: {finding['claim']}: {finding['verdict']}")
    say(f"   {len(results['trials']):,} trials, all ended; page {store.uri}/{artifact.folder}/{PAGE}")
    return artifact


def data_of(states: Sequence[StudyState]) -> list[str]:
    """Artifacts that trials read and that no stage of theirs makes; of a mixture that one makes, its tokens."""
    folders: dict[str, None] = {}
    for state in states:
        for trial, _ in state.foreseen:
            made = {f"{MIXTURE}/{stage.config.name}" for stage in trial.stages if stage.workflow == MIXTURE}
            for stage in trial.stages:
                folder = stage.config.tokens if stage.workflow == MIXTURE else stage.config.data
                if folder not in made:
                    folders[folder] = None
    return list(folders)


def _largest(states: Sequence[StudyState], lanes: int) -> Memory | None:
    """Memory of the trial that needs most. Raises: ConfigError for one that does not fit."""
    every = [lane_memory(trial, runs, lanes) for state in states for trial, runs in state.foreseen]
    return max(every, key=lambda memory: memory.total, default=None)


def _announcement(states: Sequence[StudyState], costs: Costs, largest: Memory | None) -> dict[str, str]:
    lines = {"studies": ", ".join(f"{state.name} ({state.row.title})" for state in states), **costs.announcement()}
    if largest is not None:
        lines["memory"] = f"{largest.total / GIB:.3g} GiB in each process of a lane, at most"
    searched = [state.name for state in states if state.config.search is not None]
    if searched:
        lines["search"] = f"trials of {', '.join(searched)} are proposed one by one, and are not counted above"
    further = [state.name for state in states if state.row.further is not None]
    if further:
        lines["second round"] = f"{', '.join(further)} will ask for more trials, which are not counted above"
    return lines


def _data_there(states: Sequence[StudyState], store: ArtifactStore) -> dict[str, str]:
    """What a plan says of data that is not there yet: it needs none."""
    missing = []
    for folder in data_of(states):
        try:
            store.get(folder)
        except ArtifactError as error:
            missing.append(str(error))
    if not missing:
        check_in_store([trial for state in states for trial, _ in state.foreseen], store)
    return {"data": f"planned without it: {missing[0]}"} if missing else {}


def _row(state: StudyState) -> list[Any]:
    varied = ", ".join(f"{axis.name} ×{len(axis.options)}" for axis in state.expander.axes if len(axis.options) > 1)
    if state.config.search is not None:
        varied = ", ".join([*([varied] if varied else []), f"search of {', '.join(state.config.search.space)}"])
    tokens = sum(run.tokens for trial in state.trials for run in state.runs[trial.name])
    count = len(state.trials)
    if state.config.search is not None:
        count = state.config.search.trials * len(list(state.expander.combinations())) * len(state.config.seed_list)
        tokens = count * max(sum(run.tokens for run in runs) for _, runs in state.probes)
    return [state.name, count, varied, len(state.config.seed_list), human(tokens)]


main = entry(SandboxConfig, run, "sandbox")

if __name__ == "__main__":
    main()
