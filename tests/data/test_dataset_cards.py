"""Dataset cards: complete, deterministic, their pictures inside, every link to a page."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Year
from decks import pictures_of_deck
from serving_helpers import certified_model

from feature_repo import offline
from feature_repo.errors import AirworthyError, StateError
from feature_repo.home import Home
from feature_repo.profile import profile
from feature_repo.tables import named, write_table
from tasks.dataset_cards import pages, write_cards, write_pages
from tasks.dataset_facts import Stored, gather, models_of, stored_now
from tasks.dataset_text import DatasetFacts, VersionLine, refuse_empty, sections
from tasks.ledger import append
from workflows.features import cards

END = datetime(2013, 12, 31, 18, 45, tzinfo=timezone.utc)
PNG = re.compile(r'<img [^>]*src="data:image/png;base64,([^"]+)"')


def stored(year: Year) -> Stored:
    """The year's data as the second of two versions."""
    versions = {
        table.name: [
            VersionLine(
                number=number, created="2026-11-24 03:00 UTC", until="2013-12-31 18:45 UTC",
                rows=table.rows, digest=table.digest, quarantined=quarantined,
            )
            for number, quarantined in ((1, 3), (2, 1))
        ]
        for table in (*year.tables, *year.views)
    }  # fmt: skip
    checks = [{"table": "weather", "column": "wind_speed", "check": "in_range(0, 200)", "rows": 1}]
    return Stored(
        tables=year.tables, views=year.views, as_of=END,
        quarantine={"rows": 1, "checks": checks}, versions=versions,
    )  # fmt: skip


@pytest.fixture(scope="module")
def facts(weather_year: Year) -> list[DatasetFacts]:
    return gather(weather_year.home, weather_year.use_case, stored(weather_year))


@pytest.fixture(scope="module")
def made(weather_year: Year, facts: list[DatasetFacts]) -> dict[str, str]:
    return pages(weather_year.use_case, facts)


def test_each_table_and_view_has_a_page_and_the_index_names_it(made: dict[str, str]) -> None:
    assert set(made) == {
        "index.html", "table-weather.html", "view-station_observations.html",
        "view-station_yesterday.html",
    }  # fmt: skip
    for page in made.values():
        for link in re.findall(r'href="([^"]+)"', page):
            assert link in made
        assert "{" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert set(made) - {"index.html"} <= set(re.findall(r'href="([^"]+)"', made["index.html"]))


def test_the_card_tells_what_a_reader_must_know(made: dict[str, str]) -> None:
    for text in (
        "operations research", "in_range(0, 200)", "<strong>broken</strong>", "18 h 45 min",
        "26,114", "time_hour", "Hourly weather at each airport", "observations",
        "instant, UTC", "allowed", "Rows set aside by the ingestion of version 2: 1.",
    ):  # fmt: skip
        assert text in made["table-weather.html"], text
    for text in (
        "last temperature, °F", "mean of temp, 24 h; -80 to 135", "entity key",
        "feature service", "no certified model yet", "min ago", "event_timestamp",
    ):  # fmt: skip
        assert text in made["view-station_observations.html"], text


def test_pictures_lie_in_the_pages(made: dict[str, str]) -> None:
    """Distributions in each card, the quarantine over versions in that of the raw table."""
    counts = {name: len(PNG.findall(page)) for name, page in made.items()}
    assert counts == {name: 0 if name == "index.html" else 1 for name in made} | {
        "table-weather.html": 2
    }
    for page in made.values():
        assert not re.search(r'src="(?!data:)', page)
        for picture in PNG.findall(page):
            assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_the_same_data_make_the_same_bytes(weather_year: Year, made: dict[str, str]) -> None:
    again = gather(weather_year.home, weather_year.use_case, stored(weather_year))
    assert pages(weather_year.use_case, again) == made


