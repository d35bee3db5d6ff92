"""Pictures of a training: losses by epoch, loss and gradient norm by step, throughput, phases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_repo.wording import counted
from tasks.pictures import BLUE, GREY, inline_png, new_figure, png

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from tasks.training.run import Epoch
    from tasks.watch.seen import Point, Seen


def page(seen: Seen) -> str:
    """A Deck of the training as HTML."""
    rows = max((point.rows_per_second for point in seen.points), default=0.0)
    told = (
        f"{counted(len(seen.curve), 'epoch')}; {seen.cost.seconds:,.1f} s, "
        f"{seen.cost.cpu_seconds:,.1f} CPU seconds and {seen.cost.gpu_seconds:,.1f} GPU "
        "seconds, of all ranks together"
    )
    if seen.points:
        told += f"; {rows:,.0f} rows a second at the most"
    if seen.began:
        told += (
            f". It went on from step {seen.began:,}: what is drawn by step, and the phases, are of "
            "what came after"
        )
        if seen.before.seconds:
            told += f"; {seen.before.seconds:,.1f} s of these are an earlier process's"
    return f"<p>{told}</p>" + inline_png(draw(seen), "Curves of the training")


def draw(seen: Seen) -> bytes:
    """The picture, PNG."""
    figure = new_figure(10.0, 7.0)
    losses, norms, speed, shares = figure.subplots(2, 2).flat
    _losses(losses, seen.curve)
    if seen.points:
        _steps(norms, seen.points)
        _speed(speed, seen.points)
    else:
        for axes in (norms, speed):
            axes.set_title("no whole batch was seen here")
            axes.set_axis_off()
    _shares(shares, seen.phases)
    for axes in figure.axes:
        axes.spines["top"].set_visible(False)
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=8)
    return png(figure)


def _losses(axes: Axes, curve: Sequence[Epoch]) -> None:
    """Each on its own scale: the training loss has dropout, and auxiliary targets where there are
    any."""
    from matplotlib.ticker import MaxNLocator

    epochs = [epoch.epoch for epoch in curve]
    right, lines = axes.twinx(), []
    for at, part, colour in ((axes, "validation", BLUE), (right, "training", GREY)):
        losses = [getattr(epoch, f"{part}_loss") for epoch in curve]
        label = part if at is axes else f"{part} (right)"
        lines += at.plot(epochs, losses, "o-", ms=3, color=colour, label=label)
    right.tick_params(labelsize=8)
    axes.set(xlabel="epoch", title="loss by epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(handles=lines, frameon=False, fontsize=8)


def _steps(axes: Axes, points: Sequence[Point]) -> None:
    """Loss on the left, gradient norm on the right: each has its own unit."""
    steps = [point.step for point in points]
    (loss,) = axes.plot(steps, [point.loss for point in points], color=BLUE, label="loss")
    right = axes.twinx()
    norms = [point.gradient_norm for point in points]
    (norm,) = right.plot(steps, norms, color=GREY, lw=1, label="gradient norm (right)")
    right.tick_params(labelsize=8)
    axes.set(xlabel="step", title="loss and gradient norm of the last 64 batches")
    axes.legend(handles=[loss, norm], frameon=False, fontsize=8)


def _speed(axes: Axes, points: Sequence[Point]) -> None:
    axes.plot([p.step for p in points], [p.rows_per_second for p in points], color=BLUE)
    axes.set(xlabel="step", title="rows a second")
    axes.set_ylim(bottom=0)


def _shares(axes: Axes, phases: Mapping[str, float]) -> None:
    total = sum(phases.values()) or 1.0
    told = sorted(phases.items(), key=lambda item: item[1])
    axes.barh([name for name, _ in told], [seconds for _, seconds in told], color=BLUE)
    for height, (_, seconds) in enumerate(told):
        axes.text(seconds, height, f" {100 * seconds / total:.1f} %", va="center", fontsize=8)
    axes.set(xlabel="seconds", title="phases")
    axes.spines["right"].set_visible(False)
