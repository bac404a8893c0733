"""Run a workflow on a Ray cluster, from here: check it, send the code, follow it to its end.

    python -m workflows.submit cluster=aws -- workflows.pretrain +experiment=minicpm_2b
    python -m workflows.submit cluster=aws dry_run=true -- workflows.pretrain …      what would be sent; nothing is
    python -m workflows.submit cluster=aws -- workflows.pretrain -m seed=0,1,2       a sweep is one job
    python -m workflows.submit list                                                  the cluster's jobs
    python -m workflows.submit follow=ID                                             from another shell, or after Ctrl-C
    python -m workflows.submit stop=ID

What stands before `--` is this command's; `cluster=…` and `cluster.…=…` among it are handed on to the workflow. Before
anything is sent the workflow's config is composed here, so its mistakes show here, and its workers are compared with
the batch and, where `instance_type` and `max_nodes` say what the cluster is made of, with the machines.

The cluster is reached at 127.0.0.1:8265, where the tunnel ends (`terraform output -raw tunnel_command`), or at
`address=`. Its own environment says where the store and the tracking server are. A driver that is lost with its node is
started again (`retries`); so is one whose head was replaced. Ctrl-C leaves the job running.

Exit code: the workflow's own (0 done, 1 fault, 2 config, 3 storage, 4 cluster); 4 also when the job was lost too often
or the cluster is out of reach; 130 when the job was stopped, or Ctrl-C ended the following.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import shlex
import sys
import time
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.cluster.outside.instances import Instance, known
from pipelines.cluster.outside.jobs import Jobs, check_address
from pipelines.cluster.outside.package import Package, collect, pack, with_folder
from pipelines.cluster.outside.secrets import check_names
from pipelines.cluster.outside.submission import Submission, see_through
from pipelines.config import Amount, Positive, Whole, WorkflowConfig, config_class, runtime
from pipelines.display.progress import announce, duration, human, say, table
from pipelines.errors import ConfigError, TrunklineError
from pipelines.tracking.origin import handed_on as handed_on_origin
from pipelines.train.plan import machines
from pipelines.train.stages import STAGES
from workflows.command_line import places
from workflows.command_line.composing import compose_config
from workflows.command_line.turns import SWEEPS, Turn, asks_for_sweep, compose_turns, group_of, tell_all
from workflows.entry import begin, entry, fail
from workflows.running.arms import planned_table
from workflows.running.session import DryRun, Session

if TYPE_CHECKING:
    from pipelines.train.spec import TrainConfig

_ELSEWHERE = ("submit", "cluster_check")
_SHOWN = 80  # characters of a command in the list of jobs


@config_class
class SubmitConfig(WorkflowConfig):
    """How a workflow is sent, and what of an earlier job to look at."""

    name: str = runtime("auto")  # of the job; auto: the workflow's, its name's and the time
    action: Literal["submit", "list"] = "submit"
    follow: str | None = None  # a job's id
    stop: str | None = None  # a job's id
    address: str | None = None  # of the Jobs API; null: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265
    token_secret: str = "trunkline/ray"  # AWS secret that holds the cluster's token
    working_dir: str = "."
    excludes: list[str] = field(default_factory=list)  # besides .gitignore and .rayignore, in their syntax
    secrets: list[str] = field(default_factory=list)  # names; values are looked up on the cluster
    retries: Whole = 3
    patience_minutes: Positive = 15
    detach: bool = False
    driver: dict[str, Amount] | None = None  # resources of the driver; null: it sits on the head
    instance_type: str | None = None
    max_nodes: Whole | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(self.secrets)
        check_address(self.address)
        for key in ("follow", "stop"):
            if getattr(self, key) == "":
                raise ConfigError(f"{key} is empty; expected a job's id: `list` shows those there are")
        if self.retries < 0 or self.patience_minutes <= 0:
            raise ConfigError(
                f"retries is {self.retries} and patience_minutes {self.patience_minutes:g}; expected 0 or more, and "
                "more than 0"
            )
        if self.max_nodes is not None and self.max_nodes < 1:
            raise ConfigError(f"max_nodes is {self.max_nodes}; expected the most GPU machines the cluster may have")


@dataclass(frozen=True)
class Target:
    """The workflow that is to run there."""

    workflow: str  # pretrain
    arguments: list[str]
    config: Any
    config_dirs: tuple[str, ...] = ()  # a lab's folders, as they lie in the package
    turns: tuple[Turn, ...] = ()  # of a sweep, which is one job; `config` is the first's

    @property
    def command(self) -> list[str]:
        folders = [word for folder in self.config_dirs for word in ("--config-dir", folder)]
        return [f"workflows.{self.workflow}", *folders, *(["-m"] if self.turns else []), *self.arguments]


def run(config: SubmitConfig, session: Session, command: Sequence[str] = (), handed_on: Sequence[str] = ()) -> None:
    """Submit and follow, or do what `list`, `follow` or `stop` says. Leaves by SystemExit with the job's exit code."""
    if config.action == "list" or config.follow or config.stop:
        _look(config, Jobs(config.address, token_command(config.token_secret)))
        return
    # ── Compose and validate what is to run there ─────────────────────────────────────────────────────────────────────
    target = compose_target(command, handed_on)
    instance = instance_named(config.instance_type)
    announcement = {"command": shlex.join(["python", "-m", *target.command]), **_store_line(target)}
    announcement |= _check_machines(target, instance, config.max_nodes)
    # ── What goes along ───────────────────────────────────────────────────────────────────────────────────────────────
    package, target = _with_configs(collect(Path(config.working_dir), config.excludes), target, config.working_dir)
    announcement["command"] = shlex.join(["python", "-m", *target.command])
    whose = config.working_dir if (Path(config.working_dir) / "workflows").is_dir() else "the code that runs here"
    announcement["package"] = f"{len(package.sizes):,} files, {human(package.bytes, 'B')} ({whose})"
    if config.secrets:
        announcement["secrets"] = ", ".join(config.secrets) + ": each node looks them up; only the names are sent"
    announcement["when lost"] = f"started again, at most {config.retries} times"
    announcement["driver"] = f"on a node with {config.driver}" if config.driver else "on the head"
    announce(f"submit {target.workflow}", announcement)
    if target.turns:
        say(planned_table(target.turns, [], [[] for _ in target.turns], target.workflow))
    if config.dry_run:
        raise DryRun
    # ── Send, and see it through ──────────────────────────────────────────────────────────────────────────────────────
    jobs = Jobs(config.address, token_command(config.token_secret))
    path = pack(package)
    submission = Submission(
        name=_name(config, target), command=_entrypoint(target, config.secrets), package=path.stem,
        secrets=config.secrets, driver=config.driver or {}, retries=config.retries, environment=handed_on_origin(),
    )  # fmt: skip
    say(f"   sending {human(path.stat().st_size, 'B')} to {jobs.address} (Ray {jobs.ray_version})")
    submission.start(jobs)
    say(f"   submitted {submission.name}")
    if config.detach:
        say(f"   follow it: python -m workflows.submit follow={submission.name}")
        return
    raise SystemExit(see_through(jobs, submission, 0, 60 * config.patience_minutes))


