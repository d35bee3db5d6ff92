"""An A/B test on real flights: two simple predictors of lateness, replayed on November and
December 2013.

The control predicts a carrier's share of late flights in September and October, the treatment
that of carrier and queue: how many flights from the airport were late two to five hours before.
Both answers and what happened are known for every flight, so the truth of any assignment is known
too: ``Replay.truth``. The unit is an aircraft on a day, which may fly several times: squared
errors over flights is a ratio of sums. The covariate is that share of late flights before, known
at the exposure and the same in both arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from serving.assignment import assign
from serving.experiment import Arm, Experiment, Metric

if TYPE_CHECKING:
    import pandas as pd

START = datetime(2013, 11, 1, 6, tzinfo=timezone.utc)
END = datetime(2014, 1, 1, 5, tzinfo=timezone.utc)
TRAINED = datetime(2013, 9, 1, 6, tzinfo=timezone.utc)  # since then, up to START
LATE = 15  # minutes
DECISION = 0.3  # a share above it is answered with "late"


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """Every flight with the outcomes of both arms: unit, at, late_before, squared_error_<arm>,
    wrong_<arm>, flights (1)."""

    flights: pd.DataFrame

    def truth(self, metric: str) -> float:
        """The treatment's true effect on the squared errors or wrong answers of a flight."""
        told = self.flights
        return float(told[f"{metric}_treatment"].mean() - told[f"{metric}_control"].mean())

    def tables(self, experiment: Experiment) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Exposures (unit, arm, exposed_at) and outcomes (unit, at, columns) as they would have
        been recorded under the experiment's assignment."""
        told = self.flights
        first = told.groupby("unit", sort=False)["at"].min()
        arms = {unit: assign(experiment, unit) for unit in first.index}
        exposures = first.rename("exposed_at").reset_index()
        exposures.insert(1, "arm", exposures["unit"].map(arms))
        treated = (told["unit"].map(arms) == experiment.arms[1].name).to_numpy()
        outcomes = told[["unit", "at", "late_before", "flights"]].copy()
        for metric in ("squared_error", "wrong"):
            ours, theirs = told[f"{metric}_treatment"], told[f"{metric}_control"]
            outcomes[metric] = np.where(treated, ours, theirs)
        return exposures, outcomes


def declaration(name: str, salt: str, looks: int = 5, planned_units: int = 40_000) -> Experiment:
    """The experiment of the replay."""
    return Experiment(
        name=name,
        salt=salt,
        unit=("tailnum", "date"),
        arms=(
            Arm(name="control", version="carrier", weight=0.5),
            Arm(name="treatment", version="carrier-queue", weight=0.5),
        ),
        metrics=(
            _by_flight("squared error", "squared_error", 0.005, primary=True),
            _by_flight("wrong answers", "wrong", 0.01),
            Metric(name="flights a unit", numerator="flights", mde=0.05),
        ),
        start=START,
        end=END,
        planned_units=planned_units,
        window_hours=24,
        looks=looks,
    )


def _by_flight(name: str, numerator: str, mde: float, primary: bool = False) -> Metric:
    return Metric(
        name=name,
        numerator=numerator,
        denominator="flights",
        covariate="late_before",
        covariate_denominator="flights",
        mde=mde,
        primary=primary,
    )


def replay(flights: pd.DataFrame) -> Replay:
    """From the raw table of flights."""
    import pandas as pd

    flown = flights.dropna(subset=["arr_delay", "tailnum"])
    hour = pd.to_datetime(flown["time_hour"], utc=True).astype("datetime64[us, UTC]")
    known = flown.assign(late=(flown["arr_delay"] > LATE).astype(float), at=hour)
    known = known.merge(_late_before(known), on=["origin", "at"], how="left")
    known["queue"] = np.digitize(known["late_before"], [0.1, 0.2, 0.35])  # NaN is a bin, too
    past = known[(known["at"] >= TRAINED) & (known["at"] < START)]
    told = known[(known["at"] >= START) & (known["at"] < END)].copy()
    overall = past["late"].mean()
    for arm, keys in (("control", ["carrier"]), ("treatment", ["carrier", "queue"])):
        share = past.groupby(keys)["late"].mean().rename("score").reset_index()
        score = told.merge(share, on=keys, how="left")["score"].fillna(overall).to_numpy()
        told[f"squared_error_{arm}"] = (told["late"].to_numpy() - score) ** 2
        told[f"wrong_{arm}"] = ((score > DECISION) != (told["late"] > 0)).astype(float)
    day = pd.to_datetime(told[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    told["unit"] = '["' + told["tailnum"] + '","' + day + '"]'  # as ``assignment.unit_of`` says it
    told["flights"] = 1.0
    return Replay(flights=told.reset_index(drop=True))


def _late_before(known: pd.DataFrame) -> pd.DataFrame:
    """By origin and hour: the share of late flights that were due two to five hours before."""
    import pandas as pd

    hourly = known.groupby(["at", "origin"])["late"].agg(["sum", "count"]).unstack(fill_value=0)
    every = pd.date_range(hourly.index.min(), hourly.index.max(), freq="h", unit="us")
    four = hourly.reindex(every, fill_value=0).rolling(4, min_periods=1).sum().shift(2)
    share = (four["sum"] / four["count"]).rename_axis("at")  # NaN where none were due
    return share.melt(ignore_index=False, value_name="late_before").reset_index()
