"""What several unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run, to be copied: making its tables takes MLflow seconds."""
    from mlflow import MlflowClient

    from pipelines.tracking.place import own_uri

    root = tmp_path_factory.mktemp("tables")
    MlflowClient(own_uri(root)).search_experiments()
    return root / "mlflow.db"
