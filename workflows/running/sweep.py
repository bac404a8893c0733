"""A sweep (`-m`): every turn is composed, named and planned before the first starts; then they run.

Enters: a command line with several values for a key. Leaves: what the turns' own commands would have made, under the
same names; a table of the arms, and what differs between them. In MLflow they are one group.

Turns of a training stage run side by side, on as many lanes as the cluster has room for: the planner and the workers of
the wind tunnel. With `share=true` steps that they have in common are trained once; without it each trains all of its
own. Turns of other workflows run one after another in one session, so in one Ray.

One arm's failure does not stop the others; the command ends with the exit code of the first. What would fail the rest
as well, a lost store or cluster, ends it. The same command again finds what is finished, and goes on with the rest.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pipelines.cluster.trial_pool import Ended, TrialPool, check_room
from pipelines.config import ClusterConfig, WorkflowConfig, plain
from pipelines.display.progress import announce, duration, human, hushed, say
from pipelines.errors import ClusterError, ConfigError, StorageError, TrainingError, TrunklineError
from pipelines.identity import fingerprint
from pipelines.store.artifact import Artifact
from pipelines.store.disk import disk_error
from pipelines.store.draft import Draft, Making
from pipelines.tracking.tracker import join_group
from pipelines.train.network.architecture import ModelConfig, flops_per_token
from pipelines.train.plan import memory
from pipelines.train.plan.checked import setup_of_config
from pipelines.train.plan.planning import PlannedRun
from pipelines.train.sharing.chain import Chain, ChainStage
from pipelines.train.sharing.trajectory import trajectory_of
from pipelines.train.sharing.tree import Tree, TreeRun, plan_tree
from pipelines.train.stages import STAGES, stage_named
from pipelines.train.trials.worker import ready, work_trial
from pipelines.uris import without_secrets
from workflows.command_line import places
from workflows.command_line.composing import experiment_named
from workflows.command_line.devices import device_names, read_device
from workflows.command_line.turns import Turn, compose_turns, group_of, tell_all
from workflows.running import onward
from workflows.running.arms import Outcome, Ranking, outcome_table, planned_table
from workflows.running.rebuilding import Rebuild
from workflows.running.session import DryRun, Session
from workflows.running.sharing import EdgeEnded, TreeRunner
from workflows.running.training import code_of_run, is_done, plan_run, refuse_fewer_steps, told_whole

_TELL_SECONDS = 10.0  # between two lines of one arm on its steps
_EVALUATED = 12  # arms that a printed command evaluates at once
# workflows that say what they would refuse without doing anything (`dry_run=true`); a corpus tries a sample for it
_PLANS = (
    "average", "corpus", "cost", "evaluate", "export", "fit", "mixture", "publish", "quantize", "recipe", "sandbox",
    "tokenize",
)  # fmt: skip
_TRIES = ("corpus", "recipe")  # of those, the ones that try a sample


def run_sweep(
    config_class: type[WorkflowConfig],
    run: Callable[[Any, Session], Any],
    workflow: str,
    uses_store: bool,
    typed: Sequence[str],
) -> None:
    """Compose, plan and run all turns of a command line. Args: run, of the workflow, for one turn.

    Raises: one error with the mistakes of all turns, before anything starts; DryRun; at the end the first error of an
        arm.
    """
    turns = compose_turns(workflow, config_class, typed)
    # the private Ray of a command is made for it
    widest = max(turns, key=lambda turn: turn.config.cluster.workers * turn.config.cluster.cpus_per_worker)
    command = shlex.join(["python", "-m", f"workflows.{workflow}", *places.words(), *typed])
    with Session(widest.config, _experiment(turns), uses_store, command) as session:
        session.group = group_of(workflow, turns)
        if workflow in STAGES:
            sweep_stage(workflow, turns, session)
        else:
            sweep_in_turn(workflow, turns, session, run)


def _experiment(turns: Sequence[Turn]) -> str | None:
    named = {experiment_named([f"experiment={turn.overrides.get('experiment', '')}"]) for turn in turns}
    return named.pop() or None if len(named) == 1 else None


# ── Training stages ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Arm:
    """A turn that is planned.

    Attributes: there, what the store has of it: a finished artifact, or a draft to go on with.
    """

    turn: Turn
    planned: PlannedRun
    there: Artifact | Draft

    @property
    def finished(self) -> bool:
        return is_done(self.there, self.planned.spec.steps, None)

    @property
    def replaces(self) -> bool:
        return isinstance(self.there, Draft) and self.there.replaces


def sweep_stage(stage: str, turns: Sequence[Turn], session: Session) -> list[Artifact]:
    """Train the arms of a sweep. Args: stage, a name in `STAGES`.

    Raises: one error with all that cannot be planned; DryRun; at the end the first error of an arm.
    """
    shares = bool(turns[0].config.share)
    rebuild, turns = _rebuild(stage, turns, session)
    turns, chains, arms, mistakes = _planned(stage, turns, session)
    replaced = {f"{stage}/{arm.turn.config.name}" for arm in arms if arm.replaces}
    if len(chains) == len(turns):
        committed = functools.partial(_committed, session, replaced)
        _announce_runs(stage, plan_tree(chains, committed, shares), turns, arms, session)
    tell_all(mistakes, [turn.varied for turn in turns])
    if not all(arm.finished for arm in arms):
        session.check_cluster()
    if session.config.dry_run:
        raise DryRun
    # ── everything that can be refused is, but for what the cluster itself has no room for ──
    assert session.group is not None
    finished = [f"{stage}/{arm.turn.config.name}" for arm in arms if arm.finished]
    join_group(session.config.tracking, session.store, finished, session.group)
    failed: dict[str, Exception] = {}
    over = 0
    shapes = _by_shape(arms)
    try:
        for cluster, together in shapes.items():
            unfinished = sum(1 for arm in together if not arm.finished)
            with PoolWhenNeeded(session, cluster, unfinished, tuple(shapes)) as pool:
                own = {arm.turn.config.name for arm in together}
                runner = TreeRunner(session, pool, shares=shares, replaced=replaced, tell_every_seconds=_TELL_SECONDS)
                with runner, pool:  # lanes end before names are given back
                    if any(arm.replaces for arm in together):
                        pool.wait()  # a cluster that cannot start must not cost what is there
                    runner.add([chain for chain in chains if chain.name in own])
                    while (edge := runner.next()) is not None:
                        if edge.last:
                            over += len(edge.chains)
                            failed.update({name: edge.error for name in edge.chains if edge.error is not None})
                            for name in edge.chains if edge.error is None else ():
                                rebuild.done(f"{stage}/{name}")
                        say(_told(edge, over, len(turns)))
    except BaseException:
        say(f"   {over - len(failed)} of {len(turns)} arms are finished: the same command again goes on with the rest")
        raise
    if not failed:
        rebuild.over()
    return _conclude(stage, arms, failed, session)


def _rebuild(kind: str, turns: Sequence[Turn], session: Session) -> tuple[Rebuild, list[Turn]]:
    """What of a rebuild is done already, and the turns without the rebuild of that."""
    on = any(turn.config.on_change == "rebuild" for turn in turns)
    rebuild = Rebuild(session.store.storage, f"sweep/{session.group}", [turn.command for turn in turns], on)
    configs = (rebuild.once(turn.config, f"{kind}/{turn.config.name}") for turn in turns)
    return rebuild, [dataclasses.replace(turn, config=config) for turn, config in zip(turns, configs, strict=True)]


def _planned(
    stage: str, turns: Sequence[Turn], session: Session
) -> tuple[list[Turn], list[Chain], list[Arm], dict[int, TrunklineError]]:
    """The turns, with what the data decides of them; the same as chains; those of them that can be run; and why the
    others cannot, by their place.
    """
    turns, chains, arms, mistakes = list(turns), [], [], dict[int, TrunklineError]()
    for i, turn in enumerate(turns):
        try:
            _refuse(turn)
            if not turn.config.sized_by_data:
                chains.append(_chain(stage, turn))  # the table shows it, whatever is refused of it
            arm = _plan(stage, turn, session)
            if turn.config.sized_by_data:
                turns[i] = dataclasses.replace(turn, config=arm.planned.config)
                arm = dataclasses.replace(arm, turn=turns[i])
                chains.append(_chain(stage, turns[i]))
            arms.append(arm)
        except TrunklineError as error:
            mistakes[i] = error
    return turns, chains, arms, mistakes


def _chain(stage: str, turn: Turn) -> Chain:
    """The turn's run as a chain. Raises: ConfigError for what the config alone makes impossible."""
    trajectory_of(stage, turn.config)
    return Chain(turn.config.name, (ChainStage(stage, turn.config, turn.command),))


