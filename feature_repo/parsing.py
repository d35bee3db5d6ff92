"""Text cells to typed columns: what cannot be parsed is reported cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from feature_repo.errors import SourceError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

# ISO 8601 with a Z or an offset, with a space or a T. A clock that does not state its zone may be
# a local one, and is not taken for UTC.
INSTANTS = ("%+", "%Y-%m-%d %H:%M:%S%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z")
EXACT = 2**53  # the largest whole number that a float is sure to hold
KINDS = {"int64": "a whole number", "float64": "a number", "str": "text"}


def parse(
    raw: pl.DataFrame, columns: Mapping[str, Any], file: str, table: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Typed pandas columns, and a quarantine of the cells that are not of their column's type.

    Columns are Pandera's; cells that must not be missing but are count as bad too. Bad cells
    of whole-number columns hold 0 in the frame: drop their rows.

    Raises:
        SourceError: most cells of a column cannot be parsed: the column is of another type.
    """
    import pandas as pd

    from feature_repo.quarantine import quarantine_frame

    typed, quarantines = {}, []
    for name, column in columns.items():
        dtype = str(column.dtype)
        text, values = raw[name], _values(raw[name], dtype)
        unparsed = (values.is_null() & text.is_not_null()).to_numpy()
        if unparsed.sum() * 2 > text.is_not_null().sum():
            raise SourceError(_wrong_type(file, name, dtype, text, unparsed))
        absent = text.is_null().to_numpy() & (not column.nullable)
        for rows, check, reason in (
            (unparsed, f"dtype({dtype})", f"{name} is not {kind(dtype)}"),
            (absent, "not_nullable", f"{name} is missing"),
        ):
            at = rows.nonzero()[0]
            if len(at):
                quarantines.append(
                    quarantine_frame(
                        table=table, row=at + 1, column=name, check=check, reason=reason,
                        value=[str(v) for v in text.gather(at).to_list()],
                    )
                )  # fmt: skip
        typed[name] = _to_pandas(values, dtype)
    bad = pd.concat(quarantines, ignore_index=True) if quarantines else quarantine_frame()
    return pd.DataFrame(typed), bad


def kind(dtype: str) -> str:
    """A type in words."""
    return KINDS.get(dtype, "an instant with its zone (ISO 8601, such as 2013-01-01T10:00:00Z)")


def _wrong_type(file: str, name: str, dtype: str, text: pl.Series, unparsed: Any) -> str:
    at = unparsed.nonzero()[0]
    shown = ", ".join(f"row {i + 1} ({name} = {text[int(i)]})" for i in at[:3])
    return (
        f"file {file}: column {name!r} has the wrong dtype: {len(at):,} of {len(text):,} values "
        f"are not {kind(dtype)} (rule dtype {dtype}); for example {shown}; export the column as "
        f"{kind(dtype)}"
    )


def _values(series: pl.Series, dtype: str) -> pl.Series:
    """The series in the type wanted; null where a cell cannot be parsed."""
    import polars as pl

    if not series.dtype.is_nested():
        with suppress(pl.exceptions.PolarsError):  # bytes, durations: types without a cast
            return _cast(series, dtype)
    return pl.Series(series.name, [None] * len(series), dtype=pl.Float64)


def _cast(series: pl.Series, dtype: str) -> pl.Series:
    import polars as pl

    if dtype == "str":
        return series.cast(pl.String, strict=False)
    if dtype.startswith("datetime64"):
        return _instants(series)
    if series.dtype == pl.String:
        series = series.str.strip_chars()
    if series.dtype.is_temporal() or series.dtype == pl.Boolean:  # true is not the number 1
        return pl.Series(series.name, [None] * len(series), dtype=pl.Float64)
    numbers = series.cast(pl.Float64, strict=False).fill_nan(None)
    if dtype == "int64":
        whole = (numbers.abs() <= EXACT) & (numbers == numbers.floor())
        return numbers.zip_with(whole.fill_null(False), numbers.clear(len(numbers)))
    return numbers


def _instants(series: pl.Series) -> pl.Series:
    """UTC instants in microseconds from typed or text cells that state their zone."""
    import polars as pl

    name, wanted = series.name, pl.Datetime("us", "UTC")
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone:
        return series.dt.convert_time_zone("UTC").cast(wanted)
    if series.dtype != pl.String:
        return pl.Series(name, [None] * len(series), dtype=wanted)
    texts = pl.DataFrame({name: series.unique()})
    parsed = [pl.col(name).str.strptime(wanted, f, strict=False) for f in INSTANTS]
    known = texts.with_columns(pl.coalesce(parsed).alias("instant"))
    return pl.DataFrame({name: series}).join(known, on=name, how="left", maintain_order="left")[
        "instant"
    ]


def _to_pandas(values: pl.Series, dtype: str) -> Any:
    """A pandas column of exactly the dtype that the schema wants."""
    if dtype == "int64":
        return values.fill_null(0).to_numpy().astype("int64")
    if dtype == "str":
        return values.to_pandas().astype(object)
    return values.to_pandas()
