"""Ray's Jobs API from outside the cluster: submit a command, follow its log, learn how it ended.

Enters: an address (the head's dashboard, mostly through a tunnel), a package and a command. Leaves: the job's lines,
printed once each whatever happens to the connection, and an `End` that tells a command that failed from one that was
lost.

Ray runs a job once. Its driver sits on the head unless it asks for resources; one that dies with its node is FAILED
without an exit code, and a head that was replaced does not know the job any more: both are `lost`, and only those are
worth another try.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.ray_token import token_source
from pipelines.display.progress import say
from pipelines.errors import ClusterError, ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"  # where the tunnel ends
_ANSWER_SECONDS = (10.0, 120.0)  # to connect, and between two bytes of an answer: Ray's own client would wait for ever
_LOOK_SECONDS = 5.0  # a log that is silent so long: does the job still run, is the tunnel still there?
_PAUSE_SECONDS = 2.0  # before the connection is tried again
_DRAIN_SECONDS = 20.0  # for the last lines of a job that has ended
# how Ray names the end of a driver that nobody asked to end; its other error types would repeat themselves
_LOST = {
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
}


class Unreachable(ClusterError):
    """Nobody answers at the address."""


class Refused(ClusterError):
    """The cluster does not take the token."""


class UnknownJob(ClusterError):
    """The cluster has no such job."""


@dataclass(frozen=True)
class Job:
    """What the cluster knows of a job."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED
    command: str
    message: str
    exit_code: int | None
    error: str | None
    began: float | None  # seconds since the epoch
    ended: float | None
    metadata: Mapping[str, str]

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def lost(self) -> bool:
        """Whether the driver went with its node instead of ending by itself."""
        return self.status == "FAILED" and self.exit_code is None and self.error in _LOST


