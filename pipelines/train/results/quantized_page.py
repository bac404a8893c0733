"""What quantizing cost, for people: a table on the terminal, metrics of MLflow, and `quantization.html` with its
pictures.

Enters: the content of `quantization.json`. Leaves: the page, one file without a script or a link, and a PNG of each
picture. Nothing is worked out here but shares of bytes.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.display import markup
from pipelines.display.progress import human
from pipelines.errors import StorageError
from pipelines.laws.axes import MARKERS, new_axes, new_panels
from pipelines.train.results.quantized import FULL, LEVEL, sentences, with_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "quantization.html"
_RESOLUTION = 130  # dots an inch
# told apart by those who see no red or no green (Okabe and Ito)
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_UNITS = {"linear": "linear maps", "rest": "embedding, norms, output"}
HEADER = ("method", "bits/byte", "lost", "KL (nats)", "top-1", "preferences", "assistant loss")

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """Attributes: name, of its file; sentence, what to see in it."""

    name: str
    title: str
    sentence: str
    draw: Callable[[], Figure]


# ── Terminal and MLflow ───────────────────────────────────────────────────────────────────────────────────────────────


def rows(content: Content) -> list[list[Any]]:
    """A row for each model, the full one first; the columns are `HEADER`."""
    return [_row(name, model) for name, model in content["measured"]["models"].items()]


def _row(name: str, model: Content) -> list[Any]:
    level = [_rounded(model["bits_per_byte"]["mean"], 4)]
    beside = [_share(model["preference_accuracy"]), _rounded(model["assistant_loss"], 4)]
    if name == FULL:
        return [FULL, *level, None, None, None, *beside]
    lost = with_interval(model["lost_bits_per_byte"]["mean"])
    near = [with_interval(model["kl"]["mean"]), with_interval(model["top1"]["mean"], share=True)]
    return [name, *level, lost, *near, *beside]


def size_lines(content: Content) -> dict[str, str]:
    """Bytes as they are stored, and their share of bfloat16's."""
    sizes = content["bytes"]
    linear = f"{human(sizes['linear'], 'B')}, {sizes['linear'] / sizes['bfloat16']['linear']:.1%} of bfloat16's"
    total = f"{human(sizes['total'], 'B')}, {sizes['total'] / sizes['bfloat16']['total']:.1%} of bfloat16's"
    return {"linear maps": linear, "all weights": total}


def metrics(content: Content) -> dict[str, float]:
    """Numbers under the names that MLflow shows, with their units."""
    sizes = content["bytes"]
    told = {
        "linear_bytes": float(sizes["linear"]),
        "weights_bytes": float(sizes["total"]),
        "linear_share_of_bfloat16": sizes["linear"] / sizes["bfloat16"]["linear"],
        "seconds": content["seconds"],
    }
    measured = content.get("measured") or {"models": {}}
    for name, model in measured["models"].items():
        found = {
            "bits_per_byte": model["bits_per_byte"]["mean"],
            "assistant_loss_nats": model["assistant_loss"],
            "preference_accuracy": model["preference_accuracy"],
        }
        if name != FULL:
            for key in ("lost_bits_per_byte", "kl", "top1"):
                label = {"kl": "kl_nats"}.get(key, key)
                found[label] = _value(model[key]["mean"])
                for source, estimate in model[key]["by_source"].items():
                    found[f"{label}/{source}"] = _value(estimate)
            found["lost_assistant_loss_nats"] = _value(model["lost_assistant_loss"])
            found["lost_preference_accuracy"] = _value(model["lost_preference_accuracy"])
        told.update({f"{name}/{key}": value for key, value in found.items() if value is not None})
    return told


