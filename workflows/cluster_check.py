"""What is wrong with a cluster on AWS, or with the way to it, before money is spent.

    python -m workflows.cluster_check cluster=aws instance_type=p5.48xlarge max_nodes=4 store=s3://bucket/store
    make cluster-check ARGS="cluster=aws …"                                     in a clone

Asks, one after another and whatever the answers: the tools here, the AWS credentials, the region, the machines and the
quota that `cluster.workers` take, Ray's token and version, what the cluster's own environment has (store, tracking
server, versions; by a job of a second on the head), the buckets. Creates nothing that stays, and costs nothing. ✓ as it
should be, ✗ in the way, ⚠ not known or to be looked at. Exit code: 0 without any ✗, else 2.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import field
from typing import Any

from pipelines.cluster.outside import aws
from pipelines.cluster.outside.aws import Finding
from pipelines.cluster.outside.instances import Instance, known
from pipelines.cluster.outside.jobs import Jobs, check_address
from pipelines.cluster.ray_token import read_by_others, token_source
from pipelines.config import Whole, WorkflowConfig, config_class
from pipelines.display.progress import announce, say, width
from pipelines.errors import TrunklineError
from pipelines.train.plan import machines
from workflows.entry import entry
from workflows.running.session import Session
from workflows.submit import token_command

_TERRAFORM = (1, 7)
_JOB_SECONDS = 90.0
_COLUMN = 24  # where what was found begins
_PACKAGES = ("ray", "torch", "deepspeed")
# what the head's job says of itself, in one line of JSON: its surroundings are the ones that every job gets
_LOOK = f"""
import importlib.metadata, json, os, platform, urllib.request
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
def answer(uri):
    try: return urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=10).read().decode()
    except Exception as error: return str(error)
uri = os.environ.get("MLFLOW_TRACKING_URI", "")
print("found:" + json.dumps(dict(
    python=platform.python_version(), versions={{name: version(name) for name in {_PACKAGES!r}}},
    store=os.environ.get("TRUNKLINE_STORE"), tracking=uri, health=answer(uri) if uri.startswith("http") else None)))
