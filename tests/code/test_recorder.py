"""Recording for an event loop: durably, or through a queue that never makes a request wait."""

from __future__ import annotations

import asyncio
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from log_helpers import WEATHER, as_answered, every, prediction

from feature_repo.errors import StateError
from feature_repo.home import Home
from serving.answered import Answered, sampled
from serving.recorder import Recorder
from serving.segments import PredictionLog, folder_of, segments

# Says an id once its record is durable, many requests at a time.
SERVER = """
import asyncio, sys
from pathlib import Path
from log_helpers import WEATHER, as_answered, prediction
from feature_repo.home import Home
from serving.recorder import Recorder
from serving.segments import PredictionLog
async def client(recorder):
    while True:
        made = prediction()
        await recorder.record(as_answered([made], WEATHER))
        print(made.id, flush=True)
async def serve():
    recorder = Recorder(PredictionLog(Home(root=Path(sys.argv[1])), WEATHER))
    await asyncio.gather(*(client(recorder) for _ in range(16)))
asyncio.run(serve())
"""


def answered(rows: int = 1, request_id: str = "") -> Answered:
    """A request's answers."""
    return as_answered([prediction(row=i, request_id=request_id) for i in range(rows)], WEATHER)


@contextmanager
def full_disk(home: Home) -> Iterator[None]:
    """No file of this process may grow past what the segment has."""
    (path,) = segments(folder_of(home, "weather"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_durable_record_is_on_disk_before_its_request_goes_on(tmp_path: Path) -> None:
    """Sixteen requests at a time share commits; the process is killed."""
    home = Home(root=tmp_path)
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    assert process.stdout is not None
    left = {process.stdout.readline().strip()}
    time.sleep(0.3)
    process.kill()
    left |= {line.strip() for line in process.stdout if line.endswith("\n")}
    process.wait()
    found = [p.id for p in every(home, WEATHER)]
    assert len(found) == len(set(found))
    assert left <= set(found)
    assert len(left) > 16


def test_each_request_hears_of_a_disk_that_fails_and_the_next_is_recorded(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    recorder = Recorder(PredictionLog(home, WEATHER))
    first, lost, last = answered(), [answered(2) for _ in range(5)], answered()

    async def ask() -> list[BaseException | None]:
        await recorder.record(first)
        with full_disk(home):
            heard = await asyncio.gather(*map(recorder.record, lost), return_exceptions=True)
        await recorder.record(last)
        return heard

    heard = asyncio.run(ask())
    recorder.close()
    assert [type(error) for error in heard] == [StateError] * 5
    assert {p.id for p in every(home, WEATHER)} == {*first.ids, *last.ids}
    assert recorder.counts.recorded == 2


def test_want_of_open_files_does_not_end_recording(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    recorder = Recorder(PredictionLog(Home(root=tmp_path), WEATHER, rotate_seconds=0.01))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        end = time.monotonic() + 10
        while "not tended" not in caplog.text and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "not tended" in caplog.text
    asyncio.run(asyncio.wait_for(recorder.record(answered()), 10))
    recorder.close()


def test_a_request_that_was_given_up_stops_no_other(tmp_path: Path) -> None:
    recorder = Recorder(PredictionLog(Home(root=tmp_path), WEATHER))

    async def ask() -> None:
        gone = asyncio.create_task(recorder.record(answered()))
        await asyncio.sleep(0)
        gone.cancel()
        await recorder.record(answered())

    asyncio.run(ask())
    recorder.close()
    assert recorder.counts.recorded == 2
    with pytest.raises(StateError, match="the server is stopping"):
        asyncio.run(recorder.record(answered()))


def test_what_was_taken_into_the_queue_is_written_at_the_end(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    recorder = Recorder(PredictionLog(home, WEATHER))
    made = [answered(3) for _ in range(100)]
    assert all(recorder.offer(one) for one in made)
    recorder.close()
    assert {p.id for p in every(home, WEATHER)} == {i for one in made for i in one.ids}
    assert recorder.counts.recorded == 300


def test_the_queue_is_written_without_being_asked(tmp_path: Path) -> None:
    recorder = Recorder(PredictionLog(Home(root=tmp_path), WEATHER))
    assert recorder.offer(answered())
    end = time.monotonic() + 10
    while not recorder.counts.recorded:
        assert time.monotonic() < end
        time.sleep(0.05)
    recorder.close()


def test_what_does_not_fit_the_queue_is_counted_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It neither waits nor grows; what fitted is written, and then there is room again."""
    home, one = Home(root=tmp_path), answered(2)
    log = PredictionLog(home, WEATHER)
    recorder = Recorder(log, queue_bytes=10 * len(log.frame(one)))
    logging.getLogger("airworthy").propagate = True
    made = [answered(2) for _ in range(100)]
    with caplog.at_level(logging.ERROR, "airworthy"):
        taken = [one for one in made if recorder.offer(one)]
        end = time.monotonic() + 10
        while recorder.counts.recorded < 2 * len(taken):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert 10 <= len(taken) < 100
    assert recorder.counts.dropped == 2 * (100 - len(taken))
    told = [record for record in caplog.records if record.message == "answers not recorded"]
    assert told[0].__dict__["facts"]["reason"] == "the queue is full"
    assert recorder.offer(last := answered())
    recorder.close()
    found = {p.id for p in every(home, WEATHER)}
    assert found == {i for one in [*taken, last] for i in one.ids}


def test_the_queue_counts_what_the_disk_refuses_and_recovers(tmp_path: Path) -> None:
    home = Home(root=tmp_path)
    recorder = Recorder(PredictionLog(home, WEATHER))
    with full_disk(home):
        assert recorder.offer(answered(5))
        end = time.monotonic() + 10
        while not recorder.counts.failed:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert recorder.offer(last := answered())
    recorder.close()
    assert recorder.counts.failed == 5
    assert [p.id for p in every(home, WEATHER)] == last.ids


def test_a_share_of_the_requests_is_recorded_whole_and_in_pairs(tmp_path: Path) -> None:
    """A request's id decides, so a champion and its shadow record the same ones."""
    homes = [Home(root=tmp_path / name) for name in ("champion", "shadow")]
    recorders = [Recorder(PredictionLog(home, WEATHER, share=0.25)) for home in homes]
    for n in range(1000):
        one = answered(2, request_id=f"request-{n}")
        assert len({recorder.offer(one) for recorder in recorders}) == 1
    for recorder in recorders:
        recorder.close()
    first, second = ({(p.request_id, p.row) for p in every(home, WEATHER)} for home in homes)
    assert first == second
    assert {(name, 1 - row) for name, row in first} == first
    assert 400 < len(first) < 600
    assert recorders[0].counts.unsampled == 2000 - len(first)


def test_without_a_request_id_the_first_answer_s_decides() -> None:
    made = [answered(2) for _ in range(2000)]
    kept = [one for one in made if sampled(one, 0.1)]
    assert 130 < len(kept) < 270
    assert all(sampled(replace(one, ids=[one.ids[0], "x"]), 0.1) for one in kept)
    assert all(sampled(one, 1.0) for one in made)
    assert not any(sampled(one, 0.0) for one in made)