def _plan(stage: str, turn: Turn, session: Session) -> Arm:
    """Raises: what planning and the store refuse, as of the turn's own command."""
    config, planned = plan_run(stage, turn.config, session)
    making = Making(planned.identity, planned.inputs, code_of_run(planned), turn.command, told_whole(config, planned))
    there = session.store.prepare(stage, config.name, making, config.on_change)
    arm = Arm(turn, planned, there)
    if not (arm.finished or arm.replaces):
        refuse_fewer_steps(session.store.storage, f"{stage}/{config.name}", planned.spec.steps)
    return arm


def _refuse(turn: Turn) -> None:
    """Raises: ConfigError for what one run alone takes."""
    config = turn.config
    if config.write_spec is not None:
        raise ConfigError(
            f"write_spec={config.write_spec} is one file for one run: type the command of one turn alone, without -m"
        )
    if config.checkpoint.resume != "latest":
        raise ConfigError(
            f"checkpoint.resume={config.checkpoint.resume} takes one run back: type the command of that turn alone, "
            "without -m, and then the sweep without checkpoint.resume"
        )
    if config.hours is not None and config.epochs is not None:
        raise ConfigError(
            f"hours={config.hours:g} beside epochs={config.epochs:g}: a sweep plans its arms twice, the second time "
            "with the steps that these give; leave epochs out (mixture.epochs decides as much), or give steps="
        )
    if config.share and config.on_change == "rebuild":
        raise ConfigError(
            "on_change=rebuild makes each arm anew, and with share=true arms go on with what others have: leave "
            "share=true out, or give the arms another name="
        )


