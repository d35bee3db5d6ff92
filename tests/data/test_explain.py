"""Reference time travel: each feature from its events alone, and what was not known in time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Year

from feature_repo import offline
from feature_repo.engine import build_views
from feature_repo.errors import DeclarationError, RequestError, SkewError, StateError
from feature_repo.explain import Event, Explanation, differences, explain, parse_entity
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import named, read_table, write_table
from feature_repo.ticks import EPOCH
from tasks.explain import explain_features
from tasks.explain_text import told
from workflows.features import explain as explain_workflow

NOON = datetime(2013, 1, 19, 17, 4, tzinfo=timezone.utc)
# The first day, the day on which summer time ended, and a day early in the year.
DAYS = ("2013-01-01", "2013-11-03", "2013-01-28")


def asked(year: Year, at: datetime, **entity: str) -> Explanation:
    return explain(year.use_case, year.tables, year.views, entity, at)


def instant(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def request_of(year: Year, day: str) -> dict[str, Any]:
    """A request of a day's afternoon, as in the training set."""
    table = read_table(year.training_set)
    start = datetime.fromisoformat(f"{day}T16:00:00+00:00")
    until = pa.scalar(start + timedelta(hours=8), table["prediction_time"].type)
    later = table.filter(pc.greater_equal(table["prediction_time"], pa.scalar(start, until.type)))
    rows: list[dict[str, Any]] = later.filter(pc.less(later["prediction_time"], until)).to_pylist()
    return rows[len(rows) // 2]


@pytest.mark.parametrize("name", ["flights", "weather"])
@pytest.mark.parametrize("day", DAYS)
def test_the_events_explain_every_feature_of_the_training_set(
    name: str, day: str, request: pytest.FixtureRequest
) -> None:
    """A request's row, exactly, from nothing but the events of its entities."""
    year: Year = request.getfixturevalue(f"{name}_year")
    keys = {key for view in year.use_case.views for key in view.entity.keys}
    row = request_of(year, day)
    entity = {key: row[key] for key in keys if row[key] is not None}
    found = asked(year, row["prediction_time"], **entity)
    assert found.tick == row["tick"]
    assert differences(found) == []
    features = [feature for view in found.views for feature in view.features]
    assert {f.spec.name: f.value for f in features} == {
        f.spec.name: row[f.spec.name] for f in features
    }
    assert sum(feature.value is not None for feature in features) > 10


def test_every_event_was_known_by_its_tick_and_lies_in_the_window(flights_year: Year) -> None:
    found = asked(flights_year, NOON, origin="EWR")
    assert found.tick == datetime(2013, 1, 19, 16, 45, tzinfo=timezone.utc)
    counted = 0
    for view in found.views:
        for feature in view.features:
            for event in feature.events:
                assert event.known <= event.tick
                assert instant(event.tick) <= found.tick
                window = feature.spec.window
                assert window is None or instant(event.tick) > found.tick - window
                counted += 1
    assert counted > 1000


def test_what_had_happened_but_was_not_known_is_named_and_not_used(flights_year: Year) -> None:
    """Arrivals are reported 15 minutes late: those of the last half hour are not in the mean."""
    found = asked(flights_year, NOON, origin="EWR")
    (arrivals,) = (v for v in found.views if v.view.name == "origin_arrivals")
    assert arrivals.unseen
    behind = {event for feature in arrivals.features for event in map(_identity, feature.events)}
    for event in arrivals.unseen:
        assert instant(event.happened) <= NOON
        assert instant(event.tick) > found.tick
        assert _identity(event) not in behind
    later = asked(flights_year, NOON + timedelta(minutes=40), origin="EWR")
    (arrivals_later,) = (v for v in later.views if v.view.name == "origin_arrivals")
    used = {_identity(event) for event in arrivals_later.features[-2].events}
    assert {_identity(event) for event in arrivals.unseen} <= used


def _identity(event: Event) -> tuple[Any, ...]:
    return event.happened, event.known, tuple(event.values.items())


def test_the_text_tells_values_events_and_what_is_left_out(flights_year: Year) -> None:
    text = told(asked(flights_year, NOON, origin="EWR"), newest=2)
    assert "asked at 2013-01-19T17:04:00Z" in text
    assert "reads tick 2013-01-19T16:45:00Z" in text
    assert "origin_departures_1h = " in text
    assert "not yet known at the tick" in text
    assert "events, the 2 newest" in text
    assert "weather_age = 2013-01-19T15:00:00Z, 105 min before the tick" in text
    parts = {part.split(":")[0]: part for part in text.split("\n\n")}
    assert "that had happened, but were not yet known" in parts["== origin_arrivals"]
    pending = parts["== origin_pending"]  # a flight waits still: that it leaves has not happened
    assert "whose date had come, but that were not yet known at the tick" in pending
    assert "happened" not in pending
    assert "carrier, flight, origin" in text.splitlines()[-1]
    assert "tail_arrivals" in text.splitlines()[-1]
    widest = max(text.split("\n\n"), key=len).count("\n")
    assert widest < 40, "of each feature at most two events are printed"


def test_an_entity_whose_last_row_is_past_its_ttl_reads_as_missing(flights_year: Year) -> None:
    table = read_table(named(flights_year.tables, "flights"))
    last = table.group_by("tailnum").aggregate([("scheduled_departure", "max")]).to_pylist()
    gone = next(
        row for row in last
        if row["tailnum"] and row["scheduled_departure_max"].month == 6
    )  # fmt: skip
    at = datetime(2013, 12, 1, tzinfo=timezone.utc)
    found = asked(flights_year, at, tailnum=gone["tailnum"])
    assert differences(found) == []
    assert all(v.row is None for v in found.views)
    assert all(f.value is None and f.events == () for v in found.views for f in v.features)
    assert "tail_dep_delay = missing" in told(found, newest=5)


def test_a_stored_value_that_its_events_do_not_give_is_named(weather_year: Year) -> None:
    """One digit of one row is changed: the explanation of that row, and no other, differs."""
    year, at = weather_year, datetime(2013, 5, 3, 12, 5, tzinfo=timezone.utc)
    good = named(year.views, "station_observations")
    rows = read_table(good)
    changed = pc.and_(
        pc.equal(rows["origin"], "JFK"),
        pc.equal(rows["event_timestamp"], pa.scalar(at - timedelta(minutes=5))),
    )
    position = rows.schema.get_field_index("temp_mean_6h")
    values = pc.if_else(changed, pc.add(rows["temp_mean_6h"], 0.001), rows["temp_mean_6h"])
    bad = write_table(year.home, good.name, rows.set_column(position, "temp_mean_6h", values))
    views = [bad if view.name == good.name else view for view in year.views]
    (said,) = differences(explain(year.use_case, year.tables, views, {"origin": "JFK"}, at))
    assert said.startswith("temp_mean_6h: stored 5")
    assert differences(explain(year.use_case, year.tables, views, {"origin": "LGA"}, at)) == []


def test_at_the_last_tick_of_a_row_s_life_it_is_explained(tmp_path: Path) -> None:
    """A window that is over, whose row is as old as the ttl lets it be: what it holds is none."""
    flights, home = get_use_case("flights"), Home(root=tmp_path)
    spec = next(s for s in flights.features if s.name == "origin_departures_1h")
    day = timedelta(days=1)
    case = replace(flights, features=(replace(spec, log=replace(spec.log, ttl=day)),))
    left = datetime(2013, 7, 1, 12, 1, tzinfo=timezone.utc)
    flight = {
        "carrier": "UA", "flight": "1", "origin": "EWR", "dest": "IAH", "tailnum": "N1",
        "date": "2013-07-01", "distance": 1400.0, "dep_delay": 0.0, "arr_delay": 0.0,
        "scheduled_departure": left, "scheduled_arrival": left + timedelta(hours=2),
    }  # fmt: skip
    tables = [write_table(home, "flights", pa.Table.from_pylist([flight]))]
    built = build_views(home, case, tables, left + 2 * day)
    known = left + timedelta(minutes=15 + 14)  # its tick: known a quarter later, rounded up
    edge = known + timedelta(hours=1) + day + case.lag
    found = explain(case, tables, built.views, {"origin": "EWR"}, edge)
    assert differences(found) == []
    assert found.views[0].features[0].value == 0.0
    over = explain(case, tables, built.views, {"origin": "EWR"}, edge + case.tick)
    assert over.views[0].features[0].value is None
    assert differences(over) == []


@pytest.fixture(scope="module")
def versioned(weather_year: Year, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one version of the weather's features."""
    home = Home(root=tmp_path_factory.mktemp("versioned"))
    offline.update(home, weather_year.use_case, weather_year.tables)
    return home


def test_the_workflow_explains_from_the_newest_version(
    versioned: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRWORTHY_HOME", str(versioned.root))
    at = datetime(2013, 5, 3, 12, 5)  # noqa: DTZ001 - as a command line gives it: UTC
    text = explain_workflow(use_case="weather", entities="origin=JFK", at=at, newest=1)
    assert "weather, origin=JFK, asked at 2013-05-03T12:05:00Z" in text
    assert "24 events, the 1 newest" in text
    with pytest.raises(DeclarationError, match="no use case 'wether'"):
        explain_features(use_case="wether", keys="origin=JFK", at=NOON, newest=1)
    with pytest.raises(RequestError, match="-1 events cannot be shown"):
        explain_features(use_case="weather", keys="origin=JFK", at=NOON, newest=-1)
    late = datetime(2014, 1, 5, tzinfo=timezone.utc)
    with pytest.raises(StateError, match="hold up to 2013-12-31T00:00:00Z"):
        explain_features(use_case="weather", keys="origin=JFK", at=late, newest=1)
    monkeypatch.setenv("AIRWORTHY_HOME", str(versioned.root / "empty"))
    with pytest.raises(StateError, match="no version of the features"):
        explain_features(use_case="weather", keys="origin=JFK", at=NOON, newest=1)


def test_a_wrong_row_stops_the_task(
    versioned: Home, weather_year: Year, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version whose view holds other rows than its raw tables give."""
    use_case, home = weather_year.use_case, Home(root=tmp_path)
    shifted = read_table(named(weather_year.tables, "weather"))
    position = shifted.schema.get_field_index("temp")
    warmer = pc.add(shifted["temp"], 1.0)
    shifted = shifted.set_column(position, "temp", warmer)
    offline.update(home, use_case, [write_table(home, "weather", shifted)])
    (path,) = (tmp_path / "offline" / use_case.service).glob("[0-9]*.json")
    record = json.loads(path.read_text())
    good = offline.newest(versioned, use_case)
    record["built"]["tables"] = [asdict(table) for table in good.built.tables]
    path.write_text(json.dumps(record))
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    with pytest.raises(SkewError, match=r"temp_now: stored .* by its 1 events"):
        explain_features(use_case="weather", keys="origin=JFK", at=NOON, newest=1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tail=N14228", "has no entity key 'tail'; it has carrier, dest, flight, origin, tailnum"),
        ("origin", "'origin' is not one key=value"),
        ("origin=EWR,", "'' is not one key=value"),
        ("origin=,carrier=UA", "'origin=' is not one key=value"),
        ("origin=EWR,origin=JFK", "'origin=JFK' is not one key=value"),
    ],
)
def test_an_entity_that_cannot_be_read_is_refused(text: str, said: str, flights_year: Year) -> None:
    with pytest.raises(RequestError) as caught:
        parse_entity(text, flights_year.use_case)
    assert said in str(caught.value)


def test_a_question_without_an_answer_says_why(flights_year: Year) -> None:
    assert parse_entity(" origin = EWR, carrier=UA", flights_year.use_case) == {
        "origin": "EWR", "carrier": "UA",
    }  # fmt: skip
    with pytest.raises(RequestError, match="flight is not the whole key of any entity"):
        asked(flights_year, NOON, flight="1545")
    with pytest.raises(StateError, match="no event of tailnum=N0 had happened by 2013-01-19"):
        asked(flights_year, NOON, tailnum="N0")
    with pytest.raises(StateError, match="lies before the data: the first event of the logs"):
        asked(flights_year, datetime(2012, 1, 1, tzinfo=timezone.utc), origin="EWR")
