"""What came of recorded answers: each with its label, once that is available.

What a canary and an experiment are judged by. Nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.labels import join_labels
from serving.predictions import columns_since

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import Column, UseCase
    from feature_repo.home import Home
    from feature_repo.tables import Table

READ = ("id", "request_id", "row", "role", "version", "source", "at", "prediction_time", "fields",
        "score", "fallback")  # fmt: skip
_FLOOR = 1e-7  # of a probability, so that one wrong certainty is no infinite loss
_PAIRED = ("id", "score", "loss")
_CHAMPIONS = ("entity", "event_time", "prediction_time", "label", "available_at")
_ABOUT = "about"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """Answers and their labels, one row an answer, in order of id.

    ``table``: ``id``, ``request_id``, ``row``, ``role``, ``version``, ``source``, ``at``,
    ``prediction_time``, ``score``, ``fallback`` (why the fallback answered; empty: the model did),
    ``entity``, ``event_time``, ``label``, ``available_at`` and ``loss`` (log loss in nats, or the
    squared error in the label's unit squared); the last three are null until the label is there.

    Of ``answers``, ``joined`` have their label, ``waiting`` do not have it yet (a flight that
    never arrives waits for ever), and ``unnamed`` do not say what they are about, as vectors.
    ``doubled``: answers of one model and role about what it had answered already.
    """

    table: pa.Table
    joined: int
    waiting: int
    unnamed: int
    doubled: int

    @property
    def answers(self) -> int:
        """All of them."""
        return int(self.table.num_rows)


def read_outcomes(
    home: Home, use_case: UseCase, tables: list[Table], start: datetime, until: datetime
) -> Outcomes:
    """Answers given since ``start`` (aware) with the labels that were available at ``until``;
    ``tables`` are the raw tables of now.

    Raises:
        StateError: the prediction log cannot be read.
        DeclarationError: the identity names several requests at once.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    words = ("role", "version", "source")
    schema = pa.schema([(name, _type(name)) for name in READ])
    parts = [part.cast(schema) for part in columns_since(home, use_case.name, start, READ)]
    answers = pa.concat_tables(parts) if parts else schema.empty_table()
    table = join_labels(use_case, tables, answers, until)
    table = table.append_column("loss", pa.array(_losses(use_case, table), from_pandas=True))
    joined = table.num_rows - table["label"].null_count
    named = table.filter(pc.is_valid(table["entity"]))
    distinct = named.group_by(["entity", *words[:2]]).aggregate([])
    return Outcomes(
        table=table,
        joined=joined,
        waiting=named.num_rows - joined,
        unnamed=table.num_rows - named.num_rows,
        doubled=named.num_rows - distinct.num_rows,
    )


def pairs(table: pa.Table, challenger: str = "shadow") -> pa.Table:
    """What champion and challenger (``shadow`` or ``canary``) answered to the same question: those
    of one ``request_id``, ``row`` and ``entity`` (a caller may send one id with all requests of
    its trace), from ``Outcomes.table``. Those of a fallback are left out: they tell nothing of the
    two models.

    Columns: ``request_id``, ``row``, ``entity``, ``event_time``, ``prediction_time`` (the
    champion's), ``label``, ``available_at``, and ``champion_`` and ``challenger_`` each with
    ``id``, ``score``, ``loss``. A question that was
    sent twice counts once, with its first answers. In order of ``available_at``, those without a
    label last: a look at an earlier time saw a beginning of it.
    """
    champion = _first(table, "champion", _CHAMPIONS)
    other = _first(table, challenger)
    keys = ["request_id", "row", _ABOUT]
    found = champion.rename_columns(_prefixed(champion, "champion")).join(
        other.rename_columns(_prefixed(other, "challenger")), keys=keys, join_type="inner"
    )
    order = [("available_at", "ascending"), *((key, "ascending") for key in keys)]
    return found.sort_by(order).drop_columns([_ABOUT])


def _first(table: pa.Table, role: str, more: tuple[str, ...] = ()) -> pa.Table:
    """The first answer of a role to each question, by id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = (pc.field("role") == role) & (pc.field("request_id") != "")
    chosen &= pc.field("fallback") == ""
    rows = table.filter(chosen).sort_by("id")
    about = pc.fill_null(rows["entity"].cast(pa.string()), "")  # a join's keys match no null
    rows = rows.append_column(_ABOUT, about)
    names = [*_PAIRED, *more]
    grouped = pa.TableGroupBy(rows, ["request_id", "row", _ABOUT], use_threads=False)
    found = grouped.aggregate(
        [(n, "first", pc.ScalarAggregateOptions(skip_nulls=False)) for n in names]
    )
    return found.rename_columns([name.removesuffix("_first") for name in found.column_names])


def _prefixed(table: pa.Table, prefix: str) -> list[str]:
    return [f"{prefix}_{name}" if name in _PAIRED else name for name in table.column_names]


def _losses(use_case: UseCase, table: pa.Table) -> Column:
    """float64 [n], NaN without a label."""
    score = table["score"].to_numpy()
    label = table["label"].to_numpy().astype(np.float64)
    if use_case.task == "regression":
        errors: Column = np.square(score - label)
        return errors
    sure = np.clip(np.where(label > 0, score, 1 - score), _FLOOR, 1.0)
    losses: Column = np.where(np.isnan(label), np.nan, -np.log(sure))
    return losses


def _type(name: str) -> Any:
    import pyarrow as pa

    kinds: dict[str, Any] = {"row": pa.int32(), "score": pa.float64()}
    kinds |= dict.fromkeys(("at", "prediction_time"), pa.timestamp("us", tz="UTC"))
    return kinds.get(name, pa.string())
