"""An experiment's analysis for people: what was and was not shown, in words and pictures."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from serving.sequential import Interval
from tasks.ab_analysis import Analysis, Finding, Look
from tasks.ab_data import RATIO_ALPHA, Shares
from tasks.page import from_markdown, markdown_table
from tasks.pictures import BLUE, GREY, inline_png, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "effects": "Effects with their intervals; grey: differences too small to matter",
    "sequence": "The any-time interval of the primary metric as units came in",
    "ratio": "Share of the first treatment among the units as they came in",
}


def headline(analysis: Analysis) -> str:
    """The verdict in a line."""
    if not analysis.comparable:
        return no_conclusion(analysis)
    if not analysis.findings and any(analysis.unanswered.counts):
        return (
            f"Nothing is known yet: the window of {sum(analysis.unanswered.counts):,} units is "
            "over, but outcomes of both arms are lacking. Do they name units as the exposures do?"
        )
    if not analysis.findings:
        return "No unit's window is over in both arms: nothing is known yet."
    return " ".join(verdict(analysis, f) for f in analysis.findings if f.metric.primary)


def no_conclusion(analysis: Analysis) -> str:
    """Why the arms may not be compared."""
    shares, what = analysis.exposed, "exposed units"
    if shares.fine:
        shares, what = analysis.unanswered, "units without an outcome"
    told = ", ".join(
        f"{arm} {count:,} where {expected:,.0f} were to be expected"
        for arm, count, expected in zip(shares.arms, shares.counts, shares.expected, strict=True)
    )
    return (
        f"No conclusion may be drawn: the {what} do not fit the declared arms ({told}; chi-square "
        f"p = {shares.pvalue:.1g}, below {RATIO_ALPHA}). Find out which units were lost or "
        "recorded twice, and in which arm; no analysis of these data mends it."
    )


def verdict(analysis: Analysis, finding: Finding) -> str:
    """What the declared rule says of a finding, in words."""
    name = f"{finding.metric.name}, {finding.treatment} against {analysis.experiment.arms[0].name}:"
    looks = analysis.experiment.looks
    if finding.fixed:
        way = "fixed horizon" if finding.metric.primary else "fixed horizon, Holm"
        shown = finding.fixed.stands
        return f"{name} {words(finding, finding.fixed.interval, shown, finding.fixed.effect, way)}"
    if looks == 0:
        return f"{name} {words(finding, finding.anytime, None, finding.effect, 'any-time')}"
    if not finding.metric.primary:
        return f"{name} no verdict before the end. {peek(finding)}"
    if looks > 1 and finding.looks:
        look = decisive(finding.looks)
        way = f"planned look {look.number} of {looks}, O'Brien-Fleming boundary {look.boundary:.2f}"
        told = words(finding, look.interval, look.crossed, look.effect, way)
        between = "" if look.crossed or analysis.over else f" {peek(finding)}"
        return f"{name} {told}{between}"
    following = next(t for t in analysis.experiment.look_times if t > analysis.at)
    return (
        f"{name} no verdict before the planned look of {following:%Y-%m-%d %H:%M}. {peek(finding)}"
    )


def decisive(looks: tuple[Look, ...]) -> Look:
    """The first look that crossed its boundary, else the last."""
    return next((look for look in looks if look.crossed), looks[-1])


def peek(finding: Finding) -> str:
    """The any-time interval, which alone may be looked at between planned looks."""
    if finding.anytime.low == float("-inf"):
        return "Too few units for an any-time interval."
    return (
        f"A peek at {finding.units:,} units: any-time interval {_span(finding.anytime)} (right at "
        f"every look with probability {1 - finding.alpha:.4g}); it decides nothing here."
    )


def words(finding: Finding, interval: Interval, shown: bool | None, effect: float, way: str) -> str:
    """What an interval shows; ``shown`` where a test says more than whether it excludes zero."""
    mde, within = finding.metric.mde, abs(interval.low) < finding.metric.mde > abs(interval.high)
    said = f"{effect:+.4g} ({way}; interval {_span(interval)})"
    if interval.low == float("-inf"):
        return "nothing is known yet: too few units, or none of their outcomes differs."
    if interval.excludes(0) if shown is None else shown:
        higher = "higher" if effect > 0 else "lower"
        small = f" The difference is less than the {mde:g} that matters." if within else ""
        return f"shown: the treatment is {higher}: {said}.{small}"
    if within:
        return (
            f"not significant: {said}; the interval lies within the {mde:g} that matters, so the "
            "arms are equivalent in that sense."
        )
    includes = "includes zero" if not interval.excludes(0) else "excludes zero only before Holm"
    return (
        f"not significant: {said}; the interval {includes}. This does not show that the arms are "
        f"equal: a difference of {max(interval.low, interval.high, key=abs):+.4g} fits the data."
    )


def page(analysis: Analysis) -> str:
    """The whole report as HTML."""
    experiment = analysis.experiment
    state = "is over" if analysis.over else f"runs until {experiment.end:%Y-%m-%d %H:%M}"
    parts = [
        f"<h1>Experiment {escape(experiment.name)}</h1>",
        f"<p>As of {analysis.at:%Y-%m-%d %H:%M} UTC; it {state}. {_rule(analysis)}</p>",
        f"<p><b>{escape(headline(analysis))}</b></p>",
        from_markdown(_shares(analysis.exposed, "units exposed")),
        inline_png(_draw(_ratio, analysis), TITLES["ratio"]),
    ]
    if analysis.findings:
        told = "".join(f"<li>{escape(verdict(analysis, f))}</li>" for f in analysis.findings)
        parts += [
            inline_png(_draw(_effects, analysis), TITLES["effects"]),
            inline_png(_draw(_sequence, analysis), TITLES["sequence"]),
            f"<h2>In words</h2><ul>{told}</ul>",
            "<h2>Figures</h2>"
            + from_markdown(_figures(analysis))
            + from_markdown(_looks(analysis)),
            from_markdown(_shares(analysis.unanswered, "units without an outcome")),
        ]
    return "".join(parts)


def _rule(analysis: Analysis) -> str:
    alpha, looks = analysis.experiment.alpha, analysis.experiment.looks
    ways = {0: "the any-time interval, at any moment", 1: "one look at the end (fixed horizon)"}
    way = ways.get(looks, f"{looks} planned looks, O'Brien-Fleming spending")
    return (
        f"The declared rule is {way}, at a level of {alpha:g}. Each interval is about the units "
        "that it took in: where the effect changes with time, an early one says nothing of later "
        "units."
    )


def _shares(shares: Shares, what: str) -> str:
    rows = [
        [arm, f"{count:,}", f"{expected:,.1f}", f"{shares.pvalue:.3g}"]
        for arm, count, expected in zip(shares.arms, shares.counts, shares.expected, strict=True)
    ]
    return markdown_table(["arm", what, "expected", "p (chi-square)"], rows)


def _figures(analysis: Analysis) -> str:
    rows = [
        [f.metric.name, f.treatment, f"{f.units:,}", f"{f.control:.5g}", f"{f.treated:.5g}",
         f"{f.effect:+.4g}", f"{1 - f.alpha:.4g}: {_span(f.anytime)}",
         f"{_span(f.fixed.interval)}, p = {f.fixed.pvalue:.3g}" if f.fixed else "at the end",
         f"{f.metric.mde:g}"]
        for f in analysis.findings
    ]  # fmt: skip
    head = ["metric", "treatment", "units", "control", "treated", "effect (adjusted)", "any-time",
            "fixed horizon", "matters from"]  # fmt: skip
    return markdown_table(head, rows)


def _looks(analysis: Analysis) -> str:
    rows = [
        [f.treatment, look.number, look.at[:16], f"{look.units:,}", f"{look.fraction:.3f}",
         f"{look.z:.2f}", f"{look.boundary:.2f}", "crossed" if look.crossed else "not crossed"]
        for f in analysis.findings
        for look in f.looks
    ]  # fmt: skip
    head = ["treatment", "planned look", "at", "units", "information", "z", "boundary", ""]
    return markdown_table(head, rows) if rows else ""


def _span(interval: Interval) -> str:
    return f"{interval.low:+.4g} to {interval.high:+.4g}"


def _draw(draw: Any, analysis: Analysis) -> bytes:
    figure = new_figure(7.2, 3.2 if draw is not _effects else 0.9 + 0.7 * len(analysis.findings))
    draw(figure, analysis)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _effects(figure: Any, analysis: Analysis) -> None:
    """One row of axes a finding, since each metric has its own unit."""
    for number, finding in enumerate(analysis.findings, start=1):
        axes: Axes = figure.add_subplot(len(analysis.findings), 1, number)
        axes.axvspan(-finding.metric.mde, finding.metric.mde, color=GREY, alpha=0.2)
        axes.axvline(0, color=GREY, lw=1)
        told = [
            (finding.anytime, GREY),
            *([(finding.fixed.interval, BLUE)] if finding.fixed else []),
        ]
        told += [(decisive(finding.looks).interval, BLUE)] if finding.looks else []
        for height, (interval, colour) in enumerate(told[:2]):
            if abs(interval.low) != float("inf"):
                axes.plot([interval.low, interval.high], [height] * 2, color=colour, lw=3)
        axes.plot(finding.effect, 0, "o", color=BLUE)
        axes.set_yticks(range(len(told[:2])), ["any-time", "at the look"][: len(told)], fontsize=7)
        axes.set_ylim(-0.7, 1.7)
        axes.set_title(f"{finding.metric.name}, {finding.treatment}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)


def _sequence(figure: Any, analysis: Analysis) -> None:
    axes: Axes = figure.add_subplot()
    finding = next(f for f in analysis.findings if f.metric.primary)
    units = [point.units for point in finding.path]
    axes.axhspan(-finding.metric.mde, finding.metric.mde, color=GREY, alpha=0.2)
    axes.axhline(0, color=GREY, lw=1)
    low, high = ([getattr(p.interval, end) for p in finding.path] for end in ("low", "high"))
    axes.fill_between(units, low, high, color=BLUE, alpha=0.25, label="any-time interval")
    axes.plot(units, [point.effect for point in finding.path], color=BLUE, label="effect")
    for look in finding.looks:
        if abs(look.interval.low) != float("inf"):
            ends = [look.interval.low, look.interval.high]
            axes.plot([look.units] * 2, ends, color="black", lw=1.5)
    axes.set(xlabel="units", ylabel=f"difference of {finding.metric.name}")
    shown = max((abs(v) for v in (*low[len(low) // 4 :], *high[len(high) // 4 :])), default=1.0)
    axes.set_ylim(-shown, shown)
    axes.legend(frameon=False, fontsize=8)


def _ratio(figure: Any, analysis: Analysis) -> None:
    axes: Axes = figure.add_subplot()
    control, treatment = analysis.experiment.arms[:2]
    declared = treatment.weight / (control.weight + treatment.weight)
    axes.axhline(declared, ls="--", color=GREY, label="declared")
    shares = [share for _, share in analysis.ratio_over_time]
    axes.plot(range(len(shares)), shares, color=BLUE, label="observed")
    ticks = range(0, len(shares), max(1, len(shares) // 4))
    axes.set_xticks(list(ticks), [analysis.ratio_over_time[t][0][:10] for t in ticks])
    axes.set(ylabel=f"share of {treatment.name}", ylim=(max(0, declared - 0.2), declared + 0.2))
    axes.legend(frameon=False, fontsize=8)
