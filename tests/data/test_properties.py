"""Small random event logs: the engine equals the oracle, whatever the data look like.

Facts come in batches, as days bring them: new ones, the same one again, corrections and
withdrawals of older ones, in any order. ``AIRWORTHY_LONG_DRILLS=1`` tries sixteen times as many.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Logs, Oracle

from feature_repo.contract import (
    Aggregation,
    Entity,
    EventLog,
    FeatureSpec,
    RawTable,
    RequestField,
    UseCase,
)
from feature_repo.engine import Built, build_training_set, build_views
from feature_repo.home import Home
from feature_repo.tables import Table, read_table, write_raw
from feature_repo.update import update_views

EXAMPLES = 400 if os.environ.get("AIRWORTHY_LONG_DRILLS") else 25
PROPERTY = settings(derandomize=True, deadline=None, database=None, max_examples=EXAMPLES)
START = datetime(2013, 3, 30, tzinfo=timezone.utc)  # so that facts lie in two months
INSTANT = pa.timestamp("us", tz="UTC")
# Names that the platform's own SQL might use, too.
COLUMNS: dict[str, pa.DataType] = {
    "serial": pa.int64(), "shop": pa.string(), "item": pa.string(), "tick": pa.float64(),
    "lo": pa.float64(), "happened": INSTANT, "reported": INSTANT,
}  # fmt: skip
TABLES = (
    RawTable(name="entities", key=("serial",), time="happened"),
    RawTable(name="asked", key=("request_id",)),
)
ASKED = {"request_id": pa.string(), "shop": pa.string(), "item": pa.string(), "asked_at": INSTANT}

SALES = """
  select serial, shop, item, tick, lo, happened as event_timestamp, reported as available_at
  from entities
"""
REQUESTS = """
  select request_id, asked_at as prediction_time, asked_at as event_time, shop, item,
    cast(null as double) as label, cast(null as timestamp) as label_available_at
  from asked
"""


@dataclass(frozen=True)
class Fact:
    """One row of the raw table but for its key; times in minutes after ``START``."""

    shop: str | None
    item: str | None
    amount: float | None
    share: float | None
    happened: int
    delay: int

    def row(self, serial: int) -> dict[str, Any]:
        """As the raw table has it."""
        happened = START + timedelta(minutes=self.happened)
        return {
            "serial": serial, "shop": self.shop, "item": self.item, "tick": self.amount,
            "lo": self.share, "happened": happened,
            "reported": happened + timedelta(minutes=self.delay),
        }  # fmt: skip


Batch = Mapping[int, Fact | None]  # by serial; None: the fact is withdrawn


@dataclass(frozen=True)
class Story:
    """A use case, what each day brought, and what is asked in the end."""

    use_case: UseCase
    batches: list[Batch]
    asked: list[dict[str, Any]]

    def facts(self, batches: int | None = None) -> dict[int, Fact]:
        """What holds after the first batches, or after all of them."""
        held: dict[int, Fact | None] = {}
        for batch in self.batches[:batches]:
            held.update(batch)
        return {serial: fact for serial, fact in sorted(held.items()) if fact is not None}


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Sometimes null."""
    return st.one_of(*[strategy] * 5, st.none())


# Few values, so that keys, times and ranks collide; the products have five decimals.
MINUTES = st.builds(
    lambda gap, step: gap + 5 * step, st.sampled_from([0, 0, 0, 0, 120, 4000]), st.integers(0, 6)
)
KEYS = {"shop": maybe(st.sampled_from("ab")), "item": maybe(st.sampled_from("xy"))}
FACT = st.builds(
    Fact,
    **KEYS,
    amount=maybe(st.integers(-12, 12).map(lambda step: step * 3.2925 / 3)),
    share=maybe(st.integers(-1, 4).map(lambda half: half / 2)),
    happened=MINUTES,
    delay=st.sampled_from([0, 0, 5, 10, 60, 900]),
)
BATCH = st.dictionaries(st.integers(0, 40), maybe(FACT), min_size=8, max_size=25)
REQUEST = st.fixed_dictionaries(
    {
        **KEYS,
        "asked_at": st.one_of(MINUTES, st.integers(0, 16).map(lambda hours: hours * 60)).map(
            lambda minutes: START + timedelta(minutes=minutes)
        ),
    }
)


AGGREGATIONS: list[tuple[Aggregation, str | None]] = [
    ("count", None), ("sum", None), ("sum", "lo"), ("mean", None), ("mean", "lo"),
    ("last", None),
]  # fmt: skip