def check_address(address: str | None, named_by: str = "address") -> None:
    """Raises: ConfigError for what no address of a cluster's Jobs API can be; None is one."""
    if address is None or re.fullmatch(r"(https?://[^\s/]+(/\S*)?|(ray://)?[^\s/]+:\d+|auto)", address):
        return
    raise ConfigError(
        f"{named_by} is {address!r}; expected the address of the cluster's Jobs API, e.g. http://127.0.0.1:8265, or "
        "null for where the tunnel ends"
    )


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str | None = None, renew: str = ""):
        """Connect, and see that the token is taken.

        Args: address, of the Jobs API; None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else 127.0.0.1:8265. renew,
            the command that gets the token anew, for messages.
        Raises: Unreachable, Refused.
        """
        if address is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client lets the environment win over its argument
        elif not {"RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"} & set(os.environ):
            os.environ["RAY_API_SERVER_ADDRESS"] = DEFAULT_ADDRESS
        self.address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ["RAY_ADDRESS"]
        check_address(self.address, "address" if address is not None else "RAY_API_SERVER_ADDRESS or RAY_ADDRESS")
        self._renew = renew
        if token_source() is not None:
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it once
        self._waits = False  # told once that the job followed has not begun
        with self._answers():
            self._client = _client_class()()

    @property
    def ray_version(self) -> str:
        """The cluster's."""
        return str(self._client._server_ray_version)

    def submit(
        self, job: str, command: str, package: Path | None, environment: Mapping[str, str], metadata: Mapping[str, str],
        hook: str | None = None, resources: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Upload the package where the cluster does not have it, and start the command.

        Args: job, its id; package, a zip whose content becomes the working directory; environment, for all processes of
            the job (anybody with the token can read it back); hook, importable function that every worker process calls
            first; resources, what the driver takes: with any, Ray may place it on a worker node.
        Raises: Unreachable, Refused; ConfigError when the cluster does not take it.
        """
        runtime: dict[str, Any] = {"env_vars": dict(environment)}
        if package is not None:
            runtime["working_dir"] = str(package)
        if hook is not None:
            runtime["worker_process_setup_hook"] = hook
        wanted = dict(resources or {})
        with self._answers():
            self._client.submit_job(
                entrypoint=command,
                submission_id=job,
                runtime_env=runtime,
                metadata=dict(metadata),
                entrypoint_num_cpus=wanted.pop("CPU", None),
                entrypoint_num_gpus=wanted.pop("GPU", None),
                entrypoint_resources=wanted or None,
            )

    def info(self, job: str) -> Job:
        """Raises: UnknownJob, Unreachable, Refused."""
        with self._answers():
            return _job(self._client.get_job_info(job))

    def all(self) -> list[Job]:
        """Every job that was submitted, the newest first."""
        with self._answers():
            jobs = [_job(job) for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job.began or 0, reverse=True)

    def stop(self, job: str) -> bool:
        """Ask a job to end; False when it had ended. Raises: UnknownJob."""
        with self._answers():
            return bool(self._client.stop_job(job))

    def forget(self, job: str) -> None:
        """Remove a job that has ended from the cluster's list."""
        with self._answers():
            self._client.delete_job(job)

    def log(self, job: str) -> str:
        """All that a job has printed so far."""
        with self._answers():
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, patience_seconds: float, show: Callable[[str], None] = say) -> Job | None:
        """Print a job's lines as they come until it ends; a connection that drops is taken up again where it was.

        Args: patience_seconds, how long the cluster may be out of reach at a stretch.
        Returns: the job as it ended, or None when the cluster forgot it (its head was replaced).
        Raises: Unreachable after that patience; Refused when the token ends.
        """
        log, closed, gone_since = _Log(show), False, None
        self._waits = False
        while True:
            try:
                now = self.info(job)
                if gone_since is not None:
                    say(f"   … {self.address} answers again: {job} is {now.status}")
                    gone_since = None
                if now.over and closed:
                    log.flush()
                    return now
                closed = asyncio.run(self._listen(job, log, _DRAIN_SECONDS if now.over else None)) or now.over
                continue
            except UnknownJob:
                log.flush()
                return None
            except Unreachable as error:
                if gone_since is None:
                    gone_since = time.monotonic()
                    say(
                        f"   … the connection to {self.address} is lost; the job goes on, and the connection is tried "
                        "again"
                    )
                if gone_since + patience_seconds < time.monotonic():
                    raise Unreachable(
                        f"{error} Nothing was heard for {patience_seconds:.0f} seconds; the job goes on as long as "
                        f"its cluster does: python -m workflows.submit follow={job}"
                    ) from error
            time.sleep(_PAUSE_SECONDS)

    async def _listen(self, job: str, log: _Log, bound: float | None) -> bool:
        """Take the log from its beginning, for at most `bound` seconds. Returns: whether the server closed it, having
        no more.
        """
        import aiohttp

        log.rewind()
        end = None if bound is None else time.monotonic() + bound
        stream = self._client.tail_job_logs(job)
        try:
            while end is None or time.monotonic() < end:
                following = asyncio.ensure_future(anext(stream))
                try:
                    while not (await asyncio.wait({following}, timeout=_LOOK_SECONDS))[0]:
                        # a tunnel that hangs looks like a job with nothing to say: this question tells them apart
                        now = await asyncio.to_thread(self.info, job)
                        if now.over:
                            return False
                        if now.status == "PENDING" and not self._waits:
                            self._waits = True
                            say(
                                f"   … {job} has not begun: a node is found for it and the code unpacked; a new "
                                "machine takes minutes"
                            )
                    log.take(following.result())
                finally:
                    following.cancel()
        except StopAsyncIteration:
            return True
        except (aiohttp.ClientError, RuntimeError, OSError):
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            with contextlib.suppress(Exception):
                await stream.aclose()
        return False

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        """Ray's and HTTP's complaints as errors that say what to do."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise Refused(self._about_token(str(error))) from error
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise Unreachable(
                f"no Ray answers at {self.address} ({_short(error)}): is the cluster up, and the tunnel to its head "
                "open (`terraform output -raw tunnel_command` prints the command that opens it)?"
            ) from error
        except RuntimeError as error:
            text = str(error)
            if "status code 404" in text:
                raise UnknownJob(f"the cluster at {self.address} has no such job ({_short(error)})") from error
            if "already exists" in text:
                raise ConfigError(
                    f"the cluster has a job of that name already: {_short(error)}; choose another name=…"
                ) from error
            if "EntityTooLarge" in text:
                raise ConfigError(
                    f"the package is larger than this cluster takes: {_short(error)}; exclude more"
                ) from error
            raise Unreachable(f"Ray at {self.address} could not answer: {_short(error)}") from error

    def _about_token(self, complaint: str) -> str:
        source = token_source()
        refusal = (
            f"refuses the token from {source}: it is of another cluster, or the cluster has a new one"
            if source is not None and "Authentication required" not in complaint
            else "wants a token, and there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
            if source is None
            else f"wants a token, and that from {source} was not sent: set RAY_AUTH_MODE=token"
        )
        first = "unset RAY_AUTH_TOKEN; " if source == "RAY_AUTH_TOKEN" else ""
        return f"the cluster at {self.address} {refusal}: get it with `{first}{self._renew}`"


class _Log:
    """The lines of a job, each shown once, though every connection brings the log from its beginning."""

    def __init__(self, show: Callable[[str], None]):
        self._show = show
        self._seen = 0  # characters taken so far
        self._skip = 0  # of them, still to come again on this connection
        self._begun = ""  # a line without its end

    def rewind(self) -> None:
        self._skip = self._seen

    def take(self, text: str) -> None:
        again = min(self._skip, len(text))
        self._skip -= again
        new = text[again:]
        self._seen += len(new)
        *whole, self._begun = (self._begun + new).split("\n")
        for line in whole:
            self._show(line)

    def flush(self) -> None:
        """Show a last line that has no end."""
        if self._begun:
            self._show(self._begun)
            self._begun = ""


def uploaded(folder: Path, excludes: Sequence[str]) -> list[Path]:
    """The files of a folder that Ray would upload: without what .gitignore, .rayignore and `excludes` (gitignore
    patterns) name.

    Asked of Ray itself, so that plain `ray job submit` sends the same.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    folder, files = folder.absolute(), list[Path]()
    patterns = [*get_runtime_env_default_excludes(), *excludes]
    quiet = logging.getLogger(__name__)  # Ray's own would name every ignore file that it comes by
    _dir_travel(
        folder,
        [_get_excludes(folder, patterns)],
        lambda path: files.append(path) if path.is_file() else None,
        include_gitignore=True,
        logger=quiet,
    )
    return sorted(files)


def upload_limit() -> int:
    """Bytes that the Jobs API takes at once: the dashboard's limit on a request, and that of the cluster's own
    store.
    """
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE))


def _client_class() -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they report each upload and every log that ends
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's client, which does not wait for ever."""

        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": _ANSWER_SECONDS, **options})

    return Client


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id, status=str(details.status), command=details.entrypoint, message=details.message or "",
        exit_code=details.driver_exit_code, error=details.error_type,
        began=details.start_time and details.start_time / 1000, ended=details.end_time and details.end_time / 1000,
        metadata=details.metadata or {},
    )  # fmt: skip


def _short(error: Exception) -> str:
    """The last line of a message that says something: a traceback of the server closes with what happened."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"\w{3}", line)]
    return lines[-1][:300] if lines else type(error).__name__
