"""`workflows.submit` against a real Ray: exit codes, secrets, lost drivers, a replaced head, dropped connections,
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from pipelines.train.checkpoint import committed_steps
from pipelines.train.run.loop import read_metrics
from tests import tiny
from tests.integration.conftest import SECRET
from tests.integration.ray_cluster import RayCluster
from tests.ports import free_port
from tests.waits import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
# a workflow that counts, looks at its secret, and ends as and when it is told to
PROBE = """
import hashlib, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from pipelines.config import WorkflowConfig
from pipelines.display.progress import say
from workflows.entry import entry
from workflows.running.session import Session

@dataclass(frozen=True, kw_only=True)
class ProbeConfig(WorkflowConfig):
    lines: int = 0
    pause: float = 0.2
    exit: int = 0
    marker: str = ""  # a file: where it is there, an earlier attempt was here
    until: str = ""  # a file: it ends no sooner than this is there

def look(shard):
    return hashlib.sha256(os.environ.get("HF_TOKEN", "").encode()).hexdigest()

def run(config, session):
    if config.marker and Path(config.marker).exists():
        say("an earlier attempt was here")
        return
    Path(config.marker or os.devnull).write_text("here")
    for i in range(config.lines):
        say(f"line {i}")
        time.sleep(config.pause)
    while config.until and not Path(config.until).exists():
        time.sleep(0.1)
    if "HF_TOKEN" in os.environ:
        say("driver " + look(0))
        say("worker " + session.map_shards(look, [0], "look")[0])
    raise SystemExit(config.exit)

run.__annotations__ = {"config": ProbeConfig, "session": Session}
main = entry(ProbeConfig, run, "probe")
if __name__ == "__main__":
    main()
"""
TINY = (
    "+experiment=demo",
    "data=mixture/tiny_stable",
    "model.layers=2",
    "model.d_model=32",
    "model.d_ff=80",
    f"model.vocabulary={tiny.VOCABULARY}",
    "model.dim_model_base=16",
    "batch.sequence_length=32",
    "batch.global_batch=8",
    "batch.micro_batch=2",
    "tracking.enabled=false",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the probe as one more workflow, as a user would write their own."""
    folder = tmp_path_factory.mktemp("project")
    for part in ("pipelines", "workflows", "conf"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "workflows" / "probe.py").write_text(PROBE)
    fields = (
        "lines: 0\npause: 0.2\nexit: 0\nmarker: ''\nuntil: ''\nname: probe\nstore: ${oc.env:TRUNKLINE_STORE,store}\n"
    )
    (folder / "conf" / "probe.yaml").write_text(
        f"defaults:\n  - cluster: local\n  - _self_\n\n{fields}dry_run: false\n"
    )
    return folder


