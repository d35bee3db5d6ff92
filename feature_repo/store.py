"""What Feast does in a run: it answers a sample of our rows, and fills the online store."""

from __future__ import annotations

import gc
import io
import sqlite3
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.contract import UseCase
from feature_repo.home import Home, digest_of
from feature_repo.repo import apply, open_store
from feature_repo.tables import Table, connect, named, read_table, table_path
from feature_repo.ticks import EPOCH, clock_zone, epoch_seconds

if TYPE_CHECKING:
    import pandas as pd

STORE_TABLE = "airworthy_store"
State = tuple[str, int, str, str, str]  # use case, tick, declaration, content, clock zone


@dataclass(frozen=True)
class FeastCheck:
    """Feast's answers against our rows: rows and values compared, differences, three of them."""

    rows: int
    values: int
    mismatches: int
    examples: list[str]

    def error(self) -> str:
        """What to say when they differ."""
        return (
            f"Feast and the training set disagree on {self.mismatches:,} of {self.values:,} values "
            f"({self.rows:,} rows): {'; '.join(self.examples)}; the views and the training set are "
            "not of one run, or the feature SQL and Feast's rules have drifted apart"
        )


@dataclass(frozen=True)
class Materialisation:
    """An online store: its tick (ISO 8601, UTC), rows over all views, its file.

    ``already``: it held just this before, and was left as it is.
    """

    tick: str
    rows: int
    path: str
    already: bool


def confirm(
    home: Home,
    use_case: UseCase,
    views: list[Table],
    training_set: Table,
    rows: int = 500,
    seed: int = 0,
) -> FeastCheck:
    """Ask Feast for a sample of the training set's rows and compare every value exactly.

    The sample is spread over the whole time, and a fifth of it are rows with an entity that has
    no history. Rows are matched by ``request_id``: Feast does not keep their order.
    """
    ours = _sample(use_case, training_set, rows, seed)
    keys = sorted({key for view in use_case.views for key in view.entity.keys})
    asked = ours[["request_id", "tick", *keys]].rename(columns={"tick": "event_timestamp"})
    # Feast's apply makes tables in the online store too: never in the one that is served.
    with (
        home.lock(f"feast-{use_case.name}"),
        tempfile.TemporaryDirectory() as scratch,
        _session_let_go(),
    ):
        store = open_store(home, use_case, online=Path(scratch) / "online.db")
        service = apply(store, use_case, _paths(use_case, views))
        with _quiet():
            theirs = store.get_historical_features(
                entity_df=asked, features=service, filter_by_created_timestamp=True
            ).to_df()
    names = [spec.name for spec in use_case.features]
    return _compare(ours.set_index("request_id")[names], theirs.set_index("request_id")[names])


@contextmanager
def _session_let_go() -> Iterator[None]:
    """End the DuckDB session that Feast opens through ibis: left open, it is reported as leaked,
    in a page of lines, when the process ends."""
    import ibis

    try:
        yield
    finally:
        ibis.options.default_backend = None
        gc.collect()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's progress lines off our users' terminal, and the warnings about its own calls
    of ibis and DuckDB, which importing Feast turns on. What fails still raises."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _paths(use_case: UseCase, views: list[Table]) -> dict[str, str]:
    return {view.name: str(table_path(named(views, view.name))) for view in use_case.views}


def _sample(use_case: UseCase, training_set: Table, rows: int, seed: int) -> pd.DataFrame:
    """Rows spread evenly over time, and rows in which some view has no value."""
    import numpy as np

    table = read_table(training_set)
    total = table.num_rows
    generator = np.random.default_rng(seed)
    bare = np.zeros(total, dtype=bool)
    for view in use_case.views:
        absent = np.ones(total, dtype=bool)
        for spec in view.features:
            absent &= table[spec.name].is_null().to_numpy()
        bare |= absent
    edges = np.linspace(0, total, max(rows * 4 // 5, 1), endpoint=False)
    spread = np.minimum(edges + generator.uniform(0, total / len(edges), len(edges)), total - 1)
    without = generator.permutation(bare.nonzero()[0])[: rows // 5]
    chosen = np.union1d(spread.astype(np.int64), without)
    frame: pd.DataFrame = table.take(chosen).to_pandas()
    return frame


def _compare(ours: pd.DataFrame, theirs: pd.DataFrame) -> FeastCheck:
    """Compare value by value; a row that Feast lacks, or has twice, counts with all its values."""
    once = theirs[~theirs.index.duplicated(keep=False)]
    lost = ours.index.difference(once.index)
    matched = once.reindex(ours.index)
    equal = (ours == matched) | (ours.isna() & matched.isna())
    equal.loc[lost] = False
    differ = (~equal).to_numpy()
    examples = [
        f"request {ours.index[row]}, {ours.columns[column]}: ours {ours.to_numpy()[row, column]}, "
        f"Feast's {matched.to_numpy()[row, column]}"
        for row, column in zip(*differ.nonzero(), strict=True)
    ]
    return FeastCheck(
        rows=len(ours), values=equal.size, mismatches=len(examples),
        examples=examples[:3],
    )  # fmt: skip


def materialise(
    home: Home, use_case: UseCase, views: list[Table], until: datetime
) -> Materialisation:
    """Fill the online store with each entity's last row as of the last tick at or before ``until``.

    Feast writes into a new sqlite file; the tick goes into the same file, and the file is
    renamed into place, so that a reader sees one whole store or the other.
    """
    tick = EPOCH + ((until - EPOCH) // use_case.tick) * use_case.tick
    target = home.path("online", f"{use_case.service}.db")
    fresh = target.with_name(f".{use_case.service}.{uuid.uuid4().hex}.tmp")
    content = digest_of({view.name: view.digest for view in views})
    state = (use_case.name, epoch_seconds(tick), use_case.declaration, content, clock_zone())
    rows = _entities(use_case, views, tick)
    if _state(target) == state:
        return Materialisation(tick=tick.isoformat(), rows=rows, path=str(target), already=True)
    try:
        with home.lock(f"feast-{use_case.name}"), _session_let_go():
            store = open_store(home, use_case, online=fresh)
            apply(store, use_case, _paths(use_case, views))
            with _quiet():
                store.materialize(EPOCH, tick)
            _write_state(fresh, state)
            fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return Materialisation(tick=tick.isoformat(), rows=rows, path=str(target), already=False)


def _entities(use_case: UseCase, views: list[Table], tick: datetime) -> int:
    """How many entities have a row at ``tick`` or before, over all views."""
    counts = " union all ".join(
        f"select count(distinct ({', '.join(view.entity.keys)})) from {view.name} "
        f"where event_timestamp <= to_timestamp({epoch_seconds(tick)})"
        for view in use_case.views
    )
    with connect(views) as connection:
        return sum(int(row[0]) for row in connection.execute(counts).fetchall())


def _state(path: Path) -> State | None:
    """What the store at ``path`` says that it holds; None without one, or when
    it was not made here (Feast's own command line writes no such table)."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path)) as connection:
        try:
            row: State | None = connection.execute(
                f"SELECT use_case, tick_seconds, declaration, content, zone FROM {STORE_TABLE}"
            ).fetchone()
        except sqlite3.DatabaseError:
            return None
    return row


def _write_state(path: Path, state: State) -> None:
    """The store's own tick, declaration and content, beside the features they hold for."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"CREATE TABLE {STORE_TABLE} "
            "(use_case TEXT, tick_seconds INTEGER, declaration TEXT, content TEXT, zone TEXT)"
        )
        connection.execute(f"INSERT INTO {STORE_TABLE} VALUES (?, ?, ?, ?, ?)", state)
