"""CPU of one request in process, by parts of the server, beside the bare forward pass.

    python -m benchmarks.serving_work.inproc FOLDER ROUNDS

Contenders take turns. A cost is of the process: what a request leaves to the log's thread is
waited for, and counted; ``thread`` is the part of the thread that answers.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import redis

from benchmarks.redis_process import redis_server
from benchmarks.serving_work.home import SIZES
from feature_repo.home import Home
from feature_repo.online_rows import open_rows
from feature_repo.packed import STATE, entity_key, row_format
from feature_repo.registry import get_use_case
from serving.artifact import MODEL, PREPROCESS
from serving.bodies import BINARY, HEADER_LENGTH
from serving.dsse import trust
from serving.gateway import Gateway, Limits, Tokens
from serving.loading import Loader
from serving.metrics import Metrics
from serving.models import Models
from serving.predictor import Predictor
from serving.preprocess import Preprocessor
from serving.recorder import Recorder
from serving.responses import Response
from serving.segments import PredictionLog

CALLS = {1: 600, 64: 60}  # of each contender, in each round
V1, V2 = "/v1/models/flights:predict", "/v2/models/flights/infer"
USE_CASE = get_use_case("flights")
JSON = {b"content-type": b"application/json"}
Work = Callable[[int], Any]
Bodies = list[tuple[bytes, int]]


class Bench:
    """Gateways of one model over several stores, with one prediction log."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "facts.json").read_text())
        self.home, self.model = Home(root=Path(facts["home"])), Path(facts["model"])
        self.bodies = folder / "bodies"
        self.recorder = Recorder(PredictionLog(self.home, USE_CASE, share=1.0))
        self.silent = Recorder(PredictionLog(self.home, USE_CASE, share=0.0))
        self.asked = 0

    def gateway(
        self, online: str, copy_seconds: float = 0.0, recorder: Recorder | None = None
    ) -> Gateway:
        """A server's gateway but for its sockets; ``online``: where the rows are."""
        home, metrics = Home(root=self.home.root, online=online), Metrics(None)
        loader = Loader(
            home=home, trust=trust(home, True), metrics=metrics, durable=False,
            recorders=lambda use_case: recorder or self.recorder, copy_seconds=copy_seconds,
        )  # fmt: skip
        models = Models(lambda name, version: loader.load(USE_CASE, self.model))
        models.put(loader.load(USE_CASE, self.model), default=True)

        async def change(action: str, name: str, version: str) -> None:
            raise AssertionError("a benchmark loads nothing")

        return Gateway(models, metrics, Limits(), Tokens(), change)

    def read(self, kind: str, size: int) -> Bodies:
        """Bodies of a kind and a size, each with the length of its JSON header."""
        folder = self.bodies / f"{kind}-{size}"
        lines = [line.split() for line in (folder / "index").read_text().splitlines()]
        return [((folder / name).read_bytes(), int(header)) for name, header in lines]

    def post(
        self, gateway: Gateway, path: str, bodies: Bodies, size: int, logged: bool = True
    ) -> Work:
        """Ask one body after the other; each answer must be 200."""
        asked = []
        for body, header in bodies:
            headers = JSON
            if header:
                named = {HEADER_LENGTH: b"%d" % header}
                headers = {b"content-type": BINARY.encode(), **named}
            asked.append((headers, body))

        def work(i: int) -> None:
            headers, body = asked[i % len(asked)]
            answer = gateway.respond(path, headers, body, time.perf_counter())
            assert isinstance(answer, Response)
            assert answer.status == 200, answer.body
            self.asked += size * logged

        return work

    def cost(self, work: Work, calls: int) -> dict[str, float]:
        """CPU microseconds of a call."""
        thread, process = time.thread_time(), time.process_time()
        for i in range(calls):
            work(i)
        answered = time.thread_time() - thread
        while sum(asdict(self.recorder.counts).values()) < self.asked:
            time.sleep(0.02)
        whole = time.process_time() - process
        return {"cpu": whole / calls * 1e6, "thread": answered / calls * 1e6}


