"""Models loaded, swapped, unloaded and a server drained, while callers go on asking."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving_helpers import (
    FLIGHT,
    Response,
    ask,
    certified_model,
    find_recorded,
    flights_store,
    free_port,
    predict,
    start_server,
    wait_ready,
    write_store,
)

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving.releases import write_current
from serving.segments import folder_of as log_of
from serving.segments import segments

FLIGHTS, WEATHER = get_use_case("flights"), get_use_case("weather")
TOKEN = "a-token-of-the-repository"
BODY = json.dumps({"instances": [FLIGHT]})
DRAIN = 1.5


class Callers:
    """Threads that ask over connections that they keep, as long as the block lasts."""

    def __init__(self, port: int, count: int = 3) -> None:
        self.port = port
        self.failed: list[str] = []
        self.ids: list[str] = []
        self.versions: set[str] = set()
        self.sent_away = 0
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self._done.is_set():
            try:
                connection.request(
                    "POST", "/v1/models/flights:predict", BODY,
                    {"content-type": "application/json"},
                )  # fmt: skip
                answer = connection.getresponse()
                text = answer.read().decode()
                closes = answer.getheader("connection") == "close"
            except (OSError, http.client.HTTPException) as exc:
                self.failed.append(repr(exc))
                return
            if answer.status != 200:
                self.failed.append(text)
                return
            said = json.loads(text)
            self.versions.add(said["version"])
            self.ids.append(said["predictions"][0]["prediction_id"])
            if closes:  # the server asks its callers to go elsewhere: it stops
                self.sent_away += 1
                return


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two certified versions of flights, 1.0.0 the champion, and a model of weather."""
    home = Home(root=tmp_path_factory.mktemp("swapped"))
    for version, threshold in (("1.1.0", 0.4), ("1.0.0", 0.5)):
        point_to(home, certified_model(home, FLIGHTS, threshold=threshold, version=version)[0])
    folder, _ = certified_model(home, WEATHER, version="1.0.0")
    write_current(home, "weather", folder.name, folder, "1.0.0")
    flights_store(home)
    write_store(home, WEATHER, {})
    return home


def point_to(home: Home, folder: Path) -> None:
    """Make a model the champion that servers load."""
    write_current(home, "flights", folder.name, folder, "")


def folder_of(home: Home, version: str) -> Path:
    """The model directory of a version of flights."""
    for path in (home.root / "models" / "flights").iterdir():
        said = json.loads((path / "model.json").read_text())["threshold"]
        if {"1.0.0": 0.5, "1.1.0": 0.4}[version] == said:
            return path
    raise AssertionError(version)


