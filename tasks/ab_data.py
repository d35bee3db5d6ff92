"""From tables of exposures and outcomes to one row a unit, and whether they may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import SourceError
from serving.experiment import Experiment, Metric
from tasks.ab_effects import Bools, Floats, Ints

if TYPE_CHECKING:
    import pandas as pd

RATIO_ALPHA = 0.001  # below it the arms were not shared out, or not recorded, as declared


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Counts by arm against what was expected (chi-square test)."""

    arms: tuple[str, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]
    pvalue: float

    @property
    def fine(self) -> bool:
        """Whether the difference may be chance."""
        return self.pvalue >= RATIO_ALPHA


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """Units whose window is over, in order of exposure: int64 [n] arm (its place in the
    declaration) and datetime64[us] [n] instant of exposure, in UTC."""

    frame: pd.DataFrame
    arm: Ints
    exposed_at: Any


def read_frame(path: str, needed: Sequence[str]) -> pd.DataFrame:
    """A CSV or Parquet file, or a folder of Parquet files (a stored table), with these columns.

    Raises:
        SourceError: it cannot be read, or a column is missing.
    """
    import pandas as pd

    try:
        # A unit and an arm are names: as numbers, "007" would be another one.
        if Path(path).suffix == ".csv":
            frame = pd.read_csv(path, converters={"unit": str, "arm": str})
        else:
            frame = pd.read_parquet(path)
    except (OSError, ValueError) as exc:
        raise SourceError(f"{path} cannot be read ({exc}); give a .csv or Parquet file") from exc
    missing = [name for name in needed if name not in frame]
    if missing:
        raise SourceError(
            f"{path}: column {', '.join(missing)} is missing; it has {', '.join(map(str, frame))}"
        )
    for name in ("exposed_at", "at"):
        if name in frame:
            frame[name] = _instants(path, frame[name])
    if frame["unit"].dtype.kind == "f" or frame["unit"].isna().any():
        raise SourceError(
            f"{path}: column unit holds fractions or nothing in some rows; give each row its "
            "unit's name, as the exposures have it"
        )
    frame["unit"] = frame["unit"].astype(str)
    return frame


def first_exposures(experiment: Experiment, frame: pd.DataFrame, at: datetime) -> pd.DataFrame:
    """One row a unit, its first exposure from the experiment's start on, before its end and up to
    an instant, in order of time; ``arm`` becomes the arm's place in the declaration.

    Raises:
        SourceError: an arm is not declared, or a unit met two.
    """
    places = {arm.name: place for place, arm in enumerate(experiment.arms)}
    unknown = sorted(set(frame["arm"].astype(str)) - set(places))
    if unknown:
        raise SourceError(
            f"exposures: arm {', '.join(unknown)} is none of {experiment.name!r}, which has "
            f"{', '.join(places)}"
        )
    told = frame.assign(arm=frame["arm"].astype(str).map(places).astype("int64"))
    several = told.groupby("unit")["arm"].nunique()
    if (several > 1).any():
        examples = ", ".join(several.index[several > 1][:3])
        raise SourceError(
            f"exposures: {int((several > 1).sum())} units met more than one arm (column unit: "
            f"{examples}); the assignment was not sticky: no effect can be told"
        )
    when = told["exposed_at"]
    told = told[(when >= experiment.start) & (when < experiment.end) & (when <= at)]
    return told.sort_values(["exposed_at", "unit"]).drop_duplicates("unit", ignore_index=True)


def sample_ratio(experiment: Experiment, counts: Sequence[int]) -> Shares:
    """Whether the arms' units are as many as their weights say (sample-ratio check: Fabijan et
    al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019)."""
    from scipy.stats import chisquare

    total = sum(counts)
    expected = tuple(arm.weight * total for arm in experiment.arms)
    pvalue = float(chisquare(counts, expected).pvalue) if total else 1.0
    return _shares(experiment, counts, expected, pvalue)


