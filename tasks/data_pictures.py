"""Pictures of data: distributions of a table's columns, counts over versions, shares by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.pictures import BLUE, GREY, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

    from feature_repo.profile import ColumnProfile

COLUMNS = 3
_LABEL = 14  # characters of a category that are shown


def distributions(profiles: Sequence[ColumnProfile]) -> bytes:
    """One small picture a column, three in a row: histogram, most frequent values, or months."""
    drawn = [p for p in profiles if p.bars]
    rows = max(1, -(-len(drawn) // COLUMNS))
    height = 2.1 * rows
    figure = new_figure(9.6, height, layout=None)
    # Margins in inches by hand: matplotlib's own search for them costs as much as the drawing.
    figure.subplots_adjust(
        left=0.75 / 9.6, right=1 - 0.1 / 9.6, bottom=0.45 / height, top=1 - 0.3 / height,
        wspace=0.32, hspace=0.58,
    )  # fmt: skip
    for number, profile in enumerate(drawn, start=1):
        axes = figure.add_subplot(rows, COLUMNS, number)
        draw = {"string": _values, "instant": _months}.get(profile.kind, _histogram)
        draw(axes, profile)
        axes.set_title(profile.name, fontsize=9, weight="bold", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    return png(figure)


def _histogram(axes: Axes, profile: ColumnProfile) -> None:
    edges = [float(edge) for edge, _ in profile.bars]
    counts = [rows for _, rows in profile.bars]
    axes.stairs(counts, [*edges, edges[-1] + profile.width], fill=True, color=BLUE)
    unit = "minutes before the tick" if profile.kind == "age" else ""
    cut = f"{profile.outside / (profile.rows - profile.nulls):.1%} lie outside"
    axes.set_xlabel(", ".join(filter(None, (unit, cut if profile.outside else ""))), fontsize=7)
    _thousands(axes)


def _values(axes: Axes, profile: ColumnProfile) -> None:
    names = [_short(str(value)) for value, _ in profile.bars][::-1]
    axes.barh(range(len(names)), [rows for _, rows in profile.bars][::-1], color=BLUE)
    axes.set_yticks(range(len(names)), names)
    if profile.outside:
        share = profile.outside / (profile.rows - profile.nulls)
        others = profile.distinct - len(names)
        axes.set_xlabel(f"{others:,} more values hold {share:.0%} of the rows", fontsize=7)
    axes.xaxis.set_major_locator(_few())
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _months(axes: Axes, profile: ColumnProfile) -> None:
    months = [str(month) for month, _ in profile.bars]
    axes.bar(range(len(months)), [rows for _, rows in profile.bars], color=BLUE)
    step = max(1, -(-len(months) // 4))
    axes.set_xticks(range(0, len(months), step), months[::step])
    _thousands(axes)


def _thousands(axes: Axes) -> None:
    axes.yaxis.set_major_locator(_few())
    axes.yaxis.set_major_formatter("{x:,.0f}")


def _few() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4, integer=True)


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"


def over_versions(versions: Sequence[str], counts: Sequence[int], what: str) -> bytes:
    """Bars of a count, oldest version first."""
    figure = new_figure(6.4, 2.2)
    axes = figure.add_subplot()
    axes.bar(range(len(counts)), list(counts), color=BLUE, width=0.6)
    step = max(1, -(-len(versions) // 10))
    axes.set_xticks(range(0, len(versions), step), list(versions)[::step], fontsize=8)
    axes.set_xlabel("version", fontsize=8)
    axes.set_ylabel(what, fontsize=8)
    axes.set_ylim(0, max(1, *counts) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    _thousands(axes)
    return png(figure)


def shares(names: Sequence[str], values: Sequence[float], what: str) -> bytes:
    """Horizontal bars of shares between 0 and 1, in the order given, first on top."""
    figure = new_figure(6.4, max(1.6, 0.24 * len(names) + 0.8))
    axes = figure.add_subplot()
    heights = range(len(names))
    axes.barh(heights, list(values)[::-1], color=BLUE)
    axes.set_yticks(heights, list(names)[::-1], fontsize=8)
    axes.margins(y=0.01)
    axes.axvline(0, color=GREY, lw=1)
    axes.set_xlim(0, max(0.01, *values) * 1.1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2%}")
    axes.set_xlabel(what, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)
