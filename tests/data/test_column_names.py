"""A raw table's columns may be called what the platform's own SQL might call its own."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from message_helpers import HOUR, SCHEMA, START, WEATHER, message, row

from feature_repo import offline
from feature_repo.home import Home
from feature_repo.inbox import Inbox
from feature_repo.messages import faults
from feature_repo.stream import advance, forget_messages, receive
from feature_repo.tables import read_table, write_raw

NAMES = ("number", "message", "broken", "place")


@pytest.mark.parametrize("name", NAMES)
def test_of_settled_messages_those_that_the_source_repeats_are_forgotten(
    tmp_path: Path, name: str
) -> None:
    """By their numbers, whatever a column of that name holds."""
    home, until = Home(root=tmp_path), START + 4 * HOUR
    schema = SCHEMA.append(pa.field(name, pa.int64()))
    rows = [row(hours=-1) | {name: 3}, row(hours=-2) | {name: 3}]
    files = write_raw(home, WEATHER.tables[0], pa.Table.from_pylist(rows, schema=schema))
    origin = offline.Origin(quarantine=files, rows_read=2)
    offline.update(home, WEATHER, [files], origin, until=START)
    told = [message(hours, temp=71.0 + hours) for hours in range(3)]
    told = [message(-1, reported=0), *told]
    given = [replace(m, row={**m.row, name: 3 if n == 0 else 7}) for n, m in enumerate(told)]
    assert receive(home, WEATHER, given, until).refused == ()
    made = advance(home, WEATHER, until).version
    assert read_table(made.built.tables[0]).num_rows == 5
    assert forget_messages(home, WEATHER, until + WEATHER.retention, made.offset) == 1
    with closing(Inbox(home, WEATHER)) as inbox:
        told_again = inbox.news(0, made.offset).rows["weather"]
    assert [known["temp"] for known in told_again] == [71.0, 72.0, 73.0]


@pytest.mark.parametrize("name", NAMES)
def test_the_message_that_breaks_a_rule_is_named(name: str) -> None:
    """And not one whose place a column of that name happens to state."""
    schema = SCHEMA.append(pa.field(name, pa.int64()))
    told = [replace(m, row={**m.row, name: 0}) for m in (message(), message(9, reported=1))]
    first, second = faults(WEATHER, {"weather": schema}, told, START + HOUR)
    assert first == ""
    assert "the present" in second