def _committed(session: Session, replaced: set[str], folder: str) -> Sequence[int]:
    from pipelines.train.checkpoint.committed import committed_steps

    return () if folder in replaced else committed_steps(session.store.storage, folder)


def _by_shape(arms: Sequence[Arm]) -> dict[ClusterConfig, list[Arm]]:
    """Arms whose processes are alike train on the same lanes; the largest begin."""
    shapes: dict[ClusterConfig, list[Arm]] = {}
    for arm in arms:
        shapes.setdefault(arm.turn.config.cluster, []).append(arm)
    return dict(sorted(shapes.items(), key=lambda item: -item[0].workers))


def _conclude(stage: str, arms: Sequence[Arm], failed: Mapping[str, Exception], session: Session) -> list[Artifact]:
    """The table of the arms and what to do next. Raises: the first error of an arm."""
    outcomes = []
    for arm in arms:
        name = arm.turn.config.name
        error = failed.get(name)
        told = "" if error is None else _in_a_line(error)
        artifact = None if error is not None else session.store.find(f"{stage}/{name}")
        outcomes.append(Outcome(arm.turn, artifact, told, _measured_on(arm)))
    text, best, ranking = outcome_table(outcomes, session.store, trained=True)
    say("\n" + text + "\n")
    if ranking.why:
        say(f"   {ranking.why}")
    if len(best) > 1:
        session.tell_group()
    if best:
        _tell_next(stage, best, ranking, session)
    if failed:
        name, error = next(iter(failed.items()))
        raise _at_the_end(
            error,
            f"{len(failed)} of {len(arms)} arms ended with an error; the same command again goes on with them. First "
            f"{stage}/{name}: {error}",
        )
    return [outcome.artifact for outcome in outcomes if outcome.artifact is not None]


def _tell_next(stage: str, best: Sequence[Outcome], ranking: Ranking, session: Session) -> None:
    """What follows the best arm, where there is a best; and one evaluation of all, unless they have it."""
    turn = best[0].turn
    session.config, session.experiment = turn.config, _experiment([turn])
    run = f"{stage}/{turn.config.name}"
    lines = onward.after_training(session, run, f"{run}@latest" if stage_named(stage).endless else run)
    if len(best) > 1:
        some = ",".join(f"{stage}/{outcome.turn.config.name}" for outcome in best[:_EVALUATED])
        alone = f"parent={run}"
        lines = [
            line.replace("workflows.evaluate", "workflows.evaluate -m", 1).replace(alone, f"parent={some}", 1)
            if line.startswith("python -m workflows.evaluate")
            else line
            for line in lines
        ]
    evaluates = "python -m workflows.evaluate"
    if ranking.evaluated:
        lines = [line for line in lines if not line.startswith(evaluates)]
    elif ranking.order is None:
        lines = [line for line in lines if line.startswith(evaluates)]
    session.tell_next(*lines)


