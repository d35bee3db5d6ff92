"""The rules of the online rows on both stores: what may overwrite what, and what a kill leaves."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from killing import killed_at

from feature_repo.errors import StateError
from feature_repo.online_rows import OnlineRows, open_rows
from feature_repo.packed import STATE, RowFormat, StoreState, entity_key, microseconds

TICK = datetime(2013, 11, 5, 14, 0, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
FORM = RowFormat("shop_sales", ["sold", "price"])
MANY = 3000


def key(shop: int) -> bytes:
    """Key of a shop's row."""
    return FORM.key(entity_key({"shop": f"s{shop}"}))


def row(event: datetime, created: datetime, sold: float = 1.0) -> bytes:
    """A row of those times."""
    at, known = microseconds(event), microseconds(created)
    return FORM.pack([at], [known], np.array([[sold, np.nan]]))[0]


def sold(value: bytes | None) -> float:
    """What a row says."""
    assert value is not None
    return float(FORM.unpack([value])[1][0, 0])


def state(content: str = "", tick: datetime = TICK) -> bytes:
    """A store's state."""
    return StoreState(use_case="small", declaration="d", content=content, tick=tick).pack()


def full(content: str) -> dict[bytes, bytes]:
    """Many rows which say the same as the state's content."""
    return {key(i): row(TICK, TICK, float(content)) for i in range(MANY)}


