"""An experiment that tests change one thing of."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from serving.experiment import Experiment


def document(**changes: Any) -> dict[str, Any]:
    """A good declaration with some fields replaced."""
    good = {
        "name": "flights-1-1",
        "salt": "2026-11-a",
        "unit": ["tailnum"],
        "arms": [
            {"name": "control", "version": "1.0.0", "weight": 0.5},
            {"name": "treatment", "version": "1.1.0", "weight": 0.5},
        ],
        "metrics": [
            {"name": "wrong", "numerator": "wrong", "mde": 0.02, "primary": True},
            {"name": "delay", "numerator": "delay", "mde": 1.0},
        ],
        "start": "2026-11-02T00:00:00+00:00",
        "end": "2026-11-30T00:00:00+00:00",
        "planned_units": 10_000,
    }
    return {**good, **changes}


def experiment(**changes: Any) -> Experiment:
    """The experiment that the document declares."""
    return Experiment.of(document(**changes))


DURING = datetime(2026, 11, 10, tzinfo=timezone.utc)