def models(bench: Bench, size: int) -> tuple[Work, Work]:
    """The bare session on inputs that are ready; and with the preprocessing that makes them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(bench.model / MODEL), options, providers=["CPUExecutionProvider"]
    )
    preprocessor = Preprocessor.from_json((bench.model / PREPROCESS).read_text())
    predictor = Predictor(USE_CASE, bench.model)
    vectors, feeds = [], []
    for body, _ in bench.read("v1", size):
        instances = json.loads(body)["instances"]
        texts = list(zip(*(one["categorical"] for one in instances), strict=True))
        numeric = np.array([one["numeric"] for one in instances])
        codes = preprocessor.codes(texts, size)
        vectors.append((numeric, texts))
        feeds.append({"numeric": preprocessor.scores(numeric), "categorical": codes})
    return (
        lambda i: session.run(["prediction"], feeds[i % len(feeds)]),
        lambda i: predictor.predict_vectors(*vectors[i % len(vectors)]),
    )


def bare_lookup(bench: Bench, url: str, size: int) -> Work:
    """redis-py's HMGET of the rows that the entities need, keys made beforehand."""
    client = redis.Redis.from_url(url, single_connection_client=True)
    wanted = []
    for body, _ in bench.read("entities", size):
        keys = {STATE: None}
        for flight in json.loads(body)["instances"]:
            for view in USE_CASE.views:
                entity = entity_key({name: flight[name] for name in view.entity.keys})
                keys[row_format(view).key(entity)] = None
        wanted.append(list(keys))
    name = f"airworthy:{{{USE_CASE.service}}}"
    assert client.hget(name, STATE)
    return lambda i: client.hmget(name, wanted[i % len(wanted)])


def both(first: Work, second: Work) -> Work:
    """One after the other."""

    def work(i: int) -> None:
        first(i)
        second(i)

    return work


def contenders(bench: Bench, url: str) -> Callable[[int], dict[str, Work]]:
    """Of each size, by name."""
    folder = str(bench.home.root / "online")
    store, copy, shared = bench.gateway(folder), bench.gateway(folder, 1.0), bench.gateway(url)
    unlogged = bench.gateway(folder, recorder=bench.silent)

    def of(size: int) -> dict[str, Work]:
        entities = bench.read("entities", size)
        vectors = bench.read("v1", size)
        v1 = bench.post(store, V1, vectors, size)
        forward, predicted = models(bench, size)
        return {
            "forward": forward,
            "preprocessing and forward": predicted,
            "V1 vectors, log off": bench.post(unlogged, V1, vectors, size, logged=False),
            "V1 vectors": v1,
            "V2 binary vectors": bench.post(store, V2, bench.read("v2", size), size),
            "V1 entities, copied store": bench.post(copy, V1, entities, size),
            "V1 entities, Redis": bench.post(shared, V1, entities, size),
            "V1 vectors and bare HMGET": both(v1, bare_lookup(bench, url, size)),
            "V1 entities, sqlite": bench.post(store, V1, entities, size),
        }

    return of


@contextmanager
def filled_redis(home: Home) -> Iterator[str]:
    """A Redis with the rows of the home's store."""
    source = open_rows(str(home.root / "online"), USE_CASE.service)
    rows = source.all()
    source.close()
    with tempfile.TemporaryDirectory() as scratch, redis_server(Path(scratch)) as port:
        url = f"redis://127.0.0.1:{port}/0"
        store = open_rows(url, USE_CASE.service)
        store.replace({key: rows[key] for key in rows if key != STATE}, rows[STATE])
        store.close()
        yield url


def measured(folder: Path, rounds: int) -> dict[str, Any]:
    """Costs in CPU microseconds of a request, round by round, by contender and size."""
    bench = Bench(folder)
    found: dict[str, Any] = {}
    with filled_redis(bench.home) as url:
        of = contenders(bench, url)
        for size in SIZES:
            works = of(size)
            names = list(works)
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for work in works.values():  # warm
                bench.cost(work, 40)
            for turn in range(rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    runs[name].append(bench.cost(works[name], CALLS[size]))
            found[str(size)] = runs
    bench.recorder.close()
    bench.silent.close()
    lost = bench.recorder.counts
    found["lost"] = lost.dropped + lost.failed
    return found


if __name__ == "__main__":
    os.environ.pop("AIRWORTHY_ONLINE_STORE", None)
    print(json.dumps(measured(Path(sys.argv[1]), int(sys.argv[2]))))