def test_the_workflow_tells_every_version(
    weather_year: Year, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the newest version, with the quarantine of each ingestion before it."""
    monkeypatch.setenv("AIRWORTHY_HOME", str(tmp_path))
    home, use_case = Home(root=tmp_path), weather_year.use_case
    with pytest.raises(StateError, match="no version of the features"):
        write_cards(use_case="weather")
    for rows in (2, 1):
        bad = pa.table({"table": ["weather"] * rows, "row": range(rows), "column": ["temp"] * rows,
                        "check": ["in_range(-60, 135)"] * rows})  # fmt: skip
        origin = offline.Origin(quarantine=write_table(home, "quarantine", bad))
        offline.update(home, use_case, weather_year.tables, origin)
    index = Path(cards(use_case="weather"))
    assert index == tmp_path / "cards" / "weather" / "index.html"
    assert {p.name for p in index.parent.iterdir()} == {
        "index.html", "table-weather.html", "view-station_observations.html",
        "view-station_yesterday.html",
    }  # fmt: skip
    page = (index.parent / "table-weather.html").read_text()
    shown = pictures_of_deck("table-weather")  # the Deck has a tab for each card
    assert len(shown) == sum(len(PNG.findall(p.read_text())) for p in index.parent.iterdir()) > 3
    assert all(picture.startswith(b"\x89PNG") for picture in shown)
    assert "<strong>Version</strong> 2, as of 2013-12-31 00:00 UTC" in page
    assert "Rows set aside by the ingestion of version 2: 1." in page
    now = stored_now(home, use_case)
    assert [v.quarantined for v in now.versions["weather"]] == [2, 1]
    assert [v.number for v in now.versions["station_yesterday"]] == [1, 2]


def test_pages_are_written_whole_and_old_ones_go(
    weather_year: Year, made: dict[str, str], tmp_path: Path
) -> None:
    home = Home(root=tmp_path)
    index = write_pages(home, weather_year.use_case, made)
    stale = index.with_name("view-gone.html")
    stale.write_text("old")
    write_pages(home, weather_year.use_case, made)
    assert {p.name: p.read_text() for p in index.parent.iterdir()} == made


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"owner": " "}, "owner"),
        ({"description": ""}, "description"),
        ({"contract": []}, "contract"),
        ({"contract": [("`temp`", "number", "", "any")]}, "contract of `temp`, nulls"),
        ({"key": ()}, "key"),
        ({"columns": ()}, "columns"),
        ({"freshness": []}, "freshness promise"),
        ({"upstream": []}, "upstream"),
        ({"downstream": []}, "downstream"),
        ({"versions": []}, "versions"),
    ],
)
def test_an_empty_field_is_refused_by_name(
    facts: list[DatasetFacts], changes: dict[str, Any], name: str
) -> None:
    refuse_empty(facts[0])
    with pytest.raises(AirworthyError, match=f"raw table 'weather': {name} is empty"):
        refuse_empty(replace(facts[0], **changes))


def test_of_many_versions_the_newest_are_listed(facts: list[DatasetFacts]) -> None:
    many = [replace(facts[0].versions[-1], number=n) for n in range(1, 31)]
    text = sections(replace(facts[0], versions=many))
    assert "| 30 | 2026-" in text
    assert "| 11 | 2026-" in text
    assert "| 10 | 2026-" not in text
    assert "and 10 older ones." in text


def test_a_raw_table_without_a_contract_is_refused(weather_year: Year) -> None:
    bare = replace(weather_year.use_case, schemas=None)
    with pytest.raises(AirworthyError, match="names no contract of raw table 'weather'"):
        gather(weather_year.home, bare, stored(weather_year))


def test_models_that_read_a_view_are_named(weather_year: Year, tmp_path: Path) -> None:
    """The champion as such; a model of another declaration is none of them."""
    home, use_case = Home(root=tmp_path), weather_year.use_case
    folder, certificate = certified_model(home, use_case)
    assert models_of(home, use_case) == [
        f"model weather {folder.name[:12]} (certified), `{certificate.id}`"
    ]
    told = {"use_case": "weather", "version": "1.0.0", "certificate": certificate.id}
    append(home, "promotion", folder.name, told, recurring=True)
    (line,) = models_of(home, use_case)
    assert "(champion)" in line
    other = replace(use_case, label="another one")
    assert models_of(home, other) == ["no certified model yet"]


def test_a_profile_counts_every_row(flights_year: Year) -> None:
    columns = {c.name: c for c in profile(named(flights_year.tables, "flights"))}
    assert (columns["tailnum"].nulls, columns["dep_delay"].nulls) == (2512, 8255)
    assert columns["origin"].bars == (("EWR", 120835), ("JFK", 111279), ("LGA", 104662))
    assert (columns["date"].distinct, columns["carrier"].distinct) == (365, 16)
    assert [month for month, _ in columns["scheduled_departure"].bars][:2] == ["2013-01", "2013-02"]
    for column in columns.values():
        assert sum(rows for _, rows in column.bars) + column.outside + column.nulls == column.rows
    delay = columns["arr_delay"]
    assert delay.width == 10.0, "whole minutes in whole bins"
    assert 0 < delay.outside < 0.011 * delay.rows
    assert (delay.low, delay.high) == ("-86.0", "1272.0")


def test_a_column_of_one_value_or_none_has_a_profile(tmp_path: Path) -> None:
    rows = pa.table({"same": [0.0, 0.0], "none": pa.array([None, None], pa.float64())})
    same, none = profile(write_table(Home(root=tmp_path), "flat", rows))
    assert same.bars == ((0.0, 2),)
    assert (none.nulls, none.bars, none.null_share) == (2, (), 1.0)
