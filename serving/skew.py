"""Measured skew: what answers were given from, against the offline rows of the same ticks today.

Online and offline rows are equal when they are written. They part when a fact that was known by
a tick reaches the raw tables after answers were given as of it: a late event, a correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.asof import rows_at
from feature_repo.errors import StateError
from feature_repo.tables import Table
from serving.artifact import read_model
from serving.predictions import Prediction, since

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import Column, UseCase
    from feature_repo.home import Home

EXAMPLES = 3


@dataclass(kw_only=True, slots=True)
class Skew:
    """Values of one feature, or ages of one view, compared so far.

    ``missing``: of the differing ones, those that only one side has. ``largest``: the largest
    absolute difference of the others, in the value's unit. ``examples``: prediction ids.
    """

    name: str
    view: str
    compared: int = 0
    differing: int = 0
    missing: int = 0
    largest: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Differing among compared; 0 when nothing was."""
        return self.differing / self.compared if self.compared else 0.0

    def add(self, served: Column, offline: Column, ids: Sequence[str]) -> None:
        """Compare float64 [n] with float64 [n], NaN where missing; equal means equal."""
        differ = ~((served == offline) | (np.isnan(served) & np.isnan(offline)))
        sizes = np.abs(served - offline)[differ]
        known = sizes[~np.isnan(sizes)]
        self.compared += len(served)
        self.differing += int(differ.sum())
        self.missing += len(sizes) - len(known)
        self.largest = max(self.largest, float(known.max(initial=0.0)))
        self.examples += [ids[i] for i in np.flatnonzero(differ)[: EXAMPLES - len(self.examples)]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SkewReport:
    """Answers compared, those left out (given by a model of another declaration, as of a tick that
    the views do not reach, from a vector of the caller's, or by the fallback), the values of each
    feature and the ages (minutes) of each view."""

    use_case: str
    since: datetime
    answers: int
    left_out: int
    features: tuple[Skew, ...]
    ages: tuple[Skew, ...]

    @property
    def share(self) -> float:
        """Share of all values compared, over all features, that differ."""
        compared = sum(skew.compared for skew in self.features)
        return sum(skew.differing for skew in self.features) / compared if compared else 0.0

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "format": "airworthy.skew/v1",
            "use_case": self.use_case,
            "since": self.since.isoformat(),
            "answers": self.answers,
            "left_out": self.left_out,
            "share": self.share,
            "features": [asdict(skew) | {"share": skew.share} for skew in self.features],
            "ages": [asdict(skew) | {"share": skew.share} for skew in self.ages],
        }


def measure(
    home: Home, use_case: UseCase, views: list[Table], start: datetime, until: datetime
) -> SkewReport:
    """Compare every answer given since ``start`` with the views' rows at its tick; the views hold
    ticks up to ``until``, and an answer of a later one cannot be compared yet."""
    features = {s.name: Skew(name=s.name, view=s.view) for s in use_case.features}
    ages = {view.name: Skew(name=view.name, view=view.name) for view in use_case.views}
    declared: dict[str, bool] = {}
    answers = left_out = 0
    for chunk in since(home, use_case.name, start):
        kept = [p for p in chunk if _comparable(home, use_case, p, declared, until)]
        left_out += len(chunk) - len(kept)
        answers += len(kept)
        if kept:
            _compare(use_case, views, kept, features, ages)
    return SkewReport(
        use_case=use_case.name,
        since=start,
        answers=answers,
        left_out=left_out,
        features=tuple(features.values()),
        ages=tuple(ages.values()),
    )


def _comparable(
    home: Home, use_case: UseCase, prediction: Prediction, declared: dict[str, bool],
    until: datetime,
) -> bool:  # fmt: skip
    """Whether it was given from stored features of a tick up to ``until``, not by the fallback, and
    by a model that reads them as they are declared now; where its directory is gone, their names
    must do."""
    if prediction.tick is None or prediction.tick > until or prediction.fallback:
        return False
    subject = prediction.subject
    if subject not in declared:
        folder = home.root / "models" / use_case.name / subject
        try:
            declared[subject] = read_model(folder).declaration == use_case.declaration
        except StateError:
            declared[subject] = set(prediction.features) == {s.name for s in use_case.features}
    return declared[subject]


def _compare(
    use_case: UseCase, views: list[Table], predictions: Sequence[Prediction],
    features: Mapping[str, Skew], ages: Mapping[str, Skew],
) -> None:  # fmt: skip
    ids = [p.id for p in predictions]
    offline = rows_at(use_case.views, views, _asked(use_case, predictions))
    ticks = np.array([p.tick.timestamp() for p in predictions if p.tick is not None])
    for name, skew in features.items():
        served = _numbers([p.features[name] for p in predictions])
        skew.add(served, _numbers(offline[name].to_pylist()), ids)
    for name, skew in ages.items():
        served = _numbers([p.ages_minutes[name] for p in predictions])
        row = offline[f"{name}_tick"].to_numpy().astype("datetime64[us]")
        stored = np.where(np.isnat(row), np.nan, row.astype(np.int64) / 1e6)
        skew.add(served, (ticks - stored) / 60.0, ids)


def _asked(use_case: UseCase, predictions: Sequence[Prediction]) -> pa.Table:
    import pyarrow as pa

    keys = sorted({key for view in use_case.views for key in view.entity.keys})
    columns: dict[str, Any] = {
        "id": pa.array(range(len(predictions))),
        "tick": pa.array([p.tick for p in predictions], pa.timestamp("us", tz="UTC")),
    }
    for key in keys:
        columns[key] = pa.array([p.fields[key] for p in predictions], pa.string())
    return pa.table(columns)


def _numbers(values: Sequence[float | None]) -> Column:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
