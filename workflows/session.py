"""What every entry script shares: Hydra in, errors out, the store, Ray when it is first needed, MLflow.

An entry script reads: compose → validate → announce → find a finished output → load inputs → work → commit → print the
next command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pipelines.cluster.cluster import Cluster, ShardMap, inside_job
from pipelines.config import WorkflowConfig, parse, plain
from pipelines.display.progress import announce, duration, end_live_line, reopen_closed_streams, say
from pipelines.errors import ArtifactError, CheckpointError, ConfigError, DataError, StorageError, TrunklineError
from pipelines.identity import identity as identity_of
from pipelines.store.artifacts import Artifact, ArtifactStore, Draft, Making, aside, compare_files
from pipelines.store.disk import disk_error, temporary_folder
from pipelines.store.lease import Lease
from pipelines.tracking.tracker import Tracker, artifact_of_run, delivering, open_tracker
from pipelines.uris import without_secrets
from workflows.explain import CONF, explain, follow_all

C = TypeVar("C", bound=WorkflowConfig)
# the artifact keeps the resolved config, so Hydra's own output folders and log files are not wanted
_HYDRA = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]


class DryRun(Exception):
    """Raised after the announcement when `dry_run=true`: nothing was started.

    Attributes: held, what the command would have got: the finished artifact, or a draft; None where that is not known.
    """

    def __init__(self, held: Artifact | Draft | None = None):
        super().__init__()
        self.held = held


class Session:
    """One command's surroundings; the recipe shares one session, so one Ray, between all its stages."""

    def __init__(
        self,
        config: WorkflowConfig,
        experiment: str | None = None,
        uses_store: bool = True,
        made_with: str | None = None,
    ):
        """Args: experiment, the one the command line named, so that the next command can name it too; uses_store,
        whether the store is here and has to answer before any work; made_with, the command as typed, which artifacts
        record."""
        if uses_store and inside_job() and "://" not in config.store and not Path(config.store).is_absolute():
            raise ConfigError(
                f"store={config.store} is relative, and a Ray job runs in a temporary copy of the project: "
                "results would vanish with it; pass store=$PWD/store (one machine) or store=s3://bucket/prefix"
            )
        self.config = config
        self.experiment = experiment
        self.made_with = made_with
        self.within_recipe = False  # the recipe runs the next command itself
        self.store = ArtifactStore(config.store)
        if uses_store and not config.dry_run:
            self.store.storage.check()
        self.began = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._cluster: Cluster | None = None
        self._leases: dict[str, Lease] = {}
        self._unstarted: set[str] = set()  # claimed, and nothing written yet

    def __enter__(self) -> Session:
        if not self.config.dry_run:
            self._stack.enter_context(delivering(self.config.tracking, self.store))
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._stack.close()
        finally:
            for folder in list(self._leases):
                self._release(folder)

    @property
    def cluster(self) -> Cluster:
        """Ray, started or joined at the first use."""
        if self._cluster is None:
            self._cluster = self._stack.enter_context(Cluster(self.config.cluster))
            self._cluster.check_reach(self.store.storage)
            tracking = self.config.tracking
            sqlite = tracking.enabled and (tracking.uri or "sqlite").startswith("sqlite")
            if sqlite and (nodes := self._cluster.nodes()) > 1:
                raise ConfigError(
                    f"this cluster has {nodes} nodes, and tracking.uri={tracking.uri} is a SQLite file that only "
                    "one machine may write: set tracking.uri=http://your-mlflow:5000, or tracking.enabled=false"
                )
        return self._cluster

    @property
    def map_shards(self) -> ShardMap:
        """Shard functions over Ray tasks."""
        return self.cluster.map_shards

    def resolve(self, reference: str) -> str:
        """`kind/name[@step]` as it is; an MLflow run id becomes the artifact that run made."""
        if len(reference) == 32 and "/" not in reference:
            return artifact_of_run(reference, self.config.tracking, self.config.store)
        return reference

    def begin(
        self,
        kind: str,
        config: WorkflowConfig,
        announcement: Mapping[str, Any],
        inputs: Iterable[Artifact] = (),
        code: Iterable[str] = (),
        identity: Any = None,
    ) -> Artifact | Draft:
        """Announce the plan, then claim the artifact or return it finished; nothing is written or deleted until
        `start`.

        Args:
            kind: kind of artifact; its name is `config.name`.
            config: this workflow's config; `identity` replaces its own where that is not simply `identity(config)`.
            announcement: the plan, printed as aligned lines, by their labels.
            inputs: artifacts read. code: modules whose source decides the result.

        Raises: DryRun when the config asks for one; ArtifactError when another command is making it now.
        """
        self.began = time.monotonic()
        folder = f"{kind}/{config.name}"
        inputs = list(inputs)
        if any(artifact.folder == folder for artifact in inputs):
            raise ConfigError(f"{folder} would be made from itself: give the new one another name=")
        if config.on_change == "rebuild" and (files := len(self.store.storage.keys(folder))):
            announcement = {**announcement, "rebuild": f"replaces the {files:,} files of {folder} when its work begins"}
        announce(folder, {**announcement, "store": self.store.uri})
        own = identity_of(config) if identity is None else identity
        making = Making(own, tuple(inputs), tuple(code), self.made_with, config)
        if config.dry_run:
            raise DryRun(self._foresee(kind, config, making))
        if config.on_change == "rebuild" or self.store.find(folder) is None:  # one that is finished may be read by many
            self.hold(folder)
        if folder in self._leases and self.store.restore(folder):
            say(f"   the rebuild of {folder} was killed before it had made anything: what it had set aside is back")
        draft = self.store.prepare(kind, config.name, making, config.on_change)
        if isinstance(draft, Draft):
            self._unstarted.add(folder)
            if "rebuild" in draft.claim and not draft.replaces and self.store.storage.exists(f"{folder}/claim.json"):
                say(f"   the rebuild that began at {draft.claim['rebuild']} was interrupted: it goes on")
        else:
            say(f"   finished already ({draft.manifest['created']}, fingerprint {draft.fingerprint}): reused")
            self._forget_replaced(folder)
            self._release(folder)
        return draft

    def _forget_replaced(self, folder: str) -> None:
        """Delete what a rebuild has replaced, where it was killed right after its commit."""
        storage = self.store.storage
        if not storage.moves:
            return
        storage.sweep(aside(folder.split("/")[0]))  # of deletions that were killed
        if not storage.keys(aside(folder)):
            return
        with contextlib.suppress(ArtifactError):  # another command is making it anew just now: that one needs it
            self.hold(folder)
            if self.store.find(folder) is not None:
                storage.delete(aside(folder))

    def _foresee(self, kind: str, config: WorkflowConfig, making: Making) -> Artifact | Draft | None:
        """What a command that only plans would get, said in a line; the plan is worth seeing also where the name is
        taken.
        """
        try:
            foreseen = self.store.prepare(kind, config.name, making, config.on_change)
        except ArtifactError as error:
            say(f"   without dry_run this is refused: {error}")
            return None
        if isinstance(foreseen, Artifact):
            made = f"{foreseen.manifest['created']}, fingerprint {foreseen.fingerprint}"
            say(f"   {foreseen.folder} is finished already ({made})")
        return foreseen

    def start(self, draft: Draft) -> None:
        """What `begin` put off: take down what a rebuild replaces, and write the claim. `track` does it, just before
        the work.
        """
        if draft.folder in self._unstarted:
            self._unstarted.remove(draft.folder)
            draft.start()

    def hold(self, folder: str) -> None:
        """Keep other commands from making the same artifact until it is done or this command ends."""
        if folder not in self._leases:
            self._leases[folder] = Lease(self.store.storage, folder)

    def _release(self, folder: str) -> None:
        if (lease := self._leases.pop(folder, None)) is not None:
            lease.release()

    @contextlib.contextmanager
    def track(
        self,
        draft: Draft,
        config: WorkflowConfig,
        inputs: Iterable[Artifact] = (),
        meanwhile: Callable[[], Any] | None = None,
    ) -> Iterator[Tracker]:
        """The MLflow run of this artifact: the same run after a resume, an honest end whatever happens.

        Args: meanwhile, done while the run is being opened: importing MLflow and asking its server takes seconds.
            Before a rebuild deletes anything it is done first: a cluster that cannot start must not cost what is there.
        """
        parents = {artifact.folder: artifact for artifact in inputs}
        status = "FAILED"
        if draft.replaces:
            for artifact in parents.values():
                artifact.compare_sizes()
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
        with self._replacing(draft), ThreadPoolExecutor(1, "mlflow-open") as pool:
            self.start(draft)
            opening = pool.submit(open_tracker, self.config.tracking, self.store, draft.folder, plain(config), parents)
            try:
                if meanwhile is not None:
                    meanwhile()
                yield opening.result()
                status = "FINISHED"
            except (KeyboardInterrupt, SystemExit):  # Ctrl-C; SIGTERM, of which Ray makes a SystemExit
                status = "KILLED"
                raise
            finally:
                opening.result().end(status)

    @contextlib.contextmanager
    def _replacing(self, draft: Draft) -> Iterator[None]:
        """A rebuild that is refused, or ended before it has published anything, puts back what it was to replace.

        The pieces of an earlier command, with which this one goes on, stay also then: what was refused may be mended.
        """
        try:
            yield
        except BaseException as error:
            refused = draft.replaces and isinstance(error, (ConfigError, DataError, ArtifactError, CheckpointError))
            # the error that is on its way says more than one of the store, and the next command puts it back as well
            with contextlib.suppress(StorageError):
                if self.store.restore(draft.folder, refused):
                    say(f"   {draft.folder} stands as it was before the rebuild")
                else:
                    self.tell_of_kept(draft.folder)
            raise

    def tell_of_kept(self, folder: str) -> None:
        """Say where the artifact lies that a rebuild under way has set aside, if it has."""
        storage, kept = self.store.storage, aside(folder)
        if storage.moves and storage.keys(kept) and not storage.exists(f"{folder}/manifest.json"):
            say(
                f"   the {folder} of before is kept as {storage.uri}/{kept} until the new one is finished; move it "
                "back to have it again, or delete it where its room is needed"
            )

    def compare(self, inputs: Iterable[Artifact], folder: str) -> None:
        """Start Ray; where the rebuild of `folder` will delete what it replaces, compare what it reads with its
        checksums first.

        Where it can be moved the old artifact is kept until the new one is finished, and that needs no pass of its own.
        """
        parts = [part for artifact in inputs for part in artifact.parts()]
        map_shards = self.map_shards
        if not self.store.storage.movable(folder):
            map_shards(compare_files, parts, "compare checksums of what is read")

    def done(self, artifact: Artifact, *next_commands: str) -> Artifact:
        """Say what was committed and what to run next; other commands may have the name again."""
        self._release(artifact.folder)
        say(f"   committed {artifact.folder} in {duration(time.monotonic() - self.began)}")
        for line in () if self.within_recipe else next_commands:
            say(f"   next: {self._in_experiment(line)}")
        return artifact

    def _in_experiment(self, command: str) -> str:
        """The command on this store, within the experiment that this one ran in where that has an overlay for it."""
        workflow = command.split()[2].removeprefix("workflows.") if command.startswith("python -m workflows.") else ""
        if workflow and self.config.store != os.environ.get("TRUNKLINE_STORE", "store"):
            path = (
                self.config.store
                if re.fullmatch(r"[\w/.:-]+", self.config.store, re.ASCII)
                else repr(self.config.store)
            )
            store = shlex.quote(f"store={path}")
            command = command.replace(f"workflows.{workflow}", f"workflows.{workflow} {store}", 1)
        if self.experiment is None or not (CONF / "experiment" / self.experiment / f"{workflow}.yaml").exists():
            return command
        return command.replace(f"workflows.{workflow}", f"workflows.{workflow} +experiment={self.experiment}", 1)


