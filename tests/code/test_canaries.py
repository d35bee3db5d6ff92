"""Canaries: a training that goes bad goes back once, and then ends with an error that says all."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy import TOY, toy_training_set
from training_helpers import SMALL, Job, same, weights

from feature_repo.errors import TrainingError
from feature_repo.home import Home
from feature_repo.tables import Table, read_table
from tasks import fit as fitting
from tasks.fit import Fitted, fit
from tasks.rows import labelled
from tasks.steps import NO_COST
from tasks.training import canaries
from tasks.training.attempts import open_attempt
from tasks.training.loop import Watch, batch_of
from tasks.training.parts import Parts, read_parts
from tasks.training.ranks import Rank
from tasks.training.run import Position
from tasks.types import TrainingConfig

CONFIG = dataclasses.replace(SMALL, epochs=9)
STEP = 92  # in the eighth epoch, when the canaries know what is usual

Poison = Callable[[Parts, int], None]


def not_a_number(parts: Parts, row: int) -> None:
    """An input as a broken sensor gives it."""
    parts.training.numeric[row, 1] = torch.nan


def no_label(parts: Parts, row: int) -> None:
    """A label that is not a number."""
    parts.training.target[row] = torch.nan


def absurd(parts: Parts, row: int) -> None:
    """A label that no use case has."""
    parts.training.target[row] = 1e6


class Poisoner(Watch):
    """Spoils a row before a step, and mends it after another one when the training went back."""

    def __init__(
        self,
        config: TrainingConfig,
        said: list[str],
        poison: Poison,
        read: list[Parts],
        mend_after: int,
    ) -> None:
        super().__init__(said.append, config)
        self.mend_after = mend_after
        self.poison, self.read = poison, read
        self.row, self.config = 0, config
        self.before: tuple[torch.Tensor, torch.Tensor] | None = None

    def step(self, step: int, rows: int) -> None:
        """Spoil the row that the next batch holds; mend it once that batch was met again."""
        part = self.read[0].training
        self.row = int(batch_of(STEP, len(part), self.config)[3])
        if step == STEP and self.before is None:
            self.before = part.numeric[self.row].clone(), part.target[self.row].clone()
            self.poison(self.read[0], self.row)
        elif step == self.mend_after and self.before is not None:
            part.numeric[self.row], part.target[self.row] = self.before


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Rows of the toy use case."""
    return toy_training_set(Home(root=tmp_path_factory.mktemp("rows")))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Parts]:
    """The parts that a training holds in memory, for a test to spoil."""
    held: list[Parts] = []

    def keep(*told: object, **more: object) -> Parts:
        held.append(read_parts(*told, **more))  # type: ignore[arg-type]  # as fit calls it
        return held[0]

    monkeypatch.setattr(fitting, "read_parts", keep)
    return held


def spoilt(
    table: Table, home: Path, poison: Poison, read: list[Parts], mend_after: int = STEP + 1
) -> tuple[Fitted, list[str]]:
    """A training of which one batch is bad once, and what it said."""
    said: list[str] = []
    job = Job(home=home, table=table, config=CONFIG)
    alone = Rank(number=0, world=1)
    with open_attempt(Home(root=home), job.made_of(), alone, every=5, resume_from="") as attempt:
        watch = Poisoner(CONFIG, said, poison, read, mend_after)
        return fit(TOY, table, CONFIG, said.append, attempt=attempt, watch=watch), said


@pytest.mark.parametrize(
    ("poison", "canary", "layer"),
    [
        (not_a_number, "loss not finite", "body.0"),
        (no_label, "loss not finite", "(its gradient)"),
        (absurd, "spike of the loss", "(greatest gradient)"),
    ],
)
def test_a_bad_batch_is_passed_over_from_the_checkpoint_before_it(
    table: Table, tmp_path: Path, read: list[Parts], poison: Poison, canary: str, layer: str
) -> None:
    """And what is known of it is written down: keys of its rows, the last good step, the layer."""
    fitted, said = spoilt(table, tmp_path, poison, read)
    assert fitted.passed_over[0] == STEP
    assert fitted.before == NO_COST  # going back within a process counts nothing twice
    assert all(value.isfinite().all() for value in weights(fitted).values())
    assert len(fitted.curve) == CONFIG.epochs
    (file,) = tmp_path.glob("checkpoints/toy/*/1/canary-*.json")
    record = json.loads(file.read_text())
    assert record["canary"] == canary
    assert (record["step"], record["last_good_step"]) == (STEP, 90)
    assert record["first_bad_layer"].endswith(layer)
    keys = labelled(read_table(table), "training")["request_id"].to_pylist()
    batch = batch_of(STEP, len(keys), CONFIG).tolist()
    assert record["rows"] == [keys[row] for row in batch]
    assert record["outlier"] == (keys[batch[3]] if poison is absurd else "")
    again = [step for step in range(96, 108) if batch[3] in batch_of(step, len(keys), CONFIG)]
    assert fitted.passed_over[1:] == (again if poison is absurd else [])
    if poison is not absurd:
        assert record["rows_not_finite"] == [keys[batch[3]]]
    if poison is not_a_number:
        assert record["inputs_not_finite"] == ["origin_delay_mean"]
    assert any(f"{canary} at step {STEP}" in line and "back to step 90" in line for line in said)