def _measured_on(arm: Arm) -> str:
    spec = arm.planned.spec
    return fingerprint(
        [arm.turn.config.data, spec.tokens, spec.tokenizer, plain(spec.objective), spec.batch.sequence_length]
    )


class PoolWhenNeeded:
    """Lanes that are made when the first edge is submitted: where all is finished, Ray is not started."""

    def __init__(self, session: Session, config: ClusterConfig, most: int, shapes: Sequence[ClusterConfig]):
        """Args: most, arms that there are to train; shapes, of all lanes of the sweep: they are looked at before the
        first works.
        """
        self._session, self._most, self._shapes = session, max(1, most), shapes
        self.config = config
        self._made = False

    @functools.cached_property
    def _pool(self) -> TrialPool:
        _ = self._session.cluster  # starts Ray, or joins it
        check_room(self._shapes)
        pool = TrialPool(self.config, None, ready, work_trial, most=self._most)
        self._made = True
        workers = self.config.workers
        say(f"   lanes: {pool.lanes}, each of {workers} process{'es' * (workers > 1)}")
        return pool

    @property
    def lanes(self) -> int:
        return self._pool.lanes

    @property
    def wanted(self) -> int:
        return self._pool.wanted if self._made else 1

    def wait(self) -> None:
        """Until the first lane has formed."""
        self._pool.wait()

    def submit(self, key: str, values: dict[str, Any]) -> None:
        self._pool.submit(key, values)

    def next(self, timeout: float | None = None) -> Ended | None:
        return self._pool.next(timeout)

    def __enter__(self) -> PoolWhenNeeded:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made:
            self._made = False
            self._pool.end()


# ── What is said before ───────────────────────────────────────────────────────────────────────────────────────────────


def _announce_runs(stage: str, tree: Tree, turns: Sequence[Turn], arms: Sequence[Arm], session: Session) -> None:
    plans = {arm.turn.config.name: arm for arm in arms}
    models = {name: arm.planned.spec.model for name, arm in plans.items()}
    device = _device(turns[0].config.cluster)
    header = [*([] if "steps" in turns[0].varied else ["steps"]), "begins at", "tokens to train", "hours"]
    rows, all_tokens, all_flops = [], 0, 0.0
    for turn in turns:
        run = tree.path(turn.config.name)[-1]
        arm = plans.get(turn.config.name)
        steps = arm.planned.spec.steps if arm else run.steps
        tokens = max(0, (steps or 0) - run.first) * run.trajectory.step_tokens
        model = models.get(turn.config.name) or turn.config.model
        flops = 0.0 if model is None else tokens * flops_per_token(model, turn.config.batch.sequence_length)
        all_tokens, all_flops = all_tokens + tokens, all_flops + flops
        hours = None if device is None or model is None else duration(flops / (device.peak * device.mfu.value))
        row = [_begins(run, arm), tokens, hours]
        rows.append(row if "steps" in turn.varied else [steps, *row])
    if device is None:
        header, rows = header[:-1], [row[:-1] for row in rows]
    if tree.shares:
        all_tokens, all_flops = tree.trained_tokens, _flops(tree, models)
    lines = {**_announcement(tree, plans, all_tokens), **_costs(tree, models, all_flops)}
    lines["MLflow"] = f"group {session.group}"
    announce(f"{stage}: {len(turns)} runs", {**lines, "store": session.store.uri})
    say(planned_table(turns, header, rows, stage))


def _announcement(tree: Tree, plans: Mapping[str, Arm], tokens: int) -> dict[str, str]:
    naive = tree.naive_tokens
    begun = [run for run in tree.runs.values() if run.committed]
    lines = {"tokens": f"{human(tokens)} to train"}
    if tree.shares:
        saved = f" ({1 - tokens / naive:.0%} saved)" if tokens < naive and not begun else ""
        lines["edges"] = f"{sum(1 for _ in tree.edges())}, each trained once"
        lines["tokens"] += f"; {human(naive)} if each run were trained by itself{saved}"
    if begun:
        there = sum(run.first * run.trajectory.step_tokens for run in begun)
        lines["there already"] = f"{human(there)} tokens of {len(begun)} runs"
    if replaced := sum(1 for arm in plans.values() if arm.replaces):
        lines["rebuild"] = f"replaces {replaced} of them, each when its work begins"
    return lines