def _experiment_named(arguments: Sequence[str]) -> str | None:
    """`demo` when the command line says `+experiment=demo`."""
    named = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith("experiment=")]
    return named[-1].split("/")[0] if named else None


def entry(
    config_class: type[C], run: Callable[[C, Session], Any], config_name: str, uses_store: bool = True
) -> Callable[[], None]:
    """The `main` of a workflow: Hydra composes, the dataclass validates, a user's mistake ends without a traceback.

    Exit codes: 0 done, 1 a fault of ours (traceback), 2 a mistake in config, data or names, 3 storage, 4 cluster, 130
    interrupted.
    """

    def main() -> None:
        reopen_closed_streams()
        if {"-h", "--help"} & set(sys.argv[1:]):
            try:
                _help(config_name)
            except TrunklineError as error:  # of a full disk that the help goes to
                _fail(str(error), error.exit_code)
            return
        import hydra
        from hydra.errors import HydraException
        from omegaconf import DictConfig, OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        _register_resolvers()
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing and exiting

        failures: list[TrunklineError] = []
        begun: list[bool] = []
        experiment = _experiment_named(sys.argv[1:])

        @hydra.main(version_base=None, config_path=str(CONF), config_name=config_name)
        def composed(choices: DictConfig) -> None:
            begun.append(True)
            try:
                config = _parsed(config_class, OmegaConf.to_container(choices, resolve=True), sys.argv[1:])
                with Session(config, experiment, uses_store, _typed(config_name)) as session:
                    run(config, session)
            except DryRun:
                say("   dry run: nothing was started")
            except TrunklineError as error:  # kept from Hydra, which would print a line of its own
                failures.append(error)
                _complain(str(error))
            except Exception as error:
                if (told := disk_error(error)) is None:
                    raise
                failures.append(told)
                _complain(str(told))

        try:
            _check_keys(config_class, sys.argv[1:])
            sys.argv[1:] = _arguments([_experiment(argument, config_name) for argument in sys.argv[1:]])
            composed()
            if failures:
                sys.exit(failures[0].exit_code)
        except TrunklineError as error:
            _fail(str(error), error.exit_code)
        except (HydraException, OmegaConfBaseException) as error:
            mistyped = follow_all(config_class, sys.argv[1:])
            _fail(mistyped or explain(error, config_class, lambda where: _names(config_name, sys.argv[1:], where)), 2)
        except KeyboardInterrupt:
            _fail("interrupted; committed work is kept: run the same command to go on", 130)
        except Exception as error:
            if not begun:  # raised while composing: OmegaConf raises ValueErrors too, which name no key
                _fail(follow_all(config_class, sys.argv[1:]) or explain(error, config_class), 2)
            print(without_secrets(traceback.format_exc()), file=sys.stderr)
            _fail("this is a fault in Trunkline, not in your input; committed work is kept", 1)

    return main


