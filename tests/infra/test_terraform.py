"""Terraform's files, checked by a stock Terraform against the schema in `infra/terraform/schema`: no account, no
network.

Every module and example is validated and its own `terraform test` run. Then the mutation check: each security default
is taken out of a copy, and the module's test must say so.

One provider serves all of it: Terraform would start one anew for every run of a test, and that is what the time went
into (ray: 80 s with, 3 s without). `budget` alone is checked by providers that Terraform finds and starts by itself, as
people's do.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.mutations import MUTATIONS
from tests.infra.tools import PROJECT, TERRAFORM, need
from tests.waits import PATIENCE_SECONDS

ROOTS = ["modules/network", "modules/storage", "modules/ray", "modules/mlflow", "modules/budget"]
EXAMPLES = ["examples/single-gpu", "examples/cluster"]


@dataclass(frozen=True)
class Ended:
    """A command that ended: its status and what it printed."""

    status: int
    text: str


def terraform(folder: Path, *arguments: str) -> Ended:
    """Runs Terraform in `folder` and waits for it."""
    # by `env`, and no copy of os.environ: pytest changes that while the threads of `runs` are here
    own = ["-u", "TF_REATTACH_PROVIDERS"] if folder.name == "budget" else []
    done = subprocess.run(
        ["env", *own, "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "terraform", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return Ended(done.returncode, done.stdout)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the Terraform files, beside what they read of the project, with the schema-only provider for them."""
    need("terraform")
    folder = tmp_path_factory.mktemp("terraform")
    copy = folder / "project" / "infra" / "terraform"
    shutil.copytree(TERRAFORM, copy, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "__pycache__"))
    shutil.copy(PROJECT / "requirements.lock", folder / "project")
    provider = [sys.executable, str(copy / "schema" / "provider.py")]
    subprocess.run([*provider, "--install", str(folder)], check=True)
    with (
        subprocess.Popen([*provider, "--keep"], stdout=subprocess.PIPE, text=True) as kept,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert kept.stdout is not None
        patch.setenv("TF_CLI_CONFIG_FILE", str(folder / "terraformrc"))
        patch.setenv("TF_REATTACH_PROVIDERS", kept.stdout.readline())
        yield copy
        kept.kill()


def checked(folder: Path) -> Ended:
    """init, validate and test one module or example, up to the first that fails."""
    for step in (["init", "-input=false", "-no-color"], ["validate", "-no-color"], ["test", "-no-color"]):
        ended = terraform(folder, *step)
        if ended.status:
            break
    return ended


def mutated(tree: Path, name: str) -> Ended:
    """The module's security test on a copy without one default."""
    mutation = MUTATIONS[name]
    folder = tree.parent / "mutations" / name.replace(" ", "-").replace("'", "") / "module"
    shutil.copytree(tree / mutation.root, folder, symlinks=True)
    path = folder / mutation.file
    text = path.read_text()
    assert mutation.was in text, f"{mutation.root}/{mutation.file} has no {mutation.was!r}: the mutation is out of date"
    path.write_text(text.replace(mutation.was, mutation.becomes, 1))
    return terraform(folder, "test", "-no-color", f"-filter={mutation.test}")


@pytest.fixture(scope="module")
def runs(tree: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
    """Everything that takes seconds and is asked for, two at a time: most of each is Terraform waiting for its provider
    to start.
    """
    calls = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    asked = {str(value) for params in calls for key, value in params.items() if key in ("root", "name")}
    mutations = {name: mutation for name, mutation in MUTATIONS.items() if name in asked}
    needed = asked | {mutation.root for mutation in mutations.values()}
    with ThreadPoolExecutor(2) as pool:
        futures = {root: pool.submit(checked, tree / root) for root in ROOTS + EXAMPLES if root in needed}

        def after(root: str, work: Callable[[Path, str], Ended], name: str) -> Ended:
            futures[root].result()  # the module is initialised once, and its copies take that over
            return work(tree, name)

        for name, mutation in mutations.items():
            futures[name] = pool.submit(after, mutation.root, mutated, name)
        yield futures
        for future in futures.values():
            future.cancel()


def test_files_are_formatted() -> None:
    need("terraform")
    ended = terraform(TERRAFORM, "fmt", "-check", "-recursive", "-diff")
    assert ended.status == 0, f"terraform fmt -recursive infra/terraform\n{ended.text}"


@pytest.mark.parametrize("root", ROOTS + EXAMPLES)
def test_module_passes_its_own_tests(runs: dict[str, Future[Ended]], root: str) -> None:
    ended = runs[root].result()
    assert ended.status == 0, ended.text
    assert re.search(r"Success! [1-9]\d* passed, 0 failed", ended.text), ended.text


@pytest.mark.parametrize("name", MUTATIONS)
def test_taking_out_a_default_fails_the_modules_test(runs: dict[str, Future[Ended]], name: str) -> None:
    ended = runs[name].result()
    assert ended.status == 1, ended.text
    assert MUTATIONS[name].says in " ".join(ended.text.split()), ended.text


def test_every_variable_is_typed_and_every_output_described() -> None:
    lacking = []
    for path in sorted(TERRAFORM.glob("*/*/*.tf")):
        for kind, name, body in re.findall(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', path.read_text(), re.M | re.S):
            wanted = ("description", "type") if kind == "variable" else ("description", "value")
            lacking += [
                f"{path.relative_to(TERRAFORM)}: {kind} {name} has no {argument}"
                for argument in wanted
                if not re.search(rf"^  {argument} +=", body, re.M)
            ]
    assert lacking == []


def test_schema_holds_every_type_in_use() -> None:
    """Otherwise `extract.py` has to be run again, as its docstring says."""
    sys.path.insert(0, str(TERRAFORM / "schema"))
    try:
        from extract import used_types
    finally:
        sys.path.pop(0)
    schema = json.loads((TERRAFORM / "schema" / "aws.json").read_text())
    (known,) = schema["provider_schemas"].values()
    held = {("resource", name) for name in known["resource_schemas"]} | {
        ("data", name) for name in known["data_source_schemas"]
    }
    assert used_types(TERRAFORM) == held


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("  iam_instance_profil = \"x\"", "Unsupported argument"),
        ("  instance_type = [1]", "Incorrect attribute value type"),
        ("  metadata_options { http_token = \"required\" }", "Unsupported argument"),
        ("  tags = aws_instance.this.no_such_attribute", "Unsupported attribute"),
    ],
)  # fmt: skip
def test_rebuilt_schema_refuses_what_the_provider_would(tree: Path, tmp_path: Path, line: str, complaint: str) -> None:
    """The whole ladder rests on it: a provider that accepted everything would let every test pass."""
    (tmp_path / "main.tf").write_text(
        f'terraform {{\n  required_providers {{\n    aws = {{ source = "hashicorp/aws" }}\n  }}\n}}\nresource '
        f'"aws_instance" "this" {{\n{line}\n}}\n'
    )
    assert terraform(tmp_path, "init", "-input=false", "-no-color").status == 0
    ended = terraform(tmp_path, "validate", "-no-color")
    assert ended.status == 1, ended.text
    assert complaint in ended.text
