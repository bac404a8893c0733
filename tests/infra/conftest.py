"""What the infrastructure tests share for a whole session, since it takes seconds to start: moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.cloud import Cloud, cloud
from tests.infra.machine import Machine


@pytest.fixture(scope="session")
def _moto() -> Iterator[Cloud]:
    with cloud() as server:
        yield server


@pytest.fixture(scope="module")
def aws(_moto: Cloud) -> Cloud:
    """moto's server, as empty as an account that nobody has used: each file of tests finds it so."""
    _moto.reset()
    return _moto


@pytest.fixture(scope="module")
def data_bucket(aws: Cloud) -> str:
    """The bucket that nodes boot from, with the autoscaler's configuration."""
    aws.client("s3").create_bucket(Bucket="demo-data")
    aws.client("s3").put_object(Bucket="demo-data", Key="bootstrap/cluster.yaml", Body=b"max_workers: 1\n")
    return "demo-data"


@pytest.fixture
def machine(tmp_path: Path, aws: Cloud, data_bucket: str) -> Iterator[Machine]:
    """A machine with two GPUs, whose AWS is moto."""
    made = Machine(tmp_path, aws, nvidia_smi='echo "NVIDIA L4"; echo "NVIDIA L4"')
    yield made
    made.metadata.close()
