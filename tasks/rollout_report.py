"""A release for people: each decision with its figures, and the sequences over the looks."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.home import Home, write_atomically
from serving.rollout_plan import Decision, Figure
from tasks.page import html_page
from tasks.pictures import BLUE, GREY, inline_png, new_figure, png
from tasks.rollout_store import Rollout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SAID = {
    "failed": "share of answers that failed, of the step",
    "slow": "share of slow answers, of the step",
    "shift": "mean score, in pairs",
    "mistakes": "share of wrong decisions, in pairs",
    "loss": "squared error, in pairs",
}
_SHOWN = 60  # looks in the table; the ledger has all of them


def content(rollout: Rollout) -> str:
    """HTML: what was decided, the picture, the table of looks."""
    decisions = rollout.state.decisions
    words = decisions[-1].words if decisions else "no look yet"
    at = rollout.plan.percent(rollout.state.step)
    going = f"at {at} %" if at else "in the shadow"
    ended = {"": going, "back": "rolled back", "done": "promoted" if rollout.promoted else "passed"}
    title = f"{rollout.use_case} {rollout.version} after {rollout.champion_version}"
    picture = inline_png(draw(rollout), "confidence sequences over the looks") if decisions else ""
    return (
        f"<h1>Release of {escape(title)}: {ended[rollout.state.ended]}</h1>"
        f"<p>{escape(words)}</p><p>Differences are the challenger's less the champion's. All "
        f"intervals of all looks hold together with probability {1 - rollout.plan.alpha:g}; the "
        "dashed line is what is allowed, dotted ones are steps (0 %: the shadow).</p>"
        f"{picture}{_table(decisions)}"
    )


def write(home: Home, rollout: Rollout) -> Path:
    """The report as a page of its own."""
    path = home.path("reports", f"rollout-{rollout.use_case}.html")
    write_atomically(path, html_page(f"Release of {rollout.use_case}", content(rollout)).encode())
    return path


def draw(rollout: Rollout) -> bytes:
    """PNG: one pair of axes a sequence, its interval at each look."""
    looks = [decision for decision in rollout.state.decisions if decision.figures]
    names = [figure.name for figure in looks[-1].figures] if looks else []
    figure = new_figure(7.6, 1.9 * max(len(names), 1))
    for place, name in enumerate(names):
        axes = figure.add_subplot(len(names), 1, place + 1)
        _sequence(axes, [next(f for f in look.figures if f.name == name) for look in looks])
        _steps(axes, [look.percent for look in looks], named=not place)
        axes.set_title(_SAID[name], fontsize=9, loc="left")
    if names:
        axes.set_xlabel("look", fontsize=8)
    return png(figure)


def _steps(axes: Axes, percents: list[int], named: bool) -> None:
    """A line where a step begins, and what it is."""
    before = -1
    for look, percent in enumerate(percents, start=1):
        if percent != before:
            axes.axvline(look - 0.5, ls=":", color=GREY, lw=0.8)
            if named:
                top = axes.get_ylim()[1]
                axes.text(look - 0.45, top, f"{percent} %", fontsize=7, va="top", color=GREY)
        before = percent


def _sequence(axes: Axes, figures: list[Figure]) -> None:
    known = [(n, f) for n, f in enumerate(figures, start=1) if f.low is not None]
    at = [n for n, _ in known]
    limit = figures[-1].limit
    axes.fill_between(
        at, [f.low or 0.0 for _, f in known], [f.high or 0.0 for _, f in known], color=BLUE,
        alpha=0.2, step="mid",
    )  # fmt: skip
    axes.plot(at, [f.mean or 0.0 for _, f in known], ".-", color=BLUE)
    axes.axhline(0, color=GREY, lw=0.8)
    axes.axhline(limit, ls="--", color=GREY)
    if figures[-1].name == "shift":
        axes.axhline(-limit, ls="--", color=GREY)
    axes.set_xlim(0.5, len(figures) + 0.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylim(*_range(axes.get_ylim(), figures))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _range(drawn: tuple[float, float], figures: list[Figure]) -> tuple[float, float]:
    """So much of what is drawn that the limit and the means can be told apart: a step's first
    intervals are wider than that, and are cut."""
    means = [abs(f.mean or 0.0) for f in figures]
    most = max(5 * figures[-1].limit, 1.5 * max(means))
    return max(drawn[0], -most), min(drawn[1], most)


def _table(decisions: tuple[Decision, ...]) -> str:
    rows = "".join(
        f"<tr><td>{number}</td><td>{d.percent or 'shadow'}</td><td>{d.kind}</td>"
        f"<td>{escape(d.words)}</td></tr>"
        for number, d in list(enumerate(decisions, start=1))[-_SHOWN:]
    )
    head = "".join(f"<th>{h}</th>" for h in ("look", "percent", "decision", "why"))
    return f"<table><tr>{head}</tr>{rows}</table>"