def _parsed(config_class: type[C], values: Any, overrides: Sequence[str]) -> C:
    """The config; an unknown first key of an override is told with groups and experiments beside the config's own
    keys.
    """
    try:
        return parse(config_class, values)
    except ConfigError as error:
        first = re.match(r"unknown key [^.;]+;", str(error))
        raise ConfigError((first and follow_all(config_class, overrides)) or str(error)) from error


def _check_keys(config_class: type, typed: Sequence[str]) -> None:
    """Raises: ConfigError for a key that is written as an option, `--dry-run` or `--name=x`, and for none, as in `name
    =x`.
    """
    fields = {field.name: field.type for field in dataclasses.fields(config_class)}
    for argument in typed:
        key, _, value = argument.partition("=")
        if not key.strip("+~. "):
            raise ConfigError(f"{argument!r}: expected key=value, without spaces around the =")
        name = key.lstrip("-").replace("-", "_")
        # `--run` by itself is an option of Hydra's
        if key.startswith("--") and name.split(".")[0] in fields and argument != "--run":
            value = value or ("true" if fields[name.split(".")[0]] in (bool, "bool") else "…")
            raise ConfigError(f"{argument}: keys are written without dashes: {name}={value}")


def _typed(workflow: str) -> str:
    """The command that Hydra composed, of a sweep this turn's: what makes the same artifact again, but for
    `on_change=`.

    Nothing of `tracking.` is in it: an address may hold a password, and it decides nothing of the artifact. Nor is
    where a run once went back to: who makes it anew does not go there.
    """
    from hydra.core.hydra_config import HydraConfig

    given = [
        re.sub(r"^(\+?experiment=[^/]+)/.*", r"\1", override)
        for override in HydraConfig.get().overrides.task
        if not override.lstrip("+~").startswith(("on_change=", "dry_run=", "tracking.", "checkpoint.resume="))
    ]
    return shlex.join(["python", "-m", f"workflows.{workflow}", *given])


