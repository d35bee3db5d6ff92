"""The parity gate: what is served is what was trained on, compared before it is relied on.

Sampled entities of every view, other ones at each tick, those that just changed, and some that
nobody knows are read as the server reads them and as Feast's SDK does, and compared value by value
with the offline rows of the store's tick.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from feature_repo.asof import rows_at
from feature_repo.duckdb_session import connect
from feature_repo.errors import SkewError
from feature_repo.home import write_atomically
from feature_repo.online_rows import rows_of
from feature_repo.tables import Table, named
from serving.online import OnlineStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from feature_repo.contract import FeatureView, UseCase
    from feature_repo.home import Home

    Asked = dict[str, list[dict[str, str]]]  # entities, by view
    Values = dict[str, NDArray[np.float64]]  # by view: [asked, 1 + features], the row's time first

# Entities a view; Feast, which is slow, is asked the last few.
KNOWN, CHANGED, UNKNOWN, FEW = 100, 1_000, 5, 20
EXAMPLES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewParity:
    """One view through one reader: entities asked, entities found, values compared (the row's
    time is one), values that differ, ages in minutes at the tick (smallest, median, largest)."""

    reader: str
    view: str
    rows: int
    found: int
    values: int
    mismatches: int
    ages_minutes: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """A comparison of the online store with the offline rows of its tick."""

    use_case: str
    declaration: str
    store: str
    tick: str
    compared_at: str
    views: list[ViewParity]
    examples: list[str]

    def total(self, what: str) -> int:
        """``rows``, ``values`` or ``mismatches`` of all views and readers."""
        return sum(getattr(view, what) for view in self.views)

    @property
    def document(self) -> bytes:
        """The report, as it is written."""
        return json.dumps(asdict(self), indent=2).encode()

    def describe(self) -> str:
        """In words, for a step's line."""
        return (
            f"online against offline: {self.total('rows'):,} rows, {self.total('values'):,} "
            f"values, {self.total('mismatches'):,} mismatches"
        )


def check_parity(
    home: Home, use_case: UseCase, tables: list[Table], changed: Asked | None = None
) -> Parity:
    """Compare, and write the report; ``tables`` are the stored views, and the ``changed`` entities
    are asked about beside the sampled ones.

    Raises:
        SkewError: one value or more differs; the report is written all the same.
        StateError: the online store does not answer.
    """
    with closing(OnlineStore(rows_of(home, use_case), use_case)) as store:
        asked = _sampled(use_case, tables, KNOWN, store.tick, changed)
        tick, served = _ask_server(store, use_case, asked)
    told = _ask_feast(home, use_case, tables, {n: keys[-FEW:] for n, keys in asked.items()})
    offline = _offline(use_case, tables, asked, tick)
    views, examples = [], []
    for reader, found in (("server", served), ("Feast", told)):
        figures, differences = _figures(reader, use_case, asked, offline, found, tick)
        views += figures
        examples += differences
    parity = Parity(
        use_case=use_case.name, declaration=use_case.declaration,
        store=store.name, tick=tick.isoformat(),
        compared_at=datetime.now(timezone.utc).isoformat(), views=views,
        examples=examples[:EXAMPLES],
    )  # fmt: skip
    path = home.path("reports", "parity", use_case.service, f"{tick:%Y-%m-%dT%H%MZ}.json")
    write_atomically(path, parity.document)
    if parity.total("mismatches"):
        raise SkewError(
            f"use case {use_case.name!r} as of {parity.tick}, {parity.describe()}, for example "
            f"{'; '.join(examples[:3])}; all in {path}; materialise the store from these views"
        )
    return parity


def compare_served(
    home: Home, use_case: UseCase, tables: list[Table], known: int, changed: Asked | None = None
) -> tuple[list[ViewParity], list[str]]:
    """What the server reads of up to ``known`` entities of each view, of the ``changed`` ones and
    of some unknown ones, against the offline rows of the store's tick: figures, and the
    differences in words.

    Raises:
        StateError: the online store does not answer.
    """
    with closing(OnlineStore(rows_of(home, use_case), use_case)) as store:
        asked = _sampled(use_case, tables, known, store.tick, changed)
        tick, served = _ask_server(store, use_case, asked)
    offline = _offline(use_case, tables, asked, tick)
    return _figures("server", use_case, asked, offline, served, tick)


def changed_entities(use_case: UseCase, before: list[Table], after: list[Table]) -> Asked:
    """Entities whose last row differs between two versions' states (``engine.Built``), up to a
    thousand a view."""
    asked = {}
    for view in use_case.views:
        keys, name = ", ".join(view.entity.keys), f"state_{view.name}"
        query = (
            f"SELECT DISTINCT {keys} FROM ((FROM old EXCEPT FROM new) UNION ALL "
            f"(FROM new EXCEPT FROM old)) ORDER BY hash({keys}, '{named(after, name).digest}'), "
            f"{keys} LIMIT {CHANGED}"
        )
        pair = (replace(named(before, name), name="old"), replace(named(after, name), name="new"))
        with connect(pair) as session:
            asked[view.name] = session.sql(query).to_arrow_table().to_pylist()
    return asked