def compose_target(command: Sequence[str], handed_on: Sequence[str] = ()) -> Target:
    """The workflow that a command line names, its config composed here.

    Args: handed_on, overrides that it gets where it does not have its own.
    Raises: ConfigError, also with what the workflow itself would complain of.
    """
    words = list(command)
    while words and (words[0] == "-m" or re.fullmatch(r"(.*/)?(python[\d.]*|trunkline)", words[0])):
        words.pop(0)
    shipped = [name for name in places.workflows() if name not in _ELSEWHERE]
    if not words:
        raise ConfigError(
            "nothing to submit: name a workflow after --, e.g. python -m workflows.submit cluster=aws -- "
            f"workflows.pretrain +experiment=demo; there are {', '.join(shipped)}"
        )
    workflow, typed = words[0].removeprefix("workflows."), words[1:]
    if workflow not in shipped:
        raise ConfigError(
            f"{words[0]} is no workflow that runs on a cluster; there are {', '.join(shipped)}; any other command "
            "goes with `ray job submit --working-dir . -- …`"
        )
    sweeps = asks_for_sweep(typed)
    typed = [word for word in typed if not (sweeps and word in SWEEPS)]
    if strange := [word for word in typed if "=" not in word and not word.startswith("~")] or [
        word for word in typed if word.startswith("-")
    ]:
        raise ConfigError(f"{strange[0]}: a workflow that is submitted takes key=value, and -m for a sweep")
    own = {word.partition("=")[0].lstrip("+~") for word in typed}
    arguments = [*(word for word in handed_on if word.partition("=")[0] not in own), *typed]
    module = importlib.import_module(f"workflows.{workflow}")
    config_class = typing.get_type_hints(module.run)["config"]
    arguments = getattr(module, "written_out", list)(arguments)  # of one whose words Hydra would take for others
    if sweeps:
        turns = compose_turns(workflow, config_class, arguments)
        return Target(workflow, arguments, turns[0].config, turns=tuple(turns))
    return Target(workflow, arguments, compose_config(workflow, config_class, arguments))


