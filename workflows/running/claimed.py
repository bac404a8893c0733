"""One run of a tree, from its claim to its end: what `train_stage` does for a run alone, in pieces.

Enters: a run of the tree (`pipelines/train/sharing/tree.py`). Leaves: its claim, the spec of each of its edges, its
MLflow run, and at last its lease given back. Its identity and fingerprint are those of its config run alone; that it
adopts another run's steps stands beside them in the claim, so that no rule of retention deletes the checkpoint.

MLflow is asked by two threads of their own, since it takes longer than an edge of a small run: one opens, one ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipelines.config import plain
from pipelines.display.progress import hushed, say
from pipelines.errors import StorageError
from pipelines.store.artifact import Artifact
from pipelines.store.draft import Draft, Making
from pipelines.store.storage import Storage
from pipelines.tracking.account import About
from pipelines.tracking.tracker import Tracker, open_tracker
from pipelines.train.checkpoint.committed import committed_steps
from pipelines.train.plan.planning import PlannedRun
from pipelines.train.sharing.chain import ChainStage
from pipelines.train.sharing.tree import TreeRun
from workflows.running.session import Session
from workflows.running.training import (
    code_of_run,
    is_done,
    last_checkpoint,
    plan_run,
    refuse_fewer_steps,
    reopen,
    told_of_run,
    told_whole,
)


class Desk:
    """Where runs are claimed: what they all need of the session."""

    def __init__(self, session: Session, mlflow_parent: str | None = None):
        """Args: mlflow_parent, id of the MLflow run under which runs stand that begin from no other."""
        self.session, self.mlflow_parent = session, mlflow_parent
        self._opening = ThreadPoolExecutor(1, "mlflow-open")
        self._ending = ThreadPoolExecutor(4, "mlflow-end")
        self._made: set[str] = set()

    @property
    def storage(self) -> Storage:
        return self.session.store.storage

    def claim(self, run: TreeRun) -> ClaimedRun:
        """Claim a run, or find it finished.

        Raises: what planning and the store refuse, as for the run alone.
        """
        for stage in run.needs:
            self._make(stage)
        config, planned = plan_run(run.stage, run.config, self.session)
        command = run.command or self.session.made_with
        making = Making(planned.identity, planned.inputs, code_of_run(planned), command, told_whole(config, planned))
        store, folder, steps = self.session.store, run.folder, planned.spec.steps
        begun = store.prepare(run.stage, config.name, making, config.on_change)
        if isinstance(begun, Artifact) and is_done(begun, steps, None):
            return ClaimedRun(self, run, planned, begun.manifest, finished=True)
        self.session.hold(folder)
        try:
            if store.restore(folder):  # a rebuild of this run was killed before it had made anything
                begun = store.prepare(run.stage, config.name, making, config.on_change)
            draft = reopen(self.session, begun, steps, None) if isinstance(begun, Artifact) else begun
            if not draft.replaces:
                refuse_fewer_steps(self.storage, folder, steps)
            else:
                for artifact in planned.inputs:  # before anything is set aside
                    artifact.compare_sizes()
            # before the start takes away whose place it takes
            about = self.session.about(draft, told_whole(config, planned), **told_of_run(planned))
            claim = self._start(run, draft).claim
            return ClaimedRun(self, run, planned, claim, about=about, replaces=draft.replaces)
        except BaseException:
            self.session.release(folder)
            raise

    def _start(self, run: TreeRun, draft: Draft) -> Draft:
        """Write the claim, with the checkpoint that the run adopts as long as it has none of its own."""
        if run.adopts is not None and not committed_steps(self.storage, run.folder):
            made_by = self.session.store.claim(run.adopts.folder)["fingerprint"]
            adopted = {"checkpoint": str(run.adopted), "fingerprint": made_by}
            draft = dataclasses.replace(draft, claim={**draft.claim, "adopted": adopted})
        draft.start()
        return draft

    def _make(self, stage: ChainStage) -> None:
        """Run what is not trained, once, here in the driver."""
        if stage.folder in self._made:
            return
        within, self.session.within_recipe = self.session.within_recipe, True
        try:
            with hushed():
                importlib.import_module(f"workflows.{stage.workflow}").run(stage.config, self.session)
        finally:
            self.session.within_recipe = within
        self._made.add(stage.folder)

    def open(self, run: TreeRun, planned: PlannedRun, about: About | None) -> Future[Tracker]:
        """Begin to open the run's MLflow run: below the one that it adopts from, or that it begins from."""
        inputs = {artifact.folder: artifact for artifact in planned.inputs}
        under = self.mlflow_parent if run.adopts is None else run.adopts.folder
        tracking, store, config = self.session.config.tracking, self.session.store, told_whole(run.config, planned)
        return self._opening.submit(open_tracker, tracking, store, run.folder, plain(config), inputs, under, about)

    def end(self, opened: Future[Tracker], status: str, why: str, checkpoint: str | None) -> None:
        """Begin to end it."""
        known = {key: value for key, value in (("why", why), ("checkpoint", checkpoint)) if value}
        self._ending.submit(lambda: opened.result().end(status, **known))

    def close(self) -> None:
        """Wait until all that was begun is done."""
        self._opening.shutdown()
        self._ending.shutdown()