def _sampled(
    use_case: UseCase, tables: list[Table], known: int, tick: datetime, changed: Asked | None
) -> Asked:
    """Keys of entities that each view's table knows at any tick, others for each store's tick;
    then the changed ones, and then some unknown ones."""
    asked = {}
    for view in use_case.views:
        keys = ", ".join(view.entity.keys)
        query = (
            f"SELECT DISTINCT {keys} FROM {view.name} "
            f"ORDER BY hash({keys}, '{tick.isoformat()}'), {keys} LIMIT {known}"
        )
        with connect([named(tables, view.name)]) as session:
            rows = session.sql(query).to_arrow_table().to_pylist()
        rows = [row for row in rows if row not in (changed or {}).get(view.name, [])]
        unknown = [dict.fromkeys(view.entity.keys, f"unknown-{i}") for i in range(UNKNOWN)]
        asked[view.name] = [*rows, *(changed or {}).get(view.name, []), *unknown]
    return asked


def _ask_server(store: OnlineStore, use_case: UseCase, asked: Asked) -> tuple[datetime, Values]:
    """The store's tick, and each view's values as the server reads them, in one round trip."""
    nothing = {key: None for view in use_case.views for key in view.entity.keys}
    rows = store.read([{**nothing, **keys} for of_view in asked.values() for keys in of_view])
    found, start = {}, 0
    for view in use_case.views:
        here = slice(start, start + len(asked[view.name]))
        columns = [rows.view_ticks[view.name], *(rows.columns[f.name] for f in view.features)]
        found[view.name] = np.column_stack([column[here] for column in columns])
        start = here.stop
    return rows.tick, found


def _ask_feast(home: Home, use_case: UseCase, tables: list[Table], asked: Asked) -> Values:
    """Each view's values as Feast's SDK gives them."""
    from feature_repo.repo import apply, open_store

    found = {}
    with home.lock(f"feast-{use_case.name}"):
        store = open_store(home, use_case)
        apply(store, use_case, tables)
        for view in use_case.views:
            names = [f.name for f in view.features]
            answer = store.get_online_features(
                features=[f"{view.name}:{name}" for name in names], entity_rows=asked[view.name]
            ).to_dict(include_event_timestamps=True)
            values = np.array([answer[name] for name in names], dtype=np.float64)
            event = np.array(answer[f"{names[0]}__ts"], dtype=np.float64)
            found[view.name] = np.column_stack([np.where(event > 0, event, np.nan), values.T])
    return found


def _offline(use_case: UseCase, tables: list[Table], asked: Asked, tick: datetime) -> Values:
    """Each view's values at the tick, by the as-of join over its table."""
    import pyarrow as pa

    found = {}
    for view in use_case.views:
        rows = asked[view.name]
        columns = {key: pa.array([row[key] for row in rows], pa.string()) for key in rows[0]}
        ticks = pa.array([tick] * len(rows), pa.timestamp("us", "UTC"))
        ids = pa.array(range(len(rows)))
        of_tick = rows_at(
            [view], [named(tables, view.name)], pa.table({"id": ids, "tick": ticks, **columns})
        )
        event = of_tick[f"{view.name}_tick"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        values = [of_tick[f.name].to_numpy().astype(np.float64) for f in view.features]
        found[view.name] = np.column_stack([event.to_numpy() / 1e6, *values])
    return found


def _figures(
    reader: str, use_case: UseCase, asked: Asked, offline: Values, found: Values, tick: datetime
) -> tuple[list[ViewParity], list[str]]:
    """Figures of every view, and the differences in words."""
    made = [
        _compare(reader, view, asked[view.name], offline[view.name], found[view.name], tick)
        for view in use_case.views
    ]
    return [figures for figures, _ in made], [text for _, told in made for text in told]


def _compare(
    reader: str, view: FeatureView, asked: list[dict[str, str]], offline: NDArray[np.float64],
    online: NDArray[np.float64], tick: datetime,
) -> tuple[ViewParity, list[str]]:  # fmt: skip
    """Figures of one view, and its differences in words; ``online`` are the last of ``asked``."""
    asked, offline = asked[-len(online) :], offline[-len(online) :]
    differ = ~((online == offline) | (np.isnan(online) & np.isnan(offline)))
    ages = (tick.timestamp() - online[:, 0][~np.isnan(online[:, 0])]) / 60
    names = ("event_timestamp", *(f.name for f in view.features))
    told = [
        f"{view.name}.{names[column]} of {asked[row]} is {online[row, column]} for the {reader}, "
        f"{offline[row, column]} offline"
        for row, column in zip(*differ.nonzero(), strict=True)
    ]
    return ViewParity(
        reader=reader, view=view.name, rows=len(online), found=len(ages), values=online.size,
        mismatches=len(told),
        ages_minutes=[float(f(ages)) for f in (np.min, np.median, np.max)] if len(ages) else [],
    ), told  # fmt: skip
