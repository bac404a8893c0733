"""A task added as one file and one row is measured, kept, drawn, tracked and quoted; nothing else is opened."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.store.artifacts import ArtifactStore
from pipelines.train.network.architecture import ModelConfig
from tests.additions import Tree
from tests.untrained import commit_run, commit_tokens

TABLE = "pipelines/train/tasks/__init__.py"
MODEL = ModelConfig(
    layers=1, d_model=16, d_ff=32, heads=2, kv_heads=1, vocabulary=320, max_positions=64, dim_model_base=16
)
REPORT = """
import json, sys
from pathlib import Path
from pipelines.display.report import StageResult, stage_table, write_report
evaluation = json.loads(Path(sys.argv[1]).read_text())
results = [StageResult(kind="pretrain", reference="pretrain/a@step-1", tokens_end=1, evaluation=evaluation)]
write_report(Path(sys.argv[2]), results)
print(json.dumps(stage_table(results)))
"""


@pytest.mark.slow
def test_a_new_task_is_one_file_and_one_row(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    texts = {
        "prose": ["Once upon a time there was a model, and it was small."] * 30,
        "zh": ["话说天下大势，分久必合。"] * 30,
    }
    tokens = commit_tokens(store, texts, [("1 + 1?", "2")] * 5, [("2 + 2?", "4", "fish")] * 5)
    commit_run(store, "pretrain/a", MODEL, tokens, steps=(1,))

    tree = Tree(tmp_path)
    tree.add("pipelines/train/tasks/next_token.py", "task/next_token.py")
    tree.row(TABLE, after="import COMPLETIONS", line="from pipelines.train.tasks.next_token import NEXT_TOKEN")
    tree.row(TABLE, after='"completions"', line='    "next_token": NEXT_TOKEN,')
    tasks = ["tasks.completions=null", "tasks.preferences=null", "+tasks.next_token.after=4"]
    run = tree.run("workflows.evaluate", "name=e", "parent=pretrain/a@step-1", *tasks, f"store={store.uri}")
    assert run.returncode == 0, run.stderr

    # ── results.json ──
    assert re.search("next_token +the token behind 4 others", run.stdout)
    path = store.storage.root / "evaluate/e/results.json"
    measured = json.loads(path.read_text())["tasks"]["next_token"]
    share = measured["numbers"]["next_token_right"]["value"]
    assert set(measured["rows"]) == {"prose", "zh"}
    assert 0 <= share <= 1
    made = store.get("evaluate/e")
    assert made.statistics["next_token_right"] == share
    hashed = {module for module in made.manifest["identity"]["code"] if ".tasks." in module}
    assert hashed == {
        f"pipelines.train.tasks.{module}" for module in ("task", "text", "windows", "scoring", "generate", "next_token")
    }

    # ── the report's table, figure and page ──
    (tree.folder / "draw.py").write_text(REPORT, encoding="utf-8")
    drawn = tree.run("draw", str(path), str(tmp_path / "report.html"))
    assert drawn.returncode == 0, drawn.stderr
    header, rows = json.loads(drawn.stdout)
    assert rows[0][header.index("next token")] == f"{share:.1%}"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Asked behind the beginning of each document." in page
    assert page.count('<img src="data:image/svg+xml') == 2  # of the text's task and of this one
    assert "<h2>Next token</h2>" in page
    assert "prose &lt;0&gt;" in page

    # ── MLflow ──
    tracked = json.loads((store.storage.root / "evaluate/e/mlflow.json").read_text())
    metrics = MlflowClient(tracked["uri"]).get_run(tracked["run_id"]).data.metrics
    assert metrics["next_token_right"] == pytest.approx(share)
    assert {"next_token_right/prose", "next_token_right/zh", "bits_per_byte/prose"} <= set(metrics)

    # ── the model card ──
    exported = tree.run(
        "workflows.export", "name=x", "parent=pretrain/a@step-1", f"store={store.uri}", "tracking.enabled=false"
    )
    assert exported.returncode == 0, exported.stderr
    card = (store.storage.root / "export/x/README.md").read_text(encoding="utf-8")
    assert "### Next token" in card
    assert re.search(rf"\| all documents \| – \| {share:.1%} \|", card)
    assert tree.opened() == []
