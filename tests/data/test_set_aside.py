"""What a step may set aside and what not, how it is taken in again, and when it is forgotten."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from message_helpers import HOUR, NARROW, START, WEATHER, first_version, message, raw, served

from feature_repo import offline
from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.inbox import Inbox
from feature_repo.stream import advance, forget_messages, receive, retry
from feature_repo.tables import named, parts_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two days of weather at three airports, as a first version."""
    return first_version(tmp_path)


@pytest.mark.parametrize("fault", ["cut", "one byte", "empty"])
def test_a_damaged_stored_file_is_no_message_s_fault(home: Home, fault: str) -> None:
    """The step says which file, and stops: its messages wait, and come in once it is restored."""
    receive(home, WEATHER, [message(hours) for hours in range(14)], START + 14 * HOUR)
    before = advance(home, WEATHER, START + 14 * HOUR).version
    part = parts_of(named(before.built.tables, "weather"))["2013-07"]
    whole = part.read_bytes()
    flipped = whole[:9] + bytes([whole[9] ^ 255]) + whole[10:]
    part.write_bytes({"cut": whole[: len(whole) // 2], "one byte": flipped, "empty": b""}[fault])
    told = [message(13, reported=15, temp=76.0), message(14, temp=77.0)]
    assert receive(home, WEATHER, told, START + 15 * HOUR).refused == ()
    with pytest.raises(StateError, match=r"table 'weather' .* is damaged: .*2013-07.*; restore it"):
        advance(home, WEATHER, START + 15 * HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        assert not inbox.refused()
    part.write_bytes(whole)
    made = advance(home, WEATHER, START + 15 * HOUR)
    assert (made.messages, made.refused) == (2, ())
    assert served(home) == 77.0


def test_messages_are_not_received_over_a_damaged_table(home: Home) -> None:
    """Their sender is told so; none of them is refused for it."""
    (part,) = parts_of(named(offline.newest(home, WEATHER).built.tables, "weather")).values()
    part.write_bytes(b"")
    with pytest.raises(StateError, match=r"table 'weather' .* is damaged"):
        receive(home, WEATHER, [message()], START + HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        assert (inbox.last, inbox.refused()) == (0, {})


def test_what_was_set_aside_can_be_taken_in_again(home: Home) -> None:
    """Once its cause is mended; each once, whatever came later about its row still counts, and
    what the steps of the stream cannot take is set aside again."""
    told = [message(0, temp=75.0), message(1, temp=76.0), message(1, temp=77.0, reported=2.5)]
    receive(home, WEATHER, told, START + 3 * HOUR)
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(1, "a disk was full")
        inbox.set_aside(2, "a disk was full")
    made = advance(home, WEATHER, START + 3 * HOUR)
    assert [r["temp"] for r in raw(home) if r["temp"] != 70.0] == [77.0]
    now = START + 4 * HOUR
    assert retry(home, WEATHER, now + WEATHER.retention) == [], "what is that late is in the files"
    first, second = retry(home, WEATHER, now)
    assert first == ('message 1 (weather ["JFK", "2013-06-30T12:00:00+00:00"]): a disk was full')
    assert second.startswith("message 2 (weather")
    assert retry(home, WEATHER, now) == []
    made = advance(home, WEATHER, START + 3 * HOUR)
    assert (made.messages, made.version.offset) == (2, 5)
    assert [r["temp"] for r in raw(home) if r["temp"] != 70.0] == [75.0, 77.0]
    assert served(home) == 77.0
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(4, "once more")
    (line,) = retry(home, WEATHER, now)
    assert line.startswith("message 4")


def test_another_service_sees_a_message_that_came_twice(tmp_path: Path) -> None:
    """One service could not take it; the other had it, and keeps its value of that row."""
    home, until = first_version(tmp_path, NARROW), START + 9 * HOUR
    offline.update(home, WEATHER, offline.newest(home, NARROW).built.tables, until=START)
    told = [message(hours, temp=71.0 + hours) for hours in range(8)]
    told.append(message(reported=8.5, time_hour=START + 2.5 * HOUR, temp=99.0))
    receive(home, NARROW, told, until)
    assert len(advance(home, NARROW, until).refused) == 1
    before = advance(home, WEATHER, until).version
    assert 99.0 in [r["temp"] for r in raw(home)]
    assert retry(home, WEATHER, until) == []
    assert len(retry(home, NARROW, until)) == 1
    after = advance(home, WEATHER, until)
    assert (after.messages, after.version.built) == (1, before.built)
    assert len(advance(home, NARROW, until).refused) == 1
    assert len(retry(home, NARROW, until)) == 1


def test_refused_messages_are_forgotten_with_the_settled_ones(tmp_path: Path) -> None:
    """Not before the retention is over, nor while another service counts one or has not met it;
    and what is forgotten as set aside does not come back as a message."""
    home, until = first_version(tmp_path, NARROW), START + 4 * HOUR
    files = offline.newest(home, NARROW).built.tables
    offline.update(home, WEATHER, files, until=START)
    told = [message(hours, temp=71.0 + hours) for hours in range(3)]
    poison = message(reported=3.5, time_hour=START + 1.5 * HOUR, temp=99.0)
    receive(home, NARROW, [*told, poison, message(temp=1e6)], until)
    assert len(advance(home, NARROW, until).refused) == 1
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(4, "for a while")
    soon, later = START + WEATHER.retention, until + WEATHER.retention + HOUR

    def kept() -> int:
        with closing(Inbox(home, NARROW)) as inbox:
            return sum(inbox.refused().values())

    assert (forget_messages(home, NARROW, soon, 4), kept()) == (0, 3)
    assert len(retry(home, NARROW, soon)) == 1
    advance(home, NARROW, until)
    assert kept() == 4, "the copy is set aside too"
    assert (forget_messages(home, NARROW, later, 3), kept()) == (1, 3), "what was no message"
    assert retry(home, NARROW, later) == []
    with closing(Inbox(home, WEATHER)) as inbox:
        inbox.set_aside(5, "still")
    assert (forget_messages(home, NARROW, later, 5), kept()) == (2, 0)
    offline.update(home, NARROW, files, until=until)
    assert advance(home, NARROW, until).refused == ()
    assert 99.0 not in [r["temp"] for r in raw(home, NARROW)]


def test_a_message_that_another_service_has_stays(tmp_path: Path) -> None:
    """Until that service is gone: then nothing counts it."""
    home, until = first_version(tmp_path, NARROW), START + 4 * HOUR
    offline.update(home, WEATHER, offline.newest(home, NARROW).built.tables, until=START)
    receive(home, NARROW, [message()], until)
    with closing(Inbox(home, NARROW)) as inbox:
        inbox.set_aside(1, "cannot be")
    later = until + WEATHER.retention
    assert forget_messages(home, NARROW, later, 1) == 0
    offline.update(home, WEATHER, offline.newest(home, NARROW).built.tables, until=until)
    assert advance(home, WEATHER, until).messages == 1
    shutil.rmtree(tmp_path / "offline" / WEATHER.service)
    assert forget_messages(home, NARROW, later, 1) == 1
    with closing(Inbox(home, NARROW)) as inbox:
        assert (inbox.last, inbox.refused()) == (1, {})