"""


@config_class
class ClusterCheckConfig(WorkflowConfig):
    """Which cluster, and what is meant to run on it."""

    address: str | None = None
    token_secret: str = "trunkline/ray"
    region: str | None = None  # null: the environment's
    instance_type: str | None = None
    max_nodes: Whole | None = None
    spot: bool = False
    buckets: list[str] = field(default_factory=list)  # more than the store's

    def __post_init__(self) -> None:
        super().__post_init__()
        check_address(self.address)


def run(config: ClusterCheckConfig, session: Session) -> None:
    """Ask everything, print what was found and what to do. Ends with exit code 2 when something is in the way."""
    announce(
        "cluster check", {"cluster.workers": config.cluster.workers, "machines": config.instance_type or "not named"}
    )
    findings = tools()
    _show(findings)
    for question in (_account, _capacity):
        findings += _show(question(config))
    there, answers = _cluster(config)
    findings += _show(answers)
    store = config.store if config.store.startswith("s3://") else str(there.get("store") or "")
    findings += _show(_buckets(config, store))
    wrong = sum(finding.mark == "✗" for finding in findings)
    unknown = sum(finding.mark == "⚠" for finding in findings)
    say(f"\n   {len(findings)} checks: {wrong} in the way, {unknown} to be looked at")
    if wrong:
        raise SystemExit(2)


def tools() -> list[Finding]:
    """The programs that the way to a cluster needs on this machine."""
    findings = [_terraform()]
    for program, purpose in (
        ("aws", "fetches the token and opens the tunnel"),
        ("session-manager-plugin", "is the tunnel"),
    ):
        there = shutil.which(program)
        findings.append(
            Finding("✓", program, there)
            if there
            else Finding("⚠", program, "not on PATH", f"it {purpose}: see infra/terraform/README.md")
        )
    return findings


def _terraform() -> Finding:
    wanted = ".".join(map(str, _TERRAFORM))
    if shutil.which("terraform") is None:
        return Finding("⚠", "terraform", "not on PATH", f"whoever makes the cluster needs {wanted} or later")
    quiet = {**os.environ, "CHECKPOINT_DISABLE": "1"}  # it would ask its maker for news
    done = subprocess.run(["terraform", "version", "-json"], env=quiet, capture_output=True, text=True, timeout=30)
    version = json.loads(done.stdout)["terraform_version"] if done.returncode == 0 else "of unknown version"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _TERRAFORM:
        return Finding("✗", "terraform", version, f"infra/terraform needs {wanted} or later")
    return Finding("✓", "terraform", version)


def _region(config: ClusterCheckConfig) -> str | None:
    return config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _account(config: ClusterCheckConfig) -> list[Finding]:
    region = _region(config)
    where = (
        Finding("✓", "region", region)
        if region
        else Finding("✗", "region", "none is set", "export AWS_REGION=us-east-1, or whichever the cluster is in")
    )
    return [*aws.ask("AWS credentials", aws.credentials, "✗"), where]


def _capacity(config: ClusterCheckConfig) -> list[Finding]:
    region = _region(config) or "us-east-1"
    if config.instance_type is None:
        return [
            Finding("⚠", "machines", "not named", "instance_type=… and max_nodes=… have them and their quota checked")
        ]
    listed = known(config.instance_type)
    asked: Instance | Finding | None = listed
    if listed is None or not listed.cpus:
        asked = _tried("machines", lambda: aws.describe_instance(str(config.instance_type), region))
    # what is known without asking says at least whether it has GPUs
    instance = listed if isinstance(asked, Finding) else asked
    if instance is None:
        return [asked] if isinstance(asked, Finding) else []
    fits = _tried("workers", lambda: machines.check(config.cluster, instance, config.max_nodes))
    if isinstance(fits, Finding):
        return [*aws.ask("machines", lambda: aws.offered(instance.type, region)), fits]
    nodes = math.ceil(config.cluster.workers / machines.workers_per_machine(config.cluster, instance))
    return [
        *aws.ask("machines", lambda: aws.offered(instance.type, region)),
        Finding("✓", "workers", fits["machines"]),
        *aws.ask("quota", lambda: aws.quota(instance, nodes, config.spot, region)),
    ]


def _cluster(config: ClusterCheckConfig) -> tuple[dict[str, Any], list[Finding]]:
    """What the head says of itself, and what to think of it."""
    findings = [
        Finding("✓", "Ray's token", f"from {source}")
        if (source := token_source())
        else Finding("✗", "Ray's token", "there is none here", f"get it: {token_command(config.token_secret)}")
    ]
    if path := read_by_others():
        findings.append(
            Finding(
                "⚠",
                "Ray's token",
                f"every account of this machine can read {path}, and run code there",
                f"chmod 600 {path}",
            )
        )
    jobs = _tried("cluster", lambda: Jobs(config.address, token_command(config.token_secret)))
    if isinstance(jobs, Finding):
        return {}, [*findings, jobs]
    findings.append(Finding("✓", "cluster", f"{jobs.address} answers and takes the token"))
    there = _tried("a job on the head", lambda: _look_around(jobs))
    if isinstance(there, Finding):
        return {}, [*findings, there]
    return there, [*findings, *_versions(there), *_environment(there)]


def _look_around(jobs: Jobs) -> dict[str, Any]:
    name = f"cluster-check-{time.time_ns():x}"
    jobs.submit(name, shlex.join(["python", "-c", _LOOK]), None, {}, {})
    end = time.monotonic() + _JOB_SECONDS
    while not (job := jobs.info(name)).over and time.monotonic() < end:
        time.sleep(0.5)
    lines = [line for line in jobs.log(name).splitlines() if line.startswith("found:")]
    if not job.over:
        jobs.stop(name)
        raise TrunklineError(f"it did not run within {_JOB_SECONDS:.0f} seconds: {job.message}")
    jobs.forget(name)
    if not lines:
        raise TrunklineError(f"it ended without an answer: {job.message}")
    return dict(json.loads(lines[-1].removeprefix("found:")))


def _release(name: str, version: str) -> str:
    """What has to be equal: Python's patch level and torch's build (+cu128) may differ."""
    return version.rsplit(".", 1)[0] if name == "python" else version.partition("+")[0]


def _versions(there: dict[str, Any]) -> list[Finding]:
    """The cluster's versions beside those here: requirements.lock should have made them equal."""
    here = {name: importlib.metadata.version(name) for name in _PACKAGES}
    findings = []
    for name, mine in {"python": platform.python_version(), **here}.items():
        theirs = there["python"] if name == "python" else there["versions"][name]
        if theirs is None:
            findings.append(
                Finding(
                    "✗",
                    name,
                    "is not installed on the cluster",
                    "look at the head's boot log (infra/terraform/README.md)",
                )
            )
        elif _release(name, theirs) != _release(name, mine):
            remedy = (
                "its nodes were made from another requirements.lock: `terraform apply` sends this one, new nodes "
                "take it"
            )
            findings.append(Finding("⚠", name, f"{theirs} on the cluster, {mine} here", remedy))
        else:
            findings.append(Finding("✓", name, f"{theirs} on the cluster"))
    return findings


