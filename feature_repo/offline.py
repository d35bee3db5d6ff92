"""The offline store: every version of a feature service's tables, readable as it was.

A version is one JSON file, ``offline/<service>/<number>.json``, that names content-addressed
tables. It is written last, under the service's lock, and never changed: a reader sees one whole
version or another, and two instants are asked of it, that of the facts (``until``, the ticks) and
that of the record (``created``). A killed writer leaves at most tables that nothing names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from feature_repo.code_version import code_version
from feature_repo.contract import UseCase
from feature_repo.engine import Built
from feature_repo.errors import StateError
from feature_repo.events import check_logs
from feature_repo.home import Home, write_atomically
from feature_repo.services import record
from feature_repo.tables import Table, table_files
from feature_repo.update import rebuilt, update_views
from feature_repo.wording import counted
from feature_repo.zones import Zone, Zones

# What computes views, byte for byte; the cache of the steps that do names it too.
ENGINE = tuple(
    f"feature_repo.{module}"
    for module in (
        "contract", "corrections", "dialect", "duckdb_session", "engine", "schemas", "sql",
        "tables", "ticks", "update", "zones",
    )
)  # fmt: skip
LIBRARIES = ("duckdb", "pandera", "polars", "pyarrow", "sqlglot")
ALL_KEPT = timedelta(days=1)  # for so long no version is forgotten


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of a feature service.

    ``created`` is the wall clock's instant; ``code`` the digest of the engine that computed it:
    another engine starts anew. ``corrected``, ``added``, ``rebuilt``: see ``update.Updated``.
    ``quarantine`` and ``rows_read`` are the ingestion's (a stream has none). ``offset``: how many
    messages of the stream are in it. ``unkeyed``: events of new parts that lack an entity's key,
    in words.
    """

    number: int
    created: datetime
    use_case: str
    service: str
    code: str
    built: Built
    corrected: int
    added: int
    rebuilt: int
    quarantine: Table | None
    rows_read: int
    offset: int
    unkeyed: str = ""

    @property
    def until(self) -> datetime:
        """The last tick; aware, UTC."""
        return datetime.fromtimestamp(self.built.until, tz=timezone.utc)

    @property
    def from_source(self) -> bool:
        """Whether it was made from the source's files, and not by a step of the stream."""
        return self.quarantine is not None

    @property
    def summary(self) -> str:
        """What it holds and what it cost, in words."""
        rows = sum(view.rows for view in self.built.views)
        return (
            f"{counted(rows, 'row')} up to {self.until:%Y-%m-%d %H:%M}Z: version {self.number}, "
            f"{counted(self.added, 'row')} added, {self.corrected:,} corrected"
            + (f", {counted(self.rebuilt, 'view')} computed from the start" if self.rebuilt else "")
            + (f"; {self.unkeyed}" if self.unkeyed else "")
        )

    @property
    def tables(self) -> list[Table]:
        """Every table that it names."""
        more = [self.quarantine] if self.quarantine else []
        return [*self.built.tables, *self.built.views, *self.built.states, *more]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where raw tables come from: the source's files, with what broke their contract and how many
    rows they had; or the stream, whose messages up to the number ``offset`` are in them on top of
    those of the version with the number ``after``."""

    quarantine: Table | None = None
    rows_read: int = 0
    offset: int = 0
    after: int | None = None


def update(
    home: Home,
    use_case: UseCase,
    tables: list[Table],
    origin: Origin = Origin(),
    *,
    until: datetime | None = None,
    build: Callable[[], Built] | None = None,
) -> Version:
    """The next version, of the raw ``tables`` as they are now; the newest one where it is that.

    Its ticks go up to ``until``, or as far as the data and the version before reach. ``build``:
    another engine, which computes every view from the start.

    Raises:
        StateError: another version than ``origin.after`` is the newest by now.
        SourceError: a value outside its declared bounds, a key twice, or an event that cannot be
            (see ``events``).
    """
    with home.lock(f"offline-{use_case.service}"):
        last = head(home, use_case)
        number = last.number if last else 0
        if origin.after not in (None, number):
            raise StateError(
                f"{use_case.service}: version {number} was made while the one after "
                f"{origin.after} was prepared; nothing is lost: run the step again"
            )
        before = last.built if last and last.code == engine_code() else None
        unkeyed = check_logs(use_case, tables, before.tables if before else ())
        made = rebuilt(build()) if build else update_views(home, use_case, tables, before, until)
        if last and made.built == before and _tells_no_more(origin, last):
            return last
        version = Version(
            number=number + 1, created=datetime.now(timezone.utc), use_case=use_case.name,
            service=use_case.service, code=engine_code(), built=made.built,
            corrected=made.corrected, added=made.added, rebuilt=made.rebuilt,
            quarantine=origin.quarantine, rows_read=origin.rows_read, offset=origin.offset,
            unkeyed=", ".join(filter(None, map(str, unkeyed))),
        )  # fmt: skip
        record(home, use_case)
        _write(home, version)
    return version


def renew(home: Home, use_case: UseCase, tables: list[Table]) -> Version | None:
    """Make the version of these raw tables the newest one from the source again, where another
    one from the source came after it: a run that took it from a cache says what holds now. None
    where nothing was to be done."""
    with home.lock(f"offline-{use_case.service}"):
        made = [version for version in versions(home, use_case) if version.from_source]
        mine = [version for version in made if version.built.tables == tables]
        if not mine or mine[-1] is made[-1]:
            return None
        number = int(_files(home, use_case.service)[-1].stem) + 1
        again = replace(mine[-1], number=number, created=datetime.now(timezone.utc))
        _write(home, again)
    return again


def _tells_no_more(origin: Origin, last: Version) -> bool:
    return origin.offset == last.offset and origin.quarantine in (None, last.quarantine)


def _write(home: Home, version: Version) -> None:
    text = json.dumps(asdict(version), default=str).encode()
    write_atomically(_folder(home, version.service) / f"{version.number:08d}.json", text)


def head(home: Home, use_case: UseCase) -> Version | None:
    """The newest version of the use case's service; None before the first."""
    files = _files(home, use_case.service)
    return _read(files[-1]) if files else None