def _with_configs(package: Package, target: Target, working_dir: str) -> tuple[Package, Target]:
    """A lab's folders of configs go along, and the job is told where they lie there."""
    folders: list[str] = []
    for number, lab in enumerate(places.labs()):
        package, inner = with_folder(package, lab, Path(working_dir), f"lab-conf-{number}")
        folders.append(inner)
    return package, dataclasses.replace(target, config_dirs=tuple(folders))


def _check_machines(target: Target, instance: Instance | None, max_nodes: int | None) -> dict[str, str]:
    """Compare what the workflow, or each turn of its sweep, takes with the machines.

    Returns: lines of the announcement; of a sweep those of its largest arm. Raises: ConfigError saying what to change.
    """
    if not (target.turns or stages_of(target)):
        return {}
    if not target.turns:
        checked = [machines.check_stage(*stage, instance, max_nodes) for stage in stages_of(target)]
        return {label: line for lines in checked for label, line in lines.items()}
    by_workers: list[tuple[int, dict[str, str]]] = []
    mistakes: dict[int, TrunklineError] = {}
    fewest = len(target.turns)
    for i, turn in enumerate(target.turns):
        try:
            for stage, config in stages_of(Target(target.workflow, [], turn.config)):
                workers = config.cluster.workers
                by_workers.append((workers, machines.check_stage(stage, config, instance, max_nodes)))
                if instance is not None and max_nodes is not None:
                    room = max_nodes * machines.workers_per_machine(config.cluster, instance) // workers
                    fewest = min(fewest, max(1, room))
        except TrunklineError as error:
            mistakes[i] = error
    tell_all(mistakes, [turn.varied for turn in target.turns])
    lines = {"arms": f"{len(target.turns)}, in one job"}
    if target.workflow in STAGES:
        at_once = f", {fewest} at once" if instance is not None and max_nodes is not None else ""
        lines["arms"] += f"{at_once or ', side by side where the cluster has room'}"
    for _, checked_lines in sorted(by_workers, key=lambda pair: pair[0]):
        lines |= checked_lines
    return lines


def stages_of(target: Target) -> list[tuple[str, TrainConfig]]:
    """The training stages that a workflow runs: itself, or those of a recipe."""
    if "pipelines.train.spec" not in sys.modules:  # the workflow's module has none of it, so neither has its config
        return []
    from pipelines.train.spec import TrainConfig

    if target.workflow == "recipe":
        from workflows.recipe import compose_stages

        composed = [(one.stage.workflow, one.config) for one in compose_stages(target.config)]
    else:
        composed = [(target.workflow, target.config)]
    return [(stage, config) for stage, config in composed if isinstance(config, TrainConfig)]


def instance_named(instance_type: str | None) -> Instance | None:
    """What is known of a type, asked of AWS where it is not listed. Raises: ConfigError for one that there is not."""
    if instance_type is None:
        return None
    instance = known(instance_type)
    if instance is None:
        from pipelines.cluster.outside.aws import describe_instance

        return describe_instance(instance_type)
    return instance


