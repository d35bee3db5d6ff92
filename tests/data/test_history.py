"""Training sets as they were: by the instant of the record, and by that of the facts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year
from offline_helpers import JUNE, ingest, weather, write_story

from feature_repo import offline
from feature_repo.engine import build_training_set
from feature_repo.errors import StateError
from feature_repo.history import as_of
from feature_repo.home import Home
from feature_repo.tables import read_table
from tasks.feature_versions import rebuild
from tasks.training_set import build_training_set as build
from tasks.types import State

PARTS = ("training_start", "validation_start", "test_start", "test_end")
DATES = [datetime(2013, month, 1, tzinfo=timezone.utc) for month in (1, 4, 5, 7)]


@pytest.fixture(scope="module")
def story(weather_year: Year, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """See ``write_story``."""
    return write_story(Home(root=tmp_path_factory.mktemp("history")), weather_year)


def test_a_training_set_is_rebuilt_as_it_was(story: Home, weather_year: Year) -> None:
    """As of the record's time: before the correction the old temperature, after it the new one."""
    case = weather_year.use_case
    _, second, third = offline.versions(story, case)
    then = as_of(story, case, third.created - timedelta(microseconds=1))
    assert then.number == second.number
    was, now = (
        build_training_set(story, case, version.built.tables, version.built.views)
        for version in (then, third)
    )
    again = build_training_set(story, case, second.built.tables, second.built.views)
    assert was.digest == again.digest != now.digest
    with pytest.raises(StateError, match=r"no version of .* is kept"):
        as_of(story, case, datetime(2000, 1, 1, tzinfo=timezone.utc))


def test_a_training_set_sees_nothing_after_the_instant_that_is_asked_for(
    story: Home, weather_year: Year
) -> None:
    """As of the event's time: no request that reads a later tick, no label that was known later."""
    case, until = weather_year.use_case, JUNE - timedelta(days=3)
    last = offline.newest(story, case)
    whole, then = (
        read_table(rebuild(story, case, last, DATES, instant)).to_pandas()
        for instant in (None, until)
    )
    assert set(whole["split"]) == {"training", "validation", "test", ""}
    assert until - timedelta(hours=1) < then["tick"].max() <= until
    same = whole[whole["tick"] <= until].reset_index(drop=True)
    unknown = same["label_available_at"] > until
    assert unknown.sum() > 0
    assert then["label"].isna().equals(same["label"].isna() | unknown)
    assert then[~unknown].equals(same[~unknown])


def test_requests_that_read_a_later_tick_than_the_views_have_are_left_out(
    weather_year: Year, tmp_path: Path
) -> None:
    """They would get the last tick's values for ever; the others are as in a full build."""
    home, case = Home(root=tmp_path), weather_year.use_case
    known, until = weather(weather_year, JUNE), JUNE - timedelta(days=1, minutes=45)
    early = ingest(home, weather_year, until, known)
    whole = offline.update(home, case, early.built.tables)
    assert (early.until, whole.until) == (until, JUNE)
    sets = [
        build.task_function(
            state=State(str(home.root), home.id), use_case="weather", declaration="",
            tables=version.built.tables, views=version.built.views,
            **dict(zip(PARTS, DATES, strict=True)),
        ).training_set
        for version in (early, whole)
    ]  # fmt: skip
    before, after = (read_table(table) for table in sets)
    assert 20 < after.num_rows - before.num_rows < 100
    assert before.equals(after.filter(pc.less_equal(after["tick"], pa.scalar(until))))
