"""`workflows.fit`: anyone's points in, a law with a page and pictures out; what cannot be fitted is refused."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.laws.drawing import pictures
from pipelines.laws.fitting import fit_fully
from pipelines.laws.law import FittedLaw
from pipelines.laws.regression import profile
from pipelines.laws.table import read_table
from tests.commands import Ended, run_here
from tests.unit.test_laws import lr_grid, minicpm_grid

PNG = b"\x89PNG"


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def points(path: Path, **changed: Sequence[Any]) -> Path:
    columns, runs = minicpm_grid(0.005)
    return write_csv(path, {**columns, "run": runs, **changed})


def fit_here(folder: Path, *arguments: str) -> Ended:
    return run_here("fit", f"out={folder / 'out'}", f"store={folder / 'store'}", *arguments)


def test_a_csv_becomes_a_law_a_page_and_pictures_without_a_store(tmp_path: Path) -> None:
    data = points(tmp_path / "points.csv")
    ended = fit_here(
        tmp_path, "law=minicpm", f"data={data}", "at.params=2.4e9", "at.tokens=1.1e12", "flops=[1e18,1e21]"
    )
    assert ended.code == 0, ended.err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"law.json", "fit.html", "curve.png", "optimal.png", "residuals.png", "profiles.png"}
    assert all((tmp_path / "out" / name).read_bytes().startswith(PNG) for name in written if name.endswith("png"))
    record = json.loads((tmp_path / "out/law.json").read_text())
    assert record["law"] == "minicpm"
    alpha = record["parameters"]["alpha"]
    assert alpha["low"] < 0.29 < alpha["high"]
    assert alpha["low"] < alpha["value"] < alpha["high"]
    assert FittedLaw.read(record).runs == 18
    (there,) = record["predictions"]
    assert there["beyond"].keys() == {"params", "tokens"}
    assert [best["flops"] for best in record["compute_optimal"]] == [1e18, 1e21]
    page = (tmp_path / "out/fit.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("https://www.w3.org", "")
    assert "108 points of 18 runs" in ended.out
    assert not (tmp_path / "store").exists()


def test_columns_are_named_and_json_lines_read(tmp_path: Path) -> None:
    columns, runs = minicpm_grid(0.005)
    lines = [
        json.dumps({"model": {"n": n}, "d": d, "c4": loss, "name": run})
        for n, d, loss, run in zip(*columns.values(), runs, strict=True)
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines))
    named = ("columns.params=model.n", "columns.tokens=d", "columns.loss=c4", "columns.run=name")
    ended = fit_here(tmp_path, f"data={tmp_path / 'runs.jsonl'}", "bootstrap=40", *named)
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "out/law.json").read_text())
    assert record["columns"] == {"params": "model.n", "tokens": "d", "loss": "c4", "run": "name"}
    assert record["runs"] == 18


@pytest.mark.parametrize(
    ("law", "columns", "drawn"),
    [
        ("lr", lr_grid(-0.2), {"curve", "drift", "residuals", "profiles"}),
        ("lr", {k: v for k, v in lr_grid(0.0, (64,)).items() if k != "width"}, {"curve", "residuals", "profiles"}),
        (
            "batch",
            {"loss": [3.0, 3.5, 4.0, 4.5, 5.0], "batch": [1.3e6, 4.9e5, 2.2e5, 1.0e5, 5.2e4]},
            {"curve", "residuals", "profiles"},
        ),
        ("power", {"x": [1, 2, 4, 8, 16, 32], "y": [9, 6, 4.4, 3.5, 3, 2.7]}, {"curve", "residuals", "profiles"}),
    ],
    ids=["lr by width", "lr", "batch", "power"],
)
def test_every_law_has_its_pictures(law: str, columns: Mapping[str, list[float]], drawn: set[str]) -> None:
    fitted, fit = fit_fully(law, columns, bootstrap=40)
    shown = pictures(fitted, fit)
    assert {picture.name for picture in shown} == drawn
    for picture in shown:
        assert picture.sentence.endswith(".")
        assert picture.draw().axes


def test_a_profile_is_least_at_the_fit_and_crosses_where_theory_says() -> None:
    """y = a·x^b without a constant is a line in logarithms, whose profile is a parabola known in closed form."""
    generator = np.random.default_rng(3)
    x = np.geomspace(1, 100, 40)
    noise = 0.01 * generator.normal(size=40)
    fitted, fit = fit_fully("power", {"x": list(x), "y": list(np.exp(noise) * 2 * x**0.5)}, constant=False, huber=1.0)
    values, rises = profile(fit, "b")
    assert rises.min() == pytest.approx(0.0, abs=1e-9)
    assert values[int(rises.argmin())] == pytest.approx(fitted.parameters["b"].value)
    spread = float(((np.log(x) - np.log(x).mean()) ** 2).sum())
    measured = rises[-1] / (values[-1] - fitted.parameters["b"].value) ** 2
    robust = 1.4826 * float(np.median(np.abs(fit.residuals))) * math.sqrt(40 / 38)
    assert measured == pytest.approx(spread / robust**2, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["law=kaplan"], "there is no law kaplan; expected one of chinchilla"),
        (["data=null"], "data is not set; expected a file of points or mlflow:<filter>"),
        (["data=nowhere.csv"], "data=nowhere.csv is not there"),
        (["data=points.xlsx"], "data=points.xlsx ends in .xlsx; expected one of .csv"),
        (["columns.loss=los"], "has no column los; it has params, tokens, loss, run: write columns.loss=loss"),
        (["columns.batch=loss"], "columns.batch: law chinchilla has no such column; expected some of params"),
        (["columns.los=loss"], "columns.los is not set in the YAML"),
        (["+columns.los=loss"], "columns.los: law chinchilla has no such column"),
        (["law=batch"], "has no column batch"),
        (["law=power", "columns.x=tokens", "columns.y=loss", "flops=[1e18]"], "flops is of the laws chinchilla"),
        (["at.params=1e9"], "law chinchilla predicts loss from params, tokens: add at.tokens=…"),
        (["at.params=1e9", "at.tokens=1e9", "at.x=3"], "leave out x"),
        (["level=1.5"], "level is 1.5; expected a number above 0 and below 1"),
        (["columns.loss=run"], "loss of point 1 is 'n3.1e+07-s0'; expected a number: is it the right column?"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(arguments: list[str], message: str, tmp_path: Path) -> None:
    data = points(tmp_path / "points.csv")
    ended = fit_here(tmp_path, f"data={data}", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"points.csv"}


def test_a_file_in_the_way_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    ended = fit_here(tmp_path, f"data={points(tmp_path / 'points.csv')}")
    assert ended.code == 2
    assert "is a file; expected a folder" in ended.err
    assert (tmp_path / "out").read_text() == "mine"


def test_one_size_only_says_what_to_do(tmp_path: Path) -> None:
    columns, runs = minicpm_grid(0.005)
    data = write_csv(tmp_path / "one.csv", {**{name: part[:18] for name, part in columns.items()}, "run": runs[:18]})
    ended = fit_here(tmp_path, f"data={data}")
    assert ended.code == 2
    assert "needs at least 3 different values of params; there is one value only (3.1e+07)" in ended.err
    assert "fit law=power to the other column" in ended.err


def test_diverged_points_are_named_on_the_page_and_in_the_record(tmp_path: Path) -> None:
    columns, _ = minicpm_grid(0.005)
    losses: list[Any] = ["nan", "", "inf", *columns["loss"][3:]]
    ended = fit_here(tmp_path, f"data={points(tmp_path / 'points.csv', loss=losses)}", "bootstrap=40")
    assert ended.code == 0, ended.err
    assert "2 of 108 points left out: loss is missing or no number, a run that diverged: n3.1e+07-s0" in ended.out
    record = json.loads((tmp_path / "out/law.json").read_text())
    assert record["points"] == 105
    assert sum(map(len, record["left_out"].values())) == 3
    assert "a run that diverged" in (tmp_path / "out/fit.html").read_text()


def test_a_dry_run_reads_the_points_and_writes_nothing(tmp_path: Path) -> None:
    ended = fit_here(tmp_path, f"data={points(tmp_path / 'points.csv')}", "dry_run=true")
    assert ended.code == 0
    assert "108 points" in ended.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "is empty; expected a line of names"),
        ("a.csv", "1,2,3\n4,5,6\n", "its first line is numbers (1, 2, 3); expected the names of the columns"),
        ("a.csv", "x,y\n1,2\n3\n", "line 3 has 1 values, and the first line names 2 columns"),
        ("a.csv", "x,x\n1,2\n", "has two columns called x"),
        ("a.jsonl", '{"x": 1}\n{"x": \n', "is no JSON Lines"),
        ("a.json", '{"x": 1}', "holds something else than records"),
    ],
)
def test_a_file_that_is_no_table_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / name)
    assert message in str(caught.value)


def test_tables_of_every_kind_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeff# of my runs\nx,y\n1,2\n\n3,4\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("x\ty\n1\t2\n3\t4\n")
    (tmp_path / "a.jsonl").write_text('{"x": 1, "y": 2}\n{"x": 3, "y": 4}\n')
    (tmp_path / "a.json").write_text('[{"x": 1, "y": 2}, {"y": 4, "x": 3}]')
    tables = [read_table(tmp_path / f"a.{ending}") for ending in ("csv", "tsv", "jsonl", "json")]
    assert [[float(value) for value in table.column("y", "y")] for table in tables] == [[2.0, 4.0]] * 4
    with pytest.raises(ConfigError, match=r"has no column z; it has x, y"):
        tables[0].column("z", "loss")


@pytest.mark.slow
def test_runs_in_mlflow_are_points(tmp_path: Path) -> None:
    """Real MLflow, on SQLite."""
    from mlflow import MlflowClient

    store = tmp_path / "store"
    store.mkdir()
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.create_experiment("trunkline")
    for place, x in enumerate(np.geomspace(1, 100, 8)):
        made = client.create_run(experiment, tags={"mlflow.runName": f"r{place}"})
        client.log_param(made.info.run_id, "size", x)
        client.log_metric(made.info.run_id, "loss", 99.0, step=0)
        client.log_metric(made.info.run_id, "loss", 3 * x**-0.5, step=1)
    named = ("law=power", "columns.x=params.size", "columns.y=metrics.loss", "constant=false", "bootstrap=40")
    ended = fit_here(tmp_path, "data='mlflow:metrics.loss < 2'", *named)
    assert ended.code == 0, ended.err
    record = json.loads((tmp_path / "out/law.json").read_text())
    assert record["parameters"]["b"]["value"] == pytest.approx(-0.5, abs=1e-6)
    assert (record["points"], record["runs"]) == (6, 6)
    wrong = fit_here(tmp_path, "data='mlflow:metrics.loss ~ 2'", *named)
    assert (wrong.code, "MLflow does not take the query" in wrong.err) == (2, True)
    none = fit_here(tmp_path, "data='mlflow:metrics.loss < 0'", *named)
    assert (none.code, "no run of experiment trunkline matches" in none.err) == (2, True)
    other = fit_here(tmp_path, "data='mlflow:'", "tracking.experiment=other", *named)
    assert (other.code, "has no experiment other" in other.err) == (2, True)
    away = run_here("fit", "data='mlflow:'", f"store={tmp_path / 'nowhere'}", *named)
    assert (away.code, "there is no store" in away.err) == (2, True)
    assert not (tmp_path / "nowhere").exists()
    # numbers of two held-out sets are no points of one law
    for place, run in enumerate(client.search_runs([experiment])):
        client.log_metric(run.info.run_id, "bits_per_byte", 1.0 + place)
        client.set_tag(run.info.run_id, "trunkline.heldout", f"tokens/demo {place % 2}")
    measured = ("law=power", "columns.x=params.size", "columns.y=metrics.bits_per_byte", "bootstrap=40")
    mixed = fit_here(tmp_path, "data='mlflow:'", *measured)
    assert (mixed.code, "was measured on 2 held-out sets (tokens/demo 0, tokens/demo 1)" in mixed.err) == (2, True)
    one = fit_here(tmp_path, "data=\"mlflow:tags.`trunkline.heldout` = 'tokens/demo 0'\"", *measured)
    assert "4 points" in one.out, one.err