def start(head: RayCluster, project: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """The command in a shell of its own, as a user starts it: without what only the cluster knows."""
    environment = {name: value for name, value in head.environment.items() if not name.startswith("TRUNKLINE_S")}
    command = [sys.executable, "-m", "workflows.submit", *arguments]
    return subprocess.Popen(
        command,
        cwd=project,
        env={**environment, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def submit(head: RayCluster, project: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    process = start(head, project, *arguments, **variables)
    output = the_rest(process)
    return process.returncode, output


def wait_for(process: subprocess.Popen[str], text: str, output: list[str]) -> str:
    """Read the process's lines into `output` until one has `text`; that line."""
    assert process.stdout is not None
    patience = threading.Timer(PATIENCE_SECONDS, process.kill)  # which ends its lines
    patience.start()
    try:
        for line in process.stdout:
            output.append(line)
            if text in line:
                return line
    finally:
        patience.cancel()
    raise AssertionError(
        f"{text!r} never came, in {PATIENCE_SECONDS} s or before the command ended:\n{''.join(output)}"
    )


def the_rest(process: subprocess.Popen[str]) -> str:
    """What else it prints until it ends."""
    return process.communicate(timeout=PATIENCE_SECONDS)[0]


def counted(output: str) -> list[int]:
    return [int(number) for number in re.findall(r"^line (\d+)$", output, re.MULTILINE)]


def job_id(output: str) -> str:
    found = re.search(r"submitted (\S+)", output)
    assert found, output
    return found.group(1)


def test_a_job_ends_with_the_exit_code_of_its_workflow(head: RayCluster, project: Path) -> None:
    code, output = submit(head, project, "--", "workflows.probe", "lines=3", "pause=0", "exit=7")
    assert (code, counted(output)) == (7, [0, 1, 2]), output
    assert "failed with exit code 7" in output
    assert "retry" not in output
    code, output = submit(head, project, "--", "workflows.probe")
    assert code == 0, output
    code, output = submit(head, project, "--", "workflows.checkpoints", "action=list", f"store={project}/empty")
    assert code == 2, output
    assert "error: there is no checkpoint in" in output


def test_secrets_travel_by_name_alone(head: RayCluster, project: Path) -> None:
    code, output = submit(head, project, "secrets=[HF_TOKEN]", "--", "workflows.probe", HF_TOKEN="of-this-shell")
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert code == 0, output
    assert f"driver {digest}" in output
    assert f"worker {digest}" in output
    request = urllib.request.Request(f"{head.address}/api/jobs/{job_id(output)}")
    request.add_header("Authorization", f"Bearer {'0123456789abcdef' * 4}")
    info = urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).read().decode()
    assert "HF_TOKEN" in info
    paths = [path for folder in head.temporaries for path in folder.rglob("session_*/logs/**/*")]
    logs = "".join(path.read_text(errors="replace") for path in paths if path.is_file())
    assert digest in logs  # the right folder was looked at
    for value in (SECRET, "of-this-shell"):
        assert value not in output + info + logs


def test_a_secret_that_the_cluster_does_not_have_is_named(head: RayCluster, project: Path) -> None:
    code, output = submit(head, project, "secrets=[WANTED]", "--", "workflows.probe")
    assert code == 2, output
    assert "error: this node has no secret WANTED; looked at its environment" in output
    assert "/secrets/WANTED" in output


class Tunnel:
    """A port that passes everything on to the dashboard, until it is cut."""

    def __init__(self, target: int):
        self.target, self.port = target, free_port()
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        assert self._listener is not None
        for each in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_drops_costs_no_line_and_doubles_none(
    head: RayCluster, project: Path, tmp_path: Path
) -> None:
    tunnel, end = Tunnel(head.ports["dashboard-port"]), tmp_path / "end"
    here = f"address=http://127.0.0.1:{tunnel.port}"
    process = start(head, project, here, "--", "workflows.probe", "lines=30", f"until={end}")
    output: list[str] = []
    wait_for(process, "line 5", output)
    tunnel.cut()
    wait_for(process, "is lost; the job goes on", output)
    tunnel.mend()
    end.touch()
    rest = the_rest(process)
    everything = "".join(output) + rest
    assert process.returncode == 0, everything
    assert counted(everything) == list(range(30))
    assert "answers again" in rest


def test_patience_ends_with_a_word_on_how_to_go_on(head: RayCluster, project: Path, tmp_path: Path) -> None:
    tunnel, end = Tunnel(head.ports["dashboard-port"]), tmp_path / "end"
    here = f"address=http://127.0.0.1:{tunnel.port}"
    process = start(head, project, here, "patience_minutes=0.05", "--", "workflows.probe", "lines=20", f"until={end}")
    output: list[str] = []
    job = job_id(wait_for(process, "submitted", output))
    wait_for(process, "line 2", output)
    tunnel.cut()
    rest = the_rest(process)
    assert process.returncode == 4, rest
    assert f"python -m workflows.submit follow={job}" in rest
    end.touch()
    code, output_ = submit(head, project, f"follow={job}")  # past the tunnel
    assert (code, counted(output_)) == (0, list(range(20))), output_


def test_ctrl_c_leaves_the_job_running(head: RayCluster, project: Path, tmp_path: Path) -> None:
    process = start(head, project, "--", "workflows.probe", "lines=3", f"until={tmp_path / 'never'}")
    output: list[str] = []
    job = job_id(wait_for(process, "submitted", output))
    wait_for(process, "line 2", output)
    process.send_signal(signal.SIGINT)
    rest = the_rest(process)
    assert process.returncode == 130, rest
    assert f"follow={job}" in rest
    code, output_ = submit(head, project, "list")
    assert code == 0
    assert re.search(rf"{job} +RUNNING", output_), output_
    code, output_ = submit(head, project, f"stop={job}")
    assert code == 0, output_
    code, output_ = submit(head, project, f"follow={job}")
    assert code == 130, output_
    assert "was stopped" in output_


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RAY_AUTH_TOKEN": "f" * 64},
            "refuses the token from RAY_AUTH_TOKEN.*unset RAY_AUTH_TOKEN; .*secretsmanager get-secret-value",
        ),
        (
            {"HOME": "/nonexistent"},
            "wants a token, and there is none.*secretsmanager get-secret-value --secret-id mine/ray",
        ),
        ({"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1"}, "no Ray answers at http://127.0.0.1:1 .*tunnel_command"),
    ],
)
def test_a_cluster_that_lets_nobody_in(
    head: RayCluster, project: Path, variables: dict[str, str], message: str
) -> None:
    code, output = submit(head, project, "token_secret=mine/ray", "--", "workflows.probe", **variables)  # fmt: skip
    assert code == 4, output
    assert re.search(f"error: .*{message}", output), output


