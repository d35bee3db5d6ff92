"""Checkpoints: a training that was stopped ends as one that was not; a damaged one is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from toy import toy_training_set
from training_helpers import SMALL, Job, StoppedError, finished, flown, same, weights

from feature_repo.errors import CheckpointError, TrainingError
from feature_repo.home import Home
from feature_repo.tables import Table
from tasks.fit import Fitted
from tasks.steps import NO_COST
from tasks.training.checkpoint_files import checkpoints_in, compare

STEPS = 12  # of an epoch: 3,000 rows in batches of 256


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


@pytest.fixture(scope="module")
def undisturbed(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """The training from beginning to end."""
    return flown(Job(home=tmp_path_factory.mktemp("home"), table=table, every=5))


@pytest.mark.parametrize("stop", [6, 8, 12, 13, 30, 36])
def test_a_stopped_training_ends_as_an_undisturbed_one(
    table: Table, undisturbed: Fitted, tmp_path: Path, stop: int
) -> None:
    """After a checkpoint, before one, at an epoch's end and at the last step: bit for bit, dropout
    included."""
    job = Job(home=tmp_path, table=table, every=5)
    with pytest.raises(StoppedError):
        flown(dataclasses.replace(job, stop_after=stop))
    said: list[str] = []
    again = flown(job, said)
    assert same(weights(again), weights(undisturbed))
    assert again.curve == undisturbed.curve
    assert (again.slope, again.intercept) == (undisturbed.slope, undisturbed.intercept)
    assert any("goes on from step" in line for line in said)


def test_a_moving_average_goes_on_where_it_was(table: Table, tmp_path: Path) -> None:
    """It is in the checkpoint, beside the weights that train on."""
    config = dataclasses.replace(SMALL, averaging=0.3)
    whole = flown(Job(home=tmp_path / "whole", table=table, config=config))
    job = Job(home=tmp_path / "parts", table=table, config=config, every=5)
    with pytest.raises(StoppedError):
        flown(dataclasses.replace(job, stop_after=23))
    again = flown(job)
    assert again.began == 20
    assert same(weights(again), weights(whole))
    assert again.curve == whole.curve


def test_what_was_taken_before_a_kill_counts(table: Table, tmp_path: Path) -> None:
    """Up to the checkpoint that was gone on from; not that of another run, which has its own."""
    job = Job(home=tmp_path, table=table, every=5)
    with pytest.raises(StoppedError):
        flown(dataclasses.replace(job, stop_after=16))
    went_on = flown(job)
    assert went_on.began == 15
    first = went_on.before
    assert 0 < first.cpu_seconds < 60
    assert first.seconds > 0
    again = dataclasses.replace(job, home=tmp_path / "other", resume_from=went_on.checkpoint)
    assert (flown(again).before, flown(again).began > 15) == (NO_COST, True)


def test_a_finished_training_is_not_gone_on_from_unasked(
    table: Table, undisturbed: Fitted, tmp_path: Path
) -> None:
    """Asked for again it begins anew, and ends the same."""
    job = Job(home=tmp_path, table=table)
    flown(job)
    said: list[str] = []
    again = flown(job, said)
    assert not any("goes on" in line for line in said)
    assert same(weights(again), weights(undisturbed))


def test_nothing_is_left_to_learn_from_a_finished_one(
    table: Table, undisturbed: Fitted, tmp_path: Path
) -> None:
    """Asked for by name it gives its own weights, and is named as the checkpoint."""
    again = flown(Job(home=tmp_path, table=table, every=5, resume_from=undisturbed.checkpoint))
    assert same(weights(again), weights(undisturbed))
    assert again.checkpoint == undisturbed.checkpoint


def test_checkpoints_that_cannot_be_removed_are_said_and_cost_nothing(
    table: Table, undisturbed: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one is whole, and stays."""

    def refuse(*told: object, **more: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(LocalFileSystem, "rm", refuse)
    said: list[str] = []
    fitted = flown(Job(home=tmp_path, table=table, every=5), said)
    assert same(weights(fitted), weights(undisturbed))
    assert fitted.checkpoint.endswith("step-00000036")
    assert len(checkpoints_in(fitted.checkpoint.rsplit("/", 1)[0])) == 10
    assert any("no longer kept could not be removed: OSError: not permitted" in s for s in said)


def test_checkpoints_within_an_epoch_change_nothing(
    table: Table, undisturbed: Fitted, tmp_path: Path
) -> None:
    """As many as one a step."""
    assert same(weights(flown(Job(home=tmp_path, table=table, every=1))), weights(undisturbed))


def test_the_newest_and_the_best_are_kept(table: Table, tmp_path: Path) -> None:
    """With a rate that soon does harm the first epoch is the best, and its checkpoint stays."""
    config = dataclasses.replace(SMALL, learning_rate=0.5, epochs=4, patience=4)
    fitted = flown(Job(home=tmp_path, table=table, config=config))
    kept = checkpoints_in(fitted.checkpoint.rsplit("/", 1)[0])
    ends = sorted({4 * STEPS, 3 * STEPS, fitted.best_epoch * STEPS}, reverse=True)
    assert [uri.rsplit("-", 1)[-1] for uri in kept] == [f"{step:08d}" for step in ends]
    assert fitted.checkpoint == kept[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "add"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_taken(
    table: Table, undisturbed: Fitted, tmp_path: Path, damage: str
) -> None:
    """For each file of it; the weights are those of the undisturbed training all the same."""
    stopped = Job(home=tmp_path / "stopped", table=table, every=5, stop_after=16)
    with pytest.raises(StoppedError):
        flown(stopped)
    files = sorted(p.name for p in newest(stopped.home).iterdir())
    assert len(files) == 3, files
    for name in files:
        home = tmp_path / name
        shutil.copytree(stopped.home, home)
        shutil.rmtree(home / "locks")
        harm(newest(home) / name, damage)
        said: list[str] = []
        again = flown(dataclasses.replace(stopped, home=home, stop_after=0), said)
        assert same(weights(again), weights(undisturbed)), name
        before = "step-00000012"
        assert any(f"goes on from step 12, checkpoint {home}" in line for line in said), said
        assert any(line.endswith(before) for line in said)
        if damage != "remove" or name != "manifest.json":  # without one it is no checkpoint
            assert any("step-00000015: " in line and "take an earlier one" in line for line in said)


def newest(home: Path) -> Path:
    """The folder of a home's newest checkpoint."""
    return max(home.glob("checkpoints/toy/*/1/step-*"))


def harm(path: Path, damage: str) -> None:
    """Flip one bit in the middle of a file, cut its last byte, remove it, or add one beside it."""
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        path.with_name("__7_0.distcp").write_bytes(content)


def test_a_checkpoint_asked_for_by_name_is_taken_or_refused(
    table: Table, undisturbed: Fitted, tmp_path: Path
) -> None:
    """``resume_from`` is a folder, of which the last good one is taken, or one checkpoint; of
    another training it is refused by what differs, but for more epochs."""
    stopped = Job(home=tmp_path, table=table, every=5, stop_after=16)
    with pytest.raises(StoppedError):
        flown(stopped)
    folder = str(newest(tmp_path).parent)
    for named in (folder, f"{folder}/step-00000012"):
        there = Job(home=tmp_path / named[-2:], table=table, resume_from=named)
        assert same(weights(flown(there)), weights(undisturbed))
    more = dataclasses.replace(SMALL, epochs=4)
    there = Job(home=tmp_path / "more", table=table, resume_from=folder, config=more)
    assert len(flown(there).curve) == 4
    fewer = dataclasses.replace(SMALL, epochs=2)
    with pytest.raises(CheckpointError, match="of 3 epochs, this one has 2: give as many, or more"):
        flown(Job(home=tmp_path / "fewer", table=table, resume_from=folder, config=fewer))
    wider = dataclasses.replace(SMALL, width=8)
    with pytest.raises(CheckpointError, match="of another training: width is 16 there, 8 here"):
        flown(Job(home=tmp_path / "wider", table=table, resume_from=folder, config=wider))
    with pytest.raises(
        CheckpointError, match="holds no whole checkpoint; name the folder of a run"
    ):
        flown(Job(home=tmp_path / "none", table=table, resume_from=str(tmp_path / "nowhere")))
    with pytest.raises(TrainingError, match="checkpoint_steps is -5, but must be 0"):
        flown(Job(home=tmp_path / "minus", table=table, every=-5))
    harm(newest(tmp_path) / ".metadata", "flip")
    with pytest.raises(CheckpointError, match=r"file \.metadata is not what was written"):
        flown(Job(home=tmp_path / "bad", table=table, resume_from=str(newest(tmp_path))))


def test_a_checkpoint_of_a_part_is_told_from_the_whole_training_s() -> None:
    """The fallback's lies in the same attempt; what only one of two trainings has is named.
    A field that is younger than a checkpoint had its default there."""
    ours = {"use_case": "toy", "code": "any", "config": {"epochs": 3, "width": 16}}
    assert not compare("here", ours, ours)
    assert compare("here", ours | {"code": "other"}, ours)
    with pytest.raises(CheckpointError, match="part is fallback there, absent here; give the"):
        compare("here", ours | {"part": "fallback"}, ours)
    assert not compare("here", ours, ours | {"config": {"epochs": 3, "width": 16, "bins": 24}})
    with pytest.raises(CheckpointError, match="bins is 24 there, 12 here"):
        compare("here", ours, ours | {"config": {"epochs": 3, "width": 16, "bins": 12}})


def test_a_checkpoint_is_taken_up_by_another_number_of_ranks(table: Table, tmp_path: Path) -> None:
    """Written by two, with weights and moments shared out among them, read by one, and the other
    way round: without dropout the losses agree with one process's."""
    config = dataclasses.replace(SMALL, dropout=0.0, precision="float64", sharding="full")
    one = flown(Job(home=tmp_path / "one", table=table, config=config))
    two = finished(
        Job(home=tmp_path / "two", table=table, config=config, every=5), tmp_path / "2", 2
    )
    early = checkpoints_in(two["checkpoint"].rsplit("/", 1)[0])[-1]
    alone = flown(Job(home=tmp_path / "back", table=table, config=config, resume_from=early))
    for epoch, other in zip(one.curve, alone.curve, strict=True):
        assert dataclasses.asdict(epoch) == pytest.approx(dataclasses.asdict(other), abs=1e-9)
    assert json.dumps(two["curve"])  # the launcher's ranks came to their end
