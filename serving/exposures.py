"""Who met which arm, and when first: each unit once, through retries, processes and kills.

Each process appends to a file of its own, ``experiments/<name>/exposures/<id>.jsonl``, a line for
each unit that it has not seen: ``{"unit", "arm", "at"}``. A line is one write, before the answer
leaves: a killed process loses none that was written, and what was cut short belongs to an answer
that was never sent, so its retry writes anew. Processes do not wait for each other: several may
write the same unit, and ``read`` keeps the first. A power cut may take the last seconds' lines;
the units' next requests write them again.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.errors import StateError
from feature_repo.home import Home
from serving.assignment import assign
from serving.experiment import Experiment, load

if TYPE_CHECKING:
    import pyarrow as pa

WAY_OUT = "restore it from a backup, or move it away and say so beside the result"


class ExposureLog:
    """One process's part of an experiment's log; safe among threads. It keeps the units that it
    wrote in memory: about 100 bytes each.

    Raises:
        DeclarationError: the experiment has not begun in this home.
        StateError: (first, and of ``expose``) its file cannot be written.
    """

    def __init__(self, home: Home, experiment: Experiment) -> None:
        self._experiment = load(home, experiment.name)
        self._path = home.path(*_folder(experiment.name), f"{uuid.uuid4().hex}.jsonl")
        try:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as exc:
            raise self._broken(str(exc)) from exc
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def expose(self, unit: str, at: datetime | None = None) -> str:
        """The arm of a unit, whose first exposure is on record when this returns.

        Outside of start to end nothing is recorded: the unit is answered by its arm all the same.
        """
        now = at or datetime.now(timezone.utc)
        arm = assign(self._experiment, unit)
        if not self._experiment.start <= now < self._experiment.end:
            return arm
        with self._lock:
            if unit not in self._seen:
                line = {"unit": unit, "arm": arm, "at": now.astimezone(timezone.utc).isoformat()}
                self._append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
                self._seen.add(unit)
        return arm

    def fresh(self, units: Iterable[str], now: datetime) -> list[str]:
        """Those of the units that ``expose`` would write a line for now."""
        if not self._experiment.start <= now < self._experiment.end:
            return []
        return [unit for unit in units if unit not in self._seen]

    def close(self) -> None:
        """Have all lines on disk and close the file."""
        os.fsync(self._file)
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        whole = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) == len(line):
                return
            os.ftruncate(self._file, whole)  # else the next line would go on from the part
        except OSError as exc:
            raise self._broken(str(exc)) from exc
        raise self._broken("it took a part of a line only")

    def _broken(self, reason: str) -> StateError:
        return StateError(
            f"the exposure log {self._path} cannot be written ({reason}); free disk space, or let "
            "this user write there: a unit's next request is recorded then"
        )


def read(home: Home, name: str) -> pa.Table:
    """First exposure of each unit, in order of time: unit (string), arm (string), exposed_at
    (timestamp[us, UTC]).

    Raises:
        DeclarationError: no such experiment has begun.
        StateError: a line is damaged, or its arm is not the one that the hash gives.
    """
    import pyarrow as pa

    experiment = load(home, name)
    first: dict[str, tuple[datetime, str]] = {}
    for path in sorted(home.root.joinpath(*_folder(name)).glob("*.jsonl")):
        for number, (unit, arm, at) in enumerate(_lines(path), start=1):
            if arm != assign(experiment, unit):
                raise StateError(
                    f"{path}, line {number}: unit {unit!r} met arm {arm!r}, but the experiment "
                    f"assigns {assign(experiment, unit)!r}; {WAY_OUT}"
                )
            if unit not in first or at < first[unit][0]:
                first[unit] = (at, arm)
    rows = sorted((at, unit, arm) for unit, (at, arm) in first.items())
    return pa.table(
        {
            "unit": pa.array([unit for _, unit, _ in rows], pa.string()),
            "arm": pa.array([arm for _, _, arm in rows], pa.string()),
            "exposed_at": pa.array([at for at, _, _ in rows], pa.timestamp("us", tz="UTC")),
        }
    )


def _lines(path: Path) -> list[tuple[str, str, datetime]]:
    """Whole lines; the last one, when a killed process left it without its end, is none."""
    told = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            told.append((entry["unit"], entry["arm"], datetime.fromisoformat(entry["at"])))
        except (ValueError, KeyError, TypeError) as exc:
            raise StateError(f"{path}, line {number} is no exposure ({exc}); {WAY_OUT}") from exc
    return told


def _folder(name: str) -> tuple[str, str, str]:
    return "experiments", name, "exposures"
