"""What is seen of a training while it runs, and the curves that are left of it.

A step costs a look at the clock: the bar and the points of the curves are made ``SAMPLE_SECONDS``
apart, however fast the steps come, and metrics are read by the thread that sends them. Whatever
goes wrong in here, the training goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any

from feature_repo.home import metrics_collector, pushgateway
from tasks.training.loop import Watch
from tasks.training.run import Position
from tasks.watch.exporters import Live, push
from tasks.watch.seen import Point
from tasks.watch.telemetry import Machine, Reading

if TYPE_CHECKING:
    from tasks.training.run import Epoch
    from tasks.types import TrainingConfig

SAMPLE_SECONDS = 0.5
POINTS = 200  # of a step curve: where there are more, every second one goes


class Watcher(Watch):
    """Rank 0's: a bar where standard error is a terminal, the points of the curves, and what the
    metrics say."""

    def __init__(self, say: Callable[[str], None], config: TrainingConfig) -> None:
        super().__init__(self.say, config)
        self.points: list[Point] = []
        self._out, self._bar, self._position = say, _bar(), Position()
        self._step = self._rows = 0
        self._samples, self._every = 0, 1
        self._at, self._rows_then = self.phases.last, 0
        self._epoch: Epoch | None = None
        self._point: Point | None = None

    def say(self, message: str) -> None:
        """A line of progress; a bar makes room for it."""
        if self._bar is None:
            self._out(message)
            return
        with self._bar.external_write_mode(file=sys.stderr):
            self._out(message)

    def begin(self, position: Position, steps: int) -> None:
        """See ``Watch.begin``."""
        self._position, self._step = position, position.step
        # Where it went back, what came after is undone.
        self.points = [point for point in self.points if point.step <= position.step]
        if self._bar is not None:
            self._bar.reset(steps)
            self._bar.update(position.step)

    def step(self, step: int, rows: int) -> None:
        """See ``Watch.step``."""
        self._step = step
        self._rows += rows
        if self.phases.last - self._at > SAMPLE_SECONDS:
            self._sample()

    def epoch(self, epoch: Epoch) -> None:
        """See ``Watch.epoch``."""
        self._epoch = epoch
        super().epoch(epoch)

    def close(self) -> None:
        """The training is over; the last steps are a point too."""
        self._sample()
        if self._point and self._point not in self.points[-1:]:
            self.points.append(self._point)
        if self._bar is not None:
            self._bar.close()

    def _sample(self) -> None:
        now, recent = self.phases.last, self._position.recent
        rows = self._rows - self._rows_then
        if not recent["loss"] or not rows:
            return
        self._point = point = Point(
            step=self._step,
            loss=fmean(recent["loss"]),
            gradient_norm=fmean(recent["gradient norm"]),
            rows_per_second=rows / (now - self._at),
        )
        self._at, self._rows_then = now, self._rows
        self._samples += 1
        if self._samples % self._every == 0:
            self.points.append(point)
        if len(self.points) > POINTS:
            self.points, self._every = self.points[1::2], 2 * self._every
        self._show(point)

    def _show(self, point: Point) -> None:
        if self._bar is None:
            return
        try:
            told = f"loss {point.loss:.4f}, {point.rows_per_second:,.0f} rows/s"
            self._bar.set_postfix_str(told, refresh=False)
            self._bar.update(point.step - self._bar.n)
        except OSError:  # the terminal is gone
            self._bar = None

    def readings(self) -> Iterator[Reading]:
        """What the training's metrics say now; any thread may ask."""
        yield Reading("airworthy_training_steps_total", self._step)
        yield Reading("airworthy_training_rows_total", self._rows)
        for phase, seconds in dict(self.phases.seconds).items():
            yield Reading("airworthy_training_phase_seconds_total", seconds, (phase,))
        if point := self._point:
            yield Reading("airworthy_training_step_loss", point.loss)
            yield Reading("airworthy_training_gradient_norm", point.gradient_norm)
            yield Reading("airworthy_training_rows_per_second", point.rows_per_second)
        if epoch := self._epoch:
            yield Reading("airworthy_training_epochs_total", epoch.epoch)
            yield Reading("airworthy_training_loss", epoch.training_loss, ("training",))
            yield Reading("airworthy_training_loss", epoch.validation_loss, ("validation",))


def _bar() -> Any:
    """A bar on standard error, where that is a terminal."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(file=sys.stderr, unit="step", leave=False, dynamic_ncols=True)


@contextmanager
def watching(
    use_case: str, config: TrainingConfig, say: Callable[[str], None]
) -> Iterator[Watcher]:
    """Watch over a training on rank 0. Its metrics go where the environment says: by OTLP while it
    runs, to a Pushgateway at its end."""
    watch, live, address = Watcher(say, config), None, pushgateway()

    def readings() -> list[Reading]:
        return [*watch.readings(), *machine.readings()]

    with spared(watch.say):
        if metrics_collector() or address:
            machine = Machine(watch.say)
        if metrics_collector():
            live = Live(use_case, readings, watch.say)
    try:
        yield watch
    finally:
        with spared(say):
            watch.close()
        with spared(say):
            if live:
                live.close()
            if address:
                push(address, use_case, readings(), say)


@contextmanager
def spared(say: Callable[[str], None]) -> Iterator[None]:
    """Nothing that looks on may end a training."""
    try:
        yield
    except Exception as exc:  # any library's
        say(f"the training is not watched in full: {exc!r}")
