"""Fit a law to points of runs, anyone's: parameters with intervals, a page with pictures, predictions.

    python -m workflows.fit law=chinchilla data=points.csv                          columns params, tokens, loss
    python -m workflows.fit law=minicpm data=runs.jsonl columns.loss=c4 columns.run=name at.params=2.4e9 at.tokens=1e12
    python -m workflows.fit law=lr data=sweep.csv                                   lr, loss; width and group if there
    python -m workflows.fit law=batch data=optima.csv                               loss, batch
    python -m workflows.fit law=power data=points.csv columns.x=tokens columns.y=loss
    python -m workflows.fit law=chinchilla 'data="mlflow:metrics.loss < 5"' columns.params=params.n \
        columns.tokens=metrics.tokens columns.loss=metrics.loss

Leaves ./fit-<law>/{law.json,fit.html,*.png}. Needs no Ray and no store; only `mlflow:` asks the store's tracking.
Points of one run share its luck, so name the column that says which run a point is of (`columns.run=…`; one that is
called `run` is taken by itself).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pipelines.config import Positive, Range, Seed, WorkflowConfig, config_class
from pipelines.display.progress import announce, say, table
from pipelines.errors import ConfigError
from pipelines.laws.fitting import fit_fully, predict, row_of
from pipelines.laws.law import FittedLaw, Prediction
from pipelines.laws.optimum import UNITS, Optimum, compute_optimal
from pipelines.laws.page import optimum_rows, parameter_rows, prediction_rows, write_fit
from pipelines.laws.table import Table, read_table, table_of
from pipelines.tracking.tracker import runs_matching
from workflows.entry import entry
from workflows.running.session import DryRun, Session

MLFLOW = "mlflow:"


# numbers of evaluations, as MLflow has them, and what they were measured on
_EVALUATED = re.compile(r"metrics\.(bits_per_byte|assistant_|preference_accuracy|heldout_loss)")
_SET = "tags.trunkline.heldout"


@config_class
class FitConfig(WorkflowConfig):
    """Which law through which points."""

    law: str = "chinchilla"
    data: str | None = None  # a file, or mlflow:<filter>
    # the law's name of a column -> its name in the data; null: the same
    columns: dict[str, str | None] = field(default_factory=dict)
    at: dict[str, Positive | None] = field(default_factory=dict)  # predict there: column -> value
    flops: list[Positive] = field(default_factory=list)  # of a law in params and tokens: the best size for each compute
    level: Annotated[float, Range(above=0, below=1)] = 0.95
    bootstrap: Annotated[int, Range(40)] = 400
    seed: Seed = 0
    huber: Positive = 1e-3
    constant: bool = True  # of law power
    window: Annotated[float, Range(above=1)] = 6.0  # of law lr
    unit: str = ""
    out: str | None = None

    @property
    def renamed(self) -> dict[str, str]:
        """The columns that the data calls something else."""
        return {wanted: name for wanted, name in self.columns.items() if name is not None}

    @property
    def place(self) -> dict[str, float]:
        """Where to predict."""
        return {name: value for name, value in self.at.items() if value is not None}


def run(config: FitConfig, session: Session) -> FittedLaw:
    """Read the points, fit, write the page. Raises: ConfigError for points that the law cannot be fitted to."""
    row = row_of(config.law)
    if config.data is None:
        raise ConfigError("data is not set; expected a file of points or mlflow:<filter>: write data=points.csv")
    _check_inputs(config)
    folder = Path(config.out or f"fit-{config.law}")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={folder} is a file; expected a folder: name another")
    points = _points(config)
    columns, runs = _columns(config, points)
    announce(
        f"fit {config.law}",
        {
            "law": f"{row.title}: {row.formula}",
            "data": f"{points.source}: {len(points):,} points",
            "columns": ", ".join(f"{wanted} ← {name}" for wanted, name in _names(config, points).items()),
            "intervals": f"{config.level:.0%}, {config.bootstrap} bootstrap samples by run",
            "out": str(folder),
        },
    )
    if config.dry_run:
        raise DryRun
    fitted, fit = fit_fully(
        config.law, columns, runs, unit=config.unit, level=config.level, bootstrap=config.bootstrap, seed=config.seed,
        huber=config.huber, constant=config.constant, window=config.window,
    )  # fmt: skip
    at = config.place
    predictions: list[tuple[Mapping[str, float], Prediction]] = [(at, predict(fitted, at))] if at else []
    optima = _optima(config, fitted)
    _tell(fitted, predictions, optima)
    source = {
        "data": points.source,
        "columns": _names(config, points),
        "settings": {name: getattr(config, name) for name in ("bootstrap", "seed", "huber", "constant", "window")},
    }
    written = write_fit(folder, fitted, fit, predictions, optima, source)
    say(f"   wrote {folder}/{{{','.join(written)}}}")
    return fitted


def _check_inputs(config: FitConfig) -> None:
    """Before any work: what is asked for has to be of this law."""
    row = row_of(config.law)
    accepted = [*row.columns, *row.optional, "run", *(["group"] if config.law == "lr" else [])]
    if unknown := [name for name in config.renamed if name not in accepted]:
        raise ConfigError(
            f"columns.{unknown[0]}: law {config.law} has no such column; expected some of {', '.join(accepted)}"
        )
    if config.flops and config.law not in UNITS:
        raise ConfigError(f"flops is of the laws {', '.join(UNITS)}, and law is {config.law}: leave it out")
    inputs = [*row.inputs, *row.optional]
    at = config.place
    unknown, missing = [name for name in at if name not in inputs], [name for name in row.inputs if name not in at]
    if at and (unknown or missing):
        raise ConfigError(
            f"at has {', '.join(at)}; law {config.law} predicts {row.predicts} from {', '.join(inputs)}: "
            + (f"leave out {', '.join(unknown)}" if unknown else f"add at.{missing[0]}=…")
        )


def _points(config: FitConfig) -> Table:
    assert config.data is not None
    if not config.data.startswith(MLFLOW):
        return read_table(Path(config.data).expanduser())
    query = config.data.removeprefix(MLFLOW).strip()
    rows = runs_matching(query, config.tracking, config.store)
    if not rows:
        raise ConfigError(f"no run of experiment {config.tracking.experiment} matches {query!r}: try a wider query")
    points = table_of(f"MLflow's experiment {config.tracking.experiment}, {query or 'all runs'}", rows)
    _refuse_mixed_sets(config, points, rows)
    return points


def _refuse_mixed_sets(config: FitConfig, points: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises: ConfigError for numbers of evaluations on different held-out sets: no law holds over them."""
    measured = [name for name in _names(config, points).values() if _EVALUATED.match(name)]
    sets = sorted({str(row[_SET]) for row in rows if _SET in row and any(name in row for name in measured)})
    if measured and len(sets) > 1:
        raise ConfigError(
            f"{measured[0]} was measured on {len(sets)} held-out sets ({', '.join(sets)}), and no law holds over them: "
            f"choose one in data=, with and tags.`trunkline.heldout` = '{sets[0]}'"
        )


