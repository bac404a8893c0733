"""The Dockerfile, linted, and what it promises: pinned, non-root, without secrets. It has not been built: see its
head.
"""

import re
import subprocess

from tests.infra.tools import PROJECT, need
from tests.waits import PATIENCE_SECONDS

TEXT = (PROJECT / "Dockerfile").read_text()
IGNORED = (PROJECT / ".dockerignore").read_text().splitlines()


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of that name, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^#.*\n", "", TEXT))
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_hadolint_has_nothing_to_say() -> None:
    found = subprocess.run(
        [need("hadolint"), "--failure-threshold", "style", str(PROJECT / "Dockerfile")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert found.returncode == 0, found.stdout


def test_the_base_is_one_version_of_cuda() -> None:
    (base,) = instructions("FROM")
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu24\.04(@sha256:[0-9a-f]{64})?", base)


def test_it_runs_under_the_account_of_the_boot_scripts() -> None:
    assert instructions("USER") == ["2000:2000"]
    node = (PROJECT / "infra/terraform/modules/ray/templates/node.sh").read_text()
    assert "--uid 2000 --gid 2000" in node


def test_packages_are_the_pinned_ones() -> None:
    installs = [part for line in instructions("RUN") for part in line.split("&&") if "pip install" in part]
    *checked, project = [part.split() for part in installs]
    assert [part[-1] for part in checked] == ["/tmp/build.lock", "requirements.lock"]
    assert all("--require-hashes" in part for part in checked)
    assert "--no-build-isolation" in checked[1]
    assert project == ["pip", "install", "--no-deps", "--no-build-isolation", "-e", "."]


def test_only_what_is_copied_reaches_the_builder() -> None:
    copied = {source for line in instructions("COPY") for source in line.split()[1:-1]}
    assert IGNORED[1] == "*"
    assert {line[1:] for line in IGNORED if line.startswith("!")} == copied
    assert all((PROJECT / source).exists() for source in copied)


def test_no_secret_is_set() -> None:
    names = re.findall(r"\b([A-Z][A-Z0-9_]+)=", " ".join(instructions("ENV") + instructions("ARG")))
    assert names
    assert not [name for name in names if name.endswith(("KEY", "TOKEN", "SECRET", "PASSWORD"))]


def test_it_says_what_it_is_and_whether_it_lives() -> None:
    assert "org.opencontainers.image.licenses" in " ".join(instructions("LABEL"))
    assert instructions("HEALTHCHECK")