def token_command(secret: str) -> str:
    """The command that fetches the cluster's token to where Ray looks for it.

    Whoever reads the token may run code on the cluster: the file is its owner's alone (umask), whatever one that lies
    there was, and takes its place only when the token has come.
    """
    pick = "import json, sys; print(json.load(sys.stdin)['token'] or sys.exit('no token yet'), end='')"
    return (
        "(umask 077; mkdir -p ~/.ray && "
        f"aws secretsmanager get-secret-value --secret-id {shlex.quote(secret)} --query SecretString --output text "
        f'| python3 -c "{pick}" > ~/.ray/auth_token.new && mv ~/.ray/auth_token.new ~/.ray/auth_token)'
    )


def _store_line(target: Target) -> dict[str, str]:
    """Where results go. Raises: ConfigError for a store that would vanish with the job's working directory."""
    typed = [word.partition("=")[2] for word in target.arguments if word.startswith("store=")]
    if not typed:
        return {"store": "as TRUNKLINE_STORE says on the cluster"}
    if "://" not in typed[-1] and not Path(typed[-1]).is_absolute():
        raise ConfigError(
            f"store={typed[-1]} is relative, and a job runs in a temporary copy of the project: results would vanish "
            "with it; leave it to the cluster's TRUNKLINE_STORE, or pass store=s3://bucket/prefix"
        )
    return {"store": typed[-1]}


def _name(config: SubmitConfig, target: Target) -> str:
    own = group_of(target.workflow, target.turns) if target.turns else f"{target.workflow}-{target.config.name}"
    base = own if config.name == "auto" else config.name
    return f"{base}-{time.strftime('%m%d-%H%M%S')}" if config.name == "auto" else base


def _entrypoint(target: Target, names: Sequence[str]) -> str:
    """What the driver runs: exactly what plain `ray job submit` would, unless there are secrets to look up first."""
    words = ["pipelines.cluster.outside.secrets", *names, "--", *target.command] if names else target.command
    return shlex.join(["python", "-m", *words])


def _look(config: SubmitConfig, jobs: Jobs) -> None:
    if config.stop:
        was_running = jobs.stop(config.stop)
        say(
            f"   {config.stop} "
            + ("is asked to end; what it committed is kept" if was_running else "had ended already")
        )
        return
    if config.follow:
        submission, attempt = Submission.of(jobs.info(config.follow))
        raise SystemExit(see_through(jobs, submission, attempt, 60 * config.patience_minutes))
    rows = [
        [job.id, job.status, "" if job.exit_code is None else job.exit_code, _time(job.began),
         duration((job.ended or time.time()) - job.began) if job.began else "", _cut(job.command)]
        for job in jobs.all()
    ]  # fmt: skip
    if not rows:
        say(f"   {jobs.address} has no jobs yet")
        return
    say(table(("job", "status", "exit", "began", "took", "command"), rows))


def _cut(command: str) -> str:
    return command if len(command) <= _SHOWN else f"{command[: _SHOWN - 1]}…"


def _time(seconds: float | None) -> str:
    return time.strftime("%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def main() -> None:
    """Split the command line where the workflow begins; `list` may stand as a plain word."""
    typed = begin(sys.argv[1:])
    begins = [i for i, word in enumerate(typed) if word == "--" or word.startswith("workflows.")]
    cut = begins[0] if begins else len(typed)
    own, command = typed[:cut], [word for word in typed[cut:] if word != "--"]
    if own[-1:] == ["-m"] and re.fullmatch(r"(.*/)?python[\d.]*", own[-2] if len(own) > 1 else ""):
        own = own[:-2]  # of the workflow's command, where -- was left out
    if cut < len(typed) and asks_for_sweep(own):
        fail("-m stands behind the workflow that it repeats: … -- workflows.pretrain -m key=a,b (one job)", 2)
    own = ["action=list" if word == "list" else word for word in own]
    sys.argv[1:] = [*places.words(), *own]
    handed_on = [word for word in own if re.match(r"[+]*cluster(\.[\w.]+)?=", word)]
    entry(SubmitConfig, functools.partial(run, command=command, handed_on=handed_on), "submit", uses_store=False)()


if __name__ == "__main__":
    main()