def _known(tree: Tree, models: Mapping[str, ModelConfig]) -> dict[TreeRun, ModelConfig]:
    """The models of the runs. Args: models, of those whose plan is known; others have their own configs' or, as long as
    only the store knows it, none.
    """
    found = {run: models.get(run.config.name) or run.config.model for run in tree.runs.values()}
    return {run: model for run, model in found.items() if model is not None}


def _flops(tree: Tree, models: Mapping[str, ModelConfig]) -> float:
    """What the edges of runs that share steps take."""
    known = _known(tree, models)
    edges = (edge for edge in tree.edges() if edge.run in known)
    return sum(edge.tokens * flops_per_token(known[edge.run], edge.run.config.batch.sequence_length) for edge in edges)


def _costs(tree: Tree, models: Mapping[str, ModelConfig], flops: float) -> dict[str, str]:
    """Memory, hours and money of what is to be trained."""
    known = _known(tree, models)
    if len(known) < len(tree.runs):
        return {}
    setups = [setup_of_config(run.stage, run.config, model) for run, model in known.items()]
    largest = max((memory.predict(setup, memory.plan_keep(setup, math.inf)) for setup in setups), key=lambda m: m.total)
    lines = {"memory": f"{largest.total / memory.GIB:.3g} GiB in each process of a lane, at most"}
    cluster = next(iter(known)).config.cluster
    device = _device(cluster)
    if device is None:
        return {**lines, "hours": "not known of this GPU: cluster.accelerator names a file of conf/device"}
    name, hours = _device_name(cluster), flops / (device.peak * device.mfu.value) / 3600
    price = "" if device.usd_per_hour is None else f", ${hours * device.usd_per_hour:.2f}"
    how = f"of one {name}{price}, at an MFU of {device.mfu.value:.0%} (conf/device/{name}.yaml)"
    return {**lines, "hours": f"{duration(hours * 3600)} {how}"}


def _device(cluster: ClusterConfig) -> Any:
    """What is known of the device that these lanes train on; None where it is not."""
    name = _device_name(cluster)
    return read_device(name) if name in device_names() else None


def _device_name(cluster: ClusterConfig) -> str:
    return (cluster.accelerator or "").lower() if cluster.gpus_per_worker else "cpu"


def _begins(run: TreeRun, arm: Arm | None) -> str:
    if arm is not None and arm.finished:
        return "finished already"
    if run.committed:
        return f"its own step {run.first}"
    if run.adopted is not None:
        return str(run.adopted)
    return "its beginning" if arm is None or not arm.replaces else "its beginning, anew"


def _told(edge: EdgeEnded, over: int, total: int) -> str:
    if edge.error is not None:
        return f"   {edge.run} stands at step {edge.step} and is over ({over} of {total}): {_in_a_line(edge.error)}"
    if edge.last:
        return f"   {edge.run} is finished at step {edge.step} ({over} of {total})"
    return f"   {edge.run} stands at step {edge.step}, for {len(edge.chains)} runs"


def _in_a_line(error: BaseException) -> str:
    word = "diverged: " if isinstance(error, TrainingError) else ""
    return word + (without_secrets(str(error)).strip().splitlines() or [type(error).__name__])[0]


# ── Other workflows ───────────────────────────────────────────────────────────────────────────────────────────────────


