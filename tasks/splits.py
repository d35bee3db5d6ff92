"""The parts of a training set: how time splits it, and what each part holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from feature_repo.errors import TrainingError

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase
    from feature_repo.tables import Table

PARTS = ("training", "validation", "test")
LEARNING_SPLITS = PARTS[:2]  # weights; early stopping and calibration


def check_dates(use_case: str, dates: Sequence[datetime]) -> None:
    """The bounds of the parts, in their order.

    Raises:
        TrainingError: they do not rise.
    """
    if list(dates) != sorted(set(dates)):
        raise TrainingError(
            f"{use_case}: split dates must rise: training_start < validation_start < test_start "
            f"< test_end, got {', '.join(f'{d:%Y-%m-%d}' for d in dates)}"
        )


def check_parts(use_case: UseCase, tables: list[Table], dates: Sequence[datetime]) -> None:
    """Hold the split dates against the requests of the raw tables, before anything is computed.

    Raises:
        TrainingError: dates out of order, or a part without a labelled row.
    """
    import pyarrow.compute as pc

    from feature_repo.dialect import to_duckdb
    from feature_repo.duckdb_session import connect

    check_dates(use_case.name, dates)
    names = "request_id, prediction_time, event_time, label, label_available_at"
    with connect(tables) as session:
        rows = session.sql(f"SELECT {names} FROM ({to_duckdb(use_case.requests_sql)})")
        asked = rows.to_arrow_table()
    counts: Counter[str] = Counter()
    split_by_time(dates, counts, asked)
    for part, start, end in zip(PARTS, dates[:-1], dates[1:], strict=True):
        if not counts[part]:
            first, last = (
                f"{t.as_py():%Y-%m-%d}" if t.is_valid else "never"
                for t in pc.min_max(asked["event_time"]).values()
            )
            raise TrainingError(
                f"{use_case.name}: no labelled row between the split dates of {part!r}, "
                f"{start:%Y-%m-%d} to {end:%Y-%m-%d}: the data hold events from {first} to "
                f"{last}; give other dates, or more data"
            )


def split_by_time(dates: Sequence[datetime], counts: Counter[str], rows: pa.Table) -> pa.Table:
    """The rows with the column ``split``; adds to the number of rows of each part."""
    from feature_repo.duckdb_session import connect

    parts = zip(PARTS, dates[:-1], dates[1:], strict=True)
    cases = " ".join(
        f"WHEN prediction_time >= TIMESTAMPTZ '{start.isoformat()}' "
        f"AND event_time < TIMESTAMPTZ '{end.isoformat()}' "
        f"AND label_available_at <= TIMESTAMPTZ '{end.isoformat()}' THEN '{name}'"
        for name, start, end in parts
    )
    with connect([]) as session:
        session.register("asked", rows)
        split: pa.Table = session.sql(
            f"SELECT *, CASE WHEN label IS NULL THEN '' {cases} ELSE '' END AS split "
            "FROM asked ORDER BY prediction_time, request_id"
        ).to_arrow_table()
    for item in split["split"].value_counts().to_pylist():
        counts[item["values"]] += item["counts"]
    return split


def split_facts(training_set: pa.Table) -> dict[str, dict[str, Any]]:
    """Per split: rows, labelled rows, first and last event time, last instant a label became
    available (ISO UTC; empty where there is none), in order of time. Rows outside every split
    are left out."""
    import pyarrow.compute as pc

    facts = {}
    for name in sorted(pc.unique(training_set["split"]).drop_null().to_pylist()):
        rows = training_set.filter(pc.equal(training_set["split"], name))
        if not name:
            continue
        facts[name] = {
            "rows": rows.num_rows,
            "labelled": rows.num_rows - rows["label"].null_count,
            "first": _iso(pc.min(rows["event_time"])),
            "last": _iso(pc.max(rows["event_time"])),
            "labels_until": _iso(pc.max(rows["label_available_at"])),
        }
    return dict(sorted(facts.items(), key=lambda item: item[1]["first"]))


def learned_until(splits: dict[str, dict[str, Any]]) -> str:
    """The last event time (ISO UTC) of the rows that a model trained or calibrated on."""
    return max((splits[name]["last"] for name in LEARNING_SPLITS if name in splits), default="")


def _iso(value: pa.Scalar) -> str:
    instant = value.as_py()
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ") if instant is not None else ""
