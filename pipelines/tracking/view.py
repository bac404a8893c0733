"""A view of MLflow's runs page: filter, order, columns and charts, which one address opens. Pure data.

MLflow 3 keeps a view as a tag of the experiment, `mlflow.sharedViewState.KEY`, opens it at `?viewStateShareKey=KEY`,
and lists it by its name among the saved views. The form is that of the page itself: JSON, deflated, in base64. What a
view does not say has a default of MLflow.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TAG = "mlflow.sharedViewState."
BY_START = "attributes.start_time"  # the one order in which MLflow draws branches below their trunk
_SECTION = "what-differs"
_NAME = "attributes.`Run Name`"
_MODEL, _SYSTEM = "Model metrics", "System metrics"  # sections that MLflow makes


@dataclass(frozen=True, kw_only=True)
class View:
    """What the page shows.

    Attributes: name, in the menu of saved views. search, MLflow's filter. order, the key to order by, as `column` gives
    it. columns, beside the run's name. charts, of `line`, `bars`, `scatter`, `parallel`, `difference`. folded, prefixes
    of metrics, whose sections of further charts begin closed. runs, the filter that says whose view it is, where
    `search` narrows it.
    """

    name: str
    search: str
    order: str = BY_START
    ascending: bool = False
    columns: Sequence[str] = ()
    charts: Sequence[Mapping[str, Any]] = ()
    folded: Sequence[str] = ()
    runs: str = ""

    @property
    def key(self) -> str:
        """The same for the same runs, so that an address goes on showing them when the view is written anew."""
        return hashlib.sha256(f"{self.name}\n{self.runs or self.search}".encode()).hexdigest()[:16]


def state(view: View) -> dict[str, Any]:
    """The view as MLflow's page reads it."""
    sections = [{"uuid": _SECTION, "name": "What differs", "display": True, "isReordered": True}] if view.charts else []
    sections += [
        {"uuid": f"more-{name}", "name": name, "display": False, "isReordered": False, "isGenerated": True}
        for name in (_MODEL, *view.folded, _SYSTEM)
    ]
    charts = [
        {"uuid": f"chart-{i}", "metricSectionId": _SECTION, "deleted": False, "isGenerated": False, **chart}
        for i, chart in enumerate(view.charts)
    ]
    drawn = {"compareRunCharts": charts, "compareRunSections": sections, "isAccordionReordered": True} if charts else {}
    return {
        "searchFilter": view.search,
        "orderByKey": view.order,
        "orderByAsc": view.ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(view.columns),
        # bits per byte before the loss, as the columns have it; MLflow's own order is the alphabet's
        "columnOrder": [_NAME, *view.columns],
        "columnWidths": {_NAME: 320, **{name: _width(name) for name in view.columns}},
        "runsHiddenMode": "FIRST_20_RUNS",
        **drawn,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "chartsSearchFilter": "",
    }


def _width(name: str) -> int:
    """Pixels of a column, enough for its heading (some 8 a letter) and the arrow of its order."""
    return max(140, 8 * len(name.partition("`")[2].rstrip("`")) + 50)


def saved(view: View, at: int) -> tuple[str, str]:
    """Key and value of the experiment's tag. Args: at, in milliseconds."""
    deflated = base64.b64encode(zlib.compress(json.dumps(state(view)).encode(), 9)).decode()
    envelope = {"name": view.name, "createdAt": at, "updatedAt": at, "state": f"deflate;{deflated}"}
    return TAG + view.key, json.dumps(envelope)


def column(kind: str, name: str) -> str:
    """A column or key to order by. Args: kind, metrics, params, tags or attributes."""
    return f"{kind}.`{name}`"


def line(metric: str, span: Mapping[str, float] | None = None) -> dict[str, Any]:
    """A metric over its steps. Args: span, what of it is drawn: xMin, xMax, yMin, yMax."""
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "selectedXAxisMetricKey": "",
        "ignoreOutliers": False,
        "range": dict(span or {}),
        "runsCountToCompare": 20,
    }


def scatter(parameter: str, metric: str) -> dict[str, Any]:
    """A metric over a parameter, a point for each run; its axes begin where the points do, as bars' do not."""
    return {
        "type": "SCATTER",
        "xaxis": {"key": parameter, "type": "PARAM"},
        "yaxis": {"key": metric, "type": "METRIC"},
        "runsCountToCompare": 100,
    }


def bars(metric: str) -> dict[str, Any]:
    """A bar for each run."""
    return {"type": "BAR", "metricKey": metric, "runsCountToCompare": 20}


def parallel(parameters: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """A line for each run through its parameters to its metrics."""
    return {
        "type": "PARALLEL",
        "selectedParams": list(parameters),
        "selectedMetrics": list(metrics),
        "showAllRuns": False,
        "runsCountToCompare": 100,
    }


def difference() -> dict[str, Any]:
    """A table of the parameters that are not the same in all runs."""
    return {
        "type": "DIFFERENCE",
        "chartName": "Parameters that differ",
        "compareGroups": ["Parameters"],
        "showChangeFromBaseline": False,
        "showDifferencesOnly": True,
        "baselineColumnUuid": "",
        "runsCountToCompare": 20,
    }


def end_of(curves: Sequence[Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Where curves are told apart: of each at least its last half, and just as high as they are there.

    Args: curves, of each run its points, x and y. Returns: xMin, xMax, yMin, yMax; {} where there is no such place.
    """
    known = [[point for point in curve if math.isfinite(point[1])] for curve in curves]
    known = [sorted(curve) for curve in known if curve]
    if not known or max(len(curve) for curve in known) < 3:
        return {}
    first = min((curve[0][0] + curve[-1][0]) / 2 for curve in known)
    last = max(curve[-1][0] for curve in known)
    heights = [y for curve in known for x, y in curve if x >= first]
    low, high = min(heights), max(heights)
    if last <= first or high <= low:
        return {}
    beyond_x, beyond_y = 0.02 * (last - first), 0.05 * (high - low)
    return {"xMin": first - beyond_x, "xMax": last + beyond_x, "yMin": low - beyond_y, "yMax": high + beyond_y}
