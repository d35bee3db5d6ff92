"""Messages beside versions that are made from files: neither hides the other."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from judging_helpers import state_of
from message_helpers import HOUR, SCHEMA, START, WEATHER, first_version, message, raw, row

from feature_repo import offline
from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.stream import advance, forget_messages, receive
from feature_repo.tables import write_raw, write_table
from tasks.parity import check_parity
from tasks.splits import check_parts
from tasks.training_set import build_features


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two days of weather at three airports, as a first version."""
    return first_version(tmp_path)


def from_source(home: Home, rows: list[dict[str, Any]], until: datetime) -> offline.Version:
    """A version made from files, as a nightly run makes it."""
    table = write_raw(home, WEATHER.tables[0], pa.Table.from_pylist(rows, SCHEMA))
    quarantine = write_table(home, "quarantine", pa.table({"row": [1]}))
    origin = offline.Origin(quarantine=quarantine, rows_read=9)
    return offline.update(home, WEATHER, [table], origin, until=until)


def test_only_messages_that_nothing_can_ask_for_are_forgotten(home: Home) -> None:
    """Three months later: what the source took over, and what was outranked. The rest is told to
    the next version from the source, and no report that is older yet counts for its hour."""
    told = [
        message(0, temp=71.0),  # the source will say the same
        message(1, temp=72.0, reported=2.5), message(1, temp=1.0),  # the second is outranked
        message(2, temp=73.0),  # the source will say otherwise
        message(3, temp=74.0),  # the source will lack it
    ]  # fmt: skip
    receive(home, WEATHER, told, START + 4 * HOUR)
    advance(home, WEATHER, START + 4 * HOUR)
    later = START + WEATHER.retention + 100 * HOUR
    assert forget_messages(home, WEATHER, later, 5) == 1, "no version is from the source"
    files = [row(hours=-1), row(temp=71.0), row(hours=1, temp=72.0), row(hours=2, temp=0.0)]
    from_source(home, files, START + 4 * HOUR)
    assert forget_messages(home, WEATHER, START + 100 * HOUR, 5) == 0, "all are young"
    assert forget_messages(home, WEATHER, later, 0) == 0, "a service has none of them"
    assert forget_messages(home, WEATHER, later, 5) == 2
    made = advance(home, WEATHER, START + 4 * HOUR)
    assert [r["temp"] for r in raw(home)] == [70.0, 71.0, 72.0, 73.0, 74.0]
    assert (made.version.offset, made.refused) == (5, ())
    assert (
        receive(home, WEATHER, [message(0, temp=1.0)], later).refused[0].startswith("reported_at")
    )
    receive(home, WEATHER, [message(4, reported=5)], START + 5 * HOUR)
    assert advance(home, WEATHER, START + 5 * HOUR).version.offset == 6


def test_a_version_from_files_without_news_makes_no_second_one(home: Home) -> None:
    """A step over it adds nothing, so it stays the newest, with its quarantine."""
    made = from_source(home, raw(home), START + HOUR)
    assert advance(home, WEATHER, START + HOUR).version == made


def test_a_run_from_the_cache_makes_its_data_the_newest_again(home: Home) -> None:
    """After another run, on other data, which failed later on; what was streamed on top of the
    run's own data is no reason."""
    good = from_source(home, raw(home), START)
    small = from_source(home, raw(home)[:20], START)
    assert offline.newest(home, WEATHER).number == small.number
    again = offline.renew(home, WEATHER, good.built.tables)
    assert again is not None
    assert again.built == good.built
    assert offline.newest(home, WEATHER) == again
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    streamed = advance(home, WEATHER, START + HOUR).version
    assert offline.renew(home, WEATHER, good.built.tables) is None
    assert offline.newest(home, WEATHER).number == streamed.number


def test_data_that_do_not_reach_the_split_dates_are_refused_before_anything_is_computed(
    home: Home,
) -> None:
    """The message names the part, its dates and what the data hold."""
    (table,) = offline.newest(home, WEATHER).built.tables
    days = [datetime(2013, 6, day, tzinfo=timezone.utc) for day in (28, 29, 30)]
    check_parts(WEATHER, [table], [*days, START])
    with pytest.raises(TrainingError, match=r"'test', 2013-07-01 to 2013-08-01.*hold events from"):
        check_parts(WEATHER, [table], [*days[:2], days[2] + 24 * HOUR, days[2] + 32 * 24 * HOUR])
    with pytest.raises(TrainingError, match="must rise"):
        check_parts(WEATHER, [table], [days[1], days[0], days[2], START])


def test_a_training_run_does_not_hide_what_was_streamed(home: Home) -> None:
    """Its tables are the source's; the newest version is what is served, and says so."""
    (table,) = offline.newest(home, WEATHER).built.tables
    receive(home, WEATHER, [message(temp=75.0)], START + HOUR)
    before = advance(home, WEATHER, START + HOUR).version
    made = build_features(
        state=state_of(home), use_case="weather", declaration=WEATHER.declaration, tables=[table],
        quarantine=write_table(home, "quarantine", pa.table({"row": [1]})), rows_read=1,
    )  # fmt: skip
    source, newest = offline.versions(home, WEATHER)[-2:]
    assert (source.from_source, source.offset, source.built.views) == (True, 0, made.views)
    assert (newest.offset, newest.until) == (1, before.until)
    assert (newest.built.views, raw(home)[-1]["temp"]) == (before.built.views, 75.0)
    assert check_parity(home, WEATHER, newest.built.views).total("mismatches") == 0
    assert "what was streamed is in version" in made.step.message