def test_a_name_that_is_taken_is_refused(head: RayCluster, project: Path) -> None:
    assert submit(head, project, "name=once", "detach=true", "--", "workflows.probe")[0] == 0
    code, output = submit(head, project, "name=once", "--", "workflows.probe")
    assert code == 2, output
    assert "choose another name=" in output


def test_training_waits_for_the_machines_of_a_cluster_that_grows(head: RayCluster) -> None:
    store = tiny.build(head.environment["TRUNKLINE_STORE"])
    recipe = ("--", "workflows.pretrain", *TINY, "steps=4", "cluster.workers=3", "batch.global_batch=6")
    code, output = submit(head, ROOT, *recipe, "name=refused")
    assert code == 2, output
    assert "needs 3 CPU; this Ray cluster has 2" in output
    process = start(head, ROOT, "cluster.grows=true", *recipe, "name=grown")
    seen: list[str] = []
    wait_for(process, "waiting for machines: the workers need 3 CPU, of which there are 2", seen)
    node = head.add_node(cpus=1, apart=True)  # else the driver's own files are unpacked anew under it
    rest = the_rest(process)
    node.kill()
    assert process.returncode == 0, "".join(seen) + rest
    assert store.get("pretrain/grown").statistics["steps"] == 4


def test_a_sweep_is_one_job_whose_arms_train_side_by_side(head: RayCluster) -> None:
    store = tiny.build(head.environment["TRUNKLINE_STORE"])
    sweep = ("--", "workflows.pretrain", "-m", *TINY, "name=swept", "cluster.workers=1", "steps=4", "seed=0,1,x")
    code, output = submit(head, ROOT, *sweep)
    assert code == 2, output
    assert "3/3 seed=x: seed is 'x'" in output
    assert "submitted" not in output
    code, output = submit(head, ROOT, *sweep[:-1], "seed=0,1,2")
    assert code == 0, output
    assert re.search(r"submitted pretrain-swept-seed-", output), output
    assert "lanes: 2, each of 1 process" in output
    assert re.search(r"the best first, by the training loss", output), output
    assert [store.get(f"pretrain/swept-seed-{seed}").statistics["steps"] for seed in range(3)] == [4, 4, 4]


def test_a_driver_lost_with_its_node_is_started_again_and_training_completes(head: RayCluster) -> None:
    store = tiny.build(head.environment["TRUNKLINE_STORE"])
    node = head.add_node(resources={"spot": 1})
    process = start(
        head,
        ROOT,
        "name=trunk",
        "driver={spot: 1}",
        "retries=1",
        "--",
        "workflows.pretrain",
        *TINY,
        "name=lost",
        "steps=400",
        "checkpoint.every_steps=20",
        "log_every_steps=20",
    )
    # seen in the store, before the log tells it: training takes a second or two to its end
    wait_until(
        lambda: committed_steps(store.storage, "pretrain/lost") or process.poll() is not None, "the first checkpoint"
    )
    node.kill()
    another = head.add_node(resources={"spot": 1})
    rest = the_rest(process)
    another.kill()
    assert process.returncode == 0, rest
    assert "trunk was lost with its node" in rest
    assert "retry 1 of 1 as trunk-retry-1" in rest
    resumed = re.search(r"weights: resumed from pretrain/lost@step-(\d+)", rest)
    assert resumed, rest
    assert int(resumed.group(1)) >= 20
    assert store.get("pretrain/lost").statistics["steps"] == 400
    assert [row["step"] for row in read_metrics(store.storage, "pretrain/lost")] == list(range(1, 401))


def test_a_replaced_head_costs_a_resubmission(head: RayCluster, project: Path, tmp_path: Path) -> None:
    """The last one: what the head knew of jobs before is gone after it."""
    marker = tmp_path / "marker"
    never = f"until={tmp_path / 'never'}"
    process = start(head, project, "retries=1", "--", "workflows.probe", "lines=4", never, f"marker={marker}")
    output: list[str] = []
    wait_for(process, "line 3", output)
    assert head.head is not None
    head.head.kill()
    wait_for(process, "is lost; the job goes on", output)
    head.start_head()
    rest = the_rest(process)
    assert process.returncode == 0, "".join(output) + rest
    assert "its head was replaced" in rest
    assert "an earlier attempt was here" in rest
