"""Removes from a home what no champion, rollback target or ledger entry needs."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from flytekit import task

from feature_repo.home import Home, open_home
from serving import ledger
from serving.artifact import LINEAGE
from tasks.ledger import own_trust
from tasks.resources import SIGNING_ENVIRONMENT, SIGNING_KEY, SMALL

DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
STORES = ("tables", "folders", "models", "scores", "online", "reports", "releases", "cards")


@task(
    requests=SMALL,
    retries=2,
    timeout=timedelta(minutes=30),
    secret_requests=[SIGNING_KEY],
    environment=SIGNING_ENVIRONMENT,
)
def clean_home(grace_minutes: int, preview: bool) -> str:
    """Remove leftovers of killed runs and objects that nothing names; says what and how much.

    What was written in the last ``grace_minutes`` stays: a running pipeline may need it.

    Raises:
        LedgerError: the ledger was changed, so what it needs cannot be known.
    """
    return clean(open_home(), timedelta(minutes=grace_minutes), preview)


def clean(home: Home, grace: timedelta, preview: bool) -> str:
    """The clean-up's report; nothing is removed when ``preview``."""
    with home.lock("certify"):
        needed = needed_digests(home)
        before = time.time() - grace.total_seconds()
        old = [p for p in unneeded(home, needed) if p.lstat().st_mtime < before]
        sizes = {path: _size(path) for path in old}
        # A cached step may name what goes now: with a new identity, no such result is found.
        if not preview and any(p.parent.name in {"tables", "folders"} for p in old):
            (home.root / "home-id").unlink(missing_ok=True)
        for path in old if not preview else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    verb = "would remove" if preview else "removed"
    lines = [f"  {p.relative_to(home.root)}  {size / 1e6:,.1f} MB" for p, size in sizes.items()]
    total = f"{verb} {len(old):,} objects, {sum(sizes.values()) / 1e6:,.1f} MB, from {home.root}"
    kept = f"kept what the ledger's {len(ledger.entries(home)):,} entries and their models need"
    return "\n".join([total, *lines, kept])


def needed_digests(home: Home) -> set[str]:
    """Digests that the ledger names, those that the models it names were made from, and those of
    the kept versions of the feature tables."""
    ledger.verify(home, own_trust(home))
    path = home.root / "ledger" / "ledger.jsonl"
    found = set(DIGEST.findall(path.read_text())) if path.exists() else set()
    for model in (home.root / "models").glob("*/*"):
        if model.name in found and (model / LINEAGE).exists():
            found |= set(DIGEST.findall((model / LINEAGE).read_text()))
    for version in (home.root / "offline").glob("*/[0-9]*.json"):
        found |= set(DIGEST.findall(version.read_text()))
    return found


def unneeded(home: Home, needed: set[str]) -> Iterator[Path]:
    """Temporary files of killed processes, and tables, folders and models that nothing names."""
    for store in STORES:
        for path in sorted((home.root / store).glob("*")):
            named = store not in {"tables", "folders"} or path.name.split(".")[0] in needed
            if path.name.startswith(".") or not named:
                yield path
    for model in sorted((home.root / "models").glob("*/*")):
        if model.name.startswith(".") or model.name not in needed:
            yield model


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())
