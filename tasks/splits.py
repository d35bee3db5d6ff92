"""What each split of a training set holds: rows, dates, when its last label became known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

LEARNING_SPLITS = ("training", "validation")  # weights; early stopping and calibration


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
