"""One command on a cluster from its submission to its end, started anew when its driver went with a node.

Enters: a `Submission`: command, package, retries. Leaves: an exit code. Ray itself never starts a job a second time; a
workflow may be, since it goes on from what it committed. Only a driver that was lost is started again: one that ended
by itself would end so again. What a retry needs stands in the job's metadata, so another shell can follow and retry as
well.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pipelines.cluster.outside import secrets
from pipelines.cluster.outside.jobs import Job, Jobs, UnknownJob, Unreachable
from pipelines.cluster.outside.package import package_path
from pipelines.display.progress import duration, say
from pipelines.errors import ClusterError, ConfigError

R = TypeVar("R")
_INTERRUPTED = 130
_KEY = "trunkline"  # of the metadata
_PAUSE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is started, and how often at most."""

    name: str  # id of the first job; later ones are <name>-retry-1, …
    command: str
    package: str  # digest of the zip in this machine's cache
    secrets: list[str] = field(default_factory=list)  # names
    driver: dict[str, float] = field(default_factory=dict)  # resources; with none the driver sits on the head
    retries: int = 0
    environment: dict[str, str] = field(default_factory=dict)  # what its runs say of whoever submitted it

    def job(self, attempt: int) -> str:
        """The id of an attempt, counted from 0."""
        return f"{self.name}-retry-{attempt}" if attempt else self.name

    def start(self, jobs: Jobs, attempt: int = 0) -> None:
        """Upload and start an attempt. Raises: Unreachable, Refused; ConfigError when the package is gone from this
        machine.
        """
        package = package_path(self.package)
        if not package.exists():
            raise ConfigError(
                f"the package of {self.name} is not on this machine any more ({package}): submit it from here anew; "
                "it goes on from what it committed"
            )
        environment = self.environment | ({secrets.NAMES: ",".join(self.secrets)} if self.secrets else {})
        hook = secrets.HOOK if self.secrets else None
        metadata = {_KEY: json.dumps({**dataclasses.asdict(self), "attempt": attempt})}
        jobs.submit(self.job(attempt), self.command, package, environment, metadata, hook, self.driver)

    @classmethod
    def of(cls, job: Job) -> tuple[Submission, int]:
        """The submission that a job is an attempt of, and which; of a job that came another way, itself without
        retries.
        """
        if _KEY not in job.metadata:
            return cls(name=job.id, command=job.command, package=""), 0
        values = json.loads(job.metadata[_KEY])
        return cls(**{key: values[key] for key in values if key != "attempt"}), int(values["attempt"])


def see_through(jobs: Jobs, submission: Submission, attempt: int, patience_seconds: float) -> int:
    """Follow a job to its end, starting it anew when its driver is lost.

    Returns: the command's own exit code; 130 when somebody stopped the job, or Ctrl-C the following.
    Raises: ClusterError when it was lost once more than it may be retried, could not start, or the cluster is out of
        reach.
    """
    while True:
        name = submission.job(attempt)
        try:
            end = jobs.follow(name, patience_seconds)
        except KeyboardInterrupt:
            say(
                f"\n   {name} goes on without you: follow it with `python -m workflows.submit follow={name}`, "
                f"end it with `python -m workflows.submit stop={name}`"
            )
            return _INTERRUPTED
        if end is not None and not end.lost:
            return _exit_code(end)
        why = "its head was replaced and does not know it" if end is None else _first_line(end.message)
        if attempt >= submission.retries:
            raise ClusterError(
                f"{name} was lost with its node ({why}), for the {_times(attempt + 1)} time; "
                f"retries={submission.retries}: submit it again, it goes on from what it committed"
            )
        attempt += 1
        say(f"\n   {name} was lost with its node: {why}")
        say(
            f"   retry {attempt} of {submission.retries} as {submission.job(attempt)}: the same code, going on from "
            "what is committed\n"
        )
        _patiently(lambda: _start_once(jobs, submission, attempt), patience_seconds)  # noqa: B023 (called at once)


def _start_once(jobs: Jobs, submission: Submission, attempt: int) -> None:
    """Start an attempt unless it is there: a request whose answer was lost, or another shell, may have done it."""
    try:
        jobs.info(submission.job(attempt))
    except UnknownJob:
        submission.start(jobs, attempt)


def _patiently(ask: Callable[[], R], patience_seconds: float) -> R:
    """`ask()`, again while the cluster is out of reach: a head that was replaced takes minutes."""
    began = time.monotonic()
    while True:
        try:
            return ask()
        except Unreachable:
            if time.monotonic() - began > patience_seconds:
                raise
            time.sleep(_PAUSE_SECONDS)


def _exit_code(end: Job) -> int:
    took = f" after {duration(end.ended - end.began)}" if end.ended and end.began else ""
    if end.status == "SUCCEEDED":
        say(f"   {end.id} succeeded{took}")
        return 0
    if end.status == "STOPPED":
        say(f"   {end.id} was stopped{took}; what it committed is kept: the same command goes on")
        return _INTERRUPTED
    if end.exit_code is None:
        raise ClusterError(f"{end.id} could not run on the cluster ({end.error}): {_first_line(end.message)}")
    code = end.exit_code if end.exit_code > 0 else 128 - end.exit_code  # as a shell says it
    say(f"   {end.id} failed with exit code {code}{took}; what it committed is kept")
    return code


def _first_line(message: str) -> str:
    return next((line.strip() for line in message.splitlines() if line.strip()), "no reason is known")[:300]


def _times(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")