@pytest.fixture(params=["sqlite", "redis"])
def address(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Where an empty store is."""
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_url")
        return url
    return str(tmp_path)


@pytest.fixture
def store(address: str) -> OnlineRows:
    """An empty store."""
    return open_rows(address, "small")


ROWS = {
    "before": row(TICK - 2 * HOUR, TICK, 1.0),
    "event": row(TICK - HOUR, TICK - HOUR, 2.0),
    "known later": row(TICK - HOUR, TICK, 3.0),
}


@pytest.mark.parametrize("order", list(itertools.permutations(ROWS)), ids="-".join)
def test_the_newest_row_stays_whatever_the_order(store: OnlineRows, order: list[str]) -> None:
    """Later event first, then later created; in pushes of their own, and all in one."""
    for name in order:
        store.put([(key(1), ROWS[name])])
    store.put([(key(2), ROWS[name]) for name in order])
    store.put([(key(1), ROWS["before"]), (key(2), ROWS["event"])])
    one, two = store.get([key(1), key(2)])
    assert one == two == ROWS["known later"]


def test_of_one_instant_the_row_that_was_written_last_stays(store: OnlineRows) -> None:
    """A correction of a row has the times of that row, whatever its bytes are."""
    for value in (5.0, -6.0, 5.0, 4.0):
        told = row(TICK - HOUR, TICK, value)
        assert store.put([(key(1), told)]) == 1
        assert store.put([(key(1), told)]) == 0
        assert sold(store.get([key(1)])[0]) == value
    store.put([(key(1), row(TICK - HOUR, TICK, value)) for value in (9.0, -9.0)])
    assert sold(store.get([key(1)])[0]) == -9.0


def test_an_older_event_is_not_written_and_that_is_said(store: OnlineRows) -> None:
    assert store.get([key(1), STATE]) == [None, None]
    assert store.put([(key(1), ROWS["event"])]) == 1
    assert store.put([(key(1), ROWS["before"]), (key(2), ROWS["before"])]) == 1
    assert store.put([(key(1), ROWS["event"])]) == 0
    assert store.put([(key(1), ROWS["known later"])]) == 1
    assert [sold(v) for v in store.get([key(1), key(2)])] == [3.0, 1.0]


def test_microseconds_count(store: OnlineRows) -> None:
    instant = TICK - HOUR + timedelta(microseconds=1)
    store.put([(key(1), row(instant, TICK, 5.0)), (key(1), row(TICK - HOUR, TICK, 6.0))])
    assert sold(store.get([key(1)])[0]) == 5.0


def test_a_replacement_leaves_just_its_rows_and_writes_only_what_differs(store: OnlineRows) -> None:
    rows = {key(i): row(TICK - HOUR, TICK - HOUR, float(i)) for i in range(20)}
    made = store.replace(rows, state("1"))
    assert (made.written, made.deleted) == (20, 0)
    same = store.replace(rows, state("1"))
    assert (same.written, same.deleted) == (0, 0)
    # The offline store decides: what was pushed beside it goes, and an earlier tick is no push.
    store.put([(key(3), row(TICK, TICK)), (key(99), row(TICK, TICK))])
    rows = {k: v for k, v in rows.items() if k != key(7)}
    again = store.replace(rows, state("2", TICK - HOUR))
    assert (again.written, again.deleted) == (1, 2)
    kept = store.get([STATE, key(3), key(7), key(99), key(19)])
    assert kept == [state("2", TICK - HOUR), rows[key(3)], None, None, rows[key(19)]]


def test_a_push_after_the_tick_is_refused_whole(store: OnlineRows) -> None:
    """The reader, who reads one tick, would lose the entity's row of that tick."""
    store.replace({key(1): ROWS["event"]}, state())
    late = [(key(1), row(TICK + HOUR, TICK + HOUR)), (key(2), row(TICK, TICK))]
    with pytest.raises(StateError, match=r"1 rows are of ticks after .*2013-11-05T14:00:00\+00:00"):
        store.put(late)
    assert store.get([key(1), key(2)]) == [ROWS["event"], None]
    assert store.put(late[1:]) == 1


def test_services_lie_side_by_side(address: str) -> None:
    one, two = open_rows(address, "flights_a"), open_rows(address, "flights_b")
    one.replace({key(1): ROWS["before"]}, state())
    two.replace({key(1): ROWS["event"]}, state())
    two.drop()
    assert (one.get([key(1)]), two.get([key(1), STATE])) == ([ROWS["before"]], [None, None])


def test_very_many_keys_are_read_at_once(store: OnlineRows) -> None:
    store.replace(full("1"), state("1"))
    found = store.get([key(i) for i in range(25_000)])
    assert [v is not None for v in found] == [i < MANY for i in range(25_000)]


def pushes(seed: int) -> list[tuple[bytes, bytes]]:
    """Versions of forty rows, out of order; those of a larger seed became known later."""
    told = [
        (key(i), row(TICK - HOUR * j, TICK + seed * HOUR, seed * 100 + j))
        for i in range(40)
        for j in range(9)
    ]
    random.Random(seed).shuffle(told)
    return told


def _push(address: str, seed: int) -> None:
    store, told = open_rows(address, "small"), pushes(seed)
    for start in range(0, len(told), 7):
        store.put(told[start : start + 7])


def _alternate(address: str) -> None:
    store = open_rows(address, "small")
    for content in itertools.cycle("12"):
        store.replace(full(content), state(content))


def started(work: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    """A process that does ``work``."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def test_two_processes_that_push_out_of_order_leave_the_newest(address: str) -> None:
    processes = [started(_push, address, seed) for seed in (1, 2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    newest: dict[bytes, bytes] = {}
    for k, value in pushes(1) + pushes(2):
        newest[k] = max(value, newest.get(k, b""))
    assert open_rows(address, "small").get(list(newest)) == list(newest.values())


def test_a_reader_sees_rows_and_state_of_one_moment(address: str) -> None:
    """While two writers put one whole content in the place of another, as fast as they can."""
    store = open_rows(address, "small")
    store.replace(full("1"), state("1"))
    writers = [started(_alternate, address) for _ in range(2)]
    seen: set[str] = set()
    began = time.monotonic()
    try:
        while time.monotonic() < began + (2 if len(seen) == 2 else 60):
            seen.add(whole(store))
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert seen == {"1", "2"}


def whole(store: OnlineRows) -> str:
    """The content of a store, all of whose rows must say the same."""
    head, *values = store.get([STATE, *(key(i) for i in range(0, MANY, 100))])
    for content in "12":
        if head == state(content):
            assert {sold(value) for value in values} == {float(content)}
            return content
    raise AssertionError(f"a strange state: {head!r}")


def test_kill_9_in_a_replacement_leaves_the_old_store_whole(address: str) -> None:
    """At moments spread over it, and then the next writer is not in anybody's way."""
    open_rows(address, "small").replace(full("1"), state("1"))
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
        writer = started(_alternate, address)
        time.sleep(delay)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        whole(open_rows(address, "small"))
    made = open_rows(address, "small").replace(full("1"), state("3"))
    assert made.deleted == 0


def test_killed_before_each_line_of_a_replacement(address: str) -> None:
    """Old or new, and new only once the last statement has begun."""
    module = "feature_repo.redis_rows" if "://" in address else "feature_repo.sqlite_rows"
    open_rows(address, "small").close()  # the module is loaded
    assert module in sys.modules
    old, new = {key(1): ROWS["before"]}, {key(2): ROWS["event"]}
    seen = []
    for line in range(1, 200):
        open_rows(address, "small").replace(old, state("1"))
        killed = killed_at(
            line, module, lambda: open_rows(address, "small").replace(new, state("2"))
        )
        found = open_rows(address, "small").get([STATE, key(1), key(2)])
        before, after = [state("1"), ROWS["before"], None], [state("2"), None, ROWS["event"]]
        assert found in (before, after)
        seen.append(found == after)
        if not killed:
            break
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (False, True)
    assert len(seen) > 10