def _environment(there: dict[str, Any]) -> list[Finding]:
    store, tracking, health = there["store"], there["tracking"], there["health"]
    unit = "the head's systemd unit sets it from Terraform's outputs"
    findings = [
        Finding("✓", "store", f"TRUNKLINE_STORE={store} on the cluster")
        if store
        else Finding(
            "✗", "store", "TRUNKLINE_STORE is not set on the cluster", f"pass store=s3://…, or see why: {unit}"
        )
    ]
    if not tracking:
        remedy = (
            f"several nodes cannot share the SQLite default: {unit}, or pass tracking.uri=… or tracking.enabled=false"
        )
        findings.append(Finding("⚠", "tracking server", "MLFLOW_TRACKING_URI is not set on the cluster", remedy))
    elif health is None:
        findings.append(
            Finding("⚠", "tracking server", f"{tracking} is no server that can be asked", "expected http://…")
        )
    elif health == "OK":
        findings.append(Finding("✓", "tracking server", f"{tracking} answers the head"))
    else:
        findings.append(
            Finding(
                "✗",
                "tracking server",
                f"{tracking} does not answer the head: {health}",
                "systemctl status mlflow on its machine",
            )
        )
    return findings


def _buckets(config: ClusterCheckConfig, store: str) -> list[Finding]:
    region, findings = _region(config) or "us-east-1", list[Finding]()
    if not store.startswith("s3://"):
        note = "store=s3://… or TRUNKLINE_STORE names it: `terraform output -raw store_uri`"
        findings.append(Finding("⚠", "buckets", "the store's is not known here", note))
    for uri in (store, *config.buckets):
        if uri.startswith("s3://"):
            name, _, prefix = uri.removeprefix("s3://").partition("/")
            findings += aws.ask(f"bucket {name}", functools.partial(aws.bucket, name, prefix, region), "✗")
    return findings


def _tried(name: str, question: Callable[[], Any]) -> Any:
    """What `question()` returns, or its mistake as a finding."""
    try:
        return question()
    except TrunklineError as error:
        return Finding("✗", name, str(error))


def _show(findings: list[Finding]) -> list[Finding]:
    for finding in findings:
        say(f"   {finding.mark} {finding.name}{' ' * max(1, _COLUMN - width(finding.name))} {finding.answer}")
        if finding.todo:
            say(f"     {' ' * _COLUMN} → {finding.todo}")
    return findings


main = entry(ClusterCheckConfig, run, "cluster_check", uses_store=False)

if __name__ == "__main__":
    main()
