"""`fit.html`, `law.json` and the PNGs of a fit: one page with every number, its interval, and every picture.

Enters: a fitted law with its fit, predictions asked for, where the points come from. Leaves: files in one folder. The
page is one file, without a script or a link to another.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.config import plain
from pipelines.display.markup import page, table, tiles
from pipelines.errors import StorageError
from pipelines.laws.drawing import Picture, pictures
from pipelines.laws.fitting import row_of
from pipelines.laws.law import Estimate, FittedLaw, Prediction
from pipelines.laws.optimum import Optimum
from pipelines.laws.regression import Fit

_RESOLUTION = 130  # dots an inch


def write_fit(
    folder: Path,
    fitted: FittedLaw,
    fit: Fit,
    predictions: Sequence[tuple[Mapping[str, float], Prediction]],
    optima: Sequence[Optimum],
    source: Mapping[str, Any],
) -> list[str]:
    """Write the files of a fit. Args: predictions, inputs and what is predicted there; source, of the points and the
    settings, for the JSON. Returns: the names of the files. Raises: StorageError."""
    drawn = pictures(fitted, fit)
    images = {picture.name: _png(picture) for picture in drawn}
    shown = [
        f"<h1>{html.escape(fitted.law)}: {html.escape(row_of(fitted.law).title)}</h1>",
        f"<p><code>{html.escape(fitted.formula)}</code></p>",
        f'<p class="soft">{html.escape(row_of(fitted.law).source)}. Points: {html.escape(str(source["data"]))}.</p>',
        tiles(_amounts(fitted)),
        *(f'<p class="warn">{html.escape(warning)}</p>' for warning in fitted.warnings),
        "<h2>Parameters</h2>",
        f'<p class="soft">Intervals of {fitted.level:.0%}: in so many of a hundred data sets like this one they hold '
        "the truth, if the formula does.</p>",
        table(["parameter", "value", "low", "high"], parameter_rows(fitted), ["value", "low", "high"]),
        *_predicted(fitted, predictions),
        *_best_sizes(optima),
        "<h2>Pictures</h2>",
        '<div class="grid" style="grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr))">',
        *(_figure(picture, images[picture.name]) for picture in drawn),
        "</div>",
    ]
    record = {**fitted.plain(), **plain(source)}
    record["predictions"] = [{"at": dict(inputs), **plain(made)} for inputs, made in predictions]
    record["compute_optimal"] = [plain(optimum) for optimum in optima]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            (folder / f"{name}.png").write_bytes(image)
        (folder / "fit.html").write_text(page(f"{fitted.law} · Trunkline", shown), encoding="utf-8")
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (folder / "law.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"out={folder} cannot be written: {error}: name another folder") from error
    return ["law.json", "fit.html", *(f"{name}.png" for name in images)]


def parameter_rows(fitted: FittedLaw) -> list[list[str]]:
    """A row for each parameter and for what follows from them: name, value, low, high."""
    rows = [[name, *_three(one)] for name, one in fitted.parameters.items() if one.width > 0 or name != "at_width"]
    return rows + [[name, *_three(one)] for name, one in fitted.derived.items()]


def prediction_rows(
    fitted: FittedLaw, predictions: Sequence[tuple[Mapping[str, float], Prediction]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what is predicted."""
    names = list(dict.fromkeys(name for inputs, _ in predictions for name in inputs))
    header = [*names, row_of(fitted.law).predicts, "low", "high", "beyond the points"]
    rows = [
        [*(f"{inputs[name]:.4g}" if name in inputs else "" for name in names), *_three(made), _beyond(made)]
        for inputs, made in predictions
    ]
    return header, rows


def optimum_rows(optima: Sequence[Optimum]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the best sizes."""
    header = ["FLOPs", "parameters", "tokens", "tokens a parameter", "loss", "beyond the points"]
    return header, [
        [
            f"{best.flops:.3g}", f"{best.params.value:.3g}", f"{best.tokens.value:.3g}", str(best.ratio),
            str(best.loss), _beyond(best.params),
        ]
        for best in optima
    ]  # fmt: skip


def _predicted(fitted: FittedLaw, predictions: Sequence[tuple[Mapping[str, float], Prediction]]) -> list[str]:
    if not predictions:
        return []
    header, rows = prediction_rows(fitted, predictions)
    warnings = dict.fromkeys(warning for _, made in predictions for warning in made.warnings)
    return [
        "<h2>Predictions</h2>",
        '<p class="soft">The interval is of one further run: the law and its own luck.</p>',
        table(header, rows, header[:-1]),
        *(f'<p class="warn">{html.escape(warning)}</p>' for warning in warnings),
    ]


def _best_sizes(optima: Sequence[Optimum]) -> list[str]:
    if not optima:
        return []
    header, rows = optimum_rows(optima)
    unsure = min(best.sure for best in optima)
    told = f"; {1 - unsure:.0%} of the bootstrap samples have none and are left out" if unsure < 1 else ""
    return [
        "<h2>The best size for a compute</h2>",
        f'<p class="soft">Least loss with C = 6·N·D{told}.</p>',
        table(header, rows, header[:-1]),
    ]


def _amounts(fitted: FittedLaw) -> list[tuple[str, str]]:
    left_out = sum(map(len, fitted.left_out.values()))
    amounts = [("points", f"{fitted.points:,}"), ("runs", f"{fitted.runs:,}")]
    amounts += [("left out", f"{left_out:,}")] if left_out else []
    return [*amounts, ("spread of the misses", f"{fitted.residual_spread:.2%}"), ("interval", f"{fitted.level:.0%}")]


def _three(estimate: Estimate) -> list[str]:
    return [f"{value:.4g}" for value in (estimate.value, estimate.low, estimate.high)]


def _beyond(made: Prediction) -> str:
    return ", ".join(f"{name}, by {away:.2g} widths" for name, away in made.beyond.items())


def _png(picture: Picture) -> bytes:
    import matplotlib as mpl

    from pipelines.display.report.drawing import STYLE

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        picture.draw().savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
    return buffer.getvalue()


def _figure(picture: Picture, image: bytes) -> str:
    data = base64.b64encode(image).decode()
    title, sentence = html.escape(picture.title), html.escape(picture.sentence)
    return (
        f'<figure><h3>{title}</h3><img alt="{title}" style="width:100%;background:#fff" '
        f'src="data:image/png;base64,{data}"><figcaption>{sentence}</figcaption></figure>'
    )
