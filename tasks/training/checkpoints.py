"""Checkpoints of a run by torch.distributed.checkpoint: written beside the training, read back on
any number of ranks. What is in one is tensors and JSON only.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch import distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from feature_repo.errors import CheckpointError
from feature_repo.home import file_digest, sync, write_atomically
from tasks.steps import NO_COST, Cost
from tasks.training.checkpoint_files import (
    MANIFEST,
    PREFIX,
    Manifest,
    checkpoints_in,
    compare,
    fetch,
    in_words,
    sealed,
    upload,
)
from tasks.training.meter import Meter
from tasks.training.ranks import Rank, device, from_first
from tasks.training.run import Position, Run, state_of, take_own
from tasks.training.staging import Staging

KEEP = 2  # the newest checkpoints, beside the best


class Checkpoints:
    """Those of one run, in the folder ``uri``. Every rank has one, and calls ``save``, ``restore``
    and ``close`` at the same step."""

    def __init__(
        self,
        uri: str,
        made_of: dict[str, Any],
        rank: Rank,
        say: Callable[[str], None],
        *,
        every: int = 0,
        resume_from: str = "",
    ) -> None:
        """``every``: steps between two checkpoints, beside the one at each epoch's end; 0: none.
        ``resume_from``: a checkpoint, or a run's folder, to begin with where ``uri`` has none."""
        # One process alone is what is meant.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        self.uri = uri.rstrip("/")
        self._made_of, self._rank, self._say = made_of, rank, say
        self._every, self._resume_from = every, resume_from.rstrip("/")
        # Its own group: a collective of the writer's must not meet one of the training's.
        self._group = distributed.new_group(backend="gloo") if rank.world > 1 else None
        self._staging = Staging()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="airworthy-checkpoint-")
        self._reading = Path(self._scratch.name) / "read"
        self._fs, self._root = fsspec.core.url_to_fs(self.uri)
        self._local = "file" in self._fs.protocol
        self.last = ""  # address of the newest finished one, and of the one begun with
        self.restored = ""
        self._meter = Meter()
        self._before: Cost | None = None
        self._saved = -1  # the step of the newest one, finished or not: the same on all ranks

    def due(self, step: int) -> bool:
        """Whether a checkpoint within an epoch is due after ``step`` steps."""
        return self._every > 0 and step % self._every == 0

    def save(self, run: Run) -> None:
        """Copy the run's state and return: a thread writes it, and makes it a checkpoint by its
        manifest, written last. Waits for the checkpoint before. One that cannot be written is said
        and removed, and the training goes on."""
        self.wait()
        name = f"{PREFIX}{run.position.step:08d}"
        if self._saved == run.position.step:
            return  # an epoch's end that was due as well
        self._saved = run.position.step
        folder = Path(self._root if self._local else self._scratch.name) / name
        state = self._staging.take(state_of(run, self._rank))
        manifest = Manifest(
            step=run.position.step,
            world=self._rank.world,
            device=device().type,
            made_of=self._made_of,
            position=asdict(run.position),
            files={},
            taken=asdict(self.before + self._meter.read(self._rank)),
        )
        self._pending = self._pool.submit(self._seal, state, folder, manifest)

    def wait(self) -> None:
        """Return when no checkpoint is being written."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Wait for the last one, and free what the writing needed."""
        self.wait()
        self._pool.shutdown()
        self._scratch.cleanup()

    def _seal(self, state: dict[str, Any], folder: Path, manifest: Manifest) -> None:
        """Write one checkpoint: digests of this rank's files, by rank 0 the manifest over all."""
        files, fault = self._deliver(state, folder)
        told = [(files, fault)]
        if self._group is not None:
            told = [(files, fault)] * self._rank.world
            distributed.all_gather_object(told, (files, fault), group=self._group)
        fault = next((fault for _, fault in told if fault), "")
        every = {name: digest for files, _ in told for name, digest in files.items()}
        uri = f"{self.uri}/{folder.name}"
        if self._rank.first and not fault:
            whole = Manifest(**(asdict(manifest) | {"files": every}))
            fault = self._try(lambda: self._conclude(folder, whole))
        if not self._local:
            shutil.rmtree(folder, ignore_errors=True)
        if not fault:
            self.last = uri
        elif self._rank.first:
            self._say(f"checkpoint {uri} was not written, the training goes on: {fault}")
            self._try(lambda: self._fs.rm(f"{self._root}/{folder.name}", recursive=True))
        if self._rank.first and not fault:
            fault = self._try(lambda: self._prune(manifest.position["best_step"]))
            if fault:
                self._say(f"checkpoints that are no longer kept could not be removed: {fault}")

    def _deliver(self, state: dict[str, Any], folder: Path) -> tuple[dict[str, str], str]:
        """Write this rank's files, and send them on where they are for elsewhere: their digests,
        and what went wrong, or nothing."""
        try:
            save(
                state,
                storage_writer=FileSystemWriter(folder, thread_count=1),
                process_group=self._group,
                no_dist=self._group is None,
            )
            own = [p.name for p in folder.iterdir() if p.name.startswith(f"__{self._rank.number}_")]
            own += [".metadata"] if self._rank.first else []
            if not self._local:
                upload(folder, own, f"{self.uri}/{folder.name}")
            return {name: file_digest(folder / name) for name in own}, ""
        except (CheckpointException, Exception) as exc:  # whatever storage has of its own
            return {}, in_words(exc)

    def _conclude(self, folder: Path, manifest: Manifest) -> None:
        """Write the manifest of a folder that holds all that is in it."""
        if not self._local:
            self._fs.pipe_file(f"{self._root}/{folder.name}/{MANIFEST}", sealed(manifest))
            return
        if {path.name for path in folder.iterdir()} != set(manifest.files):
            raise CheckpointError(f"{folder} does not hold what the ranks wrote")
        write_atomically(folder / MANIFEST, sealed(manifest))
        sync(Path(self._root))

    def _prune(self, best_step: int) -> None:
        """Remove all but the newest and the best."""
        for old in checkpoints_in(self.uri)[KEEP:]:
            name = old.rsplit("/", 1)[-1]
            if name != f"{PREFIX}{best_step:08d}":
                self._fs.rm(f"{self._root}/{name}", recursive=True)

    def _try(self, act: Callable[[], None]) -> str:
        """What went wrong, in words, or nothing: whatever storage has of its own."""
        try:
            act()
        except Exception as exc:
            return in_words(exc)
        return ""

    def restore(self, run: Run) -> str:
        """Bring a run to where the last good checkpoint stands; returns its address, or nothing
        where there is none. One that is not whole is said, and set aside.

        Raises:
            CheckpointError: ``resume_from`` is not whole, or of another training.
        """
        self.wait()
        found: tuple[str, str] = ("", "")
        if self._rank.first:
            try:
                found = (self._choose(), "")
            except CheckpointError as exc:
                found = ("", str(exc))
            except Exception as exc:  # whatever storage has of its own
                found = ("", f"checkpoints of {self.uri} cannot be read: {in_words(exc)}")
        uri, fault = from_first(found, self._rank)
        if fault:
            raise CheckpointError(fault)
        own, taken = uri.startswith(f"{self.uri}/"), {}
        if uri:
            folder, manifest = fetch(uri, self._reading)
            self._load(run, folder, manifest)
            taken = manifest.taken if own else {}
        if self._before is None:  # this process has not been at it
            self._before = Cost(**taken) if taken else NO_COST
        self.last, self.restored = (uri if own else ""), uri
        self._saved = run.position.step if self.last else -1
        return uri

    @property
    def before(self) -> Cost:
        """What earlier processes took at this run, up to where this one took over."""
        return self._before or NO_COST

    def _choose(self) -> str:
        """The last good one of this run's, else what ``resume_from`` names."""
        self._sweep()
        for uri in checkpoints_in(self.uri):
            try:
                fetch(uri, self._reading)
            except CheckpointError as exc:
                self._say(str(exc))
                self._set_aside(uri)
            else:
                return uri
        return self._asked_for() if self._resume_from else ""

    def _asked_for(self) -> str:
        named = self._resume_from
        exact = named.rsplit("/", 1)[-1].startswith(PREFIX)
        for uri in [named] if exact else checkpoints_in(named):
            try:
                manifest = fetch(uri, self._reading)[1]
            except CheckpointError as exc:
                if exact:
                    raise
                self._say(str(exc))
            else:
                if compare(uri, manifest.made_of, self._made_of):
                    self._say(f"checkpoint {uri} is of other code: the result may differ from it")
                return uri
        raise CheckpointError(
            f"resume_from {named} holds no whole checkpoint; name the folder of a run, or a folder "
            f"{PREFIX}… in it, as the output `checkpoint` of a training does"
        )

    def _load(self, run: Run, folder: Path, manifest: Manifest) -> None:
        same = (manifest.world, manifest.device) == (self._rank.world, device().type)
        state = state_of(run, self._rank, own=same)
        if not same:
            zero = torch.zeros((), dtype=torch.float64)
            state |= {f"rank{n}": {"total": zero.clone()} for n in range(manifest.world)}
        try:
            load(
                state,
                storage_reader=FileSystemReader(folder),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except CheckpointException as exc:
            raise CheckpointError(f"checkpoint {folder} cannot be read: {in_words(exc)}") from exc
        run.move_to(Position.from_dict(manifest.position))
        if same:
            take_own(state[f"rank{self._rank.number}"])
            return
        # Other ranks than before, or another device: their sums count once, and each rank has its
        # own dropout from here.
        sums = sum(float(state[f"rank{n}"]["total"]) for n in range(manifest.world))
        run.total.fill_(sums if self._rank.first else 0.0)
        torch.manual_seed(manifest.step * self._rank.world + self._rank.number)

    def _sweep(self) -> None:
        """Remove what a killed writer left without a manifest."""
        if self._fs.isdir(self._root):
            whole = {uri.rsplit("/", 1)[-1] for uri in checkpoints_in(self.uri)}
            for entry in self._fs.ls(self._root, detail=False):
                name = entry.rsplit("/", 1)[-1]
                if name.startswith(PREFIX) and name not in whole:
                    self._fs.rm(f"{self._root}/{name}", recursive=True)

    def _set_aside(self, uri: str) -> None:
        name = uri.rsplit("/", 1)[-1]
        aside = f"{self._root}/damaged-{name}"
        self._fs.makedirs(aside, exist_ok=True)
        for file in self._fs.find(f"{self._root}/{name}"):
            self._fs.mv(file, f"{aside}/{file.rsplit('/', 1)[-1]}")
        if self._local:
            (Path(self._root) / name).rmdir()
