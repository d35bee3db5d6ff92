"""``python -m serving.sealing HOME USE_CASE``: ended segments into Parquet, one file each.

A process of its own, so that no request waits for it and the server loads no Arrow. A sealed
file, ``<last instant>.<first id>.<last id>.<segment>.<CRC32>.parquet``, is complete and on disk
before its segment goes; in between, readers take the sealed one. Its rows are in order of id. The
CRC is of the whole file: Parquet's own ones leave out its footer, names and all.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import AirworthyError, StateError
from feature_repo.home import Home, sync
from serving.answer_table import segment_table
from serving.frames import FORMAT
from serving.segments import damage, folder_of, read_segment, segments
from serving.telemetry import configure_logging, log

if TYPE_CHECKING:
    import pyarrow as pa

RETENTION = timedelta(days=400)  # how long an answer stays auditable
SEALED = ".parquet"
DAMAGED = ".damaged"
_CRC_DIGITS = 8  # a segment's name, the last part of an older file's, has 32
_ROWS = 32_768  # of a row group: what a search for one id reads; small ones cost sealing much


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """A sealed file, as its name tells: the last instant of its answers, and their range of ids."""

    path: Path
    last_at: datetime
    first: str
    last: str
    segment: str


def sealed_files(folder: Path) -> list[Sealed]:
    """The sealed files in a folder, in order of their first id."""
    found = []
    for path in folder.glob(f"[!.]*{SEALED}"):
        try:
            # Older files have no CRC.
            milliseconds, first, last, segment, *_ = path.name.removesuffix(SEALED).split(".")
            at = datetime.fromtimestamp(int(milliseconds, 16) / 1e3, timezone.utc)
        except ValueError as exc:
            raise StateError(
                f"{path} is not named as the prediction log's files are; put it elsewhere, or give "
                "it its name back"
            ) from exc
        found.append(Sealed(path=path, last_at=at, first=first, last=last, segment=segment))
    return sorted(found, key=lambda sealed: (sealed.first, sealed.segment))


def seal_ended(home: Home, use_case: str, salvage: bool = False) -> list[Path]:
    """Seal every segment whose writer is gone; the sealed files. ``salvage``: damaged ones too,
    with the frames that are whole; the damaged file is put aside.

    Raises:
        StateError: a segment is damaged or cannot be read; all others are sealed before.
    """
    made, faults = [], []
    for path in segments(folder_of(home, use_case)):
        try:
            with _ended(path) as ended:
                if ended and (sealed := _seal(path, salvage)):
                    made.append(sealed)
        except OSError as exc:
            faults.append(f"{path} cannot be sealed ({exc}); it stays as it is")
        except StateError as exc:
            faults.append(str(exc))
    if faults:
        raise StateError("; ".join(faults))
    return made


def expired(home: Home, now: datetime) -> Iterator[Path]:
    """Sealed files of any use case whose answers are all older than the retention."""
    for folder in sorted((home.root / "predictions").glob("*")):
        for sealed in sealed_files(folder):
            if now - sealed.last_at > RETENTION:
                yield sealed.path


@contextmanager
def _ended(path: Path) -> Iterator[bool]:
    """Hold the lock of a segment; False where its writer lives, or another process sealed it."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield os.fstat(descriptor).st_nlink > 0
    finally:
        os.close(descriptor)


def _seal(path: Path, salvage: bool) -> Path | None:
    """Seal one segment, whose lock is held; None when it held nothing, or was sealed already."""
    import pyarrow.parquet as pq

    made = None
    if all(sealed.segment != path.stem for sealed in sealed_files(path.parent)):
        header, data, found = read_segment(path)
        if found.damaged and not salvage:
            raise damage(path, found)
        if found.frames:
            table = segment_table(path, data, found.frames, header).sort_by("id")
            told = {"format": FORMAT, "use_case": header.use_case, "share": repr(header.share)}
            table = table.replace_schema_metadata({f"airworthy.{k}": v for k, v in told.items()})
            temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
            pq.write_table(
                table, temporary, compression="zstd", row_group_size=_ROWS,
                write_statistics=["id", "at"], write_page_checksum=True,
            )  # fmt: skip
            sync(temporary)
            made = path.with_name(_name(table, path.stem, zlib.crc32(temporary.read_bytes())))
            temporary.rename(made)
            sync(path.parent)
        if found.damaged:
            path.rename(path.with_name(path.name + DAMAGED))
            return made
    path.unlink()
    return made


def check_sealed(path: Path) -> None:
    """Hold a sealed file against the CRC in its name.

    Raises:
        ValueError: it is another one.
    """
    *_, told = path.name.removesuffix(SEALED).split(".")
    if len(told) == _CRC_DIGITS and int(told, 16) != zlib.crc32(path.read_bytes()):
        raise ValueError("its bytes are not those that were sealed")


def _name(table: pa.Table, segment: str, crc: int) -> str:
    import pyarrow.compute as pc

    last_at = int(pc.max(table["at"]).as_py().timestamp() * 1e3) + 1
    first, last = table["id"][0].as_py(), table["id"][-1].as_py()
    return f"{last_at:012x}.{first}.{last}.{segment}.{crc:08x}{SEALED}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Seal the ended segments of a use case; 1 where one of them cannot be."""
    root, use_case = sys.argv[1:] if arguments is None else arguments
    os.nice(19)  # the server that started it goes first
    configure_logging()
    try:
        made = seal_ended(Home(root=Path(root)), use_case)
    except AirworthyError as exc:
        log("segments not sealed", logging.ERROR, reason=str(exc))
        return 1
    log("segments sealed", use_case=use_case, files=len(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
