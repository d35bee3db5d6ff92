"""The prediction log's files under harm: kills, torn tails, flipped bytes, full disks."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import killed_at
from log_helpers import WEATHER, as_answered, every, prediction, record

from feature_repo.errors import StateError
from feature_repo.home import Home
from serving.predictions import find
from serving.sealing import DAMAGED, main, seal_ended, sealed_files
from serving.segments import PredictionLog, folder_of, segments

LONG = bool(os.environ.get("AIRWORTHY_LONG_DRILLS"))
HERE = Path(__file__).parent
# Records requests of one to three answers durably, and says which ids are on disk.
WRITER = """
import sys
from log_helpers import WEATHER, as_answered, prediction
from feature_repo.home import Home
from serving.segments import PredictionLog
from pathlib import Path
log = PredictionLog(Home(root=Path(sys.argv[1])), WEATHER, rotate_bytes=int(sys.argv[3]))
for n in range(int(sys.argv[2])):
    rows = [prediction(row=i) for i in range(n % 3 + 1)]
    log.record(as_answered(rows, WEATHER))
    print(*(row.id for row in rows), flush=True)
log.close()
"""


def writer(home: Home, requests: int, rotate_bytes: int = 1 << 26) -> subprocess.Popen[str]:
    """A process that records."""
    command = [sys.executable, "-c", WRITER, str(home.root), str(requests), str(rotate_bytes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HERE)


def said(process: subprocess.Popen[str]) -> set[str]:
    """The ids that a process said are on disk; a line that it could not end is none."""
    assert process.stdout is not None
    return {i for line in process.stdout if line.endswith("\n") for i in line.split()}


def folder(home: Home) -> Path:
    return folder_of(home, "weather")


def test_each_answer_that_left_is_found_once_after_a_kill(tmp_path: Path) -> None:
    """At random moments, segments being sealed by a process of their own meanwhile."""
    home, left, chance = Home(root=tmp_path), set[str](), random.Random(1)
    for _ in range(12 if LONG else 4):
        process = writer(home, 100_000, rotate_bytes=20_000)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        left |= said(process) | set(first.split())
        process.wait()
    found = [p.id for p in every(home, WEATHER)]
    assert len(found) == len(set(found)) >= len(left) > 50
    assert left <= set(found)
    seal_until_done(home)
    assert sorted(p.id for p in every(home, WEATHER)) == sorted(found)
    assert find(home, min(left)) is not None


def seal_until_done(home: Home) -> None:
    """Until the sealers of killed processes are done as well."""
    end = time.monotonic() + 60
    while segments(folder(home)):
        seal_ended(home, "weather")
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_processes_write_at_once_and_their_segments_are_left_alone(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    writers = [writer(home, 60) for _ in range(2)]
    for process in writers:
        assert process.stdout is not None
        process.stdout.readline()
    seal_ended(home, "weather")  # both write still, or have closed theirs well
    assert all(process.wait() == 0 for process in writers)
    assert len(every(home, WEATHER)) == 240
    seal_until_done(home)
    assert len(every(home, WEATHER)) == 240


def test_the_segment_of_a_living_process_is_not_sealed(tmp_path: Path) -> None:
    home, made = Home(root=tmp_path), prediction()
    log = PredictionLog(home, WEATHER)
    log.record(as_answered([made], WEATHER))
    assert seal_ended(home, "weather") == []
    assert find(home, made.id) == made
    log.close()
    assert len(seal_ended(home, "weather")) == 1
    assert find(home, made.id) == made


def test_a_process_without_answers_leaves_no_file(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    log = PredictionLog(home, WEATHER, rotate_seconds=0)
    assert len(segments(folder(home))) == 1
    assert log.tend() == 0
    log.close()
    assert list(folder(home).iterdir()) == []


def test_a_torn_tail_is_no_record_and_no_damage(tmp_path: Path) -> None:
    """Cut at any byte of the last frame, or zeros that never were written."""
    home, whole, torn = Home(root=tmp_path), prediction(), prediction()
    record(home, WEATHER, whole, torn)
    (path,) = segments(folder(home))
    data = path.read_bytes()
    last = data.rindex(b"AWF1")
    for cut in (last + 1, last + 11, last + 12, last + 400, len(data) - 1):
        path.write_bytes(data[:cut])
        assert every(home, WEATHER) == [whole]
        assert find(home, torn.id) is None
        path.write_bytes(data[:cut] + bytes(len(data) - cut + 4096))
        assert every(home, WEATHER) == [whole]
    seal_ended(home, "weather")
    assert every(home, WEATHER) == [whole]


@pytest.mark.parametrize("place", ["first", "middle", "last", "length", "magic"])
def test_a_flipped_byte_is_told_with_its_place_and_costs_one_frame(
    tmp_path: Path, place: str
) -> None:
    home, made = Home(root=tmp_path), [prediction() for _ in range(5)]
    record(home, WEATHER, *made)
    (path,) = segments(folder(home))
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data)) if data.startswith(b"AWF1", i)][1:]
    hit = {"first": 0, "last": 4}.get(place, 2)
    data[starts[hit] + {"length": 6, "magic": 1}.get(place, 300)] ^= 16
    path.write_bytes(data)
    said = rf"{path.name} is damaged at byte {starts[hit]:,}; 4 of its frames are whole"
    for answer in made:
        if answer is made[hit]:
            with pytest.raises(StateError, match=said):
                find(home, answer.id)
        else:
            assert find(home, answer.id) == answer
    with pytest.raises(StateError, match=said):
        every(home, WEATHER)
    other = prediction()
    record(home, WEATHER, other)
    assert main([str(tmp_path), "weather"]) == 1, "the other segment is sealed all the same"
    assert segments(folder(home)) == [path]
    assert find(home, other.id) == other

    seal_ended(home, "weather", salvage=True)
    kept = [*made[:hit], *made[hit + 1 :], other]
    assert every(home, WEATHER) == sorted(kept, key=lambda p: p.id)
    assert [p.name for p in folder(home).glob(f"*{DAMAGED}")] == [path.name + DAMAGED]


def test_a_flipped_byte_in_a_sealed_file_is_told(tmp_path: Path) -> None:
    """Wherever it is: in a page, its header or the footer."""
    home = Home(root=tmp_path)
    record(home, WEATHER, *(prediction(score=i / 100) for i in range(100)))
    (path,) = seal_ended(home, "weather")
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(StateError, match="cannot be read"):
            every(home, WEATHER)
    path.write_bytes(whole)
    assert len(every(home, WEATHER)) == 100


def test_a_full_disk_refuses_answers_whole_and_the_log_recovers(tmp_path: Path) -> None:
    """Of a request that does not fit nothing stays; once there is room, the next one is written."""
    home = Home(root=tmp_path)
    log = PredictionLog(home, WEATHER)
    log.record(as_answered([first := prediction()], WEATHER))
    (path,) = segments(folder(home))
    before, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [prediction() for _ in range(20)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before + 1000, limits[1]))
        for _ in range(3):
            with pytest.raises(StateError, match=r"cannot be written .*free disk space"):
                log.record(as_answered(rows, WEATHER))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == before
    assert every(home, WEATHER) == [first]
    log.record(as_answered(rows, WEATHER))
    log.close()
    assert {p.id for p in every(home, WEATHER)} == {first.id, *(row.id for row in rows)}


def test_sealing_killed_at_any_line_loses_and_doubles_nothing(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    made = sorted((prediction() for _ in range(5)), key=lambda p: p.id)
    record(home, WEATHER, *made)
    seal_ended(home, "weather")  # Arrow is loaded before the first child is forked
    (path,) = folder(home).iterdir()
    path.unlink()
    record(home, WEATHER, *made)
    line, kills = 1, 0
    while killed_at(line, "serving.sealing", lambda: seal_ended(home, "weather")):
        assert every(home, WEATHER) == made
        line, kills = line + (1 if LONG else 2), kills + 1
        if not segments(folder(home)):
            break
    assert kills > 10
    seal_ended(home, "weather")
    assert every(home, WEATHER) == made
    assert len(sealed_files(folder(home))) == 1
    assert segments(folder(home)) == []


def test_a_segment_is_ended_by_size_and_age_and_sealed_by_a_process_of_its_own(
    tmp_path: Path,
) -> None:
    home, made = Home(root=tmp_path), [prediction() for _ in range(40)]
    log = PredictionLog(home, WEATHER, rotate_bytes=8_000, rotate_seconds=0)
    for one in made[:30]:
        log.record(as_answered([one], WEATHER))
    deadline = time.monotonic() + 60
    while len(sealed_files(folder(home))) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log.record(as_answered(made[30:], WEATHER))
    while segments(folder(home)):
        log.tend()  # ends it for its age, and seals what came while the sealer ran
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log.close()
    assert {p.id for p in every(home, WEATHER)} == {p.id for p in made}


def test_a_reader_sees_each_answer_once_while_segments_are_sealed(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    process = writer(home, 100_000, rotate_bytes=10_000)
    try:
        assert process.stdout is not None
        left = set(process.stdout.readline().split())
        end = time.monotonic() + (20 if LONG else 2)
        while time.monotonic() < end:
            left |= set(process.stdout.readline().split())
            found = [p.id for p in every(home, WEATHER)]
            assert len(found) == len(set(found))
            assert left <= set(found)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