@st.composite
def use_cases(draw: st.DrawFn) -> UseCase:
    """Every aggregation, weighted and not, over two views; ticks, windows and ttl vary."""
    tick = timedelta(minutes=draw(st.sampled_from([1, 15, 60])))
    ttl = st.sampled_from([tick, 2 * tick, 8 * tick, timedelta(days=30)])
    window = st.sampled_from([1, 1, 2, 3, 8, 100]).map(lambda ticks: ticks * tick)
    every, large = (
        EventLog(name=n, sql=sql, tie_break=("serial",), ttl=draw(ttl), fresh_within=tick)
        for n, sql in (("sales", SALES), ("large", SALES + " where tick > 1"))
    )
    shop, shelf = (Entity(name=n, keys=k) for n, k in (("sh", ("shop",)), ("el", ("shop", "item"))))
    features = []
    pairs = ((shop, every), (shelf, every), (shop, large))
    for entity, log in draw(st.permutations(pairs))[:2]:
        windows = st.sampled_from(draw(st.lists(window, min_size=1, max_size=2)))
        for number, (aggregation, weight) in enumerate(AGGREGATIONS):
            features.append(
                FeatureSpec(
                    name=f"{entity.name}_{log.name}_{number}", entity=entity, log=log,
                    value="tick", aggregation=aggregation, weight=weight, decimals=5,
                    window=None if aggregation == "last" else draw(maybe(windows)),
                )
            )  # fmt: skip
    return UseCase(
        name="shops", description="", owner="", task="regression", label="", unit="",
        intended_use="", limitations="", tables=TABLES, requests_sql=REQUESTS,
        fields=tuple(RequestField(name=n, dtype="string", model_input=False) for n in KEYS),
        derived=(), features=tuple(features), slices=(), gate=(), tick=tick,
        lag=timedelta(minutes=draw(st.sampled_from([0, 5, 20]))),
    )  # fmt: skip


STORY = st.builds(
    Story,
    use_cases(),
    st.lists(BATCH, min_size=1, max_size=4),
    st.lists(REQUEST, min_size=8, max_size=20),
)


def store(home: Home, story: Story, facts: Mapping[int, Fact]) -> list[Table]:
    """The raw tables as stored."""
    asked = [{**row, "request_id": str(number)} for number, row in enumerate(story.asked)]
    rows = {"entities": ([fact.row(serial) for serial, fact in facts.items()], COLUMNS)}
    rows["asked"] = (asked, ASKED)
    made = {
        name: pa.Table.from_pylist(listed, pa.schema(list(columns.items())))
        for name, (listed, columns) in rows.items()
    }
    return [write_raw(home, declared, made[declared.name]) for declared in story.use_case.tables]


def logs(facts: Mapping[int, Fact]) -> Logs:
    """The events as the oracle takes them: epoch seconds."""
    begin = int(START.timestamp())
    events = [
        {
            **fact.row(serial),
            "at_": begin + fact.happened * 60,
            "known": begin + (fact.happened + fact.delay) * 60,
            "order": (serial,),
        }
        for serial, fact in facts.items()
    ]
    large = [e for e in events if e["tick"] is not None and e["tick"] > 1]
    return {"sales": events, "large": large}


def same(ours: float | None, theirs: float) -> bool:
    """Equal, or both missing."""
    return math.isnan(theirs) if ours is None else ours == theirs


def check_views(story: Story, oracle: Oracle, built: Built) -> None:
    """Rows, ticks and values of every view, as far as the data reach."""
    for view, stored in zip(story.use_case.views, built.views, strict=True):
        rows = oracle.view_rows(view)
        expected = {key: values for key, values in rows.items() if key[-1] <= built.until}
        found = {}
        for row in read_table(stored).to_pylist():
            assert row["created_timestamp"] == row["event_timestamp"]
            key = tuple(row[k] for k in view.entity.keys)
            found[(*key, int(row["event_timestamp"].timestamp()))] = row
        assert set(found) == set(expected), view.name
        for key, values in expected.items():
            for name, value in values.items():
                assert same(found[key][name], value), (view.name, key, name)


def check_training_set(story: Story, oracle: Oracle, table: Table) -> None:
    """Each request reads what the oracle reads for it."""
    rows = read_table(table).to_pylist()
    assert sorted(row["request_id"] for row in rows) == sorted(map(str, range(len(story.asked))))
    for row in rows:
        asked = int(row["prediction_time"].timestamp())
        assert oracle.tick(asked) == row["tick"].timestamp()
        for name, value in oracle.row(row, asked).items():
            assert same(row[name], value), (row["request_id"], name, row[name], value)


@pytest.mark.timeout(3600)
@PROPERTY
@given(STORY)
def test_the_engine_equals_the_oracle(story: Story) -> None:
    """Ties, nulls, gaps, duplicates and corrections: every row of every view, every request."""
    facts = story.facts()
    every = [{"shop": shop, "item": item} for shop in "ab" for item in "xy"]
    oracle = Oracle(story.use_case, every, logs(facts))
    with tempfile.TemporaryDirectory() as folder:
        home = Home(root=Path(folder))
        tables = store(home, story, facts)
        built = build_views(home, story.use_case, tables)
        check_views(story, oracle, built)
        table = build_training_set(home, story.use_case, tables, built.views)
        check_training_set(story, oracle, table)


@pytest.mark.timeout(3600)
@PROPERTY
@given(STORY, st.lists(st.integers(0, 5000), min_size=4, max_size=4))
def test_any_split_into_days_equals_a_rebuild(story: Story, untils: list[int]) -> None:
    """Each batch updates the last one's views: new ticks, late facts, corrections, withdrawals.

    The views and their states have the digests that a computation from the start has.
    """
    with tempfile.TemporaryDirectory() as folder:
        home, before = Home(root=Path(folder)), None
        for number, minutes in enumerate(sorted(untils)[: len(story.batches)]):
            tables = store(home, story, story.facts(number + 1))
            until = START + timedelta(minutes=minutes)
            before = update_views(home, story.use_case, tables, before, until).built
            anew = build_views(home, story.use_case, tables, until)
            for ours, theirs in zip(
                (*before.views, *before.states), (*anew.views, *anew.states), strict=True
            ):
                assert ours.digest == theirs.digest, (ours.name, number)
