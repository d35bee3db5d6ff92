"""The load test: how much the champion's server takes, and what its manifest says because of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

from flytekit import Deck, task
from mashumaro.mixins.json import DataClassJSONMixin

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving.capacity import HEADROOM, Load, Scale, knee, scale, write_scale
from serving.certificate import read
from serving.releases import read_current
from tasks.resources import DATA
from tasks.steps import StepLog, step
from tasks.types import State, Step

CONNECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
QUESTIONS = 512


@dataclass(frozen=True)
class Sized(DataClassJSONMixin):
    """The knee in requests a second, and what follows for a deployment: see ``Scale``."""

    knee: float
    concurrency: int
    cpu: float
    minimum: int
    maximum: int
    manifest: str
    step: Step


@task(requests=DATA, retries=1, timeout=timedelta(hours=1), enable_deck=True)
def load_test(
    state: State, use_case: str, usual_rate: float, peak_rate: float, patience: float,
    seconds: float,
) -> Sized:  # fmt: skip
    """Ask the champion's server on more and more connections, find the knee, write the manifest.

    Questions are rows of the model's own training set, moved to the store's tick. The server
    records its answers as in a pod, into a log that goes with the test.

    Raises:
        DeclarationError: the rates or the patience are not possible.
        StateError: there is no champion or no wrk, or every step had failures.
    """
    with step("load test") as log:
        home, declared = state.home(), get_use_case(use_case)
        folder, version = read_current(home, use_case)
        _warn_if_busy(log)
        loads = _loads(home, use_case, folder, version, seconds, log)
        at = knee(loads)
        found = scale(at, usual_rate, peak_rate, patience)
        log.say(
            f"knee at {at.rate:,.0f} requests a second on {at.connections} connections, p99 "
            f"{1e3 * at.p99:.1f} ms, {at.cores:.2f} cores"
        )
        manifest = _write(home, use_case, folder, loads, found, log)
        log.say(
            f"a replica is given {HEADROOM:.0%} of it: {found.minimum} to {found.maximum} "
            f"replicas of {found.cpu:g} CPU, {found.concurrency} requests at once each: {manifest}"
        )
        Deck("Capacity", _page(loads, at, found, declared.name, version))
    return Sized(
        knee=at.rate, concurrency=found.concurrency, cpu=found.cpu, minimum=found.minimum,
        maximum=found.maximum, manifest=str(manifest), step=log.record,
    )  # fmt: skip


def _warn_if_busy(log: StepLog) -> None:
    """Others' work lowers the knee, and the manifest would ask for more replicas than it needs."""
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > cores / 2:
        log.say(
            f"WARNING: other work keeps this machine busy (load {busy:.1f} on {cores} cores), so "
            "the knee will be too low: run it again where nothing else runs"
        )


def _loads(
    home: Home, use_case: str, folder: Path, version: str, seconds: float, log: StepLog
) -> list[Load]:
    from feature_repo.online_rows import rows_of
    from feature_repo.tables import read_table
    from serving.online import OnlineStore
    from tasks.feature_versions import rebuild_as_certified
    from tasks.load import drive, requests_of, without_predictions, write_bodies
    from tasks.probe import askable, server, spread

    declared = get_use_case(use_case)
    store = OnlineStore(rows_of(home, declared), declared)
    tick = store.tick
    store.close()
    rows = read_table(rebuild_as_certified(home, declared, version))
    rows = spread(askable(declared, rows), QUESTIONS)
    development = read(folder).development
    with (
        TemporaryDirectory(prefix="airworthy-load-") as scratch,
        without_predictions(home) as place,
        server(place, use_case, folder, development) as port,
    ):
        bodies = Path(scratch) / "bodies"
        write_bodies(bodies, requests_of(declared, rows, tick))
        url = f"http://127.0.0.1:{port}/v1/models/{use_case}:predict"
        drive(url, bodies, CONNECTIONS[0], 1.0)  # warm
        loads = []
        for connections in CONNECTIONS:
            loads.append(drive(url, bodies, connections, seconds))
            log.say(_line(loads[-1]))
    return loads


def _line(load: Load) -> str:
    return (
        f"{load.connections} connections: {load.rate:,.0f} requests a second, mean "
        f"{1e3 * load.mean:.1f} ms, p99 {1e3 * load.p99:.1f} ms, {load.cores:.2f} cores, "
        f"{load.failed} failed"
    )


def _write(
    home: Home, use_case: str, folder: Path, loads: Sequence[Load], found: Scale, log: StepLog
) -> Path:
    """Keep what was measured, for this model's manifest and those of the versions to come."""
    from tasks.release import write_manifest

    certificate = read(folder)
    write_scale(home, use_case, certificate.subject, loads, found)
    return write_manifest(home, get_use_case(use_case), certificate, log)


def _page(loads: Sequence[Load], at: Load, found: Scale, use_case: str, version: str) -> str:
    from tasks.pictures import inline_png, new_figure, png

    figure = new_figure(7.2, 3.6)
    rates, waits = figure.subplots(1, 2)
    places = [load.connections for load in loads]
    for axes, values, title in (
        (rates, [load.rate for load in loads], "requests a second"),
        (waits, [1e3 * load.p99 for load in loads], "p99 of the answer's time, ms"),
    ):
        axes.plot(places, values, "o-", color="#1f5fa8")
        axes.axvline(at.connections, color="#8a8f98", linestyle="--")
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [str(place) for place in places])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("connections")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
    lines = "".join(f"<li>{escape(_line(load))}</li>" for load in loads)
    return (
        f"<h1>{escape(use_case)} {escape(version)}: what one server takes</h1>"
        f"<p>Knee: {at.rate:,.0f} requests a second on {at.connections} connections (dashed), "
        f"where throughput over response time is greatest. {found.minimum} to {found.maximum} "
        f"replicas of {found.cpu:g} CPU, each up to {found.concurrency} requests at once.</p>"
        f"{inline_png(png(figure), 'Throughput and waiting by connections')}<ul>{lines}</ul>"
    )
