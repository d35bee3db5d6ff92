"""What happens when a canary trips: back once to the last good checkpoint, then an error that says
all that is known. Rows that are far from all others are each set aside, which costs a return too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import fsspec

from feature_repo.errors import DivergedError
from feature_repo.tables import Table, read_table
from tasks.rows import labelled
from tasks.training.canaries import Finding, Tripped
from tasks.training.checkpoints import Checkpoints
from tasks.training.loop import Course, batch_of, train
from tasks.training.run import Position, Run

if TYPE_CHECKING:
    from tasks.types import TrainingConfig

# How often a training goes back, by the cause.
RETURNS = {"not finite": 1, "spike": 1, "outlier": 4}


@dataclass(kw_only=True, slots=True)
class Evidence:
    """Writes down what each batch that was passed over shows."""

    table: Table
    config: TrainingConfig
    checkpoints: Checkpoints | None
    first: bool
    say: Callable[[str], None]
    _expected: dict[int, tuple[Tripped, int, bool]] = field(default_factory=dict)
    _told: list[str] = field(default_factory=list)

    def expect(self, trip: Tripped, last_good: int, *, final: bool) -> None:
        """The training went back to ``last_good``, and will meet the batch of ``trip`` again;
        ``final``: there is no other batch to go on with."""
        self._expected[trip.step] = (trip, last_good, final)
        if self.first:
            self.say(
                f"canary: {trip.canary} at step {trip.step}: {trip.value:.4g}, allowed "
                f"{trip.limit:.4g}; back to step {last_good}"
            )

    def passed_over(self, position: Position, finding: Finding) -> None:
        """Save keys of the batch, last good step and layer, and set an outlier aside.

        Raises:
            DivergedError: the training had gone back before: it says all that is known.
        """
        step = position.step
        if step not in self._expected:
            return  # an earlier process wrote it down, or it holds a row that was set aside
        trip, last_good, final = self._expected.pop(step)
        record = self._record(trip, last_good, finding)
        where = self._write(step, record)
        inputs, rows = ", ".join(finding.inputs), record["rows"]
        examples = ", ".join((record["rows_not_finite"] or rows)[:3])
        of = f", most of its loss is of row {record['outlier']}" if record["outlier"] else ""
        self._told.append(
            f"{trip.canary} at step {step} ({trip.value:.4g}, allowed {trip.limit:.4g}), last good "
            f"step {last_good}, first bad layer {finding.layer}, "
            f"inputs that are not finite: {inputs or 'none'}, "
            f"{len(rows):,} rows ({examples}, …{where}){of}"
        )
        if is_final(position, trip, finding) or final:
            why = "again after it had gone back"
            if final:
                why = "at its only batch: there is no other to go on with"
            raise DivergedError(
                f"the training went bad {why}: {'; then '.join(self._told)}; look at these rows, "
                f"or lower learning_rate, now {self.config.learning_rate}"
            )
        if self.first:
            aside = (finding.outlier, step) in position.aside
            kept = ", whose batches are passed over from here on" if aside else ""
            self.say(f"passed over: {self._told[-1]}{kept}")

    def _record(self, trip: Tripped, last_good: int, finding: Finding) -> dict[str, Any]:
        keys = labelled(read_table(self.table), "training")["request_id"].to_pylist()
        batch = batch_of(trip.step, len(keys), self.config).tolist()
        return {
            "canary": trip.canary,
            "step": trip.step,
            "value": trip.value,
            "limit": trip.limit,
            "last_good_step": last_good,
            "first_bad_layer": finding.layer,
            "inputs_not_finite": finding.inputs,
            "rows_not_finite": [str(keys[row]) for row in finding.rows],
            "outlier": str(keys[finding.outlier]) if finding.outlier >= 0 else "",
            "rows": [str(keys[row]) for row in batch],
        }

    def _write(self, step: int, record: dict[str, Any]) -> str:
        if self.checkpoints is None:
            return ""
        fs, root = fsspec.core.url_to_fs(self.checkpoints.uri)
        name = f"canary-{step:08d}.json"
        try:
            if self.first:
                fs.makedirs(root, exist_ok=True)
                fs.pipe_file(f"{root}/{name}", json.dumps(record, indent=1).encode())
        except Exception as exc:  # whatever storage has of its own
            return f"; not written down: {exc}"
        return f": {self.checkpoints.uri}/{name}"


def train_on(begin: Callable[[], Run], course: Course, evidence: Evidence) -> Run:
    """Train from the last good checkpoint, or from the beginning, to the end. A batch at which a
    canary trips is passed over, from the checkpoint before it.

    Raises:
        DivergedError: a canary tripped again; see ``Evidence``.
        CheckpointError: see ``Checkpoints.restore``.
    """
    run, restored = _stand(begin, course)
    if restored and course.rank.first:
        evidence.say(f"goes on from step {run.position.step}, checkpoint {restored}")
    while True:
        try:
            train(run, course)
        except Tripped as trip:
            before = run.position
            run, _ = _stand(begin, course)
            run.position.skipped = [*before.skipped, trip.step]
            run.position.returns, run.position.aside = before.returns, before.aside
            evidence.expect(trip, run.position.step, final=course.steps_per_epoch == 1)
        else:
            return run


def is_final(position: Position, trip: Tripped, finding: Finding) -> bool:
    """Count the return that led here: whether there were enough of its cause. An outlier, of which
    a target with heavy tails has honest ones, is set aside: it would come back in each epoch."""
    cause = "outlier" if finding.outlier >= 0 else "spike"
    if not math.isfinite(trip.value):
        cause = "not finite"
    position.returns = position.returns | {cause: position.returns.get(cause, 0) + 1}
    if cause == "outlier":
        position.aside = [*position.aside, (finding.outlier, position.step)]
    return position.returns[cause] > RETURNS[cause]


def _stand(begin: Callable[[], Run], course: Course) -> tuple[Run, str]:
    run = begin()
    return run, course.checkpoints.restore(run) if course.checkpoints else ""