def sweep_in_turn(
    workflow: str, turns: Sequence[Turn], session: Session, run: Callable[[Any, Session], Any]
) -> list[Artifact]:
    """Run the turns one after another, in one session. Returns: what they left.

    Raises: one error with all that their own dry runs refuse; DryRun; at the end the first error.
    """
    began = time.monotonic()
    rebuild, turns = _rebuild(workflow, turns, session)
    if workflow in _PLANS and not session.config.dry_run:
        mistakes: dict[int, TrunklineError] = {}
        to_come: set[str] = set()
        if workflow in _TRIES:
            say(f"   planning {len(turns)} turns, each of which tries a sample of its sources")
        for i, turn in _each(turns, session):
            if _reads(turn) & to_come:  # planned when its turn comes
                continue
            own = f"{'tokens' if workflow == 'tokenize' else workflow}/{turn.config.name}"
            if not session.store.storage.exists(f"{own}/manifest.json"):
                to_come.add(own)
            try:
                with hushed():
                    run(dataclasses.replace(turn.config, dry_run=True), session)
            except DryRun as dry:
                if dry.refused is not None:
                    mistakes[i] = dry.refused
            except TrunklineError as error:
                mistakes[i] = error
        tell_all(mistakes, [turn.varied for turn in turns])
    outcomes: list[Outcome] = []
    failed: dict[int, TrunklineError] = {}
    for i, turn in _each(turns, session):
        since = f"  ({duration(time.monotonic() - began)} since the start)" if i else ""
        say(f"\n━━ {turn.label.replace(' ', f' {workflow} ', 1)}{since}")
        artifact: Any = None
        try:
            artifact = run(turn.config, session)
            rebuild.done(f"{workflow}/{turn.config.name}")
        except DryRun as dry:
            artifact = dry.foreseen
            if dry.refused is not None:
                failed[i] = dry.refused
        except (StorageError, ClusterError):
            say(f"   {len(outcomes) - len(failed)} of {len(turns)} arms are finished; the others would fail alike")
            raise
        except TrunklineError as error:
            failed[i] = error
        except Exception as error:
            failed[i] = _fault(error)
        if i in failed:
            say(f"   {turn.label} ended with an error: {_in_a_line(failed[i])}")
        there = artifact if isinstance(artifact, Artifact) else None
        outcomes.append(Outcome(turn, there, _in_a_line(failed[i]) if i in failed else ""))
    if session.config.dry_run:
        rows = [[_state(outcome)] for outcome in outcomes]
        say("\n" + planned_table(turns, ["there already"], rows, workflow) + "\n")
        tell_all(failed, [turn.varied for turn in turns])
        raise DryRun
    if not failed:
        rebuild.over()
    if session.group is not None:  # those that were finished before as well
        made = [outcome.artifact.folder for outcome in outcomes if outcome.artifact is not None]
        join_group(session.config.tracking, session.store, made, session.group)
    if any(outcome.artifact is not None for outcome in outcomes) or failed:
        text, _, ranking = outcome_table(outcomes, session.store, trained=False)
        say("\n" + text + "\n")
        if ranking.why:
            say(f"   {ranking.why}")
        done = [outcome.artifact.folder for outcome in outcomes if outcome.artifact is not None]
        session.tell_group(done if workflow == "evaluate" else ())
    if failed:
        first = next(iter(failed))
        raise _at_the_end(
            failed[first],
            f"{len(failed)} of {len(turns)} turns ended with an error; the same command again goes on with them. First "
            f"{turns[first].label}: {failed[first]}",
        )
    return [outcome.artifact for outcome in outcomes if outcome.artifact is not None]


def _each(turns: Sequence[Turn], session: Session) -> Iterator[tuple[int, Turn]]:
    """The turns, for each of which the session is as its own command would have it."""
    for i, turn in enumerate(turns):
        session.config, session.made_with = turn.config, turn.command
        session.experiment = _experiment([turn])
        session.within_recipe, session.foreseen_bytes = False, None
        yield i, turn


def _reads(turn: Turn) -> set[str]:
    """The artifacts that a turn names as what it reads."""
    named: list[Any] = [getattr(turn.config, key, None) for key in ("data", "tokens", "parent")]
    named += getattr(turn.config, "known", ())
    return {value.partition("@")[0] for value in named if isinstance(value, str)}


def _state(outcome: Outcome) -> str:
    return outcome.error or ("finished already" if outcome.artifact is not None else "")


def _at_the_end(first: Exception, told: str) -> TrunklineError:
    """The error that ends a sweep, with the exit code of the first of its arms."""
    if not isinstance(first, TrunklineError):
        raised = TrunklineError(told)
        raised.exit_code = 1
        return raised
    raised = type(first)(told)
    raised.exit_code = first.exit_code
    return raised


def _fault(error: Exception) -> TrunklineError:
    """An error that no user caused: told whole, and the next turn has its chance."""
    if (told := disk_error(error)) is not None:
        return told
    print(without_secrets(traceback.format_exc()), file=sys.stderr)
    fault = TrunklineError(f"this is a fault in Trunkline, not in your input: {_in_a_line(error)}")
    fault.exit_code = 1
    return fault
