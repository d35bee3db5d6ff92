"""Homes with a champion and challengers, good and bad, and callers that never stop asking."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from judging_helpers import state_release
from release_helpers import write_version
from serving_helpers import (
    FLIGHT,
    NOW,
    TICK,
    ask,
    certified_model,
    flights_store,
    predicate,
    write_model,
)

from feature_repo.home import Home, digest_of, folder_digests
from feature_repo.registry import get_use_case
from feature_repo.tables import write_table
from serving.certificate import issue
from serving.dsse import signing_key
from serving.releases import write_current
from serving.rollout_plan import Decision, Limits, Plan
from serving.target import Target
from tasks.rollout import look_once
from tasks.rollout_store import Rollout

FLIGHTS = get_use_case("flights")
PLAN = Plan(steps=(5, 50, 100), requests=4, pairs=20, limits=Limits(slow_seconds=3.0))


def home_with_champion(root: Path) -> Home:
    """A home whose champion of flights is version 1.0.0."""
    home = Home(root=root)
    folder, issued = certified_model(home, FLIGHTS, version="1.0.0")
    state_release(home, folder, "flights")
    flights_store(home)
    write_current(home, "flights", issued.subject, folder, "1.0.0")
    return home


def challenger(home: Home, version: str, threshold: float) -> Path:
    """A certified, released version; ``threshold`` makes it another model."""
    folder, _ = certified_model(home, FLIGHTS, threshold=threshold, version=version)
    state_release(home, folder, "flights")
    return folder


def slow_challenger(home: Home, version: str, products: int = 400) -> Path:
    """One whose forward pass has so many matrix products more, of no consequence."""
    folder = home.path("models", "flights", "slow")
    write_model(folder, FLIGHTS, 0.47)
    _slow_down(folder / "model.onnx", products)
    folder = folder.rename(folder.with_name(digest_of(folder_digests(folder))))
    told = predicate(FLIGHTS, version=version)
    issue(signing_key(home), folder, told, timedelta(days=90), NOW)
    state_release(home, folder, "flights")
    return folder


def late_flights(home: Home, count: int) -> None:
    """What came of the flights that ``Callers`` ask about: each one was an hour late."""
    instants = {
        name: datetime.fromisoformat(str(FLIGHT[name]))
        for name in ("scheduled_departure", "scheduled_arrival")
    }
    same = {name: FLIGHT[name] for name in ("carrier", "origin", "dest", "tailnum", "distance")}
    rows = [
        {**same, **instants, "date": "2013-11-05", "flight": f"{thread}{number}", "arr_delay": 60.0}
        for thread in range(2)
        for number in range(1, count + 1)
    ]
    table = write_table(home, "flights", pa.Table.from_pylist(rows))
    write_version(home, FLIGHTS, [], TICK, raw=[table])


def old_store(home: Home, root: Path) -> str:
    """An online store that was last filled two hours before the champion's."""
    flights_store(Home(root=home.root, online=str(root)), TICK - timedelta(hours=2))
    return str(root)


def _slow_down(path: Path, products: int) -> None:
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    width = graph.initializer[0].dims[0]
    rng = np.random.default_rng(1)
    big = rng.normal(0, 0.03, (1024, 1024)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(np.zeros((width, 1024), np.float32), "in"))
    graph.initializer.append(numpy_helper.from_array(big, "big"))
    graph.initializer.append(numpy_helper.from_array(np.zeros((1024, 1), np.float32), "out"))
    steps = [helper.make_node("MatMul", ["numeric", "in"], ["h0"])]
    steps += [helper.make_node("MatMul", [f"h{i}", "big"], [f"h{i + 1}"]) for i in range(products)]
    steps.append(helper.make_node("MatMul", [f"h{products}", "out"], ["nothing"]))
    steps.append(helper.make_node("Add", ["raw", "nothing"], ["slowed"]))
    squeeze = next(node for node in graph.node if node.op_type == "Squeeze")
    squeeze.input[0] = "slowed"
    rest = list(graph.node)
    place = rest.index(squeeze)
    del graph.node[:]
    graph.node.extend([*rest[:place], *steps, *rest[place:]])
    onnx.save(model, str(path))


class Callers:
    """Threads that ask one flight after the other; ``statuses`` counts the answers."""

    def __init__(self, port: int, threads: int = 2) -> None:
        self.statuses: Counter[int] = Counter()
        self.port, self._threads = port, threads
        self._stop = threading.Event()

    @contextmanager
    def asking(self) -> Iterator[Callers]:
        """They ask while the block runs."""
        threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(self._threads)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    @property
    def failed(self) -> int:
        """Answers that were none."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def _ask(self, thread: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            flight = FLIGHT | {"flight": f"{thread}{number}"}
            body = json.dumps({"instances": [flight]}).encode()
            key = f"{thread}-{number}"
            try:
                path = "/v1/models/flights:predict"
                status = ask(self.port, path, body, x_entity_key=key).status
            except OSError:
                status = 0
            self.statuses[status] += 1


def looks(home: Home, target: Target, seconds: float = 240) -> tuple[Rollout, list[Decision]]:
    """Look until the release is over, at most so long; all decisions on the way."""
    end, made = time.monotonic() + seconds, []
    while time.monotonic() < end:
        rollout, decision = look_once(home, "flights", target)
        made.append(decision)
        if rollout.over:
            return rollout, made
        time.sleep(0.3)
    raise AssertionError(f"not over in {seconds} s: {made[-1].words}")
