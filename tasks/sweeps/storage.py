"""Where a sweep's trials are, and which of its workers live: Optuna's journal, or PostgreSQL.

With the journal a worker holds a file lock for life, which the kernel frees at its death. With
PostgreSQL, whose workers may be anywhere, each running trial has a heartbeat.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from feature_repo.errors import StateError
from feature_repo.home import Home, sweep_storage
from tasks.sweeps import declared

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

WORKER = "worker"  # the trial's attribute that names who trains it
BEAT_SECONDS, GRACE_SECONDS = 5, 20


class Store(Protocol):
    """The trials of sweeps, and the lives of those who train them."""

    storage: BaseStorage
    scope: str  # what the names of its studies begin with: others may share it

    def life(self) -> AbstractContextManager[str]:
        """Be a worker while the block runs; yields its name."""

    def beats(self, trial: int) -> AbstractContextManager[None]:
        """Show that the trial of this id is being trained while the block runs."""

    def fail_dead(self, study: Study) -> None:
        """Tell the running trials of dead workers as failed. Call it under the sweep's lock."""


def open_store(home: Home, name: str) -> Store:
    """The store that ``sweep_storage`` names, else the journal of sweep ``name`` in the home.

    Raises:
        StateError: the database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Heartbeats are ours to send, since trials are asked for and told one by one.
    warnings.filterwarnings("ignore", message="Heartbeat of storage")
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    url = sweep_storage()
    return Database(url, home.id) if url else JournalFiles(declared.place(home, name))


def owned(trial: FrozenTrial) -> str:
    """Who trains it; empty where its worker died before it said so, under the sweep's lock."""
    return str(trial.user_attrs.get(WORKER, ""))


def running(study: Study) -> list[FrozenTrial]:
    """The trials under way, of the living and the dead."""
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


class Journal(JournalFileBackend):
    """Optuna's journal for writers that are killed.

    Its own lock outlives a killed holder by 30 seconds, and a line that a kill or a full disk cut
    short makes all unreadable once another follows. Here the kernel frees the lock, and what was
    cut is taken off first.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines that are on disk when this returns."""
        import json

        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with FileLock(f"{self._path}.flock"), self._path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and _last_byte(file.fileno(), size) != b"\n":
                file.truncate(self._path.read_bytes().rfind(b"\n") + 1)
                file.seek(0, os.SEEK_END)
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())


def _new_name() -> str:
    """A worker's: machine and process for people, and what makes it the only one."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _last_byte(descriptor: int, size: int) -> bytes:
    return os.pread(descriptor, 1, size - 1)


class JournalFiles:
    """A sweep's journal in a folder, with a lock file for each living worker."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.scope = ""
        self.storage: BaseStorage = JournalStorage(Journal(folder / "journal.jsonl"))

    @contextmanager
    def life(self) -> Iterator[str]:
        """Hold a lock file of one's own."""
        name = _new_name()
        with FileLock(self._lock(name)):
            yield name
        self._lock(name).unlink(missing_ok=True)

    def beats(self, trial: int) -> AbstractContextManager[None]:
        """The lock says it already."""
        return nullcontext()

    def fail_dead(self, study: Study) -> None:
        """Those whose lock is free."""
        for trial in running(study):
            if not self._lives(owned(trial)):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
                self._lock(owned(trial)).unlink(missing_ok=True)

    def _lives(self, worker: str) -> bool:
        if not worker or not self._lock(worker).exists():
            return False
        try:
            with FileLock(self._lock(worker), timeout=0):
                return False
        except Timeout:
            return True

    def _lock(self, worker: str) -> Path:
        return self.folder / f"worker-{worker}.lock"


class Database:
    """PostgreSQL, or what else SQLAlchemy reaches; the clock is its own. Homes may share it, and do
    not share the lock that taking a trial needs: each has its own studies there."""

    def __init__(self, url: str, home: str) -> None:
        self.scope = f"{home}-"
        try:
            self._database = RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=BEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
        except Exception as exc:  # SQLAlchemy's, the driver's or Optuna's own
            raise StateError(
                f"AIRWORTHY_SWEEP_STORAGE cannot be used ({type(exc).__name__}: "
                f"{str(exc).splitlines()[0]}); give the URL of a PostgreSQL that this machine "
                "reaches (postgresql+psycopg://user:password@host/database), or unset it"
            ) from exc
        self.storage: BaseStorage = self._database

    @contextmanager
    def life(self) -> Iterator[str]:
        """Heartbeats are a trial's, so a name is all."""
        yield _new_name()

    @contextmanager
    def beats(self, trial: int) -> Iterator[None]:
        """A heartbeat at once, and others from a thread; one that fails is tried again later."""
        ended = threading.Event()
        self._database.record_heartbeat(trial)

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                try:
                    self._database.record_heartbeat(trial)
                except Exception as exc:  # the next one may come through: the trial goes on
                    warnings.warn(f"sweep: no heartbeat, {exc}", stacklevel=1)
            self._database.remove_session()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def fail_dead(self, study: Study) -> None:
        """Those whose heartbeat stopped, and those that nobody came to own."""
        for trial in running(study):
            if not owned(trial):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        optuna.storages.fail_stale_trials(study)
