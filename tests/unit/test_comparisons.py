"""One address opens MLflow on the runs at hand: which of them, in which order, which columns, charts zoomed to what."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.store.artifacts import ArtifactStore
from pipelines.tracking import ablation
from pipelines.tracking.links import address, model_page, view_page
from pipelines.tracking.pages import Asked, comparison, opening_pages
from pipelines.tracking.place import DATABASE, own_uri
from pipelines.tracking.view import View, column, end_of, line, saved, scatter, state
from pipelines.train.results.heldout import measures


def shown(client: Any, experiment: str, url: str) -> dict[str, Any]:
    """What MLflow's page reads at an address that ends in a view's key."""
    key = url.partition("viewStateShareKey=")[2].partition("&")[0]
    envelope = json.loads(client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"])
    return decoded(envelope)


def decoded(envelope: Any) -> dict[str, Any]:
    assert {"name", "createdAt", "updatedAt", "state"} <= set(envelope)  # else the page refuses it
    head, _, deflated = envelope["state"].partition(";")
    assert head == "deflate"
    read: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(deflated)))
    return read


# ── a view, as data ──


def test_a_view_is_kept_as_the_page_reads_it() -> None:
    """The tag is a named envelope of deflated JSON, and short enough for MLflow (5,000 characters in old servers)."""
    charts = [line("loss_by_tokens", {"xMin": 1.0, "yMax": 2.0}), scatter("schedule.decay", "bits_per_byte")]
    view = View(
        name="shapes",
        search="tags.`trunkline.group` = 'shapes'",
        order=column("metrics", "loss"),
        ascending=True,
        columns=[column("params", "schedule.decay")],
        charts=charts,
        folded=["bits_per_byte"],
    )
    tag, value = saved(view, at=7)
    assert tag == f"mlflow.sharedViewState.{view.key}"
    assert len(value) < 5000
    read = decoded(json.loads(value))
    assert read == state(view)
    assert read["orderByKey"] == "metrics.`loss`"
    assert read["orderByAsc"] is True
    assert read["selectedColumns"] == ["params.`schedule.decay`"]
    assert read["columnWidths"] == {"attributes.`Run Name`": 320, "params.`schedule.decay`": 162}
    first, second = read["compareRunCharts"]
    assert first["range"] == {"xMin": 1.0, "yMax": 2.0}
    assert first["useGlobalXaxisKey"] is False
    assert (second["xaxis"]["type"], second["yaxis"]["key"]) == ("PARAM", "bits_per_byte")
    sections = {section["uuid"]: section for section in read["compareRunSections"]}
    assert sections[first["metricSectionId"]]["display"] is True
    assert [one["name"] for one in sections.values() if not one["display"]] == [
        "Model metrics",
        "bits_per_byte",
        "System metrics",
    ]


def test_the_same_runs_keep_their_address() -> None:
    """Another column changes what is shown there, not where; other runs are elsewhere."""
    view = View(name="shapes", search="a")
    assert View(name="shapes", search="a", columns=["x"]).key == view.key
    assert View(name="shapes", search="b").key != view.key


def test_charts_show_the_end_of_every_curve_as_high_as_it_is_there() -> None:
    """The first half of the longest is left out; a short curve stays with its own last half."""
    long = [(float(x), 10 - x) for x in range(11)]
    span = end_of([long, long])
    assert 4.5 < span["xMin"] <= 5 < 10 <= span["xMax"] < 10.5
    assert -1 < span["yMin"] <= 0
    assert 5 <= span["yMax"] < 6
    short = [(float(x), 20.0) for x in range(5)]
    assert end_of([long, short])["xMin"] < 2
    assert end_of([long, short])["yMax"] > 20
    assert end_of([[(1.0, 2.0)], []]) == {}
    assert end_of([[(0.0, float("nan")), (1.0, 1.0), (2.0, 2.0), (3.0, 1.5)]])["yMax"] < 3


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////data/store/mlflow.db", "http://127.0.0.1:5000"),
        ("sqlite+pysqlite:////data/a%25/mlflow.db", "http://127.0.0.1:5000"),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("https://lab.example/mlflow/", "https://lab.example/mlflow"),
        ("http://user:secret@mlflow:5000", "http://mlflow:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("file:///data/mlruns", None),
        ("databricks", None),
    ],
)
def test_where_the_pages_of_a_tracking_uri_are(uri: str, expected: str | None) -> None:
    """A password is no part of an address that is printed."""
    assert address(uri) == expected


def test_addresses() -> None:
    """A filter in the address would take the place of the view's: there is none."""
    page = view_page("http://m", "1", "k", charts=True)
    assert page == (
        "http://m/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=k&compareRunsMode=CHART"
    )
    assert "CHART" not in view_page("http://m", "1", "k", charts=False)
    assert model_page("http://m", "a b", 2) == "http://m/#/models/a%20b/versions/2"