def _arguments(typed: Sequence[str]) -> list[str]:
    """Overrides before options, as Hydra's argparse needs them: it takes one unbroken row of overrides and no
    second.
    """
    overrides = [argument for argument in typed if argument[0:1] != "-" and ("=" in argument or argument[0:1] == "~")]
    options = [argument for argument in typed if argument not in overrides]
    sweeps = str(temporary_folder() / "trunkline-sweeps").replace("\\", "\\\\").replace("'", "\\'")
    return [*_HYDRA, f"hydra.sweep.dir='{sweeps}'", *overrides, *options]


def _help(workflow: str) -> None:
    """What the command does, its keys with their defaults, and what can be chosen."""
    say((sys.modules["__main__"].__doc__ or "").strip())
    say(f"\nKeys and defaults (conf/{workflow}.yaml); change any with key=value or group.key=value:\n")
    blocks, groups, bases = _keys_of(workflow)
    say("\n".join(line for block in blocks.values() for line in block))
    for base in bases:
        shared, shared_groups, _ = _keys_of(base)
        say(f"\nKeys that others have too (conf/{base}.yaml):\n")
        say("\n".join(line for key, block in shared.items() if key not in {*blocks, *groups} for line in block))
        groups += shared_groups
    say("\nChoices, as group=choice:\n")
    for group in groups:
        say(f"    {group:<10} {', '.join(sorted(path.stem for path in (CONF / group).glob('*.yaml')))}")
    experiments = sorted(path.parent.name for path in CONF.glob(f"experiment/*/{workflow}.yaml"))
    say(f"\nExperiments: {', '.join(f'+experiment={name}' for name in experiments) or 'none for this workflow'}")
    say(
        "Also: dry_run=true (the plan, nothing started), --cfg job (the composed config), -m key=a,b (a sweep; vary "
        "name too)"
    )


