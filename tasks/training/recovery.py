"""What happens when a canary trips: back once to the last good checkpoint, then an error that says
all that is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import fsspec

from feature_repo.errors import DivergedError
from feature_repo.tables import Table
from tasks.training.canaries import WINDOW, Finding, Tripped
from tasks.training.checkpoints import Checkpoints
from tasks.training.loop import Course, batch_of, train
from tasks.training.parts import rows_of
from tasks.training.run import Run

if TYPE_CHECKING:
    from tasks.types import TrainingConfig

RETURNS = 1  # how often a training goes back for what is not finite


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
        """The training went back to ``last_good``, and will meet the batch of ``trip`` again."""
        self._expected[trip.step] = (trip, last_good, final)
        if self.first:
            self.say(
                f"canary: {trip.canary} at step {trip.step}: {trip.value:.4g}, allowed "
                f"{trip.limit:.4g}; back to step {last_good}"
            )

    def passed_over(self, step: int, finding: Finding) -> None:
        """Save keys of the batch, last good step and layer.

        Raises:
            DivergedError: the training had gone back before: it says all that is known.
        """
        if step not in self._expected:
            return  # an earlier process wrote it down
        trip, last_good, final = self._expected.pop(step)
        keys = rows_of(self.table, "training")["request_id"].to_pylist()
        batch = [str(keys[row]) for row in batch_of(step, len(keys), self.config).tolist()]
        sick = [str(keys[row]) for row in finding.rows]
        record = {
            "canary": trip.canary,
            "step": step,
            "value": trip.value,
            "limit": trip.limit,
            "last_good_step": last_good,
            "first_bad_layer": finding.layer,
            "inputs_not_finite": finding.inputs,
            "rows_not_finite": sick,
            "rows": batch,
        }
        where = self._write(step, record)
        inputs = ", ".join(finding.inputs)
        examples = ", ".join((sick or batch)[:3])
        self._told.append(
            f"{trip.canary} at step {step} ({trip.value:.4g}, allowed {trip.limit:.4g}), last good "
            f"step {last_good}, first bad layer {finding.layer}, "
            f"inputs that are not finite: {inputs or 'none'}, "
            f"{len(batch):,} rows ({examples}, …{where})"
        )
        if final:
            raise DivergedError(
                "the training went bad again after it had gone back: "
                f"{'; then '.join(self._told)}; look at these rows, or lower "
                f"learning_rate, now {self.config.learning_rate}"
            )
        if self.first:
            self.say(f"passed over: {self._told[-1]}")

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
            skipped = [*run.position.skipped, trip.step]
            final = is_final(trip, run.position.skipped, course.steps_per_epoch)
            run, _ = _stand(begin, course)
            run.position.skipped = skipped
            evidence.expect(trip, run.position.step, final=final)
        else:
            return run


def is_final(trip: Tripped, skipped: list[int], steps_per_epoch: int) -> bool:
    """Whether going back is of no use. What is not finite is a fault, and is met twice at most. A
    spike may be an honest row of a target with heavy tails: only another one near it is final."""
    near = [step for step in skipped if abs(trip.step - step) <= WINDOW]
    broken = not math.isfinite(trip.value) and len(skipped) >= RETURNS
    return broken or bool(near) or steps_per_epoch == 1


def _stand(begin: Callable[[], Run], course: Course) -> tuple[Run, str]:
    run = begin()
    return run, course.checkpoints.restore(run) if course.checkpoints else ""