# ── runs of a real server ──

SET = "tokens/demo 1a2b3c4d"


class Runs:
    """Runs as the tracker makes them, in a store's own database."""

    def __init__(self, root: Path):
        self.store, self.config = ArtifactStore(str(root)), TrackingConfig()
        self.client = MlflowClient(own_uri(root))
        self.experiment = self.client.create_experiment("trunkline")
        self.trunk = self.make("pretrain/demo", {}, {"loss": 4.0}, **{"trunkline.parent_run": "no-such"})

    def make(
        self, folder: str, params: dict[str, str], metrics: dict[str, float], heldout: str = "", **tags: str
    ) -> str:
        kind = folder.split("/")[0]
        own = {"trunkline.kind": kind, "trunkline.artifact": folder, "trunkline.input.mixture": "mixture/a", **tags}
        if heldout:
            own["trunkline.heldout"] = heldout
        run_id = str(self.client.create_run(self.experiment, tags=own, run_name=folder).info.run_id)
        for name, value in {"name": folder, "batch.sequence_length": "128", **params}.items():
            self.client.log_param(run_id, name, value)
        for name, value in metrics.items():
            self.client.log_metric(run_id, name, value)
        record = {"uri": own_uri(Path(self.store.uri)), "run_id": run_id}
        self.store.storage.write(f"{folder}/mlflow.json", json.dumps(record).encode())
        return run_id

    def anneal(self, decay: str, bits: float | None = None, heldout: str = "", **tags: str) -> str:
        metrics = {"loss": 3.0 + len(decay) / 10, "learning_rate": 0.1}
        if bits is not None:
            metrics["bits_per_byte"] = bits
        own = {"trunkline.parent_run": self.trunk, **tags}
        run_id = self.make(f"anneal/{decay}", {"schedule.decay": decay}, metrics, heldout, **own)
        for step in range(10):
            self.client.log_metric(run_id, "loss_by_tokens", 5.0 - step / 3, step=1000 * (step + 1))
        return run_id

    def compared(self, **asked: Any) -> tuple[dict[str, Any], str]:
        found = comparison(self.config, self.store, Asked(**asked), measures=measures())
        assert found is not None
        return shown(self.client, self.experiment, found.url), found.order

    def listed(self, view: dict[str, Any]) -> list[str]:
        """What MLflow lists at the view."""
        direction = "ASC" if view["orderByAsc"] else "DESC"
        runs = self.client.search_runs(
            [self.experiment], view["searchFilter"], order_by=[f"{view['orderByKey']} {direction}"]
        )
        return [run.data.tags["trunkline.artifact"] for run in runs]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    root = tmp_path_factory.mktemp("tables")
    MlflowClient(own_uri(root)).search_experiments()
    return root / DATABASE


@pytest.fixture
def runs(empty: Path, tmp_path: Path) -> Runs:
    root = tmp_path / "store"
    root.mkdir()
    shutil.copy(empty, root)
    return Runs(root)


@pytest.mark.slow
def test_branches_of_one_trunk_are_compared_and_ranked_on_one_set(runs: Runs) -> None:
    runs.anneal("linear", 1.5, SET)
    runs.anneal("cosine", 1.4, SET)
    view, order = runs.compared(folder="anneal/linear")
    assert runs.listed(view) == ["anneal/cosine", "anneal/linear"]
    assert order == f"ranked by bits per byte on {SET}"
    # of the parameters the one that differs, without the name
    columns = ["metrics.`bits_per_byte`", "metrics.`loss`", "params.`schedule.decay`"]
    assert view["selectedColumns"] == columns
    assert view["columnOrder"] == ["attributes.`Run Name`", *columns]
    curve, points = view["compareRunCharts"][:2]
    assert curve["metricKey"] == "loss_by_tokens"
    assert 5000 < curve["range"]["xMin"] < 5600
    assert (points["xaxis"]["key"], points["yaxis"]["key"]) == ("schedule.decay", "bits_per_byte")
    colours = [run.data.tags["mlflow.runColor"] for run in runs.client.search_runs([runs.experiment], "") if
               run.data.tags["trunkline.kind"] == "anneal"]  # fmt: skip
    assert len(set(colours)) == 2
    # an arm that is measured on another set later does not come into the list
    runs.anneal("square", 0.1, "tokens/other 99999999")
    assert runs.listed(view) == ["anneal/cosine", "anneal/linear"]


