"""A pipeline as a user starts it: a process with a home and a Flyte cache of its own.

What a task validated is validated again by the next one, as on a cluster; the cache is off, but
for the runs that tests of the cache look at (``flown``, ``twins`` and what follows them).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_repo.home import Home, digest_of, folder_digests
from feature_repo.registry import get_use_case
from feature_repo.tables import content_digest
from serving import ledger
from serving.loading import load_service
from serving.releases import read_current
from tasks.ledger import own_trust

ROOT = Path(__file__).parent.parent
PYFLYTE = ROOT / "tests" / "pyflyte_without_memo.py"
# Small, and good enough for weather's gate.
SHORT = {
    "epochs": 6, "batch_size": 256, "learning_rate": 0.002, "weight_decay": 0.01, "width": 96,
    "dropout": 0.05, "patience": 6, "layers": 3, "seed": 1,
}  # fmt: skip
REFUSED = SHORT | {"epochs": 1, "learning_rate": 1e-7}


@dataclass(frozen=True)
class Place:
    """A home, and the user's folder in which Flyte keeps its local cache."""

    root: Path
    user: Path
    cache: bool = False
    more: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Home:
        """The home as the code takes it."""
        return Home(root=self.root)

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of the machine's own home or cache is used, nor what tests set for themselves."""
        self.user.mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        return inherited | {
            "HOME": str(self.user),
            "AIRWORTHY_HOME": str(self.root),
            "FLYTE_LOCAL_CACHE_ENABLED": str(self.cache).lower(),
            **self.more,
        }

    def start(self, workflow: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a workflow, ``<file>:<name>``, in a process group of its own."""
        file, _, name = workflow.partition(":")
        return subprocess.Popen(
            [sys.executable, str(PYFLYTE), "run", f"workflows/{file}.py", name, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, workflow: str, *arguments: str) -> Done:
        """Run a workflow to its end."""
        return ended(self.start(workflow, *arguments))

    def fly(self, *arguments: str, **config: Any) -> Done:
        """Run the weather pipeline with a short training."""
        return self.run("weather:weather", *flight(*arguments, **config))

    @property
    def summary(self) -> dict[str, Any]:
        """The newest summary."""
        return summary_of(self.root)


@dataclass(frozen=True)
class Done:
    """An ended process: exit code, and what it printed."""

    code: int
    said: str


@dataclass(frozen=True)
class Flown:
    """A finished weather home, and what its first run printed and summed up."""

    place: Place
    done: Done
    summary: dict[str, Any]

    def copy(self, folder: Path) -> Place:
        """A copy to damage; the Flyte cache is off."""
        shutil.copytree(self.place.root, folder / "home")
        return Place(folder / "home", folder / "user")


@dataclass(frozen=True)
class Twins:
    """Two runs that ended, their place, and the home as they left it (a copy: read only)."""

    place: Place
    done: tuple[Done, ...]
    left: Home


def flight(*arguments: str, **config: Any) -> Sequence[str]:
    """Arguments of a weather run with a short training."""
    return ("--config", json.dumps(SHORT | config), *arguments)


def ended(process: subprocess.Popen[str]) -> Done:
    """Wait for the end of a process; one that does not end in time is killed with its children."""
    try:
        said, _ = process.communicate(timeout=550)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    return Done(process.returncode, said)


def kill_group(process: subprocess.Popen[str]) -> None:
    """kill -9 of a process and of all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def summary_of(root: Path) -> dict[str, Any]:
    """The newest summary in a home."""
    found: dict[str, Any] = json.loads((root / "reports" / "summary.json").read_text())
    return found


def cached_steps(summary: dict[str, Any]) -> dict[str, bool]:
    """Whether each step came from the cache, in order."""
    return {step["name"]: step["cached"] for step in summary["steps"]}


def damaged(home: Home) -> list[str]:
    """Everything under a final name whose content is not what the name says."""
    tables = [p for p in home.root.glob("tables/[!.]*") if content_digest(p) != p.stem]
    folders = [p for p in home.root.glob("folders/[!.]*") if digest_of(folder_digests(p)) != p.name]
    models = []
    for path in home.root.glob("models/*/[!.]*"):
        files = folder_digests(path)
        files.pop("certificate.json", None)
        if digest_of(files) != path.name:
            models.append(path)
    return [str(p) for p in (*tables, *folders, *models)]


def registered(home: Home) -> list[dict[str, str]]:
    """The tags of every version in MLflow's registry, weather's oldest first.

    Read from its file: MLflow's client keeps a deleted home's database open.
    """
    versions: dict[int, dict[str, str]] = {}
    with closing(sqlite3.connect(f"file:{home.root / 'mlflow.db'}?mode=ro", uri=True)) as store:
        for version, key, value in store.execute(
            "SELECT version, key, value FROM model_version_tags WHERE name = 'weather'"
        ):
            versions.setdefault(version, {})[key] = value
    return [tags for _, tags in sorted(versions.items())]


def told(home: Home, kind: str) -> list[dict[str, Any]]:
    """The ledger's verified entries of one kind."""
    ledger.verify(home, own_trust(home))
    return [entry for entry in ledger.entries(home) if entry["kind"] == kind]


def check_sound(home: Home) -> None:
    """A home after a run, whatever happened before: whole, chained, registered once, servable."""
    assert damaged(home) == []
    ledger.verify(home, own_trust(home))
    subjects = [tags["airworthy.subject"] for tags in registered(home)]
    assert len(subjects) == len(set(subjects))
    assert subjects
    use_case = get_use_case("weather")
    folder, _ = read_current(home, "weather")
    service = load_service(home, use_case, folder, trust=own_trust(home))
    assert service.ready()
    service.close()
