"""What a look sees: answers in pairs out of the prediction log, with the labels that have come."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from feature_repo.offline import head
from serving.artifact import read_model
from serving.outcomes import READ, pairs, read_outcomes
from serving.predictions import columns_since
from serving.rollout_plan import Evidence, Floats
from serving.target import Observed

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase
    from feature_repo.home import Home


def collect(
    home: Home, use_case: UseCase, observed: Observed, began: datetime, until: datetime,
    champion: Path, challenger: Path, window: timedelta,
) -> Evidence:  # fmt: skip
    """Evidence since ``began`` as of ``until`` (both aware), with the outcomes whose ``window`` is
    over; ``champion`` and ``challenger`` are the model directories, whose thresholds decide.

    Raises:
        StateError: the prediction log, or a model directory, cannot be read.
        DeclarationError: the identity names several requests at once.
    """
    table = _pairs(home, use_case, began, until)
    ours, theirs = _column(table, "champion_score"), _column(table, "challenger_score")
    label = _column(table, "label")
    known = ~np.isnan(label) & settled(table, window, until)
    loss = (theirs - label) ** 2 - (ours - label) ** 2
    mistakes = np.zeros(0)
    if use_case.task == "binary":
        wrong = [
            (scores[known] >= read_model(folder).threshold) != (label[known] > 0)
            for scores, folder in ((ours, champion), (theirs, challenger))
        ]
        mistakes = wrong[1].astype(np.float64) - wrong[0]
    requests = np.unique(table["request_id"].to_numpy(zero_copy_only=False), return_inverse=True)[1]
    of_known = requests[known]
    return Evidence(
        champion=observed.champion, canary=observed.canary, shadow=observed.shadow,
        shift=by_request(theirs - ours, requests),
        mistakes=by_request(mistakes, of_known) if len(mistakes) else mistakes,
        loss=by_request(loss[known], of_known),
    )  # fmt: skip


def by_request(values: Floats, requests: npt.NDArray[np.int64]) -> Floats:
    """The mean of each request's rows, float64 [requests]: rows of a batch are alike, as flights of
    one day are, and counted one by one they would prove what a few requests show by chance."""
    counts = np.bincount(requests)
    means: Floats = np.bincount(requests, values)[counts > 0] / counts[counts > 0]
    return means


def settled(table: pa.Table, window: timedelta, until: datetime) -> npt.NDArray[np.bool_]:
    """Pairs whose window is over, and whose label came within it: bool [pairs]."""
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    asked, available = (
        table[name].cast(instant).to_numpy(zero_copy_only=False)
        for name in ("prediction_time", "available_at")
    )
    end = asked + np.timedelta64(window)
    now = np.datetime64(until.astimezone(timezone.utc).replace(tzinfo=None))
    counts: npt.NDArray[np.bool_] = (available <= end) & (end <= now)
    return counts


def _pairs(home: Home, use_case: UseCase, began: datetime, until: datetime) -> pa.Table:
    """Champion and shadow on the same requests; without any version of the data, no labels."""
    import pyarrow as pa

    version = head(home, use_case)
    if version is not None:
        tables = version.built.tables
        return pairs(read_outcomes(home, use_case, tables, began, until).table)
    names = [name for name in READ if name != "fields"]
    instant = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [("id", pa.string()), ("request_id", pa.string()), ("row", pa.int32()),
         ("role", pa.string()), ("score", pa.float64()), ("fallback", pa.string()),
         ("prediction_time", instant)]
    )  # fmt: skip
    parts = [
        part.select(schema.names).cast(schema)
        for part in columns_since(home, use_case.name, began, tuple(names))
    ]
    answers = pa.concat_tables(parts) if parts else schema.empty_table()
    unknown = dict.fromkeys(("entity", "label", "loss"), pa.float64())
    unknown |= dict.fromkeys(("event_time", "available_at"), instant)
    for name, kind in unknown.items():
        answers = answers.append_column(name, pa.nulls(answers.num_rows, kind))
    return pairs(answers)


def _column(table: pa.Table, name: str) -> Floats:
    """float64 [pairs], NaN where it is null."""
    import pyarrow as pa

    values: Floats = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