def test_a_training_that_goes_bad_again_says_all_that_is_known(
    table: Table, tmp_path: Path, read: list[Parts]
) -> None:
    """A label that stays wrong is met in the next epoch again."""

    spoils: list[int] = []

    def for_ever(parts: Parts, row: int) -> None:
        parts.training.target[row] = torch.nan
        spoils.append(row)

    with pytest.raises(TrainingError, match="went bad again after it had gone back") as caught:
        spoilt(table, tmp_path, for_ever, read, mend_after=-1)
    told = str(caught.value)
    key = labelled(read_table(table), "training")["request_id"][spoils[0]].as_py()
    for part in (
        f"loss not finite at step {STEP}", "last good step 90", "first bad layer", key,
        "; then ", "canary-000000", "lower learning_rate, now 0.003",
    ):  # fmt: skip
        assert part in told
    assert len(list(tmp_path.glob("checkpoints/toy/*/1/canary-*.json"))) == 2


@pytest.mark.parametrize("last", [2, 5])
def test_an_epoch_s_small_last_batch_is_not_compared_with_whole_ones(
    table: Table, last: int
) -> None:
    """The mean of a few rows is noisy; a healthy training comes to its end."""
    rows = labelled(read_table(table), "training").num_rows
    size = next(size for size in range(400, 60, -1) if rows % size == last)
    config = dataclasses.replace(CONFIG, batch_size=size, epochs=20, patience=20)
    said: list[str] = []
    assert fit(TOY, table, config, said.append).passed_over == []
    assert not any("canary" in line for line in said)


def test_an_epoch_of_one_batch_that_is_bad_has_nothing_to_go_on_with(
    table: Table, read: list[Parts]
) -> None:
    """The error says what is known of it."""
    config = dataclasses.replace(SMALL, batch_size=4096)

    class Spoiler(Watch):
        def begin(self, position: Position, steps: int) -> None:
            read[0].training.target[0] = torch.nan

    with pytest.raises(TrainingError, match="loss not finite at step 0"):
        fit(TOY, table, config, print, watch=Spoiler(print, config))


def test_without_checkpoints_it_goes_back_to_the_beginning(
    table: Table, tmp_path: Path, read: list[Parts]
) -> None:
    """The batches before the bad one are learnt again, to the same weights."""
    said: list[str] = []
    whole = fit(
        TOY, table, CONFIG, said.append, watch=Poisoner(CONFIG, said, not_a_number, read, 1)
    )
    read.clear()
    with_checkpoints, _ = spoilt(table, tmp_path, not_a_number, read)
    assert same(weights(whole), weights(with_checkpoints))
    assert any("back to step 0" in line for line in said)


def test_a_training_that_stands_still_ends(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """What feeds it is dead: the error says since when."""

    class Asleep(Watch):
        def step(self, step: int, rows: int) -> None:
            if step == 4:
                time.sleep(20)

    monkeypatch.setattr(canaries, "STALL_SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(TrainingError, match="no step was done for 0 s after step 4: what feeds"):
        fit(TOY, table, SMALL, lambda message: None, watch=Asleep(lambda message: None, SMALL))
    assert time.monotonic() - began < 10


def test_a_validation_row_that_is_not_finite_is_told_from_a_bad_batch(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is passed over for it."""

    def spoil(*told: object, **more: object) -> Parts:
        parts = read_parts(*told, **more)  # type: ignore[arg-type]  # as fit calls it
        parts.validation.target[0] = torch.nan
        return parts

    monkeypatch.setattr(fitting, "read_parts", spoil)
    with pytest.raises(TrainingError, match="epoch 1: the validation loss is nan, the training"):
        fit(TOY, table, SMALL, lambda message: None)
