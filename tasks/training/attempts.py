"""Where a training keeps its checkpoints, so that the same command goes on after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import fsspec
from filelock import FileLock, Timeout

from feature_repo.errors import CheckpointError
from feature_repo.home import Home, checkpoint_storage
from tasks.training.checkpoints import Checkpoints
from tasks.training.ranks import Rank, from_first
from tasks.types import check_checkpoint_steps

if TYPE_CHECKING:
    from tasks.types import TrainingConfig

FINISHED = "finished"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try at a training: the folder of its checkpoints, and what the training is made of.

    ``every``: steps between two checkpoints within an epoch, 0 for none; ``resume_from``: a
    checkpoint, or another attempt's folder, to begin with.
    """

    uri: str
    made_of: dict[str, Any]
    every: int = 0
    resume_from: str = ""

    def checkpoints(
        self, config: TrainingConfig, rank: Rank, say: Callable[[str], None]
    ) -> Checkpoints:
        """Those of this attempt; ``config`` as the training takes it."""
        from dataclasses import asdict

        made_of = self.made_of | {"config": asdict(config)}
        return Checkpoints(
            self.uri, made_of, rank, say, every=self.every, resume_from=self.resume_from
        )

    def of(self, part: str) -> Attempt:
        """That of a training within this one, such as the fallback's."""
        return replace(
            self, uri=f"{self.uri}/{part}", made_of=self.made_of | {"part": part}, resume_from=""
        )

    def finish(self, trained: str, say: Callable[[str], None]) -> None:
        """The result, a folder's digest, is stored: nobody goes on from here unasked."""
        fs, root = fsspec.core.url_to_fs(self.uri)
        try:
            fs.pipe_file(f"{root}/{FINISHED}", trained.encode())
        except Exception as exc:  # whatever storage has of its own
            say(f"attempt {self.uri} cannot be marked as finished: {exc}")


@contextmanager
def open_attempt(
    home: Home, made_of: dict[str, Any], rank: Rank, *, every: int, resume_from: str, at: str = ""
) -> Iterator[Attempt]:
    """The newest attempt at the same training that did not finish and that no living process works
    at, else a new one; ``at``: this very one, the folder that a retried pod was told of.

    ``made_of``: what the training is made of (JSON); another code or number of ranks is another
    training. The attempt is this process's until the block ends, or it dies.

    Raises:
        CheckpointError: the storage cannot be read.
        TrainingError: ``every`` is negative.
    """
    check_checkpoint_steps(every)
    # Outside of the home its locks do not count: another home is another training there.
    made_by = (
        {} if checkpoint_storage(home) == str(home.root / "checkpoints") else {"home": home.id}
    )
    told = json.dumps(
        made_of | made_by | {"ranks": rank.world, "from": resume_from}, sort_keys=True
    )
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    root = f"{checkpoint_storage(home)}/{made_of['use_case']}/{key}"
    lock = FileLock(home.path("locks", "none.lock"))
    uri = at
    fault = ""
    if rank.first and not at:
        try:
            uri, lock = _take(home, root)
        except Exception as exc:
            fault = (
                f"checkpoint storage {root} cannot be read ({exc}); see that it is there, or set "
                "AIRWORTHY_CHECKPOINTS to one that is"
            )
    try:
        uri, fault = from_first((uri, fault), rank)
        if fault:
            raise CheckpointError(fault)
        yield Attempt(uri=uri, made_of=made_of, every=every, resume_from=resume_from)
    finally:
        lock.release()


def _take(home: Home, root: str) -> tuple[str, FileLock]:
    fs, path = fsspec.core.url_to_fs(root)
    names = [e.rsplit("/", 1)[-1] for e in fs.ls(path, detail=False)] if fs.isdir(path) else []
    numbers = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    free = [n for n in numbers if not fs.exists(f"{path}/{n}/{FINISHED}")]
    fresh = max(numbers, default=0) + 1
    for number in [*free, *range(fresh, fresh + 1000)]:
        lock = FileLock(home.path("locks", f"training-{root.rsplit('/', 1)[-1]}-{number}.lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        return f"{root}/{number}", lock
    raise AssertionError("a thousand processes work at one training")
