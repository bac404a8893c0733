"""What every entry script shares while it works: the store, Ray when it is first needed, MLflow, leases.

An entry script reads: compose → validate → announce → find a finished output → load inputs → work → commit → print the
next command. A `Session` is what the middle of it goes through: `begin`, `track`, `done`. Composing is in
`composing.py`; errors and exit codes are in `entry.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pipelines.cluster.cluster import Cluster, ShardMap, check_answers, inside_job
from pipelines.config import WorkflowConfig, plain
from pipelines.display.progress import announce, duration, say
from pipelines.errors import (
    ArtifactError,
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    StorageError,
    TrunklineError,
)
from pipelines.identity import decisive
from pipelines.identity import identity as identity_of
from pipelines.store.artifact import Artifact, compare_files
from pipelines.store.artifacts import ArtifactStore
from pipelines.store.draft import Draft, Making
from pipelines.store.lease import Lease, check_free
from pipelines.store.ways_out import aside_folder
from pipelines.tracking.account import About
from pipelines.tracking.pages import Asked, Comparison, comparison
from pipelines.tracking.place import tracking_uri
from pipelines.tracking.records import replaced_run
from pipelines.tracking.tracker import Tracker, artifact_of_run, delivering, open_tracker
from pipelines.train.checkpoint.lineage import Run
from pipelines.train.network.architecture import ModelConfig, parameter_counts
from pipelines.train.results.heldout import measures
from pipelines.train.stages import TRAINED
from pipelines.uris import without_secrets
from workflows.command_line import places
from workflows.running.remade import remade_by


class DryRun(Exception):
    """Raised after the announcement when `dry_run=true`: nothing was started.

    Attributes: foreseen, what the command would have got: the finished artifact, or a draft; None where that is not
        known; refused, with what the command itself would end: the plan is worth seeing also where its name is taken.
    """

    def __init__(self, foreseen: Artifact | Draft | None = None, refused: TrunklineError | None = None):
        super().__init__()
        self.foreseen, self.refused = foreseen, refused


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
        self.foreseen_bytes: float | None = None  # of text, that the corpus of a recipe's dry run will have
        self.within_recipe = False  # the recipe runs the next command itself
        self.group: str | None = None  # what MLflow calls the runs of this sweep together
        self.store = ArtifactStore(config.store)
        self.store.how_made = self._how_made
        if uses_store:
            self.store.storage.check()
        self.began = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._cluster: Cluster | None = None
        self._leases: dict[str, Lease] = {}
        self._unstarted: set[str] = set()  # claimed, and nothing written yet
        self._trackers: dict[str, Tracker] = {}  # of what this command has made

    def __enter__(self) -> Session:
        if not self.config.dry_run:
            self._stack.enter_context(delivering(self.config.tracking, self.store))
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            self._stack.close()
        finally:
            for folder in list(self._leases):
                self.release(folder)

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

    def check_cluster(self) -> None:
        """Raises: ClusterError when nobody answers where Ray is to be joined. Ray itself is not needed for it."""
        if self._cluster is None:
            check_answers(self.config.cluster)

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
        on_ray: bool = False,
    ) -> Artifact | Draft:
        """Announce the plan, then claim the artifact or return it finished; nothing is written or deleted until
        `start`.

        Args:
            kind: kind of artifact; its name is `config.name`.
            config: this workflow's config; `identity` replaces its own where that is not simply `identity(config)`.
            announcement: the plan, printed as aligned lines, by their labels.
            inputs: artifacts read. code: modules whose source decides the result.
            on_ray: whether Ray does the work, so that a cluster which does not answer is told before it begins.

        Raises: DryRun when the config asks for one; ArtifactError when another command is making it now; ClusterError.
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
            raise self._foresee(kind, config, making, on_ray)
        if config.on_change == "rebuild" or self.store.find(folder) is None:  # one that is finished may be read by many
            self.hold(folder)
        if folder in self._leases and self.store.restore(folder):
            say(f"   the rebuild of {folder} was killed before it had made anything: what it had set aside is back")
        draft = self.store.prepare(kind, config.name, making, config.on_change)
        if isinstance(draft, Draft):
            if on_ray:
                self.check_cluster()
            self._unstarted.add(folder)
            if "rebuild" in draft.claim and not draft.replaces and self.store.storage.exists(f"{folder}/claim.json"):
                say(f"   the rebuild that began at {draft.claim['rebuild']} was interrupted: it goes on")
        else:
            say(f"   finished already ({draft.manifest['created']}, fingerprint {draft.fingerprint}): reused")
            self._forget_replaced(folder)
            self.release(folder)
        return draft

    def _forget_replaced(self, folder: str) -> None:
        """Delete what a rebuild has replaced, where it was killed right after its commit."""
        storage = self.store.storage
        if not storage.moves:
            return
        storage.sweep(aside_folder(folder.split("/")[0]))  # of deletions that were killed
        if not storage.keys(aside_folder(folder)):
            return
        with contextlib.suppress(ArtifactError):  # another command is making it anew just now: that one needs it
            self.hold(folder)
            if self.store.find(folder) is not None:
                storage.delete(aside_folder(folder))

    def _foresee(self, kind: str, config: WorkflowConfig, making: Making, on_ray: bool) -> DryRun:
        """What a command that only plans would get, said in a line, or with what it would end."""
        folder = f"{kind}/{config.name}"
        try:
            foreseen = self.store.prepare(kind, config.name, making, config.on_change)
            if isinstance(foreseen, Draft):
                check_free(self.store.storage, folder)
                self.store.storage.check_writable()
                if on_ray:
                    self.check_cluster()
        except (ArtifactError, ClusterError, StorageError) as error:
            return DryRun(refused=error)
        if isinstance(foreseen, Artifact):
            made = f"{foreseen.manifest['created']}, fingerprint {foreseen.fingerprint}"
            say(f"   {foreseen.folder} is finished already ({made})")
        return DryRun(foreseen)

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

    def release(self, folder: str) -> None:
        """Other commands may have the name again."""
        if (lease := self._leases.pop(folder, None)) is not None:
            lease.release()

    @contextlib.contextmanager
    def track(
        self,
        draft: Draft,
        config: WorkflowConfig,
        inputs: Iterable[Artifact] = (),
        meanwhile: Callable[[], Any] | None = None,
        *,
        model: ModelConfig | None = None,
        parent: str | None = None,
        sampled: Literal["here", "worker"] = "here",
        checkpoint: Callable[[], str | None] = lambda: None,
    ) -> Iterator[Tracker]:
        """The MLflow run of this artifact: the same run after a resume, an honest end whatever happens.

        Args: meanwhile, done while the run is being opened: importing MLflow and asking its server takes seconds.
            Before a rebuild deletes anything it is done first: a cluster that cannot start must not cost what is there.
            model, parent, sampled, as `about` has them. checkpoint, says at the end which one is the last, if any.
        """
        parents = {artifact.folder: artifact for artifact in inputs}
        status, why = "FAILED", ""
        about = self.about(draft, config, model=model, parent=parent, sampled=sampled)
        if draft.replaces:
            for artifact in parents.values():
                artifact.compare_sizes()
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
        with self._replacing(draft), ThreadPoolExecutor(1, "mlflow-open") as pool:
            self.start(draft)
            opening = pool.submit(
                open_tracker, self.config.tracking, self.store, draft.folder, plain(config), parents, about=about
            )
            try:
                if meanwhile is not None:
                    meanwhile()
                yield opening.result()
                status = "FINISHED"
            except (KeyboardInterrupt, SystemExit):  # Ctrl-C; SIGTERM, of which Ray makes a SystemExit
                status, why = "KILLED", "interrupted: Ctrl-C, or a signal to end"
                raise
            except BaseException as error:
                why = without_secrets(str(error) or repr(error))
                raise
            finally:
                opening.result().end(status, **_known(why=why, checkpoint=_asked(checkpoint)))
                self._trackers[draft.folder] = opening.result()

    def about(
        self,
        draft: Draft,
        config: WorkflowConfig,
        *,
        model: ModelConfig | None = None,
        parent: str | None = None,
        sampled: Literal["here", "worker"] = "here",
    ) -> About:
        """What an MLflow run says of itself beside its config. Before a rebuild takes anything down: it looks whose
        place it takes.

        Args: model, the one that is trained or measured, where the config alone does not say; parent, the checkpoint
            that it begins from or measures; sampled, whether this process or a worker's measures the machine.
        """
        tracking = self.config.tracking
        params = decisive(config)
        if model is not None:
            counts = parameter_counts(model)
            numbers = {"parameters": counts["total"], "parameters_without_embedding": counts["non_embedding"]}
            params["model"] = {**decisive(model), **numbers}
        if parent is not None:
            params["parent"] = parent
        replaces = None
        if tracking.enabled:
            uri = tracking_uri(tracking, self.store.uri)
            replaces = replaced_run(self.store.storage, draft.folder, uri, draft.replaces)
        return About(
            params=params,
            what=_purpose(draft.folder.split("/")[0]),
            command=draft.claim.get("command") or self.made_with,
            parent=parent,
            bases=(self.experiment.split("/")[-1],) if self.experiment else (),
            replaces=replaces,
            group=self.group,
            sampled=sampled,
        )

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
        storage, place = self.store.storage, aside_folder(folder)
        if storage.moves and storage.keys(place) and not storage.exists(f"{folder}/manifest.json"):
            say(
                f"   the {folder} of before is kept as {storage.uri}/{place} until the new one is finished; move it "
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
        self.release(artifact.folder)
        say(f"   committed {artifact.folder} in {duration(time.monotonic() - self.began)}")
        self._tell_comparison(artifact.folder)
        self.tell_next(*(() if self.within_recipe else next_commands))
        return artifact

    def reused(self, artifact: Artifact, *next_commands: str) -> Artifact:
        """Say what to run next after an artifact that was finished already, as the command that made it did."""
        self.tell_next(*(() if self.within_recipe else next_commands))
        return artifact

    def _how_made(self, folder: str) -> str:
        command, whole = remade_by(self.store, folder, self.experiment and self.experiment.split("/")[0])
        command = command if "store=" in command else self._in_experiment(command)
        return f"`{command}`" + ("" if whole else " and the choices it needs")

    def typed(self, command: str) -> str:
        """A command as it is to be typed after this one, for a message."""
        return self._in_experiment(command)

    def tell_next(self, *commands: str) -> None:
        """Say what may be typed next."""
        for line in commands:
            say(f"   next: {self._in_experiment(line)}")

    def _tell_comparison(self, folder: str) -> None:
        """Where MLflow shows this run beside the others that begin from the same parent."""
        tracker = self._trackers.pop(folder, None)
        arm = folder.split("/")[0] in (*TRAINED, "evaluate")
        if not arm or self.within_recipe or self.group or tracker is None or not tracker.arrived:
            return
        with contextlib.suppress(ConfigError):  # what became of a server that has just answered is no news
            self.tell_pages(self._comparison(Asked(folder=folder)))

    def tell_group(self, evaluations: Iterable[str] = ()) -> None:
        """Where MLflow shows the arms of this sweep beside each other. Args: evaluations, the arms, if they are some:
        then it is what they are of."""
        if self.group is not None and self.config.tracking.enabled:
            asked = Asked(group=self.group, evaluations=tuple(evaluations))
            with contextlib.suppress(ConfigError):
                self.tell_pages(self._comparison(asked))

    def _comparison(self, asked: Asked) -> Comparison | None:
        return comparison(self.config.tracking, self.store, asked, measures=measures())

    def tell_pages(self, found: Comparison | None) -> None:
        """Say where runs are compared, and what serves that page."""
        if found is None:
            return
        say(f"   MLflow compares {found.arms} runs, {found.title}; {found.order}:")
        say(f"   {found.url}")
        if not found.served:
            say(f"   served by {self._in_experiment('python -m workflows.ui')}")

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
        if (
            workflow
            and self.experiment is not None
            and "+experiment=" not in command
            and places.overlay(self.experiment, workflow)
        ):
            command = command.replace(f"workflows.{workflow}", f"workflows.{workflow} +experiment={self.experiment}", 1)
        if workflow and (folders := shlex.join(places.words())):
            command = command.replace(f"workflows.{workflow}", f"workflows.{workflow} {folders}", 1)
        return command


def of_run(run: Run) -> dict[str, Any]:
    """What `Session.track` is told of a checkpoint that is measured, exported or gone on from."""
    return {"model": ModelConfig(**run.state["model"]), "parent": str(run)}


def _purpose(kind: str) -> str:
    """The first sentence of the workflow that makes artifacts of this kind; "" where none is called so."""
    try:
        module = importlib.import_module(f"workflows.{'tokenize' if kind == 'tokens' else kind}")
    except ModuleNotFoundError:
        return ""
    return (module.__doc__ or "").strip().partition("\n")[0]


def _known(**values: str | None) -> dict[str, str]:
    return {key: value for key, value in values.items() if value}


def _asked(question: Callable[[], str | None]) -> str | None:
    """The answer, where the store still gives one."""
    with contextlib.suppress(ArtifactError, CheckpointError, StorageError):
        return question()
    return None
