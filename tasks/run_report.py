"""A comparison of runs for people: what differs, curves, metrics, paired differences, cost."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from feature_repo.contract import UseCase
from feature_repo.home import digest_of
from tasks import metrics
from tasks.comparison import in_words
from tasks.page import from_markdown, markdown_table
from tasks.pictures import GREY, inline_png, new_figure, png
from tasks.run_pairs import Pair
from tasks.runs import Run
from tasks.tracking import COST, LOSSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABSENT = "–"
DIGEST = 12  # digits of a digest that people compare
TITLES = {
    "curves": "Loss by epoch",
    "differences": "Paired differences to the first run, 95 % intervals; grey: not significant",
    "cost": "What the trainings took",
}
HIGHER = ("auc", "average_precision", "r2")  # is better; of the other metrics, lower
SHOWN = {"binary": ("auc", "log_loss"), "regression": ("rmse", "mae")}


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Of what the runs were made with, by name, what is not the same in all of them."""
    sides = [made_with(run) for run in runs]
    names = dict.fromkeys(name for side in sides for name in side)
    rows = {name: [side.get(name, ABSENT) for side in sides] for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def made_with(run: Run) -> dict[str, str]:
    """Hyper-parameters, data, features, code and libraries of a run; digests are cut."""
    told = {name: value.strip('"') for name, value in run.params.items()}  # they are JSON
    if "training_set" in told:
        told["training_set"] = told["training_set"][:DIGEST]
    if run.certificate is None:
        return told
    said = run.certificate.predicate
    sources = {source["name"]: source["sha256"] for source in said["data"]["sources"]}
    parts = {name: f"{s['first'][:10]} to {s['last'][:10]}, {s['labelled']:,} rows"
             for name, s in said["training"]["splits"].items()}  # fmt: skip
    return {
        "architecture": str(said["config"]["architecture"]),
        **told,
        **parts,
        "raw files": digest_of(sources)[:DIGEST],
        "feature declaration": said["features"]["declaration"][:DIGEST],
        "code": f"{said['code']['version']} {said['code']['commit']}".strip(),
        "installed packages": said["code"]["lock"][:DIGEST],
    }


def in_lines(use_case: UseCase, runs: Sequence[Run], pairs: Sequence[Pair]) -> list[str]:
    """What the pairs show, a line each."""
    first, *others = (run.known.name for run in runs)
    metric = metrics.headline(use_case.task)
    return [
        f"{other} against {first}: "
        + (f"{in_words(metric, pair.told[metric], pair.rows)}; " if pair.told else "")
        + pair.note
        for other, pair in zip(others, pairs, strict=True)
    ]


def page(use_case: UseCase, runs: Sequence[Run], pairs: Sequence[Pair]) -> str:
    """The whole report as HTML."""
    told = "".join(f"<li>{escape(line)}</li>" for line in in_lines(use_case, runs, pairs))
    parts = [
        f"<h1>{len(runs)} runs of {escape(use_case.name)}</h1>",
        f"<ul>{told}</ul>",
        f"<p>Differences are a run minus the first, {escape(runs[0].known.name)}. Their intervals "
        "resample days and hold at 95 % each: of twenty differences that are none, one would seem "
        "significant.</p>",
        "<h2>Runs</h2>" + from_markdown(_runs(runs)),
        "<h2>What differs</h2>" + from_markdown(_differing(runs)),
        "<h2>Curves</h2>" + _shown("curves", _curves, runs, 4.4),
        "<h2>Test metrics, as certified</h2>" + from_markdown(_metrics(runs)),
        "<h2>Paired differences</h2>" + from_markdown(_pairs(runs, pairs)),
    ]
    if any(pair.told for pair in pairs):

        def draw(figure: Figure, shown: Sequence[Run]) -> None:
            _differences(figure, use_case.task, shown, pairs)

        parts.append(_shown("differences", draw, runs, 1.4 + 0.45 * len(pairs)))
    parts.append("<h2>Cost</h2>" + from_markdown(_cost(runs)))
    if any(run.cost for run in runs):
        parts.append(_shown("cost", _bars, runs, 1.2 + 0.4 * len(runs)))
    return "".join(parts)


def _runs(runs: Sequence[Run]) -> str:
    head = ["run", "MLflow run", "certificate", "execution", "gate"]
    return markdown_table(head, [[run.known.name, run.known.id, *_certified(run)] for run in runs])


def _certified(run: Run) -> list[str]:
    if run.certificate is None:
        return [ABSENT] * 3
    said = run.certificate.predicate
    word = "passed" if said["gate"]["passed"] else "refused"
    return [run.certificate.id, str(said["execution"]), word]


def _differing(runs: Sequence[Run]) -> str:
    found = differing(runs)
    if not found:
        return "Nothing: all were made with the same."
    return markdown_table(
        ["", *(run.known.name for run in runs)],
        [[name, *values] for name, values in found.items()],
    )


def _metrics(runs: Sequence[Run]) -> str:
    """Each run's own test rows: figures of different rows are no comparison, and it says so."""
    measured = [run.certificate.predicate["metrics"] if run.certificate else None for run in runs]
    names = dict.fromkeys(name for m in measured if m for name in m["test"]["ci"])
    rows = [["test rows", *(f"{m['rows']:,}" if m else ABSENT for m in measured)]]
    rows += [[name, *(_figure(m, name) for m in measured)] for name in names]
    table = markdown_table(["metric", *(run.known.name for run in runs)], rows)
    sets = {run.certificate.predicate["training"]["table"] for run in runs if run.certificate}
    if len(sets) < 2:
        return table
    return (
        f"{table}\n\nThese are of different training sets, each run's own: only the paired "
        "differences below compare what is alike."
    )


def _figure(measured: dict[str, Any] | None, name: str) -> str:
    if measured is None or measured["test"].get(name) is None:
        return ABSENT
    low, high = measured["test"]["ci"][name]
    return f"{measured['test'][name]:.4f} ({low:.4f} to {high:.4f})"


def _pairs(runs: Sequence[Run], pairs: Sequence[Pair]) -> str:
    rows = [
        [run.known.name, metric, f"{d['difference']:+.4f}", f"{d['low']:+.4f} to {d['high']:+.4f}",
         _verdict(metric, d), f"{pair.rows:,}", pair.note]
        for run, pair in zip(runs[1:], pairs, strict=True)
        for metric, d in sorted(pair.told.items())
    ]  # fmt: skip
    left = [
        [run.known.name, *[ABSENT] * 5, pair.note]
        for run, pair in zip(runs[1:], pairs, strict=True)
        if not pair.told
    ]
    head = ["run", "metric", "difference", "95 % interval", "", "rows", ""]
    return markdown_table(head, rows + left)


def _verdict(metric: str, told: dict[str, Any]) -> str:
    if not told["significant"]:
        return "not significant"
    return "better" if (told["difference"] > 0) == (metric in HIGHER) else "worse"


def _cost(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        said = run.certificate.predicate["cost"] if run.certificate else {}
        taken = [run.cost.get(name) for name in COST]
        if taken[0] is None:
            taken[0] = said.get("steps", {}).get("train")
        whole = [said.get(name) for name in ("seconds", "cpu_seconds", "gpu_seconds")]
        rows.append([run.known.name, *map(_seconds, [*taken, *whole])])
    head = ["run", "training: seconds", "CPU seconds", "GPU seconds", "all steps: seconds",
            "CPU seconds", "GPU seconds"]  # fmt: skip
    told = "".join(
        f"\n\n{run.known.name} went on from step {run.began:,} of another training: what that took "
        "is not counted here."
        for run in runs
        if run.began
    )
    return markdown_table(head, rows) + told


def _seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.1f}"


def _shown(name: str, draw: Any, runs: Sequence[Run], height: float) -> str:
    figure = new_figure(8.4, height)
    draw(figure, runs)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return inline_png(png(figure), TITLES[name])


def colours(count: int) -> list[Any]:
    """One a run: ten strong ones, then pale ones."""
    from matplotlib import colormaps

    return [colormaps["tab20"](2 * n % 20 + (n >= 10)) for n in range(count)]


def _curves(figure: Figure, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import MaxNLocator

    training, validation = LOSSES
    titles = {
        validation: "validation loss",
        training: "training loss (as it trains: with dropout, auxiliary targets)",
    }
    for place, (name, title) in enumerate(titles.items(), start=1):
        axes: Axes = figure.add_subplot(1, 2, place)
        for run, colour in zip(runs, colours(len(runs)), strict=True):
            values = run.curve[name]
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, "o-", ms=3, color=colour, label=run.known.name)
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _differences(figure: Figure, task: str, runs: Sequence[Run], pairs: Sequence[Pair]) -> None:
    """One pair of axes a metric, since each has its own unit; a run is a row."""
    shades = colours(len(runs))[1:]
    for place, metric in enumerate(SHOWN[task], start=1):
        axes: Axes = figure.add_subplot(1, 2, place)
        axes.axvline(0, color=GREY, lw=1)
        for height, pair in enumerate(pairs):
            if metric in pair.told:
                d = pair.told[metric]
                colour = shades[height] if d["significant"] else GREY
                axes.plot([d["low"], d["high"]], [height] * 2, color=colour, lw=2)
                axes.plot(d["difference"], height, "o", color=colour)
        axes.set_yticks(range(len(pairs)), [r.known.name for r in runs[1:]] if place == 1 else [])
        axes.set_ylim(len(pairs) - 0.5, -0.5)
        better = "higher" if metric in HIGHER else "lower"
        title = f"{metric} minus that of {runs[0].known.name}; {better} is better"
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)


def _bars(figure: Figure, runs: Sequence[Run]) -> None:
    """Seconds, CPU seconds and GPU seconds side by side, each with its own scale; what no run
    took is left out."""
    titles = dict(zip(COST, ("seconds", "CPU seconds", "GPU seconds"), strict=True))
    taken = [name for name in COST if any(run.cost.get(name) for run in runs)]
    for place, name in enumerate(taken, start=1):
        axes: Axes = figure.add_subplot(1, len(taken), place)
        values = [run.cost.get(name, 0.0) for run in runs]
        axes.barh(range(len(runs)), values, color=colours(len(runs)), height=0.6)
        axes.set_yticks(range(len(runs)), [r.known.name for r in runs] if place == 1 else [])
        axes.invert_yaxis()
        axes.set_title(titles[name], fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
