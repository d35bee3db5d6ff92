"""Pictures of an evaluation: the same bytes from the same figures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from feature_repo.contract import FeatureView
    from feature_repo.tables import Table

PICTURES = {
    "data_contract.png": "From raw tables to splits, with rows",
    "calibration.png": "Calibration: mean score against what happened, equally many rows a point",
    "precision_recall.png": "Precision and recall over all thresholds",
    "predictions.png": "Predicted against actual values, a sample",
    "slices.png": "Slices, with 95 % intervals; the line is the whole test set",
}
BLUE, GREY = "#1f5fa8", "#8a8f98"


def draw_pictures(evaluation: dict[str, Any], folder: Path) -> None:
    """Write the pictures that an evaluation has the figures for into ``folder``."""
    unit = evaluation["unit"]
    (folder / "calibration.png").write_bytes(_picture(_calibration, evaluation, unit))
    if evaluation["task"] == "binary":
        (folder / "precision_recall.png").write_bytes(_picture(_precision_recall, evaluation, unit))
    else:
        (folder / "predictions.png").write_bytes(_picture(_predictions, evaluation, unit))
    (folder / "slices.png").write_bytes(_picture(_slices, evaluation, unit))


def inline(picture: Path) -> str:
    """An ``<img>`` element that holds the picture itself."""
    return inline_png(picture.read_bytes(), PICTURES.get(picture.name, picture.stem))


def _picture(draw: Any, evaluation: dict[str, Any], unit: str, height: float = 4.6) -> bytes:
    """One pair of axes that ``draw`` fills."""
    figure = new_figure(6.4, height)
    axes = figure.add_subplot()
    draw(axes, evaluation, unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return png(figure)


def new_figure(
    width: float, height: float, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure, inches, without a window or pyplot's list of figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """PNG without metadata, so that its bytes depend on the figures only."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def inline_png(content: bytes, said: str) -> str:
    """An ``<img>`` element that holds the picture itself."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{said}" title="{said}" src="data:image/png;base64,{data}">'


def _calibration(axes: Axes, evaluation: dict[str, Any], unit: str) -> None:
    bins = evaluation["calibration"]
    scores, rates = [b["mean_score"] for b in bins], [b["rate"] for b in bins]
    low, high = min(scores + rates), max(scores + rates)
    axes.plot([low, high], [low, high], "--", color=GREY, label="perfectly calibrated")
    axes.plot(scores, rates, "o-", color=BLUE, label="model")
    axes.set_xlabel(f"mean prediction ({unit})")
    axes.set_ylabel(f"mean of what happened ({unit})")
    axes.set_title("Calibration")
    axes.legend(frameon=False)


def _precision_recall(axes: Axes, evaluation: dict[str, Any], unit: str) -> None:
    curve = evaluation["precision_recall"]
    rate = evaluation["test"]["base_rate"]
    axes.axhline(rate, ls="--", color=GREY, label=f"base rate {rate:.3f}")
    axes.plot([p["recall"] for p in curve], [p["precision"] for p in curve], color=BLUE)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("Precision and recall")
    axes.legend(frameon=False)


def _predictions(axes: Axes, evaluation: dict[str, Any], unit: str) -> None:
    sample = evaluation["predictions"]
    actual = [p["actual"] for p in sample]
    axes.plot([min(actual), max(actual)], [min(actual), max(actual)], "--", color=GREY)
    axes.plot(actual, [p["predicted"] for p in sample], ".", ms=4, alpha=0.5, color=BLUE)
    axes.set(xlabel=f"actual ({unit})", ylabel=f"predicted ({unit})")
    axes.set_title("Predicted against actual")


def _slices(axes: Axes, evaluation: dict[str, Any], unit: str) -> None:
    metric = evaluation["headline"]
    told = [
        (f"{name} {value}", entry)
        for name, entries in evaluation["slices"].items()
        for value, entry in entries.items()
        if metric in entry
    ][::-1]
    for height, (_, entry) in enumerate(told):
        axes.plot([entry["low"], entry["high"]], [height, height], color=GREY, lw=2)
        axes.plot(entry[metric], height, "o", color=BLUE)
    axes.axvline(evaluation["test"][metric], ls="--", color=GREY, label="all test rows")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    axes.set_yticks(range(len(told)), [name for name, _ in told], fontsize=8)
    axes.set_xlabel(f"{metric} (95 % interval)")
    axes.set_title("Slices")


def draw_contract(
    tables: Sequence[Table],
    views: Sequence[FeatureView],
    quarantine: dict[str, Any],
    splits: dict[str, dict[str, Any]],
    folder: Path,
) -> None:
    """Write data_contract.png: raw tables, feature views and splits, with their rows."""
    lost = dict.fromkeys((t.name for t in tables), 0)
    for check in quarantine["checks"]:
        lost[check["table"]] = lost.get(check["table"], 0) + check["rows"]
    columns = [
        (
            "raw tables",
            [(t.name, f"{t.rows:,} rows\nquarantined: {lost[t.name]:,}") for t in tables],
        ),
        (
            "feature views",
            [(v.name, f"{len(v.features)} feature{'s' * (len(v.features) > 1)}") for v in views],
        ),
        ("splits", [(name, f"{s['labelled']:,} labelled rows") for name, s in splits.items()]),
    ]
    height = max(4.6, 0.6 * max(len(boxes) for _, boxes in columns))
    picture = _picture(_contract, {"columns": columns}, "", height)
    (folder / "data_contract.png").write_bytes(picture)


def _contract(axes: Axes, facts: dict[str, Any], unit: str) -> None:
    columns = facts["columns"]
    for at, (title, boxes) in enumerate(columns):
        axes.text(at, 1.04, title, ha="center", weight="bold")
        for number, (name, said) in enumerate(boxes):
            height = 1 - (number + 0.5) / len(boxes)
            box = {"boxstyle": "round,pad=0.5", "fc": "#eef3fa", "ec": BLUE}
            axes.text(at, height, f"{name}\n{said}", ha="center", va="center", fontsize=8, bbox=box)
    for at in range(len(columns) - 1):
        arrow = {"arrowstyle": "->", "color": GREY, "lw": 2}
        axes.annotate("", xy=(at + 0.6, 0.5), xytext=(at + 0.4, 0.5), arrowprops=arrow)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(0, 1.12))
    axes.set_axis_off()
