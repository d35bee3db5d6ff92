"""Trainings that are killed, at any moment, end with the weights of one that was not.

``AIRWORTHY_LONG_DRILLS=1`` (``make drills``) kills twenty times where the short form kills twice.
"""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import s3fs
from s3_server import BUCKET, s3_server
from toy import TOY, toy_training_set
from training_helpers import SMALL, Job, finished, flown, process, read, same, weights

from feature_repo.home import Home
from feature_repo.tables import Table, read_table
from tasks.fit import fit
from tasks.rows import labelled
from tasks.training.attempts import open_attempt
from tasks.training.checkpoint_files import checkpoints_in
from tasks.training.loop import Watch
from tasks.training.ranks import Rank

LONG = os.environ.get("AIRWORTHY_LONG_DRILLS") == "1"
KILLS = 20 if LONG else 2
CONFIG = dataclasses.replace(SMALL, epochs=60 if LONG else 8, batch_size=64, patience=60)

Kill = Callable[[subprocess.Popen[str]], None]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


@pytest.fixture(scope="module")
def undisturbed(table: Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Weights and curve of the training on one rank, from beginning to end."""
    fitted = flown(Job(home=tmp_path_factory.mktemp("home"), table=table, config=CONFIG))
    return {"weights": weights(fitted), "curve": [dataclasses.asdict(e) for e in fitted.curve]}


def kill_launcher(running: subprocess.Popen[str]) -> None:
    """Of the launcher nothing is left that could end its ranks."""
    running.kill()


def kill_rank(running: subprocess.Popen[str]) -> None:
    """The last rank, which writes no manifest, or the only one."""
    ranks = psutil.Process(running.pid).children()
    if ranks:
        ranks[-1].kill()


def wait_for_progress(running: subprocess.Popen[str], found: Callable[[], list[str]]) -> bool:
    """Whether a checkpoint came that was not there before; False: the training ended first."""
    before = set(found())
    deadline = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < deadline:
        if set(found()) - before:
            return True
        time.sleep(0.01)
    return False


def killed_again_and_again(
    job: Job, out: Path, ranks: int, kill: Kill, found: Callable[[], list[str]], kills: int
) -> dict[str, Any]:
    """Kill the training ``kills`` times, each time at a random moment after it went on; then let
    it end. No process of it outlives a kill."""
    moments = random.Random(5)
    done = 0
    while not out.exists():
        running = process(job, out, ranks)
        try:
            if done < kills and wait_for_progress(running, found):
                time.sleep(moments.uniform(0, 0.3))
                children = psutil.Process(running.pid).children(recursive=True)
                kill(running)
                done += 1
                _, alive = psutil.wait_procs(children, timeout=30)
                assert not alive, "a rank outlived its launcher"
            told = running.communicate(timeout=300)[0]
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
        assert out.exists() or done <= kills, told
    assert done == kills, f"the training ended after {done} of {kills} kills: make it longer"
    return read(out)


def local(home: Path) -> Callable[[], list[str]]:
    """Checkpoints of a home, in whichever attempt."""
    return lambda: [str(path) for path in home.glob("checkpoints/toy/*/*/step-*/manifest.json")]


@pytest.mark.timeout(1800)
def test_killed_at_random_moments_while_it_writes_checkpoints(
    table: Table, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """A checkpoint at every step, so that a kill meets one that is being written."""
    job = Job(home=tmp_path / "home", table=table, config=CONFIG, every=1)
    found = killed_again_and_again(job, tmp_path / "out", 1, kill_rank, local(job.home), KILLS)
    assert same(found["weights"], undisturbed["weights"])
    assert found["curve"] == undisturbed["curve"]
    assert any("goes on from step" in line for line in found["said"])
    folders = {path.parent for path in job.home.glob("checkpoints/toy/*/*/step-*/*")}
    assert all((folder / "manifest.json").exists() for folder in folders)


@pytest.mark.parametrize(
    ("kill", "ranks"),
    [(kill_rank, 2), (kill_launcher, 2), (kill_launcher, 3)] if LONG else [(kill_launcher, 2)],
)
def test_a_rank_or_the_launcher_is_killed(
    table: Table, tmp_path: Path, kill: Kill, ranks: int
) -> None:
    """Of several ranks: the others end too, and the next start goes on."""
    whole = finished(
        Job(home=tmp_path / "whole", table=table, config=CONFIG), tmp_path / "w", ranks
    )
    job = Job(home=tmp_path / "home", table=table, config=CONFIG, every=20)
    found = killed_again_and_again(job, tmp_path / "out", ranks, kill, local(job.home), 1)
    assert same(found["weights"], whole["weights"])
    assert found["curve"] == whole["curve"]


@pytest.fixture
def bucket() -> Iterator[s3fs.S3FileSystem]:
    """An S3 server with an empty bucket for checkpoints."""
    with s3_server() as fs:
        yield fs


def test_killed_during_an_upload(
    table: Table, undisturbed: dict[str, Any], tmp_path: Path, bucket: s3fs.S3FileSystem
) -> None:
    """What was half sent is no checkpoint, and is gone after the next start."""
    job = Job(home=tmp_path / "home", table=table, config=CONFIG, every=10)

    def sent() -> list[str]:
        bucket.invalidate_cache()
        return list(bucket.glob(f"{BUCKET}/checkpoints/toy/*/*/step-*/.metadata"))

    kills = 5 if LONG else 1
    found = killed_again_and_again(job, tmp_path / "out", 1, kill_rank, sent, kills)
    assert same(found["weights"], undisturbed["weights"])
    bucket.invalidate_cache()
    for folder in bucket.glob(f"{BUCKET}/checkpoints/toy/*/*/step-*"):
        assert bucket.exists(f"{folder}/manifest.json")


class FullDisk(Watch):
    """No file may grow past a thousand bytes while some steps are done."""

    def step(self, step: int, rows: int) -> None:
        """From the 20th to the 29th step."""
        super().step(step, rows)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        if step == 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        if step == 30:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_full_disk_costs_checkpoints_and_not_the_training(
    table: Table, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Each that cannot be written is said and removed; the others are whole."""
    said: list[str] = []
    job = Job(home=tmp_path, table=table, config=CONFIG)
    alone, limits = Rank(number=0, world=1), resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_attempt(
        Home(root=tmp_path), job.made_of(), alone, every=4, resume_from=""
    ) as attempt:
        try:
            watch = FullDisk(said.append, CONFIG)
            fitted = fit(TOY, table, CONFIG, said.append, attempt=attempt, watch=watch)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        failed = [line for line in said if "was not written, the training goes on: " in line]
        assert len(failed) in (3, 4), said  # the one before may still have been in writing
        assert all("File too large" in line for line in failed)
        folders = {str(path) for path in Path(attempt.uri).glob("step-*")}
        assert folders == set(checkpoints_in(attempt.uri))
    assert same(weights(fitted), undisturbed["weights"])


def test_a_label_that_is_not_a_number_ends_both_ranks_with_all_that_is_known(
    table: Table, tmp_path: Path
) -> None:
    """The rank that has the row and the one that has not: neither waits for the other for ever."""
    job = Job(home=tmp_path / "home", table=table, config=CONFIG, every=10, broken=5)
    ended_with(job, tmp_path / "out", key_of(table, 5))


def test_an_input_that_is_not_a_number_ends_both_ranks_where_weights_are_shared_out(
    table: Table, tmp_path: Path
) -> None:
    """One rank's forward pass shows the layer, the other's does not; gradients belong to both."""
    config = dataclasses.replace(CONFIG, sharding="full")
    job = Job(home=tmp_path / "home", table=table, config=config, every=10, broken=5, an_input=True)
    told = ended_with(job, tmp_path / "out", key_of(table, 5))
    assert "first bad layer body.0, inputs that are not finite: origin_delay_mean" in told


def key_of(table: Table, row: int) -> str:
    """Of a row of the training part."""
    return str(labelled(read_table(table), "training")["request_id"][row])


def ended_with(job: Job, out: Path, key: str) -> str:
    """What two ranks say that end with the error that the row's key is in."""
    with process(job, out, 2) as running:
        try:
            told = running.communicate(timeout=60)[0]
        finally:
            if running.poll() is None:  # they wait for each other
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 1
    for part in (
        "DivergedError: the training went bad again after it had gone back", "loss not finite",
        "last good step", "first bad layer", f"({key}, ", "canary-0000", "lower learning_rate",
    ):  # fmt: skip
        assert part in told, told
    for rank in range(2):
        assert f"rank {rank} ended: the training went bad again" in told, told
    return told
