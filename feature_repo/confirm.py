"""Feast, asked independently, answers a sample of the training set's rows."""

from __future__ import annotations

import gc
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from feature_repo.contract import UseCase
from feature_repo.home import Home
from feature_repo.repo import apply, open_store
from feature_repo.tables import Table, read_table

if TYPE_CHECKING:
    import pandas as pd


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
    with home.lock(f"feast-{use_case.name}"), session_let_go():
        store = open_store(home, use_case)
        service = apply(store, use_case, views)
        with _quiet():
            theirs = store.get_historical_features(
                entity_df=asked, features=service, filter_by_created_timestamp=True
            ).to_df()
    names = [spec.name for spec in use_case.features]
    return _compare(ours.set_index("request_id")[names], theirs.set_index("request_id")[names])


@contextmanager
def session_let_go() -> Iterator[None]:
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