def newest(home: Home, use_case: UseCase) -> Version:
    """The newest version of the use case's service.

    Raises:
        StateError: there is none yet.
    """
    version = head(home, use_case)
    if version is None:
        raise StateError(
            f"{use_case.service}: no version of the features in {home.root} yet; run the use "
            "case's workflow, or set AIRWORTHY_HOME to the home that has one"
        )
    return version


def versions(home: Home, use_case: UseCase) -> list[Version]:
    """Every kept version, oldest first."""
    return [*reversed([*newest_first(home, use_case)])]


def newest_first(home: Home, use_case: UseCase) -> Iterator[Version]:
    """Every kept version, newest first, each read when it is asked for."""
    return map(_read, reversed(_files(home, use_case.service)))


def prune(
    home: Home, use_case: UseCase, now: datetime, needed: Collection[str] = ()
) -> list[Version]:
    """Forget versions; their tables go with the next clean-up, unless something else names them.
    Returns the forgotten ones. Kept are

    * the newest one, and all of the last day: readers and runs may be at work on them;
    * within ``UseCase.retention``, of each day (UTC, by creation) the last one, and the last one
      that was made from the source: its quarantine is the day's;
    * those whose views a model was trained on: ``needed`` holds the digest of each of them.
    """
    with home.lock(f"offline-{use_case.service}"):
        kept = versions(home, use_case)
        of_day = {(v.created.date(), v.from_source): v.number for v in kept}
        old = [v for v in kept[:-1] if now - v.created > ALL_KEPT]
        old = [
            v
            for v in old
            if now - v.created > use_case.retention or v.number not in of_day.values()
        ]
        old = [v for v in old if not {view.digest for view in v.built.views} <= {*needed}]
        for version in old:
            (_folder(home, use_case.service) / f"{version.number:08d}.json").unlink()
    return old


def sizes(kept: list[Version]) -> list[int]:
    """Bytes that each version added to those before it: parts that it does not share."""
    seen: set[int] = set()
    added = []
    for version in kept:
        stats = [path.stat() for table in version.tables for path in table_files(table)]
        fresh = {stat.st_ino: stat.st_size for stat in stats if stat.st_ino not in seen}
        seen |= set(fresh)
        added.append(sum(fresh.values()))
    return added


def report(home: Home, use_case: UseCase) -> str:
    """The kept versions as a table: number, when, up to which tick, rows, megabytes."""
    kept = versions(home, use_case)
    if not kept:
        return f"{use_case.service}: no version yet; run the use case's workflow"
    lines = [
        f"{'version':>7}  {'created (UTC)':<26}  {'until (UTC)':<16}  {'rows':>11}  {'added':>10}  "
        f"{'corrected':>9}  {'new MB':>7}"
    ]
    added = sizes(kept)
    for version, size in zip(kept, added, strict=True):
        rows = sum(view.rows for view in version.built.views)
        lines.append(
            f"{version.number:>7}  {version.created:%Y-%m-%d %H:%M:%S.%f}  "
            f"{version.until:%Y-%m-%d %H:%M}  {rows:>11,}  {version.added:>10,}  "
            f"{version.corrected:>9,}  {size / 1e6:>7,.1f}"
        )
    return "\n".join([
        f"{use_case.service}: {counted(len(kept), 'version')}, {sum(added) / 1e6:,.1f} MB, "
        f"kept for {use_case.retention / timedelta(days=1):g} days", *lines,
    ])  # fmt: skip


def engine_code() -> str:
    """Digest of the code that computes views and of the libraries that it does so with."""
    return code_version(*ENGINE, libraries=LIBRARIES)


def _folder(home: Home, service: str) -> Path:
    return home.path("offline", service, "x").parent


def _files(home: Home, service: str) -> list[Path]:
    return sorted((home.root / "offline" / service).glob("[0-9]*.json"))


def _read(path: Path) -> Version:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        built = document.pop("built")
        lists = {name: [Table(**t) for t in built[name]] for name in ("tables", "views", "states")}
        zones: dict[str, Zones] = {
            log: {file: Zone(*zone) for file, zone in files.items()}
            for log, files in built["zones"].items()
        }
        quarantine = document.pop("quarantine")
        return Version(
            **(document | {"created": datetime.fromisoformat(document["created"])}),
            built=Built(until=built["until"], zones=zones, **lists),
            quarantine=Table(**quarantine) if quarantine else None,
        )
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise StateError(
            f"{path} is damaged ({exc}); remove it: the version before it becomes the newest"
        ) from exc