def answered(experiment: Experiment, counts: Sequence[int], without: Sequence[int]) -> Shares:
    """Whether units without an outcome are as frequent in each arm: if not, those that have one
    are no longer comparable."""
    from scipy.stats import chi2_contingency

    both = np.array([counts, without])
    total = both.sum()
    if not (both.sum(axis=0).all() and both.sum(axis=1).all()):
        return _shares(experiment, without, tuple(float(n) for n in without), 1.0)
    expected = tuple((both.sum(axis=0) * both[1].sum() / total).tolist())
    return _shares(experiment, without, expected, float(chi2_contingency(both).pvalue))


def join(
    experiment: Experiment, exposures: pd.DataFrame, outcomes: pd.DataFrame, at: datetime
) -> tuple[Units, pd.DataFrame]:
    """Units whose window is over at an instant, and the outcomes that fall into their windows.

    Outcomes with an instant (column ``at``) count from their unit's exposure until the window is
    over; those without one all count.
    """
    mature = exposures[exposures["exposed_at"] + experiment.window <= at].reset_index(drop=True)
    place = mature.reset_index().set_index("unit")["index"]
    rows = outcomes.assign(place=outcomes["unit"].map(place)).dropna(subset=["place"])
    rows = rows.assign(place=rows["place"].astype("int64"))
    if "at" in rows:
        began = _plain(mature["exposed_at"])[rows["place"].to_numpy()]
        when = _plain(rows["at"])
        rows = rows[(when >= began) & (when <= began + np.timedelta64(experiment.window))]
    units = Units(
        frame=mature,
        arm=mature["arm"].to_numpy(),
        exposed_at=_plain(mature["exposed_at"]),
    )
    return units, rows


def metric_values(metric: Metric, units: Units, rows: pd.DataFrame) -> tuple[Floats, Bools]:
    """float64 [n, 4] as ``tasks.ab_effects`` takes them, of all units, and which units have an
    outcome. A unit without a covariate gets the mean one, in all arms alike.

    Raises:
        SourceError: a column holds something else than numbers.
    """
    count = len(units.arm)
    named = [metric.numerator, *filter(None, [metric.denominator])]
    known = rows.dropna(subset=named)
    values = np.tile([0.0, 1.0, 0.0, 1.0], (count, 1))
    seen = np.bincount(known["place"], minlength=count)
    values[:, 0] = _total(metric.numerator, known, count)
    if metric.denominator:
        values[:, 1] = _total(metric.denominator, known, count)
    if metric.covariate:
        columns = [metric.covariate, *filter(None, [metric.covariate_denominator])]
        before = known.dropna(subset=columns)
        rated = np.bincount(before["place"], minlength=count)
        for column, name in enumerate(columns, start=2):
            values[:, column] = _total(name, before, count) / np.maximum(rated, 1)
            values[rated == 0, column] = values[rated > 0, column].mean() if rated.any() else 1.0
    return values, seen > 0


def _total(name: str, rows: pd.DataFrame, count: int) -> Floats:
    try:
        column = rows[name].astype("float64").to_numpy()
    except (TypeError, ValueError) as exc:
        raise SourceError(f"outcomes: column {name} holds something else than numbers") from exc
    return np.bincount(rows["place"], column, minlength=count).astype(np.float64)


def _shares(
    experiment: Experiment, counts: Sequence[int], expected: tuple[float, ...], pvalue: float
) -> Shares:
    return Shares(
        arms=tuple(arm.name for arm in experiment.arms),
        counts=tuple(int(count) for count in counts),
        expected=expected,
        pvalue=pvalue,
    )


def _plain(column: pd.Series[pd.Timestamp]) -> Any:
    """datetime64[us] without the zone, which is UTC."""
    return column.dt.tz_convert(None).to_numpy("datetime64[us]")


def _instants(path: str, column: Any) -> Any:
    import pandas as pd

    try:
        told = pd.to_datetime(
            column, utc=True, format="ISO8601" if column.dtype == object else None
        )
    except (TypeError, ValueError) as exc:
        raise SourceError(
            f"{path}: column {column.name} holds no ISO instant in some rows ({exc})"
        ) from exc
    return told.astype("datetime64[us, UTC]")
