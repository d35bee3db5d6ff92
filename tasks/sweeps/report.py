"""A sweep for people: what it found, how it got there, which hyper-parameters matter."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from feature_repo.wording import counted
from tasks.page import from_markdown, markdown_table
from tasks.pictures import BLUE, GREY, inline_png, new_figure, png
from tasks.sweeps import study as studies
from tasks.sweeps.declared import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna.study import Study

TITLES = {
    "history": "Validation loss of each trial, and the best so far",
    "importance": "How much each hyper-parameter matters for being among the best tenth of the "
    "complete trials (PED-ANOVA)",
    "parallel": "Each line is a complete trial; the darker, the lower its validation loss",
}
SHOWN = 40  # trials in the table; the study and MLflow have all of them


def summary(sweep: Sweep, trials: list[FrozenTrial]) -> str:
    """What came of it, in a line."""
    states = [trial.state for trial in trials]
    complete, pruned = (states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED))
    spent, best = studies.spent(trials), studies.best(trials)
    priced = sweep.budget.cpu_second or sweep.budget.gpu_second
    cost = f" (cost {spent.money(sweep.budget):.2f})" if priced else ""
    again = {trial.user_attrs.get(studies.AGAIN_OF) for trial in trials}
    cut = sum(studies.CUT in t.user_attrs and t.number not in again for t in trials)
    lost = [t for t in trials if t.state == TrialState.FAIL and studies.CUT not in t.user_attrs]
    begun = sum(trial.number in again for trial in lost)
    wait = f"; the budget cut {cut} off, which wait for more" if cut else ""
    if complete + pruned < sweep.trials and spent.over(sweep.budget):
        wait += f"; the budget is spent, {sweep.trials} trials were asked for"
    found = f"best validation loss {best.value:.5f} of trial {best.number}" if best else "no best"
    return (
        f"{counted(complete + pruned, 'trial')}, {pruned} of them pruned: {found}; "
        f"{counted(studies.epochs(trials), 'epoch')}, {spent.seconds:,.0f} s of training, "
        f"{spent.cpu:,.0f} CPU s, {spent.gpu:,.0f} GPU s{cost}; {len(lost)} were lost or failed, "
        f"{begun} of them begun again{wait}"
    )


def content(sweep: Sweep, study: Study) -> str:
    """The report as HTML."""
    trials = study.get_trials(deepcopy=False)
    importance, unjudged = importances(study)
    titles = dict(TITLES)
    if unjudged:
        titles["importance"] += f"; not judged, as they all had one value: {', '.join(unjudged)}"
    pictures = {
        "history": _picture(draw_history, trials),
        "importance": _picture(_importance, importance) if importance else b"",
        "parallel": _parallel(sweep, trials),
    }
    ended = sum(trial.state in studies.FINISHED for trial in trials)
    cut = f": the first {SHOWN} of {ended}" if ended > SHOWN else ""
    shown = "".join(
        f"<h2>{escape(titles[name])}</h2>{inline_png(picture, escape(titles[name]))}"
        for name, picture in pictures.items()
        if picture
    )
    return (
        f"<h1>Sweep {escape(sweep.name)} of {escape(sweep.use_case)}</h1>"
        f"<p>{escape(summary(sweep, trials))}.</p>{shown}<h2>Trials: the complete ones, "
        f"the best first, then the pruned ones{cut}</h2>"
        f"{from_markdown(_table(sweep, trials))}"
    )


def importances(study: Study) -> tuple[dict[str, float], list[str]]:
    """How much each field matters for being among the best tenth of the complete trials (Watanabe
    et al., "PED-ANOVA", 2023), and the fields of which all of these had one value, so that nothing
    is known; empty where too few trials are complete."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 3:
        return {}, []
    names = sorted(complete[0].params)
    varied = [name for name in names if len({trial.params[name] for trial in complete}) > 1]
    if not varied:
        return {}, names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator()
        shares = get_param_importances(study, evaluator=evaluator, params=varied)
    return shares, [name for name in names if name not in varied]