def _names(config: FitConfig, points: Table) -> dict[str, str]:
    """The law's columns, as they are called in the data; optional ones where they are there."""
    row = row_of(config.law)
    optional = [*row.optional, *(["group"] if config.law == "lr" else []), "run"]
    names = {wanted: config.renamed.get(wanted, wanted) for wanted in (*row.columns, *optional)}
    return {
        wanted: name
        for wanted, name in names.items()
        if wanted in row.columns or wanted in config.renamed or name in points.columns
    }


def _columns(config: FitConfig, points: Table) -> tuple[dict[str, list[Any]], list[str] | None]:
    """The columns by the law's names, and the run of each point where a column says it."""
    columns = {wanted: points.column(name, wanted) for wanted, name in _names(config, points).items()}
    runs = columns.pop("run", None)
    if runs is not None and (unnamed := sum(value is None or str(value).strip() == "" for value in runs)):
        raise ConfigError(
            f"{unnamed} points of {points.source} name no run: name it for all of them, or drop the column"
        )
    return columns, runs


def _optima(config: FitConfig, fitted: FittedLaw) -> list[Optimum]:
    """Those asked for; else at a tenth of the least compute, at the decades of the points, and ten times beyond."""
    if fitted.law not in UNITS or min(fitted.parameters[name].value for name in ("alpha", "beta")) <= 0:
        return []
    least, most = (6 * fitted.ranges["params"][end] * fitted.ranges["tokens"][end] for end in (0, 1))
    return [
        compute_optimal(fitted, flops) for flops in config.flops or (least, (least * most) ** 0.5, most, 100 * most)
    ]


def _tell(fitted: FittedLaw, predictions: list[tuple[Mapping[str, float], Prediction]], optima: list[Optimum]) -> None:
    say(f"   {fitted.points} points of {fitted.runs} runs; the law misses by {fitted.residual_spread:.2%}")
    say(table(["parameter", "value", "low", "high"], parameter_rows(fitted)))
    if predictions:
        say(table(*prediction_rows(fitted, predictions)))
    if optima:
        say("   least loss for a compute, C = 6·N·D:")
        say(table(*optimum_rows(optima)))
    for warning in (*fitted.warnings, *(told for _, made in predictions for told in made.warnings)):
        say(f"   ⚠ {warning}")


main = entry(FitConfig, run, "fit", uses_store=False)

if __name__ == "__main__":
    main()
