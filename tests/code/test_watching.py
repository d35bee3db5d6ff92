"""Watching a training: its bar on a real terminal, its metrics, its curves; it never disturbs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import pty
import re
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from otlp_collector import Collector
from serving_helpers import free_port
from toy import TOY, toy_training_set
from training_helpers import SMALL, same, weights

from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.fit import Fitted, fit
from tasks.steps import Cost
from tasks.training.run import Position
from tasks.watch import watcher
from tasks.watch.curves import draw, page
from tasks.watch.seen import Point, Seen
from tasks.watch.watcher import Watcher, watching


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


@pytest.fixture(scope="module")
def unwatched(table: Table) -> Fitted:
    return fit(TOY, table, SMALL, lambda message: None)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples come faster than a toy trains."""
    monkeypatch.setattr(watcher, "SAMPLE_SECONDS", 0.002)


def watched(table: Table, said: list[str]) -> tuple[Fitted, Watcher]:
    with watching("toy", SMALL, said.append) as watch:
        fitted = fit(TOY, table, SMALL, watch.say, watch=watch)
    return fitted, watch


def test_a_watched_training_ends_as_an_unwatched_one_and_its_metrics_add_up(
    table: Table, unwatched: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector, said = Collector(), list[str]()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", collector.address)
    fitted, watch = watched(table, said)
    collector.close()
    assert same(weights(fitted), weights(unwatched))
    assert fitted.curve == unwatched.curve
    told = {
        name: {tuple(v for k, v in labels.items() if k != "use_case"): value
               for labels, value in points}
        for name, points in collector.metrics()[-1].items()
    }  # fmt: skip
    mine = {n.removeprefix("airworthy_training_"): v for n, v in told.items() if "training" in n}
    epochs, last = len(fitted.curve), fitted.curve[-1]
    steps = epochs * -(-fitted.training_rows // SMALL.batch_size)
    assert mine["steps_total"] == {(): steps}
    assert mine["rows_total"] == {(): epochs * fitted.training_rows}
    assert mine["epochs_total"] == {(): epochs}
    assert mine["loss"] == {
        ("training",): last.training_loss, ("validation",): last.validation_loss
    }  # fmt: skip
    phases = {name for (name,) in mine["phase_seconds_total"]}
    assert phases >= {"data", "forward", "backward", "optimizer", "validation"}
    assert mine["step_loss"][()] == pytest.approx(last.training_loss, rel=0.2)
    assert [line.split(":")[0] for line in said if "no GPU figures" not in line] == [
        f"epoch {n}/{SMALL.epochs}" for n in range(1, epochs + 1)
    ]
    assert watch.points[-1].step == steps
    assert [p.step for p in watch.points] == sorted({p.step for p in watch.points})
    assert all(p.gradient_norm > 0 and p.rows_per_second > 0 for p in watch.points)


def test_who_is_away_is_named_once_and_stops_no_training(
    table: Table, unwatched: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector, a Pushgateway, and what no library foresees."""
    nobody = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{nobody}")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    monkeypatch.setenv("AIRWORTHY_PUSHGATEWAY", nobody)
    said: list[str] = []
    fitted, _ = watched(table, said)
    assert same(weights(fitted), weights(unwatched))
    assert sum("collector of metrics (OTLP)" in line for line in said) == 1
    assert sum(f"the Pushgateway {nobody} did not take" in line for line in said) == 1
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "-1")  # which OpenTelemetry refuses
    monkeypatch.delenv("AIRWORTHY_PUSHGATEWAY")
    said.clear()
    watched(table, said)
    assert sum("the training is not watched in full" in line for line in said) == 1


@contextmanager
def terminal() -> Iterator[int]:
    """A terminal for standard error; the end that a person reads."""
    read, write = pty.openpty()
    termios.tcsetwinsize(write, (24, 120))
    with pytest.MonkeyPatch.context() as patch, os.fdopen(write, "w") as screen:
        patch.setattr(sys, "stderr", screen)
        yield read
    os.close(read)


def shown(screen: int) -> str:
    """What came to the terminal, and was not read yet."""
    text = b""
    while select.select([screen], [], [], 0.2)[0]:
        text += os.read(screen, 1 << 16)
    return text.decode()


def test_a_terminal_shows_a_bar_and_whole_lines(table: Table) -> None:
    with terminal() as screen:
        with watching("toy", SMALL, lambda line: print(line, file=sys.stderr, flush=True)) as watch:
            fit(TOY, table, SMALL, watch.say, watch=watch)
        text = shown(screen)
    bars = re.findall(r"(\d+)/(\d+) \[\d\d:\d\d<[^\]]*loss 0\.\d{4}, [\d,]+ rows/s\]", text)
    assert len(bars) > 1
    assert {total for _, total in bars} == {str(SMALL.epochs * 12)}
    lines = [line for line in re.split(r"[\r\n]+", text) if line.startswith("epoch ")]
    assert len(lines) == SMALL.epochs
    assert all(re.fullmatch(r"epoch \d/3: .* validation loss \d\.\d{4}", line) for line in lines)


def test_a_terminal_that_went_away_ends_only_the_bar(
    table: Table, unwatched: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    fitted, _ = watched(table, [])
    assert same(weights(fitted), weights(unwatched))


def test_no_terminal_no_bar(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    """A log file has the lines of the epochs alone."""
    watched(table, [])
    assert capsys.readouterr().err == ""


def test_curves_of_a_long_training_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly, to no more points than a picture shows."""
    monkeypatch.setattr(watcher, "POINTS", 20)
    watch = Watcher(lambda message: None, SMALL)
    position = Position(recent={"loss": [0.5], "gradient norm": [1.0]})
    watch.begin(position, 1000)
    for step in range(1, 1001):
        watch.phases.last += 0.01
        watch.step(step, 10)
    watch.close()
    steps = [point.step for point in watch.points]
    assert 10 <= len(steps) <= 21
    assert steps[-1] == 1000
    assert len({b - a for a, b in itertools.pairwise(steps[:-1])}) == 1
    watch.begin(Position(step=500), 1000)  # a canary's way back
    assert [point.step for point in watch.points] == [step for step in steps if step <= 500]


def test_the_picture_is_drawn(unwatched: Fitted) -> None:
    """Where a training was too short for a point, too."""
    cost = Cost(seconds=1.0, cpu_seconds=1.0, gpu_seconds=0.0)
    point = Point(step=1, loss=0.5, gradient_norm=1.0, rows_per_second=10.0)
    for points in ([], [point]):
        seen = Seen(curve=unwatched.curve, points=points, phases=unwatched.phases, cost=cost)
        assert draw(seen).startswith(b"\x89PNG")
    first = page(dataclasses.replace(seen, began=36))
    assert "went on from step 36" in first
    assert "earlier process" not in first  # of another run's checkpoint, which has its own cost
    assert "1.0 s of these are an earlier process's" in page(
        dataclasses.replace(seen, began=36, before=cost)
    )
