"""Every study of conf/sandbox is planned without a store, those at the published sizes on GPUs that are not here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands import run_here

STUDIES = sorted((Path(__file__).parents[2] / "conf" / "sandbox").glob("*/*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_study_is_planned_without_data_and_without_its_machine(path: Path, tmp_path: Path) -> None:
    scale = path.parent.name
    gpus = ["cluster=gpu", "cluster.workers=1"] if scale == "minicpm" else []
    study = f"sandbox=[{scale}/{path.stem}]"
    ended = run_here("sandbox", study, "dry_run=true", f"store={tmp_path}/none", *gpus)
    assert ended.code == 0, ended.output
    # a search proposes its trials one by one
    assert re.search(r"trials +[1-9]" if path.stem != "hparams" else r"proposals|search", ended.out), ended.out
    assert re.search(r"memory +[\d.]+ GiB in each process", ended.out)
    assert not (tmp_path / "none").exists()
