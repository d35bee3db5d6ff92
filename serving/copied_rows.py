"""A server's own copy of the online rows: no round trip for a request, at the price of its age."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from feature_repo.errors import StateError
from serving.telemetry import log

if TYPE_CHECKING:
    from feature_repo.online_rows import OnlineRows

_TOO_OLD = 12.0  # times the interval: a copy that could not be renewed for so long is no answer


class CopiedRows:
    """All rows of a store as of at most ``seconds`` ago, renewed by a thread where they changed.

    Raises:
        StateError: (first) the store does not answer; (later) it has not for a while.
    """

    def __init__(self, rows: OnlineRows, seconds: float) -> None:
        self.name = f"copy of {rows.name}"
        self._source = rows
        self._seconds = seconds
        self._rows: Mapping[bytes, bytes] = {}
        self._version = b""
        self._at = 0.0
        self._failure = ""
        self._stopped = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._run, name="store-copy", daemon=True)
        self._thread.start()

    @property
    def age(self) -> float:
        """Seconds since the copy was last known to be what the store holds."""
        return time.monotonic() - self._at

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``OnlineRows``."""
        if self.age > self._seconds * _TOO_OLD:
            raise StateError(
                f"the {self.name} is {self.age:.0f} seconds old and could not be renewed "
                f"({self._failure}); mend the store"
            )
        return list(map(self._rows.get, keys))  # one dictionary: all of one moment

    def close(self) -> None:
        """Stop renewing, and let go of the store."""
        self._stopped.set()
        self._thread.join()
        self._source.close()

    def _renew(self) -> None:
        began = time.monotonic()
        version = self._source.version()
        if version != self._version or not self._rows:
            self._rows = self._source.all()
            self._version = version
        self._at = began

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._renew()
            except StateError as exc:
                if str(exc) != self._failure:
                    log("store copy not renewed", logging.WARNING, reason=str(exc))
                self._failure = str(exc)
            else:
                self._failure = ""
