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
from tasks.training.checkpoint_files import (
    MANIFEST,
    PREFIX,
    Manifest,
    checkpoints_in,
    fetch,
    sealed,
    upload,
)
from tasks.training.ranks import Rank, from_first
from tasks.training.run import Position, Run, state_of, take_own
from tasks.training.staging import Staging

KEEP = 2  # the newest checkpoints, beside the best
FREE = ("epochs", "patience")  # hyper-parameters that may differ from the checkpoint's


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
        self.last = ""  # address of the newest finished one

    def due(self, step: int) -> bool:
        """Whether a checkpoint within an epoch is due after ``step`` steps."""
        return self._every > 0 and step % self._every == 0

    def save(self, run: Run) -> None:
        """Copy the run's state and return: a thread writes it, and makes it a checkpoint by its
        manifest, written last. Waits for the checkpoint before. One that cannot be written is said
        and removed, and the training goes on."""
        self.wait()
        name = f"{PREFIX}{run.position.step:08d}"
        if self.last.endswith(name):
            return  # an epoch's end that was due as well
        folder = Path(self._root if self._local else self._scratch.name) / name
        state = self._staging.take(state_of(run, self._rank))
        manifest = Manifest(
            step=run.position.step,
            world=self._rank.world,
            made_of=self._made_of,
            position=asdict(run.position),
            files={},
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
            fault = self._conclude(folder.name, Manifest(**(asdict(manifest) | {"files": every})))
        if not self._local:
            shutil.rmtree(folder, ignore_errors=True)
        if not fault:
            self.last = uri
        elif self._rank.first:
            self._say(f"checkpoint {uri} was not written, the training goes on: {fault}")
            shutil.rmtree(Path(self._root) / folder.name, ignore_errors=True)

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
            return {}, _words(exc)

    def _conclude(self, name: str, manifest: Manifest) -> str:
        """Write the manifest, and remove what is no longer kept; returns what went wrong."""
        try:
            if self._local:
                write_atomically(Path(self._root) / name / MANIFEST, sealed(manifest))
                sync(Path(self._root))
            else:
                self._fs.pipe_file(f"{self._root}/{name}/{MANIFEST}", sealed(manifest))
            best = f"{PREFIX}{manifest.position['best_step']:08d}"
            for old in checkpoints_in(self.uri)[KEEP:]:
                if not old.endswith(best):
                    self._fs.rm(f"{self._root}/{old.rsplit('/', 1)[-1]}", recursive=True)
        except Exception as exc:
            return _words(exc)
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
        uri, fault = from_first(found, self._rank)
        if fault:
            raise CheckpointError(fault)
        if uri:
            folder, manifest = fetch(uri, self._reading)
            self._load(run, folder, manifest)
        self.last = uri if uri.startswith(self.uri) else ""
        return uri

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
                self._compare(uri, manifest.made_of)
                return uri
        raise CheckpointError(
            f"resume_from {named} holds no whole checkpoint; name the folder of a run, or a folder "
            f"{PREFIX}… in it, as the output `checkpoint` of a training does"
        )

    def _compare(self, uri: str, there: dict[str, Any]) -> None:
        """Raises CheckpointError: the checkpoint is of another training."""
        here = self._made_of
        theirs, ours = (_flat(made_of) for made_of in (there, here))
        other = [key for key in ours if theirs.get(key) != ours[key] and key not in ("code", *FREE)]
        if other:
            told = "; ".join(f"{key} is {theirs.get(key)} there, {ours[key]} here" for key in other)
            raise CheckpointError(
                f"checkpoint {uri} is of another training: {told}; give the training what the "
                "checkpoint's had, or leave resume_from out"
            )
        if theirs["code"] != ours["code"]:
            self._say(f"checkpoint {uri} was written by other code: the result may differ from it")

    def _load(self, run: Run, folder: Path, manifest: Manifest) -> None:
        same = manifest.world == self._rank.world
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
            raise CheckpointError(f"checkpoint {folder} cannot be read: {_words(exc)}") from exc
        run.move_to(Position.from_dict(manifest.position))
        if same:
            take_own(state[f"rank{self._rank.number}"])
            return
        # Other ranks than before: their sums count once, and each has its own dropout from here.
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


def _flat(made_of: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in made_of.items() if k != "config"} | made_of["config"]


def _words(exc: BaseException) -> str:
    """The cause in a line; torch's exception holds one a rank."""
    failures = getattr(exc, "failures", None)
    if failures:
        return "; ".join(f"rank {number}: {_last_line(f[0])}" for number, f in failures.items())
    return _last_line(exc)


def _last_line(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}".strip().splitlines()[-1]
