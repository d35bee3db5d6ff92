"""The prediction log's open files: each process appends to a segment of its own.

``predictions/<use case>/<segment>.log`` is written by one process, which holds a lock on it
(flock) until it ends. A segment whose writer is done, or dead, is sealed (see ``sealing``).
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import StateError
from feature_repo.home import Home, sync
from feature_repo.inputs import input_columns
from serving.answered import Answered, new_id
from serving.frames import Header, Scan, decode_header, encode, encode_header, scan
from serving.telemetry import log

if TYPE_CHECKING:
    from feature_repo.contract import UseCase

ROTATE_BYTES = 64 * 1024 * 1024
ROTATE_SECONDS = 600.0
SEGMENT = ".log"


class PredictionLog:
    """Appends answers of one use case to this process's segment; used by one thread at a time.

    ``share``: of the requests, the part that is recorded; it is told in every file.

    Raises:
        StateError: the folder or the segment cannot be written.
    """

    def __init__(
        self,
        home: Home,
        use_case: UseCase,
        *,
        share: float = 1.0,
        rotate_bytes: int = ROTATE_BYTES,
        rotate_seconds: float = ROTATE_SECONDS,
    ) -> None:
        self._home = home
        self._limits = rotate_bytes, rotate_seconds
        self._folder = folder_of(home, use_case.name)
        self._header = Header(
            use_case=use_case.name,
            layouts={
                "store": [spec.name for spec in use_case.features],
                "vector": list(input_columns(use_case).numeric),
            },
            views=[view.name for view in use_case.views],
            share=share,
        )
        self._due = time.monotonic() + rotate_seconds
        self._sealer: subprocess.Popen[bytes] | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._segment: _Segment | None = _Segment(self._folder, self._header)
        except OSError as exc:
            raise self._broken(exc) from exc

    @property
    def share(self) -> float:
        """Of the requests, the part that is to be recorded."""
        return self._header.share

    def frame(self, answered: Answered) -> bytes:
        """The bytes of one request's answers; see ``frames.encode``."""
        return encode(answered, self._header)

    def record(self, *answered: Answered) -> None:
        """Write requests' answers, each request's whole or not at all; they are on disk when this
        returns.

        Raises:
            StateError: they cannot be written.
        """
        self.write([self.frame(one) for one in answered])

    def write(self, frames: Sequence[bytes], durable: bool = True) -> None:
        """Append frames; ``durable``: they are on disk when this returns.

        Raises:
            StateError: they cannot be written; none of them is in the log.
        """
        try:
            if self._segment is None:
                self._segment = _Segment(self._folder, self._header)
            try:
                self._segment.append(b"".join(frames), durable)
            except OSError:
                # After a failed sync nobody knows what is on disk: go on in another file.
                self._segment.close()
                self._segment = None
                raise
        except OSError as exc:
            raise self._broken(exc) from exc
        if self._segment.size >= self._limits[0]:
            self._rotate(self._segment)

    def tend(self) -> float:
        """Now and then end the segment, and have those that are done, a killed process's too,
        sealed by a process of their own, so that no request waits for it. Returns the seconds
        until the next time."""
        left = self._due - time.monotonic()
        if left > 0:
            return left
        self._due = time.monotonic() + self._limits[1]
        segment = self._segment
        if segment is not None and segment.size > segment.start:
            self._rotate(segment)
        elif any(segment is None or path != segment.path for path in segments(self._folder)):
            self._seal()
        return self._limits[1]

    def close(self) -> None:
        """End the segment; whoever runs next seals it."""
        if self._segment is not None:
            with suppress(OSError):
                os.fdatasync(self._segment.descriptor)
            self._segment.close()
        self._segment = None

    def _rotate(self, segment: _Segment) -> None:
        with suppress(OSError):  # the sealed file is synced, and the segment stays until then
            os.fdatasync(segment.descriptor)
        segment.close()
        self._segment = None
        self._seal()

    def _seal(self) -> None:
        if self._sealer is not None and self._sealer.poll() is None:
            return  # the next time
        command = [sys.executable, "-m", "serving.sealing", str(self._home.root)]
        try:
            self._sealer = subprocess.Popen(
                [*command, self._header.use_case],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            log("segments not sealed", logging.WARNING, reason=str(exc))

    def _broken(self, exc: OSError) -> StateError:
        return StateError(
            f"the prediction log {self._folder} cannot be written ({exc}); free disk space, or "
            "let this user write there: no answer is given without its record"
        )


class _Segment:
    """An open file of frames, locked for as long as this process has it."""

    def __init__(self, folder: Path, header: Header) -> None:
        name = new_id()
        self.path = folder / f"{name}{SEGMENT}"
        temporary = folder / f".{name}.{uuid.uuid4().hex}.tmp"
        self.descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self.size = self.start = 0
        try:
            # Locked before it has its name: whoever finds it free knows that its writer is gone.
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            self.append(encode_header(header), durable=True)
            self.start = self.size
            temporary.rename(self.path)
            sync(folder)
        except OSError:
            os.close(self.descriptor)
            temporary.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            raise

    def append(self, data: bytes, durable: bool) -> None:
        """Write all of ``data``, or leave the file as it was."""
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self.descriptor, left) :]
            if durable:
                os.fdatasync(self.descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        """Let go of the file; one without answers goes."""
        if self.size == self.start:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def folder_of(home: Home, use_case: str) -> Path:
    """Where the answers of a use case are recorded."""
    return home.root / "predictions" / use_case


def segments(folder: Path) -> list[Path]:
    """The segments in a folder, oldest first."""
    return sorted(folder.glob(f"[!.]*{SEGMENT}"))


def read_segment(path: Path) -> tuple[Header, bytes, Scan]:
    """A segment's header, its bytes and where its frames (the header's apart) are.

    Raises:
        FileNotFoundError: it was sealed meanwhile.
        StateError: it cannot be read, or is no segment.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise StateError(f"the prediction log {path} cannot be read ({exc}); restore it") from exc
    found = scan(data)
    try:
        start, end = found.frames[0]
        header = decode_header(data[start:end])
    except (IndexError, KeyError, TypeError, ValueError) as exc:
        raise StateError(
            f"the prediction log {path} does not begin as one ({exc!r}): it was changed, or "
            "written by another version of this program: restore it, or put it aside and read it "
            "with that version"
        ) from exc
    return header, data, Scan(frames=found.frames[1:], damaged=found.damaged)


def damage(path: Path, found: Scan) -> StateError:
    """What to say of a segment that holds stretches that are no frames."""
    places = ", ".join(f"{offset:,}" for offset in found.damaged[:3])
    return StateError(
        f"the prediction log {path} is damaged at byte {places}; {len(found.frames):,} of its "
        "frames are whole: restore it from a copy, or keep them and put the damaged file aside "
        f"with 'pyflyte run workflows/predictions.py salvage --use_case {path.parent.name}'"
    )