class ClaimedRun:
    """A run that is ours to train, until `end`; or one that was finished before, of which something may be measured.

    Attributes: steps, of the whole run.
    """

    def __init__(
        self,
        desk: Desk,
        run: TreeRun,
        planned: PlannedRun,
        claim: Mapping[str, Any],
        finished: bool = False,
        about: About | None = None,
        replaces: bool = False,
    ):
        self.desk, self.run, self.finished, self._about, self._replaces = desk, run, finished, about, replaces
        self.steps = planned.spec.steps
        self._planned, self._claim = planned, dict(claim)
        self._tracker: Future[Tracker] | None = None

    def open(self) -> None:
        """Begin to open its MLflow run, ahead of its first edge."""
        if self._tracker is None and not self.finished:
            self._tracker = self.desk.open(self.run, self._planned, self._about)

    def values(self, until: int, measures: Mapping[str, Any], threads: int) -> dict[str, Any]:
        """What a lane gets for the edge that ends at step `until`."""
        if self.run.adopts is not None and not self.run.committed:
            take_over_measured(self.desk.storage, self.run.adopts.folder, self.run.folder, self.run.adopted_step)
        self.open()
        spec = dataclasses.replace(
            self._planned.spec,
            claim=self._claim,
            until=None if until >= self.steps else until,
            adopts=self.run.adopted,
            tracking=(self._tracker and self._tracker.result().run) or {},
        )
        return {"spec": plain(spec), "measures": dict(measures), "threads": threads}

    def end(self, status: str, why: str = "") -> None:
        """Say in MLflow how it ended (FINISHED, FAILED or KILLED) and why, and give its name back."""
        if self._tracker is not None:
            self.desk.end(self._tracker, status, why, last_checkpoint(self.desk.storage, self.run.folder))
        if self._replaces and status != "FINISHED":
            # the error that is on its way says more than one of the store, and the next command puts it back as well
            with contextlib.suppress(StorageError):
                if self.desk.session.store.restore(self.run.folder):
                    say(f"   {self.run.folder} stands as it was before the rebuild")
        self.desk.session.release(self.run.folder)


def take_over_measured(storage: Storage, donor: str, run: str, step: int) -> None:
    """Give a run the measured rows of the steps that it adopts; what it has itself stays."""
    own = {key.removeprefix(f"{run}/") for key in storage.keys(f"{run}/measured")}
    for key in storage.keys(f"{donor}/measured"):
        file = key.removeprefix(f"{donor}/")
        number = file.rsplit("step-", 1)[-1].removesuffix(".json")
        if number.isdigit() and int(number) <= step and file not in own:
            storage.write(f"{run}/{file}", storage.read(key))
