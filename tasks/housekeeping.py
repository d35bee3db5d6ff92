"""Removes from a home what no champion, rollback target or ledger entry needs."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from flytekit import task

from feature_repo.errors import StateError
from feature_repo.home import Home, open_home, write_atomically
from feature_repo.registry import USE_CASES
from serving import ledger
from serving.answer_files import folders
from serving.artifact import LINEAGE
from serving.sealing import expired, seal_ended
from tasks.ledger import own_trust
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL

SEEN = "unneeded.json"
ABANDONED = timedelta(days=7)  # a training that was killed may be gone on with until then
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=30),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def clean_home(grace_minutes: int, remove: bool) -> str:
    """Remove leftovers of killed runs, objects that nothing names and answers past their
    retention; says what and how much. What killed servers recorded is sealed first.

    What was written in the last ``grace_minutes`` stays, and so does what a running pipeline may
    still find in the cache: it goes with a later clean-up. Without ``remove`` it is only told.

    Raises:
        LedgerError: the ledger was changed, so what it needs cannot be known.
    """
    home = open_home()
    sealed = seal_logs(home) if remove else []
    return "\n".join([*sealed, clean(home, timedelta(minutes=grace_minutes), remove=remove)])


def seal_logs(home: Home) -> list[str]:
    """Seal what servers that are gone recorded; what was done and what could not be, in words."""
    said = []
    for folder in folders(home):
        try:
            made = seal_ended(home, folder.name)
        except StateError as exc:
            said.append(f"NOT SEALED: {exc}")
        else:
            said += [f"sealed {len(made)} segments of {folder.name}'s predictions"] if made else []
    return said


def clean(home: Home, grace: timedelta, *, remove: bool) -> str:
    """The clean-up's report; nothing is removed without ``remove``.

    What Flyte's cache may name goes in two steps, since a running pipeline that finds it there
    leaves no trace: when it is first seen that nothing needs it, the home takes another identity,
    so that no later pipeline finds it; it goes once those that were running have had ``grace``.
    """
    with home.lock("certify"):
        needed, now = needed_digests(home), time.time()
        before = now - grace.total_seconds()
        found = {str(path.relative_to(home.root)): path for path in unneeded(home, needed)}
        old = {name: path for name, path in found.items() if _written(path) < before}
        seen = {n: at for n, at in _seen(home).items() if n in old and _written(old[n]) <= at}
        fresh = [name for name, path in old.items() if _may_be_cached(path) and name not in seen]
        seen |= dict.fromkeys(fresh, now)
        gone = {name: path for name, path in old.items() if seen.get(name, 0) <= before}
        sizes = {name: _size(path) for name, path in gone.items()}
        if remove and fresh:  # first: killed in between, no cached step names what is gone
            (home.root / "home-id").unlink(missing_ok=True)
        if remove:
            write_atomically(home.root / SEEN, json.dumps(seen, indent=1).encode())
        for path in gone.values() if remove else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    verb = "removed" if remove else "would remove"
    lines = [f"  {name}  {size / 1e6:,.1f} MB" for name, size in sizes.items()]
    total = f"{verb} {len(gone):,} objects, {sum(sizes.values()) / 1e6:,.1f} MB, from {home.root}"
    again = ["a cached step may name what goes: the next run computes every step anew"]
    minutes = grace / timedelta(minutes=1)
    stay = [
        f"{len(old) - len(gone):,} more go with a clean-up {minutes:g} minutes after they were "
        "first seen: a running pipeline may read them from the cache"
    ]
    kept = (
        f"kept what the ledger's {len(ledger.entries(home)):,} entries, their models and the "
        "versions of the features need"
    )
    return "\n".join([total, *lines, *again * bool(fresh), *stay * (len(old) > len(gone)), kept])


def _seen(home: Home) -> dict[str, float]:
    """When (epoch seconds) a clean-up first saw that nothing needs what the cache may name."""
    try:
        found: dict[str, float] = json.loads((home.root / SEEN).read_bytes())
    except (OSError, ValueError):  # lost: it is seen anew, and waits longer
        return {}
    return found


def needed_digests(home: Home) -> set[str]:
    """``accounted_digests``, and those of the tables in each version of the features and of the
    training sets of sweeps that are not over.

    Raises:
        LedgerError: the ledger was changed, so what it needs cannot be known.
    """
    ledger.verify(home, own_trust(home))
    found = accounted_digests(home)
    for version in (home.root / "offline").glob("*/[0-9]*.json"):
        found |= set(DIGEST.findall(version.read_text()))
    for sweep in (home.root / "sweeps").glob("*/sweep.json"):
        found |= set(DIGEST.findall(sweep.read_text()))
    return found


def accounted_digests(home: Home) -> set[str]:
    """Digests that the ledger names, and those that the models it names were made from."""
    path = ledger.ledger_path(home)
    found = set(DIGEST.findall(path.read_text())) if path.exists() else set()
    for model in (home.root / "models").glob("*/*"):
        if model.name in found and (model / LINEAGE).exists():
            found |= set(DIGEST.findall((model / LINEAGE).read_text()))
    return found


def unneeded(home: Home, needed: set[str]) -> Iterator[Path]:
    """Temporary files of killed processes, tables, folders and models that nothing names, the
    online rows of declarations that no program and no version knows, and answers past their
    retention."""
    leftovers = set(home.root.rglob(".*.tmp"))
    yield from sorted(path for path in leftovers if leftovers.isdisjoint(path.parents))
    for store in ("tables/*", "folders/*", "models/*/*"):
        for path in sorted(home.root.glob(f"{store}")):
            if not path.name.startswith(".") and path.name.split(".")[0] not in needed:
                yield path
    services = {use_case.service for use_case in USE_CASES.values()}
    services |= {path.name for path in (home.root / "offline").glob("*")}
    for path in sorted((home.root / "online").glob("[!.]*.db*")):
        if path.name.split(".")[0] not in services:
            yield path
    yield from checkpoints(home, needed)
    yield from expired(home, datetime.now(timezone.utc))


def checkpoints(home: Home, needed: set[str]) -> Iterator[Path]:
    """Attempts at trainings that ended in weights which nothing needs, or that nobody went on with
    for ``ABANDONED``. Those in object storage are the storage's own rules' to remove."""
    before = time.time() - ABANDONED.total_seconds()
    for attempt in sorted(home.root.glob("checkpoints/*/*/[0-9]*")):
        finished = attempt / "finished"
        if finished.exists():
            if finished.read_text() not in needed:
                yield attempt
        elif _written(attempt) < before:
            yield attempt


def _may_be_cached(path: Path) -> bool:
    """Whether Flyte's cache may name it as a step's output: it knows tables, folders and
    checkpoints."""
    held = path.parent.name in {"tables", "folders"} or "checkpoints" in path.parts
    return held and not path.name.startswith(".")


def _written(path: Path) -> float:
    """When it was last written (epoch seconds); now, where a running pipeline has just put its
    temporary file in place."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())
