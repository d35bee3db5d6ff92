"""Runs in pairs: each against the first, by what their models say to the same test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from feature_repo.contract import UseCase
from feature_repo.errors import StateError
from feature_repo.home import Home
from feature_repo.inputs import Array
from feature_repo.tables import Table, read_table, table_place
from serving.artifact import read_model
from serving.predictor import Predictor
from tasks.comparison import compare
from tasks.rows import Rows, labelled_rows
from tasks.runs import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A run minus the first one. ``told``: differences with intervals by metric, on ``rows`` test
    rows; empty where the two cannot be compared. ``note`` says which rows, or why not."""

    rows: int
    told: dict[str, dict[str, Any]]
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answered:
    """The test rows of a run with their request ids [n], and its model's predictions [n]."""

    ids: Array
    rows: Rows
    scores: Array


def pairs_with_first(home: Home, use_case: UseCase, runs: list[Run]) -> list[Pair]:
    """Of each run but the first. Rows that are not in the test part of both are left out: one of
    the two may have learned from them, or was never asked.

    Raises:
        CertificateError: a model's files are not those that were certified.
    """
    tables: dict[str, tuple[Array, Rows]] = {}
    first, *others = runs
    try:
        base = _answered(home, use_case, first, tables)
    except StateError as exc:
        return [Pair(rows=0, told={}, note=f"not comparable: {exc}") for _ in others]
    return [_pair(home, use_case, base, other, tables) for other in others]


def _pair(
    home: Home,
    use_case: UseCase,
    base: _Answered,
    run: Run,
    tables: dict[str, tuple[Array, Rows]],
) -> Pair:
    try:
        asked = _answered(home, use_case, run, tables)
    except StateError as exc:
        return Pair(rows=0, told={}, note=f"not comparable: {exc}")
    here, there, relabelled = _common(base, asked)
    rows = base.rows.where(here)
    note = "the same test rows"
    if not len(rows) == len(base.rows) == len(asked.rows):
        note = f"the test rows that both have, of {len(base.rows):,} and {len(asked.rows):,}"
    if relabelled:
        note += f"; left out, since their labels differ: {relabelled:,}"
    if not len(rows) or rows.target.min() == rows.target.max():
        return Pair(rows=len(rows), told={}, note=f"not comparable: {len(rows):,} are {note}")
    told = compare(use_case.task, rows, asked.scores[there], base.scores[here])
    return Pair(rows=len(rows), told=told, note=note)


def _common(base: _Answered, asked: _Answered) -> tuple[Array, Array, int]:
    """Places of the rows that both have with the same label, and how many have another one: a
    correction came between the two."""
    _, here, there = np.intersect1d(base.ids, asked.ids, assume_unique=True, return_indices=True)
    same = base.rows.target[here] == asked.rows.target[there]
    return here[same], there[same], int((~same).sum())


def _answered(
    home: Home, use_case: UseCase, run: Run, tables: dict[str, tuple[Array, Rows]]
) -> _Answered:
    """The predictions for the test rows of the run's own training set; ``tables`` holds those
    that were read before.

    Raises:
        StateError: the model cannot be asked, or its training set is gone.
    """
    name = run.known.name
    if run.folder is None or run.certificate is None:
        raise StateError(f"{name} has no certified model in this home")
    files = run.certificate.files
    if read_model(run.folder, files).declaration != use_case.declaration:
        raise StateError(f"{name} reads features as this program does not declare them")
    digest = str(run.certificate.predicate["training"]["table"])
    if digest not in tables:
        place = table_place(home, digest)
        if not place.exists():
            raise StateError(f"the training set of {name} is no longer stored")
        tables[digest] = _test_rows(use_case, Table("training_set", str(place), digest, "", 0))
    ids, rows = tables[digest]
    scores = Predictor(use_case, run.folder, files).predict(rows.columns)
    return _Answered(ids=ids, rows=rows, scores=scores)


def _test_rows(use_case: UseCase, table: Table) -> tuple[Array, Rows]:
    import pyarrow.compute as pc

    whole = read_table(table)
    kept = pc.and_(pc.equal(whole["split"], "test"), pc.is_valid(whole["label"]))
    return whole.filter(kept)["request_id"].to_numpy(), labelled_rows(use_case, whole, "test")