def _table(sweep: Sweep, trials: list[FrozenTrial]) -> str:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda trial: (trial.value, trial.number))
    ranked += [trial for trial in trials if trial.state == TrialState.PRUNED]
    names = sorted(sweep.space)
    rows = [
        [t.number, t.state.name.lower(), "–" if t.value is None else f"{t.value:.5f}",
         len(t.user_attrs.get(studies.CURVE, [])),
         f"{t.user_attrs.get(studies.SPENT, {}).get('cpu', 0):,.1f}",
         *(said(t.params[name]) for name in names)]
        for t in ranked[:SHOWN]
    ]  # fmt: skip
    return markdown_table(["trial", "", "validation loss", "epochs", "CPU s", *names], rows)


def said(value: Any) -> str:
    """A hyper-parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(draw: Any, told: Any) -> bytes:
    figure = new_figure(7.2, 3.2)
    axes = figure.add_subplot()
    draw(axes, told)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def draw_history(axes: Axes, trials: list[FrozenTrial]) -> None:
    """Each trial's loss, a pruned one that lies far above the complete ones at the upper edge."""
    from matplotlib.ticker import MaxNLocator

    pruned, complete = (
        [(t.number, t.value) for t in trials if t.state == state and t.value is not None]
        for state in (TrialState.PRUNED, TrialState.COMPLETE)
    )
    values = [value for _, value in complete]
    top = math.inf
    if values:  # a trial that was pruned as it diverged must not flatten the others
        low = min(values)
        spread = (max(values) - low) or abs(low) / 20 or 1.0
        top = low + 1.5 * spread
        axes.set_ylim(low - 0.1 * spread, top)
    within, above = ([(n, v) for n, v in pruned if (v > top) == over] for over in (False, True))
    for told, mark, colour, label in (
        ([(n, top) for n, _ in above], "^", GREY, "pruned, above what is drawn"),
        (within, ".", GREY, "pruned"),
        (complete, ".", BLUE, "complete"),
    ):
        if told:
            x, y = zip(*told, strict=True)
            axes.plot(x, y, mark, color=colour, label=label, clip_on=False)
    so_far = [min(values[: n + 1]) for n in range(len(values))]
    axes.step([n for n, _ in complete], so_far, where="post", color=BLUE, lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel="validation loss")
    axes.legend(frameon=False, fontsize=8)


def _importance(axes: Axes, importance: Mapping[str, float]) -> None:
    names = list(importance)[::-1]
    axes.barh(names, [importance[name] for name in names], color=BLUE)
    axes.set_xlabel("importance")


def _parallel(sweep: Sweep, trials: list[FrozenTrial]) -> bytes:
    """A vertical axis for each field, its own scale, and one for the loss."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return b""
    figure = new_figure(7.2, 3.6)
    axes = figure.add_subplot()
    names = [*sorted(sweep.space), "validation loss"]
    columns = [
        _heights([_of(t, name) for t in complete], sweep.space.get(name, "")) for name in names
    ]
    order = sorted(range(len(complete)), key=lambda n: -float(complete[n].value or 0.0))
    for place, n in enumerate(order, start=1):
        heights = [column[n] for column, _ in columns]
        axes.plot(heights, color=BLUE, alpha=0.1 + 0.9 * (place / len(order)) ** 3, lw=1)
    for at, (_, ends) in enumerate(columns):
        axes.axvline(at, color=GREY, lw=0.8)
        for height, text in ends.items():
            axes.text(at, height, text, fontsize=7, ha="center", va="bottom" if height else "top")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.tick_params(axis="x", pad=10)
    axes.set_yticks([])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return png(figure)


def _of(trial: FrozenTrial, name: str) -> Any:
    return trial.params.get(name, trial.value)


def _heights(values: list[Any], text: str) -> tuple[list[float], dict[float, str]]:
    """Each value's height from 0 to 1, and what stands at which height."""
    if text and text.split()[0] not in ("log", "linear"):
        known = sorted(set(values))
        steps = {value: n / max(len(known) - 1, 1) for n, value in enumerate(known)}
        return [steps[v] for v in values], {h: said(v) for v, h in steps.items()}
    scale = math.log if text.startswith("log") else float
    low, high = min(values), max(values)
    span = (scale(high) - scale(low)) or 1.0
    heights = [(scale(v) - scale(low)) / span for v in values]
    return heights, {0.0: said(low), 1.0: said(high)}
