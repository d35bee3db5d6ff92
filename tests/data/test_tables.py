"""Stored tables: on disk before they have their names, and missed when they are gone."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from message_helpers import HOUR, SCHEMA, START, WEATHER, first_version, row

from feature_repo import offline
from feature_repo.engine import build_views
from feature_repo.errors import StateError
from feature_repo.home import Home, write_atomically
from feature_repo.stream import advance
from feature_repo.tables import Table, check_whole, parts_of, read_table, write_raw, write_table

ROWS = pa.Table.from_pylist(
    [row(time_hour=START.replace(month=month)) for month in (4, 5, 6)], schema=SCHEMA
)


@pytest.fixture
def stored(tmp_path: Path) -> Table:
    """Three months of one row each."""
    return write_raw(Home(root=tmp_path), WEATHER.tables[0], ROWS)


def test_a_lost_part_is_missed_by_every_reader(stored: Table, tmp_path: Path) -> None:
    """The names of the parts that are there are not those that the digest was made of."""
    parts_of(stored)["2013-05"].unlink()
    said = r"table 'weather' .* of 3 rows has not .* \(2013-04, 2013-06\) some are missing"
    with pytest.raises(StateError, match=said):
        read_table(stored)
    with pytest.raises(StateError, match=said):
        build_views(Home(root=tmp_path), WEATHER, [stored], START)
    for part in Path(stored.uri).iterdir():
        part.unlink()
    with pytest.raises(StateError, match=r"\(none\) some are missing"):
        read_table(stored)


def test_a_part_too_many_is_noticed(stored: Table, tmp_path: Path) -> None:
    other = write_raw(Home(root=tmp_path), WEATHER.tables[0], ROWS.slice(0, 1))
    (part,) = parts_of(other).values()
    os.link(part, Path(stored.uri) / part.name.replace("2013-04", "2013-07"))
    with pytest.raises(StateError, match="or other ones"):
        read_table(stored)


def test_a_table_that_is_gone_says_how_to_make_it_anew(tmp_path: Path) -> None:
    table = write_table(Home(root=tmp_path), "weather", ROWS)
    check_whole([table])
    Path(table.uri).unlink()
    with pytest.raises(StateError, match=r"is no longer at .*'pyflyte run --overwrite-cache'"):
        read_table(table)


def test_bytes_that_changed_are_found(stored: Table) -> None:
    check_whole([stored])
    part = parts_of(stored)["2013-05"]
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(StateError, match=r"table 'weather' .* is damaged: .*2013-05"):
        check_whole([stored])


def test_a_cut_table_is_replaced_when_it_is_made_again(stored: Table, tmp_path: Path) -> None:
    """What lies under a content's name is not taken for it where its size is another."""
    part = parts_of(stored)["2013-05"]
    part.write_bytes(part.read_bytes()[:99])
    again = write_raw(Home(root=tmp_path), WEATHER.tables[0], ROWS)
    assert again == stored
    check_whole([again])
    inode = part.stat().st_ino
    write_raw(Home(root=tmp_path), WEATHER.tables[0], ROWS)
    assert part.stat().st_ino == inode, "a whole one stays"


def test_nothing_has_its_name_before_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's bytes, then the names in its folder, then the folder's own name."""
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    home = Home(root=tmp_path)
    parts = write_raw(home, WEATHER.tables[0], ROWS)
    files = [path.stat().st_ino for path in parts_of(parts).values()]
    folders = [Path(parts.uri).stat().st_ino, (tmp_path / "tables").stat().st_ino]
    assert synced == [*files, *folders]
    synced.clear()
    single = write_table(home, "weather", ROWS)
    assert synced == [Path(single.uri).stat().st_ino, folders[1]]
    synced.clear()
    write_atomically(tmp_path / "record.json", b"{}")
    assert synced == [(tmp_path / "record.json").stat().st_ino, tmp_path.stat().st_ino]


def test_a_stream_with_a_lost_part_stops(tmp_path: Path) -> None:
    """Rather than going on with the rows that are left."""
    home = first_version(tmp_path)
    (part,) = parts_of(offline.newest(home, WEATHER).built.tables[0]).values()
    part.unlink()
    with pytest.raises(StateError, match="some are missing"):
        advance(home, WEATHER, START + HOUR)