@pytest.mark.slow
def test_other_held_out_sets_and_other_data_are_not_ranked(runs: Runs) -> None:
    runs.anneal("linear", 1.5, SET)
    runs.anneal("cosine", 0.2, "tokens/other 99999999")
    view, order = runs.compared(folder="anneal/linear")
    assert "not ranked by bits per byte" in order
    assert SET in order
    assert "tokens/other" in order
    assert view["orderByKey"] == "metrics.`loss`"  # they read the same data
    assert not any("bits_per_byte" in name for name in view["selectedColumns"])
    assert not any("bits_per_byte" in json.dumps(chart) for chart in view["compareRunCharts"])
    runs.anneal("square", **{"trunkline.input.mixture": "mixture/b"})
    view, order = runs.compared(folder="anneal/linear")
    assert view["orderByKey"] == "attributes.start_time"


@pytest.mark.slow
def test_what_was_replaced_is_no_arm(runs: Runs) -> None:
    runs.anneal("linear")
    old = runs.anneal("cosine")
    runs.client.set_tag(old, "trunkline.replaced_by", "x")
    assert comparison(runs.config, runs.store, Asked(folder="anneal/linear")) is None
    runs.anneal("cosine")
    view, _ = runs.compared(folder="anneal/linear")
    assert sorted(runs.listed(view)) == ["anneal/cosine", "anneal/linear"]


@pytest.mark.slow
def test_of_an_artifact_with_two_runs_the_one_that_the_store_names_is_the_arm(runs: Runs) -> None:
    """A rebuild that was ended has marked nothing: its run and that of before stand in one group."""
    group = {"trunkline.group": "shapes"}
    runs.anneal("linear", **group)
    runs.anneal("cosine", **group)
    view, _ = runs.compared(group="shapes")
    found = comparison(runs.config, runs.store, Asked(group="shapes"))
    runs.anneal("cosine", **group)
    again = comparison(runs.config, runs.store, Asked(group="shapes"))
    assert found is not None
    assert again is not None
    assert (again.arms, again.url) == (2, found.url)  # what was printed before opens the arms of now
    view, _ = runs.compared(group="shapes")
    assert sorted(runs.listed(view)) == ["anneal/cosine", "anneal/linear"]
    runs.anneal("square", **group)  # an arm that comes later is in the list
    assert sorted(runs.listed(view)) == ["anneal/cosine", "anneal/linear", "anneal/square"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "metric", "ascending", "best"),
    [("sft", "assistant_loss", True, "low"), ("dpo", "preference_accuracy", False, "high")],
)
def test_each_stage_is_ranked_by_its_own_measure(
    runs: Runs, kind: str, metric: str, ascending: bool, best: str
) -> None:
    """Bits per byte say the opposite here; an arm that failed has nothing to measure, and keeps nobody from it."""
    group = {"trunkline.group": "g"}
    for name, value, bits in (("low", 0.4, 2.0), ("high", 0.6, 1.0) if ascending else ("high", 0.6, 3.0)):
        measured = {"loss": 1.0, "learning_rate": 0.1, metric: value, "bits_per_byte": bits}
        runs.make(f"{kind}/{name}", {"schedule.peak_lr": name}, measured, SET, **group)
    failed = runs.make(f"{kind}/failed", {"schedule.peak_lr": "1e30"}, {"loss": 9.0, "learning_rate": 0.1}, **group)
    runs.client.set_terminated(failed, "FAILED")
    view, order = runs.compared(group="g")
    assert order == f"ranked by {metric.replace('_', ' ')} on {SET}, without 1 that failed"
    assert (view["orderByKey"], view["orderByAsc"]) == (f"metrics.`{metric}`", ascending)
    assert [name.split("/")[1] for name in runs.listed(view)] == sorted(["low", "high"], key=lambda name: name != best)
    assert view["selectedColumns"][:2] == [f"metrics.`{metric}`", "metrics.`bits_per_byte`"]
    assert view["compareRunCharts"][0]["yaxis"]["key"] == metric


@pytest.mark.slow
def test_a_sweep_of_what_does_not_train_is_not_ranked(runs: Runs) -> None:
    for name in ("a", "b"):
        runs.make(f"corpus/{name}", {"corpus": name}, {"mine/train_documents": 3.0}, **{"trunkline.group": "g"})
    view, order = runs.compared(group="g")
    assert order == "not ranked: they have no training loss, and are not evaluated"
    assert view["orderByKey"] == "attributes.start_time"


