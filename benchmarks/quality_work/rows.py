"""The training set that the contenders share: of the home's last flights pipeline."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from benchmarks.quality_work.contenders import Data
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import Table, read_table, table_place, write_table
from serving.ledger import entries


def training_set(home: Home, share: float, scratch: Path) -> Data:
    """The rows of the newest model of today's features; of the training part a random ``share``.
    Ends the program where there is none."""
    use_case = get_use_case("flights")
    made = [e["facts"] for e in entries(home) if e["kind"] == "certificate"]
    digests = [facts["training_set"] for facts in made if facts["use_case"] == use_case.name]
    if not digests:
        sys.exit(f"no flights model in {home.root}: run 'make demo' first, or set AIRWORTHY_HOME")
    digest = digests[-1]
    table = Table("training_set", str(table_place(home, digest)), digest, "", 0)
    try:
        data = Data.read(use_case, table if share == 1 else _thinned(table, share, scratch))
    except (KeyError, FileNotFoundError) as exc:
        sys.exit(
            f"the training set of {home.root} is not of today's features: run 'make demo' ({exc})"
        )
    months = np.unique(data.parts["validation"].event_time.astype("datetime64[M]")).astype(str)
    if set(months) - {"2013-10", "2013-11"}:  # the last evening is November in UTC
        sys.exit(
            f"the last model of {home.root} was validated on {', '.join(months)}, not on October: "
            "run 'make demo', or set AIRWORTHY_HOME"
        )
    return data


def _thinned(table: Table, share: float, scratch: Path) -> Table:
    """The table with a random ``share`` of its training part."""
    rows = read_table(table)
    training = pc.equal(rows["split"], "training").to_numpy(zero_copy_only=False)
    places, count = np.flatnonzero(training), int(training.sum() * share)
    chosen = np.random.default_rng(0).choice(places, count, replace=False)
    kept = np.sort(np.concatenate([chosen, np.flatnonzero(~training)]))
    return write_table(Home(root=scratch / "home"), "training_set", rows.take(kept))
