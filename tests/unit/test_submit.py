"""What `workflows.submit` refuses and packs before it talks to a cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipelines.cluster.outside import instances, secrets
from pipelines.cluster.outside.jobs import Job, Jobs, _Log, upload_limit
from pipelines.cluster.outside.package import collect, pack, with_folder
from pipelines.cluster.outside.submission import Submission
from pipelines.errors import ConfigError
from pipelines.store.code import git_state
from pipelines.tracking.origin import handed_on
from pipelines.train.plan import machines
from tests.commands import run_here
from tests.waits import PATIENCE_SECONDS
from workflows.submit import compose_target, instance_named, stages_of

ROOT = Path(__file__).parents[2]
RECIPE = ["workflows.pretrain", "+experiment=minicpm_2b"]


def refused(command: list[str], instance_type: str | None = None, max_nodes: int | None = None) -> str:
    ((stage, config),) = stages_of(compose_target(command))
    instance = instance_named(instance_type)
    with pytest.raises(ConfigError) as refusal:
        machines.check_stage(stage, config, instance, max_nodes)
    return str(refusal.value)


# ── The workflow ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "nothing to submit: name a workflow after --.*pretrain"),
        (["workflows.pretrian"], "workflows.pretrian is no workflow that runs on a cluster; there are anneal"),
        (["workflows.submit"], "is no workflow that runs on a cluster"),
        ([*RECIPE, "--cfg=job"], "--cfg=job: .*takes key=value, and -m for a sweep"),
        ([*RECIPE, "-m"], "-m runs a sweep, and no key has several values"),
        ([*RECIPE, "-m", "seed=0,x"], "1 of 2 turns cannot be run.*\n  2/2 seed=x: seed is 'x'"),
        ([*RECIPE, "-m", "seed=0,1", "hydra/launcher=joblib"], "side by side by themselves"),
        ([*RECIPE, "seed=0,1"], "seed=0,1: this key takes one value; several are a sweep, with -m"),
        ([*RECIPE, "model.layer=6"], "unknown key model.layer; accepted there: layers"),
        ([*RECIPE, "model=huge"], "model=huge: no such choice"),
        ([*RECIPE, "batch.micro_batch=six"], "batch.micro_batch is 'six'"),
        (["workflows.pretrain", "+experiment=none"], "no such experiment; there are demo"),
    ],
)
def test_a_workflow_that_cannot_be_composed_is_refused_here(command: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_target(command)


def test_the_choice_of_a_cluster_is_handed_on_unless_the_workflow_has_its_own() -> None:
    handed = ["cluster=aws", "cluster.workers=4"]
    target = compose_target(["python", "-m", *RECIPE, "cluster.workers=16"], handed)
    assert target.command == ["workflows.pretrain", "cluster=aws", "+experiment=minicpm_2b", "cluster.workers=16"]
    assert (target.config.cluster.workers, target.config.cluster.shard_retries) == (16, 5)


def test_a_sweep_is_one_job_whose_turns_are_all_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(tmp_path, monkeypatch)
    sent = ["--", *RECIPE, "-m", "cluster.workers=32,16", "seed=0,1"]
    done = run_here("submit", "instance_type=p5.48xlarge", "max_nodes=4", "dry_run=true", *sent)
    assert done.code == 0, done.output
    assert "workflows.pretrain -m +experiment=minicpm_2b cluster.workers=32,16 seed=0,1" in done.out
    assert re.search(r"arms +4, in one job, 1 at once", done.out), done.out
    assert "32 workers on 4 × p5.48xlarge" in done.out  # the largest
    assert re.search(r"pretrain/minicpm_2b-workers-16-seed-1 +16 +1", done.out), done.out
    target = compose_target([*RECIPE, "-m", "cluster.workers=32,7", "seed=0,1"])
    assert [turn.config.cluster.workers for turn in target.turns] == [32, 32, 7, 7]
    done = run_here("submit", "max_nodes=4", "instance_type=p5.48xlarge", *sent[:3], "-m", "cluster.workers=32,7,80")
    assert done.code == 2, done.output
    assert re.search(r"2 of 3 turns cannot be run", done.err), done.err
    assert re.search(r"2/3 cluster.workers=7: .*global_batch 960 does not divide", done.err), done.err
    assert re.search(r"3/3 cluster.workers=80: .*takes 10 × p5.48xlarge", done.err), done.err
    done = run_here("submit", "-m", "--", *RECIPE, "seed=0,1")
    assert done.code == 2
    assert "error: -m stands behind the workflow that it repeats" in done.err


def test_the_stages_of_a_recipe_are_checked_too() -> None:
    stages = stages_of(compose_target(["workflows.recipe", "+experiment=demo"]))
    assert {stage for stage, _ in stages} == {"pretrain", "anneal", "sft", "dpo"}


# ── Machines ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_without_gpu_is_refused_for_a_gpu_recipe() -> None:
    message = refused(RECIPE, "m7i.4xlarge")
    assert (
        "instance_type=m7i.4xlarge has no GPU, and each of cluster.workers=160 takes 1: choose one that has, e.g. "
        "g6.xlarge"
    ) in message


@pytest.mark.parametrize(
    ("changes", "instance_type", "max_nodes", "message"),
    [
        (
            ["cluster.workers=320"],
            None,
            None,
            r"cluster.workers=320, but a step has .* 960 / 6 = 160 micro-batches: "
            r"set cluster.workers=160 or less, or batch.micro_batch=3",
        ),
        (["cluster.workers=7"], None, None, "global_batch 960 does not divide into micro-batches of 6 on 7 workers"),
        (
            [],
            "p5.48xlarge",
            4,
            r"cluster.workers=160 takes 20 × p5.48xlarge .*at most 4 .*set cluster.workers=32 or "
            r"less",
        ),
        (["cluster.cpus_per_worker=64"], "p5.48xlarge", 4, r"takes 54 × p5.48xlarge"),
        (["cluster.gpus_per_worker=2", "cluster.workers=8"], "g6.xlarge", None, "a worker takes 2 GPUs and 8 CPUs"),
        (
            ["cluster.accelerator=A100"],
            "p5.48xlarge",
            None,
            "cluster.accelerator=A100, but instance_type=p5.48xlarge has H100",
        ),
        (
            ["cluster.workers=8", "cluster.cpus_per_worker=4"],
            "g6.48xlarge",
            None,
            r"does not fit: .* it has 21.2 GiB "
            r"\(the L4 of g6.48xlarge\)",
        ),
    ],
)
def test_more_than_the_plan_or_the_cluster_holds_is_refused(
    changes: list[str], instance_type: str | None, max_nodes: int | None, message: str
) -> None:
    assert re.search(message, refused([*RECIPE, *changes], instance_type, max_nodes))


def test_what_fits_says_how_many_machines_and_how_much_memory() -> None:
    ((stage, config),) = stages_of(compose_target([*RECIPE, "cluster.workers=32"]))
    facts = machines.check_stage(stage, config, instance_named("p5.48xlarge"), 4)
    assert facts["machines"].startswith("32 workers on 4 × p5.48xlarge (192 vCPUs, 8 H100 of 80 GiB), about $220.16")
    assert "of 76 (the H100 of p5.48xlarge)" in facts["memory"]


def test_what_its_data_sizes_is_submitted_and_sized_where_the_job_runs() -> None:
    for workflow in ("pretrain", "sft", "recipe"):
        for stage, config in stages_of(compose_target([f"workflows.{workflow}", "+experiment=own"])):
            facts = machines.check_stage(stage, config, instance_named("p5.48xlarge"), 4)
            assert facts["batch"] == "worked out from the data, where the job runs"
            assert facts["machines"].startswith("2 workers on 1 × p5.48xlarge")
    with pytest.raises(ConfigError, match=r"cluster.workers=1000 takes 6 × .* at most 4"):
        machines.check_stage(
            *stages_of(compose_target(["workflows.pretrain", "+experiment=own", "cluster.workers=1000"]))[0],
            instance_named("p5.48xlarge"), 4,
        )  # fmt: skip


def test_a_chat_is_submitted_as_it_is_typed() -> None:
    assert compose_target(["workflows.chat", "model=export/demo"]).config.model.of == "export/demo"


def test_the_machines_are_those_of_terraform() -> None:
    text = (ROOT / "infra" / "terraform" / "modules" / "ray" / "instances.tf").read_text()
    line = r'"([\w.]+)"\s+= \{ cpus = (\d+), gpus = (\d+), accelerator = "(\w+)", efa = \d+, usd_per_hour = ([\d.]+) \}'
    there = {name: (int(cpus), int(gpus), kind, float(usd)) for name, cpus, gpus, kind, usd in re.findall(line, text)}
    here = {each.type: (each.cpus, each.gpus, each.accelerator, each.usd_per_hour) for each in instances.with_gpus()}
    assert there == here


@pytest.mark.parametrize(
    ("instance_type", "spot", "code"),
    [
        ("g6e.12xlarge", False, "L-DB2E81BA"), ("g5.xlarge", True, "L-3819A6DF"), ("p5.48xlarge", False, "L-417A185B"),
        ("p5en.48xlarge", True, "L-C4BD4855"), ("p4d.24xlarge", True, "L-7212CCBC"), ("m7i.large", False, "L-1216C47A"),
        ("trn1.2xlarge", False, None), ("x2idn.metal", True, None), ("dl1.24xlarge", False, None),
    ],
)  # fmt: skip
def test_a_machine_counts_in_the_quota_of_its_family(instance_type: str, spot: bool, code: str | None) -> None:
    found = instances.quota_of(instance_type, spot)
    assert (found and found[0]) == code


# ── The package ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    for name in (
        "workflows/pretrain.py",
        "pipelines/cluster/outside/jobs.py",
        "store/tokens.bin",
        ".git/objects/ab",
        ".venv/bin/python",
        "notes/a.md",
        ".env",
        "data/x.tmp",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / ".gitignore").write_text("/store/\n")
    (folder / ".rayignore").write_text(".env\n")
    (folder / "data" / ".gitignore").write_text("*.tmp\n")
    return folder


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.truncate(size)


def test_what_is_ignored_stays_here(project: Path) -> None:
    names = {
        ".gitignore",
        ".rayignore",
        "data/.gitignore",
        "pipelines/cluster/outside/jobs.py",
        "workflows/pretrain.py",
    }
    assert set(collect(project, ["/notes"]).sizes) == names
    assert set(collect(project, []).sizes) == {*names, "notes/a.md"}


def test_a_package_is_its_contents_alone(project: Path) -> None:
    first = pack(collect(project, []))
    (project / "notes" / "a.md").touch()
    assert pack(collect(project, [])) == first
    with zipfile.ZipFile(first) as archive:
        assert archive.read("workflows/pretrain.py") == b"workflows/pretrain.py"
    (project / "notes" / "a.md").write_text("other")
    assert pack(collect(project, [])) != first


def test_a_folder_over_the_limit_names_its_largest(project: Path) -> None:
    assert upload_limit() == 100 * 2**20  # of Ray 2.60's dashboard, whatever its documentation says
    sparse(project / "models" / "old" / "big.bin", 300_000_000)
    sparse(project / "corpus.jsonl", 50_000_000)
    for i in range(12):
        sparse(project / "small" / f"{i}.bin", 1_000_000 + i)
    with pytest.raises(ConfigError) as refusal:
        collect(project, [])
    lines = str(refusal.value).splitlines()
    assert lines[0].endswith("holds 362 MB in 20 files; the Jobs API takes less than 105 MB. The largest:")
    named = [tuple(line.split(maxsplit=2)) for line in lines[1:5]]
    assert named == [
        ("300", "MB", "models/"),
        ("50", "MB", "corpus.jsonl"),
        ("12", "MB", "small/"),
        ("1", "MB", "small/11.bin"),
    ]
    assert len(lines) == 1 + 10 + 1
    assert "a line in .rayignore" in lines[-1]
    assert collect(project, ["/models", "*.jsonl"]).bytes < upload_limit()


def test_a_folder_that_is_none_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        collect(project.parent / "none", [])


def test_from_a_folder_without_code_the_code_that_runs_here_goes_along(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = collect(project / "notes", [])
    assert {"a.md", "workflows/pretrain.py", "pipelines/cluster/cluster.py", "conf/pretrain.yaml"} <= set(named.sizes)
    assert not [name for name in named.sizes if "__pycache__" in name]
    monkeypatch.chdir(project / "notes")  # which may be a home: nobody asked for what lies there
    assert set(collect(Path("."), []).sizes) == set(named.sizes) - {"a.md"}
    with zipfile.ZipFile(pack(named)) as archive:
        assert archive.read("a.md") == b"notes/a.md"
        assert archive.read("workflows/pretrain.py") == (ROOT / "workflows/pretrain.py").read_bytes()


@pytest.mark.parametrize("outside", [False, True])
def test_a_labs_configs_go_along_and_the_job_is_told_where(
    project: Path, monkeypatch: pytest.MonkeyPatch, outside: bool
) -> None:
    lab = project.parent / "elsewhere" if outside else project / "lab"
    (lab / "experiment/lab").mkdir(parents=True)
    text = "# @package _global_\nname: there\nstore: s3://bucket/prefix\ntracking: {enabled: false}\n"
    (lab / "experiment/lab/corpus.yaml").write_text(text)
    monkeypatch.chdir(project)
    ended = run_here("submit", "dry_run=true", "--", "workflows.corpus", "--config-dir", str(lab), "+experiment=lab")
    assert ended.code == 0, ended.output
    there = "lab-conf-0" if outside else "lab"
    assert f"python -m workflows.corpus --config-dir {there} +experiment=lab" in ended.out
    package, inner = with_folder(collect(Path("."), []), lab, Path("."), "lab-conf-0")
    assert inner == there
    with zipfile.ZipFile(pack(package)) as archive:
        assert archive.read(f"{there}/experiment/lab/corpus.yaml").decode() == text


def test_the_shipped_project_is_small_and_holds_no_store() -> None:
    package = collect(ROOT, [])
    assert package.bytes < 20_000_000
    assert not [name for name in package.sizes if re.match(r"(store|outputs|\.venv|\.git|infra)/", name)]


# ── Secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_value_instead_of_a_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="HF_TOKEN.* is no name of a secret") as refusal:
        secrets.check_names(["HF_TOKEN=hf_abcdef"])
    assert "hf_abcdef" not in str(refusal.value)


def test_a_secret_comes_from_the_environment_then_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRUNKLINE_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("TRUNKLINE_SECRETS_PREFIX", raising=False)
    (tmp_path / "HF_TOKEN").write_text("from the file\n")
    assert secrets.resolve(["HF_TOKEN"]) == {"HF_TOKEN": "from the file"}
    monkeypatch.setenv("HF_TOKEN", "from the environment")
    assert secrets.resolve(["HF_TOKEN"]) == {"HF_TOKEN": "from the environment"}
    with pytest.raises(ConfigError, match="no secret OTHER, MORE; looked at .*TRUNKLINE_SECRETS_PREFIX is not set"):
        secrets.resolve(["HF_TOKEN", "OTHER", "MORE"])


# ── Following ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lines_are_shown_once_however_often_the_log_begins_anew() -> None:
    shown: list[str] = []
    log = _Log(shown.append)
    whole = "one\ntwo\nthree\nfo"
    for text in (whole[:5], "<cut>", whole[:6], whole[6:], "<cut>", whole, "ur"):
        log.rewind() if text == "<cut>" else log.take(text)
    assert shown == ["one", "two", "three"]
    log.flush()
    assert shown == ["one", "two", "three", "four"]


def job(**changes: Any) -> Job:
    values = {
        "id": "a",
        "status": "FAILED",
        "command": "x",
        "message": "",
        "exit_code": None,
        "error": None,
        "began": 0.0,
        "ended": 1.0,
        "metadata": {},
    }
    return Job(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"error": "JOB_SUPERVISOR_ACTOR_DIED"}, True),
        ({"error": "JOB_ENTRYPOINT_COMMAND_ERROR", "exit_code": 1}, False),
        ({"error": "JOB_SUPERVISOR_ACTOR_DIED", "exit_code": 0, "status": "SUCCEEDED"}, False),
        ({"error": "RUNTIME_ENV_SETUP_FAILURE"}, False),  # would fail so again
        ({"error": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"}, False),
        ({"status": "STOPPED"}, False),
    ],
)
def test_only_a_driver_that_went_with_its_node_is_lost(changes: dict[str, Any], lost: bool) -> None:
    assert job(**changes).lost is lost


def test_another_shell_learns_from_the_job_how_to_retry_it() -> None:
    submission = Submission(
        name="a", command="python -m x", package="0", secrets=["K"], driver={"spot": 1.0}, retries=2
    )
    metadata = {"trunkline": json.dumps({**dataclasses.asdict(submission), "attempt": 1})}
    assert Submission.of(job(id="a-retry-1", metadata=metadata)) == (submission, 1)
    assert Submission.of(job(id="raysubmit_x"))[0].retries == 0


def test_a_job_is_told_who_submitted_it_and_which_commit_also_when_another_shell_retries_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path))
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages/0.zip").touch()
    sent: list[Any] = []

    class Recorder(Jobs):
        def __init__(self) -> None:
            """Connects to nothing."""

        def submit(self, *arguments: Any) -> None:
            sent.append(arguments)

    first = Submission(name="a", command="x", package="0", secrets=["K"], environment=handed_on())
    first.start(Recorder())
    metadata = sent[0][4]
    again, attempt = Submission.of(job(metadata=metadata))
    again.start(Recorder(), attempt + 1)
    assert sent[0][3] == sent[1][3] == {**handed_on(), secrets.NAMES: "K"}
    assert json.loads(sent[0][3]["TRUNKLINE_ORIGIN"])["commit"] == git_state()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cluster=aws", 'secrets=["A=hidden"]', "--", *RECIPE], r"error: secrets=\[A…\] is no name of a secret"),
        (["retries=-1", "--", *RECIPE], "error: retries is -1"),
        (["retry=1", "--", *RECIPE], "error: unknown key retry; accepted there: .*did you mean retries"),
        (["--", *RECIPE, "store=results"], "error: store=results is relative, and a job runs in a temporary copy"),
        (["max_nodes=0", "--", *RECIPE], "error: max_nodes is 0; expected the most GPU machines"),
        (
            ["instance_type=g7.large", "--", *RECIPE],
            "error: instance_type=g7.large is not among those known here, and no AWS credentials",
        ),
    ],
)
def test_mistakes_end_before_anything_is_sent(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere(tmp_path, monkeypatch)
    done = run_here("submit", "address=http://127.0.0.1:1", *arguments)
    assert done.code == 2, done.output
    assert re.search(message, done.err), done.err
    assert "no Ray answers" not in done.err
    assert "hidden" not in done.output


@pytest.mark.slow
def test_a_mistake_ends_the_command_of_a_user_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere(tmp_path, monkeypatch)
    command = [sys.executable, "-m", "workflows.submit", "address=http://127.0.0.1:1", "retry=1", "--", *RECIPE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search("error: unknown key retry; accepted there: .*did you mean retries", done.stderr), done.stderr


def nowhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell without credentials of AWS, anywhere."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(home), "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