def _value(estimate: Content | None) -> float | None:
    return None if estimate is None else float(estimate["value"])


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_page(folder: Path, title: str, content: Content) -> list[str]:
    """Write the page and its pictures. Returns: the names of the files, the page first. Raises: StorageError."""
    drawn = pictures(content)
    images = {picture.name: _png(picture) for picture in drawn}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            (folder / f"{name}.png").write_bytes(image)
        page = markup.page(f"{title} · Trunkline", _parts(title, content, drawn, images))
        (folder / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {folder}/{PAGE}: {error}; nothing was committed: free some space") from error
    return [PAGE, *(f"{name}.png" for name in images)]


def _parts(title: str, content: Content, drawn: Sequence[Picture], images: Mapping[str, bytes]) -> list[str]:
    measured, sizes = content.get("measured"), content["bytes"]
    own = measured["models"].get(content["method"]) if measured else None
    tiles = [
        ("method", content["method"]),
        ("bits of a linear weight, scales counted", f"{content['bits_per_weight']:.3g}"),
        ("linear maps, of bfloat16's bytes", f"{sizes['linear'] / sizes['bfloat16']['linear']:.1%}"),
        ("all weights", human(sizes["total"], "B")),
    ]
    if own is not None:
        lost = own["lost_bits_per_byte"]["mean"]
        if lost is not None:
            tiles.append(("bits per byte lost", f"{lost['value']:.4f}"))
        if own["top1"]["mean"] is not None:
            tiles.append(("same likeliest token", f"{own['top1']['mean']['value']:.1%}"))
    parts = [
        f"<h1>{markup.text(title)}</h1>",
        f"<p class='soft'>{markup.text(content['parent'])} with its linear maps in small whole numbers: "
        f"{markup.text(content['words'])}. Embedding, norms and output matrix stay in "
        f"{markup.text(content['dtype'])}.</p>",
        markup.tiles(tiles),
    ]
    if measured:
        parts += [
            "<h2>What can be told</h2>",
            "<ul>" + "".join(f"<li>{markup.text(said)}</li>" for said in sentences(measured)) + "</ul>",
            f"<p class='soft'>Intervals of {LEVEL:.0%}: documents are drawn again with replacement, the same ones for "
            "every model. Each method makes the same grids, so sizes are equal.</p>",
            "<h2>Methods beside each other</h2>",
            markup.table(HEADER, _as_text(rows(content)), ("bits/byte", "preferences", "assistant loss")),
            f"<p class='soft'>Means over sources: bits per byte over documents, KL and top-1 over all. "
            f"{markup.text(_read(measured))}</p>",
        ]
    parts += [
        "<h2>Pictures</h2>" if drawn else "",
        '<div class="grid" style="grid-template-columns:repeat(auto-fill,minmax(min(100%,460px),1fr))">',
        *(_figure(picture, images[picture.name]) for picture in drawn),
        "</div>",
    ]
    if measured:
        parts += ["<h2>By source</h2>", *_by_source(measured)]
    parts += [
        "<h2>Bytes</h2>",
        markup.table(
            ("weights", "stored", "in bfloat16", "share"), _size_rows(sizes), ("stored", "in bfloat16", "share")
        ),
        "<h2>Grids</h2>",
        markup.table(("maps", "bits", "group size", "symmetric", "layers"), _grid_rows(content["grids"])),
    ]
    if content.get("choice"):
        parts += ["<h2>How bits were chosen</h2>", *_choice(content["choice"])]
    if calibration := content.get("calibration"):
        told = [
            [source["source"], source["kind"], source["rows"], source["tokens"]] for source in calibration["sources"]
        ]
        parts += [
            "<h2>Calibration</h2>",
            f"<p class='soft'>{markup.text(calibration['words'])}. Seed {calibration['seed']}.</p>",
            markup.table(("source", "kind", "rows", "tokens"), told, ("rows", "tokens")),
        ]
    return parts


def _read(measured: Content) -> str:
    """What was read, in a sentence."""
    tokens = sum(source["tokens"] for source in measured["sources"].values())
    compared = sum(source["compared_tokens"] for source in measured["sources"].values())
    pairs = sum(measured["preferences"].values())
    told = f"{tokens:,} held-out tokens, {compared:,} of them for KL and top-1, and {pairs:,} pairs."
    return " ".join([told, *(f"{name} was not measured: {why}." for name, why in measured["unmeasured"].items())])


def _by_source(measured: Content) -> list[str]:
    names = [name for name in measured["models"] if name != FULL]
    full = measured["models"][FULL]["bits_per_byte"]["by_source"]
    parts = []
    for heading, key, share in (
        ("Bits per byte lost", "lost_bits_per_byte", False),
        ("KL to the full model, nats per token", "kl", False),
        ("Same likeliest token", "top1", True),
    ):
        cells = [
            [
                source,
                about["kind"],
                about["documents"],
                f"{full[source]:.4f}" if source in full else None,
                *(with_interval(measured["models"][name][key]["by_source"].get(source), share) for name in names),
            ]
            for source, about in measured["sources"].items()
        ]
        header = ("source", "kind", "documents", "full, bits/byte", *names)
        parts += [f"<h3>{heading}</h3>", markup.table(header, cells, ("documents", "full, bits/byte"))]
    if lone := [name for name, about in measured["sources"].items() if about["drawn"] != "documents"]:
        parts.append(
            f"<p class='soft'>Of {markup.text(', '.join(lone))} one document was drawn: its intervals are over that "
            "document's windows, and say nothing of others.</p>"
        )
    return parts


def _as_text(table: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Numbers with the digits that they have, which a page would shorten."""
    return [[f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in table]


def _size_rows(sizes: Content) -> list[list[Any]]:
    names = {**_UNITS, "total": "all"}
    return [
        [
            words,
            human(sizes[key], "B"),
            human(sizes["bfloat16"][key], "B"),
            f"{sizes[key] / max(1, sizes['bfloat16'][key]):.1%}",
        ]
        for key, words in names.items()
    ]


def _grid_rows(grids: Content) -> list[list[Any]]:
    """One line for each kind of map and grid, with the layers that have it."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for parameter, grid in grids.items():
        layer, kind = parameter.split(".")[1], parameter.split(".")[-2]
        key = (kind, grid["bits"], grid["group_size"], grid["symmetric"])
        alike.setdefault(key, []).append(int(layer))
    return [[*key, spans(layers)] for key, layers in sorted(alike.items())]


def spans(numbers: Sequence[int]) -> str:
    """E.g. `0, 3 to 5`."""
    told: list[str] = []
    ordered = sorted(numbers)
    begin = 0
    for place in range(1, len(ordered) + 1):
        if place == len(ordered) or ordered[place] != ordered[place - 1] + 1:
            first, last = ordered[begin], ordered[place - 1]
            told.append(f"{first}" if first == last else f"{first} to {last}")
            begin = place
    return ", ".join(told)


def _choice(choice: Content) -> list[str]:
    return [
        f"<p class='soft'>{markup.text(choice['words'])}</p>",
        markup.table(choice["header"], choice["rows"], choice["header"][1:]),
    ]


def _figure(picture: Picture, image: bytes) -> str:
    data = base64.b64encode(image).decode()
    title, sentence = html.escape(picture.title), html.escape(picture.sentence)
    return (
        f'<figure><h3>{title}</h3><img alt="{title}" style="width:100%;background:#fff" '
        f'src="data:image/png;base64,{data}"><figcaption>{sentence}</figcaption></figure>'
    )


def _png(picture: Picture) -> bytes:
    import matplotlib as mpl

    from pipelines.display.report.drawing import STYLE

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        picture.draw().savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
    return buffer.getvalue()


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pictures(content: Content) -> list[Picture]:
    """All that there is to see."""
    shown = [
        Picture(
            "size",
            "Bytes of the weights",
            "Linear maps become small; what is kept does not, and is most of what is left of a small model with many "
            "ids.",
            lambda: _sizes(content["bytes"]),
        )
    ]
    measured = content.get("measured")
    if not measured or len(measured["models"]) < 2:
        return shown
    models = {name: model for name, model in measured["models"].items() if name != FULL}
    if any(model["lost_bits_per_byte"]["by_source"] for model in models.values()):
        shown.insert(
            0,
            Picture(
                "lost_bits_per_byte",
                "Bits per byte lost, by source",
                f"Lower is better; bars are {LEVEL:.0%} intervals over documents. A method whose bar reaches below 0 "
                "may have lost nothing there.",
                lambda: _by_source_picture(models, "lost_bits_per_byte", "bits per byte lost", lambda at: at),
            ),
        )
    shown += [
        Picture(
            "kl",
            "KL to the full model, by source",
            "How much the probabilities of the next token moved, in nats: what changes even where the loss does not.",
            lambda: _by_source_picture(models, "kl", "nats per token", lambda at: at),
        ),
        Picture(
            "drift",
            "Error of the hidden states, block by block",
            "Root mean square of the difference to the full model's, relative to the full model's, on held-out text. "
            "Errors add up along the depth; the last point is behind the final norm.",
            lambda: _drift(models),
        ),
        Picture(
            "top1",
            "Other likeliest token, by source",
            "Share of places where the quantized model finds another token likeliest than the full one: what a greedy "
            "answer would say differently there.",
            lambda: _by_source_picture(models, "top1", "share of places", lambda at: 1 - at),
        ),
    ]
    return shown


def _by_source_picture(models: Mapping[str, Content], key: str, unit: str, shown: Callable[[float], float]) -> Figure:
    """A point with its interval for each source and method, sources one below the other."""
    sources = list(dict.fromkeys(name for model in models.values() for name in model[key]["by_source"]))
    figure, (axes,) = new_panels(1, 1, (6.4, 1.3 + max(0.26, 0.14 * len(models)) * len(sources)))
    apart = 0.7 / max(1, len(models))
    for place, (name, model) in enumerate(models.items()):
        at, middle, below, above = [], [], [], []
        for line, source in enumerate(sources):
            if (estimate := model[key]["by_source"].get(source)) is None:
                continue
            value = shown(estimate["value"])
            ends = sorted(
                shown(estimate[end] if estimate[end] is not None else estimate["value"]) for end in ("low", "high")
            )
            at.append(line + (place - (len(models) - 1) / 2) * apart)
            middle.append(value)
            below.append(max(0.0, value - ends[0]))
            above.append(max(0.0, ends[1] - value))
        axes.errorbar(
            middle, at, xerr=[below, above], fmt=MARKERS[place % len(MARKERS)], color=_COLOURS[place % len(_COLOURS)],
            capsize=3, markersize=5, linewidth=1.4, label=name,
        )  # fmt: skip
    axes.set_yticks(range(len(sources)), [_ascii(source) for source in sources])
    axes.set_ylim(len(sources) - 0.5, -0.5)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.grid(axis="x", color="#e6e6e6")
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(unit)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=max(1, len(models)))
    return figure


def _sizes(sizes: Content) -> Figure:
    """Stacked bars: bfloat16 and as stored."""
    figure, (axes,) = new_panels(1, 1, (6.4, 2.4))
    bars = (("bfloat16", sizes["bfloat16"]), ("stored", sizes))
    left = np.zeros(len(bars))
    for colour, (key, words) in zip(_COLOURS, _UNITS.items(), strict=False):
        wide = np.array([bar[key] / 1e6 for _, bar in bars])
        axes.barh([name for name, _ in bars], wide, left=left, color=colour, label=words, height=0.6)
        left += wide
    for line, total in enumerate(left):
        axes.text(total, line, f" {human(total * 1e6, 'B')}", va="center")
    axes.set_xlim(0, 1.18 * left.max())
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.grid(axis="x", color="#e6e6e6")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


def _drift(models: Mapping[str, Content]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes("", "blocks passed", "relative error of the hidden states")
    for place, (name, model) in enumerate(models.items()):
        drift = model["drift"]
        colour, marker = _COLOURS[place % len(_COLOURS)], MARKERS[place % len(MARKERS)]
        axes.plot(range(1, len(drift)), drift[:-1], color=colour, marker=marker, markersize=4, label=name)
        axes.plot([len(drift)], drift[-1:], color=colour, marker=marker, markersize=7, fillstyle="none")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def _ascii(name: str) -> str:
    return name if name.isascii() else name.encode("ascii", "backslashreplace").decode()
