"""A server under load for a long time: swaps and a stop lose no request, memory stays flat."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from serving_helpers import (
    FLIGHT,
    certified_model,
    flights_store,
    free_port,
    start_server,
    wait_ready,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving.answer_files import listed
from serving.answer_table import segment_table
from serving.capacity import HEADROOM, Load, knee
from serving.releases import write_current
from serving.segments import read_segment
from tasks.load import drive, memory, write_bodies

TOKEN = "a-token-of-the-repository"
VERSIONS = ("1.0.0", "1.1.0")
DRAIN = 8.0
LONG = os.environ.get("AIRWORTHY_LONG_DRILLS") == "1"
SECONDS, SWAPS, STEP = (600.0, 10, 5.0) if LONG else (12.0, 2, 1.0)


class Soak:
    """A load of its own thread, and the server's resident bytes while it lasts."""

    def __init__(self, url: str, bodies: Path, rate: float) -> None:
        self.loads: list[Load] = []
        self.bytes: list[float] = []
        self._url = url
        self._thread = threading.Thread(
            target=lambda: self.loads.append(drive(url, bodies, 128, SECONDS, rate))
        )
        self._thread.start()
        self._began = time.monotonic()

    def until(self, seconds: float) -> None:
        """Wait for that second of the load, and look at memory now and then."""
        while (left := self._began + seconds - time.monotonic()) > 0:
            self.bytes.append(memory(self._url))
            time.sleep(min(left, max(1.0, SECONDS / 100)))

    def end(self) -> Load:
        """What became of the load."""
        self._thread.join()
        return self.loads[0]


@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk: run 'make wrk'")
def test_swaps_and_a_stop_under_load_lose_no_request(tmp_path: Path) -> None:
    home, case = Home(root=tmp_path / "home"), get_use_case("flights")
    folders = {
        version: certified_model(home, case, threshold=threshold, version=version)[0]
        for version, threshold in zip(VERSIONS, (0.5, 0.4), strict=True)
    }
    flights_store(home)
    champion(home, folders["1.0.0"])
    bodies, port = tmp_path / "bodies", free_port()
    write_bodies(bodies, [FLIGHT | {"flight": str(number)} for number in range(200)])
    process = start_server(
        home, "--champion", "--port", str(port), "--allow-development-key",
        "--drain-seconds", str(DRAIN), AIRWORTHY_REPOSITORY_TOKEN=TOKEN,
    )  # fmt: skip
    try:
        wait_ready(process, port)
        url = f"http://127.0.0.1:{port}/v1/models/flights:predict"
        loads = [drive(url, bodies, connections, STEP) for connections in (2, 4, 8, 16, 32)]
        at = knee(loads)
        soak = Soak(url, bodies, HEADROOM * at.rate)
        for number in range(1, SWAPS + 1):
            soak.until(number * (SECONDS - 5) / (SWAPS + 1))
            champion(home, folders[VERSIONS[number % 2]])
            load_model(port)
        soak.until(SECONDS - 4)
        process.send_signal(signal.SIGTERM)
        load = soak.end()
        assert process.wait(timeout=DRAIN + 60) == 0
    finally:
        process.kill()
    print(
        f"\nknee {at.rate:,.0f} requests a second on {at.connections} connections; soak of "
        f"{SECONDS:g} s at {load.rate:,.0f}: {load.failed} failed, p99 {1e3 * load.p99:.1f} ms, "
        f"{SWAPS} swaps, memory {min(soak.bytes) / 1e6:.0f} to {max(soak.bytes) / 1e6:.0f} MB"
    )
    assert load.failed == 0
    assert load.rate * SECONDS > 1000  # a busy machine may keep the load below what was asked
    first, last = soak.bytes[: len(soak.bytes) // 3], soak.bytes[-len(soak.bytes) // 3 :]
    assert statistics.median(last) < 1.05 * statistics.median(first) + 8e6
    # Every answer, of either version, is in the log once: those of the soak and of the steps.
    asked = sum(one.rate * STEP for one in loads) + load.rate * SECONDS
    ids, versions = recorded(home)
    assert len(set(ids)) == len(ids) >= 0.97 * asked
    assert versions == set(VERSIONS)


def load_model(port: int) -> None:
    """Have the server take the champion; it says that it did."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/repository/models/flights/load", data=b"",
        headers={"authorization": f"Bearer {TOKEN}"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def champion(home: Home, folder: Path) -> None:
    """Make a model the one that a load takes."""
    write_current(home, "flights", folder.name, folder, "")


def recorded(home: Home) -> tuple[list[str], set[str]]:
    """Ids of all recorded answers, and the versions that gave them."""
    import pyarrow.parquet as pq

    ids: list[str] = []
    versions: set[str] = set()
    sealed, live = listed(home.root / "predictions" / "flights")
    tables = [pq.read_table(one.path, columns=["id", "version"]) for one in sealed]
    for path in live:
        header, data, found = read_segment(path)
        assert not found.damaged
        tables.append(segment_table(path, data, found.frames, header))
    for table in tables:
        ids += table["id"].to_pylist()
        versions |= set(table["version"].unique().to_pylist())
    return ids, versions