@pytest.mark.slow
def test_losses_of_two_objectives_are_not_ranked(runs: Runs) -> None:
    """A larger beta of DPO makes another loss of the same differences."""
    group = {"trunkline.group": "g"}
    for beta in ("0.1", "0.5"):
        measured = {"loss": float(beta), "learning_rate": 0.1, "accuracy": 0.5, "margin": 0.1}
        runs.make(f"dpo/{beta}", {"objective.beta": beta}, measured, **group)
    view, order = runs.compared(group="g")
    assert "of different data or objectives" in order
    assert view["orderByKey"] == "attributes.start_time"
    assert [chart.get("metricKey") for chart in view["compareRunCharts"][:2]] == ["accuracy", "margin"]
    assert "metrics.`accuracy`" in view["selectedColumns"]


@pytest.mark.slow
def test_a_sweep_is_its_group_and_its_evaluations_show_what_they_evaluated(runs: Runs) -> None:
    group = {"trunkline.group": "shapes"}
    first, second = runs.anneal("linear", 1.5, SET, **group), runs.anneal("cosine", 1.4, SET, **group)
    runs.anneal("alone", 1.3, SET)
    view, _ = runs.compared(folder="anneal/linear")
    assert runs.listed(view) == ["anneal/cosine", "anneal/linear"]
    for name, subject in (("linear", first), ("cosine", second)):
        measured = {"bits_per_byte": 1.0}
        own = {"trunkline.parent_run": subject, "trunkline.group": "measured"}
        runs.make(f"evaluate/{name}", {"parent": f"anneal/{name}"}, measured, SET, **own)
    measured_together: tuple[dict[str, Any], ...] = (
        {"evaluations": ("evaluate/linear", "evaluate/cosine")},
        {"folder": "evaluate/linear"},
    )
    for asked in measured_together:
        view, _ = runs.compared(**asked)
        assert runs.listed(view) == ["anneal/cosine", "anneal/linear"]


@pytest.mark.slow
def test_a_name_that_is_none_is_told_with_those_that_are(runs: Runs) -> None:
    with pytest.raises(ConfigError, match=r"no group shape in .* it has none: a sweep \(-m\) makes one"):
        runs.compared(group="shape")
    for name in ("linear", "cosine"):
        runs.anneal(name, **{"trunkline.group": "shapes"})
    runs.anneal("x", **{"trunkline.group": "rates"})
    with pytest.raises(ConfigError, match="has no group shape in its experiment trunkline; it has shapes, rates"):
        runs.compared(group="shape")
    with pytest.raises(ConfigError, match=r"has no run of anneal/lineal: .* It has anneal/linear, "):
        runs.compared(folder="anneal/lineal")
    assert comparison(runs.config, runs.store, Asked(group="rates")) is None, "one arm is there, and nothing beside it"


@pytest.mark.slow
def test_the_page_to_begin_with(runs: Runs, tmp_path: Path) -> None:
    """All that trains, branches below trunks; a page for each held-out set, never one for two."""
    runs.anneal("linear")
    runs.make("evaluate/a", {}, {"bits_per_byte": 1.2}, SET)
    runs.make("evaluate/b", {}, {"bits_per_byte": 1.1}, SET)
    runs.make("evaluate/c", {}, {"bits_per_byte": 0.1}, "tokens/other 99999999")
    runs.make("evaluate/b", {}, {"bits_per_byte": 1.0}, SET, **{"trunkline.replaced_by": "x"})
    pages = opening_pages(runs.config, runs.store, port=5001)
    labels = [label for label, _ in pages]
    assert labels[0] == "training runs"
    assert all("127.0.0.1:5001" in url for _, url in pages)
    assert set(labels[1:]) == {f"evaluations on {SET}", "evaluations on tokens/other 99999999"}
    tree = shown(runs.client, runs.experiment, pages[0][1])
    assert tree["orderByKey"] == ablation.BY_START  # in any other order MLflow draws no tree
    assert runs.listed(tree) == ["anneal/linear"]
    ranked = shown(runs.client, runs.experiment, dict(pages)[f"evaluations on {SET}"])
    assert runs.listed(ranked) == ["evaluate/b", "evaluate/a"]
    with pytest.raises(ConfigError, match="there is no store"):
        opening_pages(runs.config, ArtifactStore(str(tmp_path / "nowhere")))