@contextmanager
def served(home: Home, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server of the champion, which takes the repository's token."""
    port = free_port()
    process = start_server(
        home, "--champion", "--port", str(port), "--allow-development-key", *arguments,
        AIRWORTHY_REPOSITORY_TOKEN=TOKEN,
    )  # fmt: skip
    try:
        wait_ready(process, port)
        yield port, process
    finally:
        process.kill()
        process.communicate()


def change(port: int, action: str, name: str = "flights", version: str = "") -> Response:
    """Load or unload a model."""
    body = json.dumps({"parameters": {"version": version}} if version else {}).encode()
    path = f"/v2/repository/models/{name}/{action}"
    return ask(port, path, body, authorization=f"Bearer {TOKEN}")


def counted(port: int, name: str) -> list[str]:
    """The lines of a metric."""
    text = ask(port, "/metrics").text
    return [line for line in text.splitlines() if line.startswith(name + "{")]


def flying(port: int) -> set[tuple[str, str]]:
    """Models and versions that the server tells a certificate of."""
    lines = counted(port, "airworthy_certificate_info")
    told = [dict(re.findall(r'(\w+)="([^"]*)"', line)) for line in lines]
    return {(one["model"], one["version"]) for one in told}


def test_swaps_and_a_stop_under_load_lose_no_request(home: Home) -> None:
    """Every answer is recorded, those of the drained server too."""
    point_to(home, folder_of(home, "1.0.0"))
    with served(home, "--drain-seconds", str(DRAIN)) as (port, process):
        with Callers(port) as callers:
            time.sleep(0.3)
            for version in ("1.1.0", "1.0.0", "1.1.0"):
                point_to(home, folder_of(home, version))
                assert change(port, "load").status == 200
                assert predict(port, FLIGHT).body["version"] == version
            assert callers.sent_away == 0
            process.send_signal(signal.SIGTERM)
            time.sleep(DRAIN / 3)
            assert ask(port, "/v2/health/ready").status == 503
            assert ask(port, "/v2/models/flights/ready").status == 503
            assert predict(port, FLIGHT).status == 200  # whoever has not heard of it yet
        assert callers.failed == []
        assert callers.sent_away == 3  # by the stop, not before it
        assert callers.versions == {"1.0.0", "1.1.0"}
        process.wait(timeout=30)
        assert process.returncode == 0
    for prediction_id in callers.ids[-5:]:
        assert find_recorded(home, prediction_id).fields["origin"] == "EWR"


def test_several_models_and_versions_answer_side_by_side(home: Home) -> None:
    point_to(home, folder_of(home, "1.0.0"))
    with served(home, "--use-case", "weather") as (port, _):
        assert ask(port, "/v2/models/weather/ready").status == 200
        assert change(port, "load", version="1.1.0").status == 200
        assert ask(port, "/v2/models/flights").body["versions"] == ["1.0.0", "1.1.0"]
        assert predict(port, FLIGHT).body["version"] == "1.0.0"
        assert ask(port, "/v2/models/flights/versions/1.1.0/ready").status == 200
        tensors = [
            {"name": name, "datatype": "FP64" if name == "distance" else "BYTES", "shape": [1],
             "data": [value]}
            for name, value in FLIGHT.items()
        ]  # fmt: skip
        body = json.dumps({"inputs": tensors}).encode()
        named = ask(port, "/v2/models/flights/versions/1.1.0/infer", body)
        assert named.body["model_version"] == "1.1.0"
        held = {(m["name"], m["version"]) for m in ask(port, "/v2/repository/index", b"{}").body}
        assert held == {("flights", "1.0.0"), ("flights", "1.1.0"), ("weather", "1.0.0")}
        refused = change(port, "unload", version="1.0.0")
        assert (refused.status, refused.body["error"]["field"]) == (409, "version")
        assert flying(port) == {("flights", "1.0.0"), ("flights", "1.1.0"), ("weather", "1.0.0")}
        logged = " ".join(counted(port, "airworthy_prediction_log_total"))
        assert logged.count('{model="flights",outcome="recorded"}') == 1  # two versions, one log
        assert change(port, "unload", version="1.1.0").status == 200
        assert ask(port, "/v2/models/flights/versions/1.1.0/infer", body).status == 404
        assert flying(port) == {("flights", "1.0.0"), ("weather", "1.0.0")}
        assert change(port, "load").status == 200  # the same version anew
        assert ("flights", "1.0.0") in flying(port)
        assert change(port, "unload", "weather").status == 200
        assert ask(port, "/v2/models/weather/ready").status == 404
        assert ask(port, "/v2/health/ready").status == 200


def test_what_may_not_fly_is_not_swapped_in(home: Home, tmp_path: Path) -> None:
    """The model that is up goes on; who has no token changes nothing."""
    point_to(home, folder_of(home, "1.0.0"))
    with served(home) as (port, _):
        tampered = folder_of(home, "1.1.0") / "card.md"
        before = tampered.read_text()
        tampered.write_text("# Another card")
        try:
            for answer in (change(port, "load", version="1.1.0"), change(port, "load", "nothing")):
                assert answer.status == 409, answer.text
                assert answer.body["error"]["message"]
        finally:
            tampered.write_text(before)
        assert change(port, "load", version="9.9.9").status == 409
        load = "/v2/repository/models/flights/load"
        assert ask(port, load, b"").status == 401
        assert ask(port, load, b"", authorization="Bearer guess").status == 401
        assert predict(port, FLIGHT).body["version"] == "1.0.0"
        there = set(segments(log_of(home, "weather")))
        with ThreadPoolExecutor(4) as threads:  # loads at once share one log
            loads = list(threads.map(lambda _: change(port, "load", "weather"), range(4)))
        assert [answer.status for answer in loads] == [200] * 4
        assert len(set(segments(log_of(home, "weather"))) - there) == 1
