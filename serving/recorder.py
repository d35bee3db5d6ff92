"""One thread that writes the prediction log for an event loop, in either of two ways.

*Durable*: an answer leaves once its record is on disk. Requests that wait while one commit is
under way share the next, so a slow disk costs each at most two, however many there are.
*Queued*: answers leave at once; records wait in a queue of bounded size, for a quarter of a
second, and what does not fit, or cannot be written, is counted and told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

from feature_repo.errors import StateError
from serving.answered import Answered, sampled
from serving.segments import PredictionLog
from serving.telemetry import log

QUEUE_BYTES = 64 * 1024 * 1024
_LINGER = 0.25  # seconds that the queue gathers, so that a write costs its thread's wake-up once
_TOLD_EVERY = 10.0  # seconds between two log lines about what is lost


@dataclass(kw_only=True, slots=True)
class Counts:
    """Answers so far: ``recorded``; ``unsampled``, those of requests outside the share; and the
    lost ones of the queued way: ``dropped`` for want of room, ``failed`` to be written."""

    recorded: int = 0
    unsampled: int = 0
    dropped: int = 0
    failed: int = 0


class _Waiting(NamedTuple):
    """A frame of ``rows`` answers, and who waits until it is on disk."""

    frame: bytes
    rows: int
    done: asyncio.Future[None] | None


class Recorder:
    """Writes what requests of one event loop, or of several threads, hand over.

    ``queue_bytes``: how much of what is queued may wait. Of what is offered to the queue, the
    log's share is taken (see ``sampled``).
    """

    def __init__(self, prediction_log: PredictionLog, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self.counts = Counts()
        self._log = prediction_log
        self._room = queue_bytes
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._closing = False
        self._told = (0.0, 0)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    async def record(self, answered: Answered) -> None:
        """Return when the answers are on disk.

        Raises:
            StateError: they cannot be recorded.
        """
        frame = self._log.frame(answered)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Waiting(frame, len(answered.ids), done))
        await done

    def offer(self, answered: Answered) -> bool:
        """Take the answers for recording and return at once; False where they will not be, since
        they are outside the share or there is no room."""
        rows = len(answered.ids)
        if not sampled(answered, self._log.share):
            self.counts.unsampled += rows
            return False
        frame = self._log.frame(answered)
        if self._bytes + len(frame) > self._room:
            self.counts.dropped += rows
            return False
        self._put(_Waiting(frame, rows, None))
        return True

    def close(self) -> None:
        """Write what waits, then end the log."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._log.close()

    def _put(self, waiting: _Waiting) -> None:
        with self._changed:
            if self._closing:
                raise StateError("the prediction log is closed: the server is stopping; ask again")
            self._waiting.append(waiting)
            self._bytes += len(waiting.frame)
            if waiting.done is not None or self._bytes > self._room // 4:
                self._changed.notify()

    def _run(self) -> None:
        due = self._tend()
        while True:
            with self._changed:
                if not self._waiting and not self._closing:
                    self._changed.wait(min(due, _LINGER))
                batch, self._waiting = self._waiting, []
                closing = self._closing
            if batch:
                self._write(batch)
            elif closing:
                return
            due = self._tend()

    def _tend(self) -> float:
        """Seconds until the log's next upkeep. Without this thread no answer is recorded any more,
        so what stands in the way (too many open files, say) must not end it."""
        try:
            return self._log.tend()
        except Exception as exc:
            log("prediction log not tended", logging.ERROR, reason=repr(exc))
            return _TOLD_EVERY

    def _write(self, batch: list[_Waiting]) -> None:
        error: Exception | None = None
        durable = any(one.done is not None for one in batch)
        try:
            self._log.write([one.frame for one in batch], durable)
        except Exception as exc:  # whatever it was, each waiting request must hear of it
            error = exc
        with self._changed:
            self._bytes -= sum(len(one.frame) for one in batch)
        if error is None:
            self.counts.recorded += sum(one.rows for one in batch)
        else:
            self.counts.failed += sum(one.rows for one in batch if one.done is None)
        self._tell(error)
        _answer([one.done for one in batch if one.done is not None], error)

    def _tell(self, error: Exception | None) -> None:
        """Log what was lost since it was last told, now and then."""
        at, before = self._told
        lost = self.counts.dropped + self.counts.failed
        if lost == before or (at and time.monotonic() - at < _TOLD_EVERY):
            return
        self._told = time.monotonic(), lost
        reason = str(error or "the queue is full")
        log("answers not recorded", logging.ERROR, answers=lost - before, reason=reason)


def _answer(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    """Let requests go on, each in its loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for done in waiting:
        by_loop.setdefault(done.get_loop(), []).append(done)
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, of_loop, error)
        except RuntimeError:  # its loop was closed: nobody waits any more
            continue


def _settle(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in waiting:
        if done.done():
            continue  # its client is gone
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
