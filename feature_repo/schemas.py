"""Pandera schemas of stored tables, derived from the declarations: dtypes, bounds, keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from feature_repo.contract import FeatureSpec, FeatureView, RequestField, UseCase
from feature_repo.errors import SourceError
from feature_repo.ticks import EPOCH

if TYPE_CHECKING:
    import pandera.polars as pp
    import pyarrow as pa

CHUNK = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TableSchema:
    """A Pandera schema for the values, and the key that no two rows share; ``ordered``: by it."""

    name: str
    columns: pp.DataFrameSchema
    key: tuple[str, ...]
    ordered: bool = False


def view_schema(view: FeatureView) -> TableSchema:
    """Schema of a feature view's table."""
    import pandera.polars as pp
    import polars as pl

    instant = pl.Datetime("us", "UTC")
    columns = {key: pp.Column(pl.String) for key in view.entity.keys}
    columns |= {name: pp.Column(instant) for name in ("event_timestamp", "created_timestamp")}
    columns |= {spec.name: _number(spec) for spec in view.features}
    for spec in view.endless:
        exact = pl.Decimal(38, spec.decimals)
        columns |= {f"{spec.name}_{part}": pp.Column(exact) for part in spec.parts}
    return TableSchema(
        name=view.name,
        columns=pp.DataFrameSchema(columns, strict=True, ordered=True),
        key=(*view.entity.keys, "event_timestamp"),
        ordered=True,
    )


def training_set_schema(use_case: UseCase) -> TableSchema:
    """Schema of a use case's training set."""
    import pandera.polars as pp
    import polars as pl

    instant = pl.Datetime("us", "UTC")
    columns = {"request_id": pp.Column(pl.String)}
    since = pp.Check.ge(EPOCH)  # ticks are counted from there
    columns |= {n: pp.Column(instant, since) for n in ("prediction_time", "event_time", "tick")}
    columns |= {field.name: _field(field) for field in use_case.fields}
    columns |= {spec.name: _number(spec) for spec in use_case.features}
    columns |= {
        "label": pp.Column(pl.Float64, nullable=True, checks=_label_checks(use_case)),
        "label_available_at": pp.Column(instant, nullable=True),
        **{name: pp.Column(pl.Float64, nullable=True) for name in use_case.measures},
    }
    return TableSchema(
        name=f"training set of {use_case.name}",
        columns=pp.DataFrameSchema(columns, strict=True, ordered=True),
        key=("request_id",),
    )


def _label_checks(use_case: UseCase) -> list[pp.Check]:
    import pandera.polars as pp

    return [pp.Check.isin([0.0, 1.0])] if use_case.task == "binary" else []


def _number(spec: FeatureSpec | RequestField) -> pp.Column:
    import pandera.polars as pp
    import polars as pl

    check = pp.Check.in_range(*spec.bounds)
    return pp.Column(pl.Float64, checks=check, nullable=isinstance(spec, FeatureSpec))


def _field(field: RequestField) -> pp.Column:
    import pandera.polars as pp
    import polars as pl

    if field.dtype == "number":
        return _number(field)
    # A key that is not known (a tail number) is null: its features are then, too.
    kind: Any = pl.String if field.dtype == "string" else pl.Datetime("us", "UTC")
    return pp.Column(kind, nullable=field.dtype == "string" and not field.model_input)


def validate_table(table: pa.Table, schema: TableSchema) -> None:
    """Check a table in chunks, so that it need not fit into memory twice.

    Raises:
        SourceError: names table, column, rule, count and three values.
    """
    import polars as pl
    from pandera.errors import SchemaErrors

    for start in range(0, max(table.num_rows, 1), CHUNK):
        try:
            schema.columns.validate(pl.DataFrame(table.slice(start, CHUNK)), lazy=True)
        except SchemaErrors as exc:
            raise SourceError(_message(schema.name, exc.failure_cases)) from exc
    keys = pl.DataFrame(table.select(list(schema.key)))
    # Rows with one key are neighbours where the table is ordered by it: a far cheaper look.
    same = pl.all_horizontal(pl.all() == pl.all().shift())
    repeated = keys.filter(same if schema.ordered else keys.is_duplicated())
    if repeated.height:
        raise SourceError(
            f"table {schema.name}: {repeated.height:,} rows share their key "
            f"({', '.join(schema.key)}), for example {repeated.row(0)}; the event log or the "
            "requests name one fact twice: mend their SQL"
        )


def _message(name: str, cases: Any) -> str:
    column, check = cases["column"][0], cases["check"][0]
    same = cases.filter((cases["column"] == column) & (cases["check"] == check))
    return (
        f"table {name}: column {column!r} breaks the rule {check} in {same.height:,} rows, for "
        f"example {same['failure_case'].head(3).to_list()}; the raw data are wrong, or the bounds "
        "that the use case declares are"
    )