def _keys_of(name: str) -> tuple[dict[str, list[str]], list[str], list[str]]:
    """What a YAML of conf/ states: the lines of each of its keys, indented; the groups it chooses from; the files it
    builds on.
    """
    blocks: dict[str, list[str]] = {}
    for line in (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key = line.partition(":")[0] if line[0] != " " else list(blocks)[-1]
            blocks.setdefault(key, []).append(f"    {line}")
    listed = [line.strip("- /").split("#")[0].strip() for line in blocks["defaults"][1:] if "_self_" not in line]
    groups = [entry.partition(":")[0] for entry in listed if ":" in entry]
    return blocks, groups, [entry for entry in listed if ":" not in entry]


def compose_config(workflow: str, config_class: type[C], overrides: Sequence[str]) -> C:
    """Another workflow's config, composed as its own command line would: how the recipe configures its stages."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    _check_keys(config_class, overrides)
    _register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        choices = compose(workflow, [_experiment(override, workflow) for override in overrides])
    return _parsed(config_class, OmegaConf.to_container(choices, resolve=True), overrides)


def _register_resolvers() -> None:
    """`${dashes:pretrain/demo@step-240}` in a YAML is `pretrain-demo-step-240`: a name made of a reference."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("dashes", lambda text: re.sub("[/@]", "-", text), replace=True)


def _experiment(argument: str, workflow: str) -> str:
    """`+experiment=demo` as `+experiment=demo/pretrain`: an experiment is a folder with one overlay per workflow."""
    key, _, name = argument.partition("=")
    folder = CONF / "experiment" / name
    if key.lstrip("+") != "experiment" or "/" in name or "," in name:
        return argument
    if not name or not folder.is_dir():
        there = sorted(path.name for path in (CONF / "experiment").iterdir())
        close = difflib.get_close_matches(name, there, n=1)
        raise ConfigError(
            f"{argument}: no such experiment; there are {', '.join(there)}"
            + (f": did you mean {key}={close[0]}?" if close else "")
        )
    if not (folder / f"{workflow}.yaml").exists():
        raise ConfigError(
            f"{argument} has no overlay for {workflow}; it has "
            f"{', '.join(sorted(path.stem for path in folder.glob('*.yaml')))}"
        )
    return f"+experiment={name}/{workflow}"


def _names(workflow: str, arguments: Sequence[str], where: str) -> list[str]:
    """The keys that the composed config has under a dotted path, without the overrides of what is under it; none where
    it fails.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    kept = [
        argument for argument in arguments if argument[0:1] != "-" and not argument.startswith((f"{where}.", "hydra"))
    ]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            return list(OmegaConf.select(compose(workflow, kept), where) or ())
    except Exception:  # another mistake on the same command line
        return []


def _complain(message: str) -> None:
    end_live_line()
    with contextlib.suppress(OSError):  # nobody can read it; the exit code tells
        print(f"error: {without_secrets(message)}", file=sys.stderr, flush=True)


def _fail(message: str, code: int) -> NoReturn:
    _complain(message)
    sys.exit(code)
