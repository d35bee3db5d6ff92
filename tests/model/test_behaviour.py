"""How the champion behaves: direction, invariance, minimum functionality.

Reads the home that ``make demo`` fills (``AIRWORTHY_HOME``, or ``.airworthy`` in the checkout).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from feature_repo.home import Home
from feature_repo.registry import get_use_case
from feature_repo.tables import table_place
from serving import certificate, ledger
from serving.predictor import Predictor
from tasks import metrics
from tasks.rows import Rows, labelled_rows

CASE = get_use_case("flights")
ROWS = 8000


@dataclass(frozen=True, kw_only=True)
class Flying:
    """The champion and its labelled test rows."""

    predictor: Predictor
    rows: Rows

    def mean(self, **changed: np.ndarray) -> float:
        return float(self.predictor.predict({**self.rows.columns, **changed}).mean())


@pytest.fixture(scope="module")
def flying() -> Flying:
    root = Path(os.environ.get("AIRWORTHY_HOME", Path(__file__).parents[2] / ".airworthy"))
    champions = [
        entry["subject"]
        for entry in (ledger.entries(Home(root=root)) if root.is_dir() else [])
        if entry["kind"] == "promotion" and entry["facts"]["use_case"] == "flights"
    ]
    if not champions:
        pytest.skip(f"no champion of flights in {root}: run 'make demo' first")
    directory = root / "models" / "flights" / champions[-1]
    predicate = certificate.read(directory).predicate
    if predicate["features"]["declaration"] != CASE.declaration:
        pytest.skip("the champion reads an older declaration of flights: run 'make demo' first")
    table = pq.read_table(table_place(Home(root=root), predicate["training"]["table"]))
    return Flying(predictor=Predictor(CASE, directory), rows=labelled_rows(CASE, table, "test"))


def sample(flying: Flying) -> Flying:
    chosen = np.zeros(len(flying.rows), bool)
    chosen[np.linspace(0, len(flying.rows) - 1, ROWS).astype(int)] = True
    return Flying(predictor=flying.predictor, rows=flying.rows.where(chosen))


def test_more_flights_waiting_at_the_origin_never_lower_the_risk_on_average(
    flying: Flying,
) -> None:
    """Direction: the whole queue at the origin grows, step by step, its wait as it is."""
    part = sample(flying)
    waiting = np.nan_to_num(part.rows.columns["origin_pending_count"])
    risks = [part.mean(origin_pending_count=waiting + more) for more in (0, 2, 4, 8, 16)]
    assert risks == sorted(risks)
    assert risks[-1] > risks[0] + 0.01


def test_longer_waits_at_the_origin_never_lower_the_risk_on_average(flying: Flying) -> None:
    """Direction: the flights that wait were scheduled earlier, by up to two hours."""
    part = sample(flying)
    part = Flying(
        predictor=part.predictor,
        rows=part.rows.where(np.nan_to_num(part.rows.columns["origin_pending_count"]) > 0),
    )
    scheduled = part.rows.columns["origin_pending_wait"]
    risks = [part.mean(origin_pending_wait=scheduled - 60.0 * m) for m in (0, 15, 30, 60, 120)]
    assert risks == sorted(risks)


def test_later_arrivals_of_the_last_hour_raise_the_risk(flying: Flying) -> None:
    part = sample(flying)
    delays = part.rows.columns["origin_arr_delay_1h"]
    assert part.mean(origin_arr_delay_1h=delays + 30.0) > part.mean()


def test_row_order_changes_no_prediction(flying: Flying) -> None:
    """Invariance: a row's answer depends on that row alone."""
    part = sample(flying)
    order = np.random.default_rng(0).permutation(len(part.rows))
    straight = part.predictor.predict(part.rows.columns)
    shuffled = part.predictor.predict({k: v[order] for k, v in part.rows.columns.items()})
    assert np.abs(straight[order] - shuffled).max() < 1e-6
    alone = part.predictor.predict({k: v[:1] for k, v in part.rows.columns.items()})
    assert abs(alone[0] - straight[0]) < 1e-6


def test_a_carrier_or_destination_that_nobody_knows_is_answered(flying: Flying) -> None:
    """Invariance: an unknown carrier or destination is no error and no certainty."""
    part = sample(flying)
    unknown = np.full(len(part.rows), "??")
    answers = part.predictor.predict({**part.rows.columns, "carrier": unknown, "dest": unknown})
    assert np.isfinite(answers).all()
    assert 0.02 < answers.mean() < 0.98


def test_an_aircraft_that_nobody_knows_is_answered(flying: Flying) -> None:
    """Its number is no input: what is stored of it is missing, and that is all the model sees."""
    part = sample(flying)
    own = [s.name for s in CASE.features if "tailnum" in s.entity.keys]
    assert own
    nothing = {name: np.full(len(part.rows), np.nan) for name in own}
    named = {"tailnum": np.full(len(part.rows), "N0")} if "tailnum" in part.rows.columns else {}
    answers = part.predictor.predict({**part.rows.columns, **nothing, **named})
    assert np.isfinite(answers).all()
    assert 0.02 < answers.mean() < 0.98


def test_without_any_stored_feature_the_answer_stays_a_sane_rate(flying: Flying) -> None:
    part = sample(flying)
    nothing = {s.name: np.full(len(part.rows), np.nan) for s in CASE.features}
    assert 0.05 < part.mean(**nothing) < 0.6


@pytest.mark.parametrize("origin", ["EWR", "JFK", "LGA"])
def test_the_minimum_on_each_origin_holds(flying: Flying, origin: str) -> None:
    """Minimum functionality: what the gate asks, recomputed from the rows."""
    part = flying.rows.where(flying.rows.columns["origin"] == origin)
    scores = flying.predictor.predict(part.columns)
    assert metrics.points("binary", part.target, scores)["auc"] >= 0.72
