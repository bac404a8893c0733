"""Which lane runs what when `make test` works in several processes at once (pytest-xdist).

A file's tests stay together, in their order, so that what its fixtures start is started once. Files of one group stay
together too: they share what a session starts (one S3 server, one group of training processes). Groups and files that
take minutes come first and the rest, seconds each, fill up what is left, so that the lanes end at about the same time.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

# in the order in which they are handed out: a name for files that share something, or None; the files below tests/
FIRST: tuple[tuple[str | None, tuple[str, ...]], ...] = (
    (
        "S3 and ranks",
        (
            "integration/test_checkpoints.py",
            "integration/test_engine.py",
            "integration/test_monitor.py",
            "integration/test_torchrun.py",
            "integration/test_float8.py",
            "integration/test_frozen.py",
            "integration/test_s3_training.py",
            "integration/test_s3_faults.py",
            "integration/test_s3_prefetch.py",
            "integration/test_s3_readers.py",
            "integration/test_publish_s3.py",
            "integration/test_fire_s3.py",
        ),
    ),
    (
        "ranks of trials",
        (
            "integration/test_tree_runner.py",
            "integration/test_sharing.py",
            "integration/test_trials.py",
            "integration/test_coordinates.py",
            "integration/test_averages_measure.py",
            "integration/test_sweep.py",
        ),
    ),
    (None, ("integration/test_train_group.py",)),
    (None, ("integration/test_trial_pool.py",)),
    (None, ("integration/test_training.py",)),
    (None, ("integration/test_corpus.py",)),
    (
        # one process on a GPU: they share engines and what was compiled
        "GPU",
        (
            "gpu/test_arithmetic.py",
            "gpu/test_curves.py",
            "gpu/test_checkpoints.py",
            "gpu/test_a_run.py",
            "gpu/test_wrong_device.py",
        ),
    ),
    ("head", ("integration/test_ray_jobs.py", "integration/test_submit.py")),
    (None, ("infra/test_cluster_boot.py",)),
    (None, ("infra/test_terraform.py",)),
    (None, ("infra/test_two_machines.py",)),
    (None, ("integration/test_recipe.py",)),
    (None, ("integration/test_newcomer.py",)),
    (None, ("integration/test_onward.py",)),
    (None, ("integration/test_wheel.py",)),
    (None, ("integration/test_fire_kills.py",)),
    (None, ("integration/test_wind_tunnel.py",)),
    (None, ("integration/test_sandbox.py",)),
    (None, ("infra/test_mlflow_server.py",)),
    (None, ("integration/test_additions_stage.py",)),
    (None, ("integration/test_additions_objective.py",)),
    (None, ("integration/test_additions_optimizer.py",)),
    (None, ("infra/test_terraform_apply.py",)),
    (None, ("integration/test_additions_sidecar.py",)),
    (None, ("integration/test_additions_growth.py",)),
    (None, ("integration/test_additions_task.py",)),
    (None, ("integration/test_additions_study.py",)),
    (None, ("integration/test_additions_format.py",)),
    (None, ("integration/test_additions_data.py",)),
    (None, ("integration/test_cluster_check.py",)),
    (None, ("infra/test_boot.py",)),
)


@functools.cache
def _groups() -> dict[str, tuple[int, int, str]]:
    """Of each file that is listed: its group's place, its own in the group, and the group's name."""
    return {
        f"tests/{file}": (number, at, name or file)
        for number, (name, files) in enumerate(FIRST)
        for at, file in enumerate(files)
    }


def group(nodeid: str) -> str:
    """What a test stays together with: its group, or its file."""
    file = nodeid.split("::")[0]
    return _groups().get(file, (0, 0, file))[2]


def place(nodeid: str) -> tuple[int, int]:
    """Sorts the groups that are listed to the front, their files as they are listed."""
    return _groups().get(nodeid.split("::")[0], (len(FIRST), 0, ""))[:2]


def scheduler(config: Any, log: Any) -> Any:
    """Hands a group to whichever lane is free, first those that come first."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

        def remove_node(self, node: Any) -> str | None:
            """What a lane leaves when its process ends: the test that ended it, if any; the rest goes to the others.

            xdist would try that test again in one new process after the other, 40 minutes each for one that hangs, and
            hand out what is done already, with which a lane waits for ever.
            """
            left = {scope: tests for scope, tests in self.assigned_work.pop(node).items() if not all(tests.values())}
            crashed = next((test for tests in left.values() for test, done in tests.items() if not done), None)
            if crashed is not None:
                left[group(crashed)][crashed] = True
            self.workqueue.update({scope: tests for scope, tests in left.items() if not all(tests.values())})
            for other in self.assigned_work:
                self._reschedule(other)
            return crashed

        def _reschedule(self, node: Any) -> None:
            """Hand out what a lane needs: it begins a test only when it knows what follows, another one or its end."""
            if node in self.registered_collections:  # one that replaces another is still collecting
                # a lane whose process has ended cannot be told; what it was given goes to the others by `remove_node`
                with contextlib.suppress(OSError):
                    super()._reschedule(node)
                    while not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
                        super()._reschedule(node)

    config.option.loadscopereorder = False  # it would sort by the number of tests, which says little of their time
    return Lanes(config, log)
