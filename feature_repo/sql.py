"""From declarations to one SQL text in Spark's dialect, and from there to DuckDB's.

A view's SQL sums events per entity and tick (decimals and integers, so that no order of rows
changes a digit), adds the ticks at which events leave a window, and slides RANGE frames over
the integer tick. The training set finds, for each requested (entity, tick), the view's last
row at or before it by a running maximum over the union of both. No ASOF, no QUALIFY: the text
runs as it is on Spark, and through sqlglot on DuckDB.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from feature_repo.contract import FeatureSpec, FeatureView, UseCase

if TYPE_CHECKING:
    import sqlglot.expressions as exp

DECIMAL = "decimal(18,3)"
CAST = {"string": "string", "number": "double", "timestamp": "timestamp"}


def view_sql(view: FeatureView, tick: timedelta) -> str:
    """SELECT of a feature view: one row per entity and tick at which a feature may change.

    Columns: the entity's keys, ``event_timestamp`` (the tick), ``created_timestamp`` (the
    same: when the row could be known), one double per feature; ordered by keys and tick.
    """
    keys, seconds = ", ".join(view.entity.keys), _seconds(tick)
    windowed = [f for f in view.features if f.aggregation != "last"]
    last = [f for f in view.features if f.aggregation == "last"]
    joins = "".join(
        f" left join {name} using ({keys}, tick)"
        for name, wanted in (("sums", windowed), ("lasts", last))
        if wanted
    )
    columns = ",\n  ".join(f"{_feature(f, view, tick)} as {f.name}" for f in view.features)
    parts = [_events(view, seconds), *_sums(view, windowed), *_lasts(view, last)]
    ticks = [f"select distinct {keys}, tick from events"]
    for ahead in sorted({f.window // tick for f in windowed if f.window is not None}):
        ticks.append(f"select {keys}, tick + {ahead} from events")
    # UNION without ALL: each tick once.
    parts.append("ticks as (\n  " + "\n  union\n  ".join(ticks) + "\n)")
    return (
        "with " + ",\n".join(parts) + f"\nselect {keys}, "
        f"timestamp_seconds(tick * {seconds}) as event_timestamp, "
        f"timestamp_seconds(tick * {seconds}) as created_timestamp,\n  {columns}\n"
        f"from ticks{joins}\norder by {keys}, tick"
    )


def _events(view: FeatureView, seconds: int) -> str:
    """The log's rows with the first tick at or after ``available_at``, unknown entities out."""
    known = " and ".join(f"{key} is not null" for key in view.entity.keys)
    micros = seconds * 1_000_000
    return (
        f"events as (\n  select log.*, (unix_micros(available_at) + {micros - 1}) div {micros}"
        f" as tick\n  from ({view.log.sql}) as log\n  where {known}\n)"
    )


def _sums(view: FeatureView, specs: list[FeatureSpec]) -> list[str]:
    """Events summed per entity and tick: one numerator and one denominator per feature."""
    if not specs:
        return []
    keys = ", ".join(view.entity.keys)
    terms: dict[str, str] = {}
    for spec in specs:
        value, weight = spec.value, spec.weight
        product = f"{value} * {weight}" if weight else value
        counted = f"case when {value} is not null then {weight or 1} end"
        terms[_top(spec)] = f"sum(cast({product} as {DECIMAL})) as {_top(spec)}"
        terms[_bottom(spec)] = f"sum(cast({counted} as {DECIMAL})) as {_bottom(spec)}"
    columns = ", ".join(terms.values())
    return [f"sums as (\n  select {keys}, tick, {columns}\n  from events group by {keys}, tick\n)"]


def _lasts(view: FeatureView, specs: list[FeatureSpec]) -> list[str]:
    """Last known values as of the last event of each entity and tick."""
    if not specs:
        return []
    keys = ", ".join(view.entity.keys)
    order = ("available_at", "event_timestamp", *view.log.tie_break)
    columns = ", ".join(
        f"last_value({value}) ignore nulls over (partition by {keys} order by {', '.join(order)} "
        f"rows between unbounded preceding and current row) as last_{value}"
        for value in dict.fromkeys(f.value for f in specs)
    )
    descending = ", ".join(f"{column} desc" for column in order)
    return [
        f"ordered as (\n  select {keys}, tick, {columns},\n    row_number() over (partition by "
        f"{keys}, tick order by {descending}) as latest\n  from events\n)",
        "lasts as (\n  select * from ordered where latest = 1\n)",
    ]


def _top(spec: FeatureSpec) -> str:
    return f"top_{spec.value}_{spec.weight or 'one'}"


def _bottom(spec: FeatureSpec) -> str:
    return f"bottom_{spec.value}_{spec.weight or 'one'}"


def _feature(spec: FeatureSpec, view: FeatureView, tick: timedelta) -> str:
    """One feature's expression over the ticks of its entity."""
    keys = ", ".join(view.entity.keys)
    if spec.aggregation == "last":
        return (
            f"cast(last_value(last_{spec.value}) ignore nulls over (partition by {keys} "
            "order by tick rows between unbounded preceding and current row) as double)"
        )
    start = "unbounded" if spec.window is None else str(spec.window // tick - 1)
    frame = f"(partition by {keys} order by tick range between {start} preceding and current row)"
    top, bottom = f"sum({_top(spec)}) over {frame}", f"sum({_bottom(spec)}) over {frame}"
    if spec.aggregation == "mean":
        return f"cast({top} as double) / nullif(cast({bottom} as double), 0)"
    return f"coalesce(cast({bottom if spec.aggregation == 'count' else top} as double), 0)"


def training_set_sql(use_case: UseCase) -> str:
    """SELECT of the training set: each request with the features of its tick.

    Reads the use case's raw tables and its views, each under its name. Columns, in order:
    ``request_id``, ``prediction_time``, ``event_time``, ``tick``, the request fields, the
    features in the contract's order, ``label``, ``label_available_at``.
    """
    seconds = _seconds(use_case.tick)
    micros, lag = seconds * 1_000_000, _seconds(use_case.lag) * 1_000_000
    parts = [
        f"requests as (\n  select asked.*, (unix_micros(prediction_time) - {lag}) div {micros} "
        f"as tick_index\n  from ({use_case.requests_sql}) as asked\n)"
    ]
    joins = ""
    for view in use_case.views:
        parts += _read(view, seconds)
        on = " and ".join(f"requests.{k} = read_{view.name}.{k}" for k in view.entity.keys)
        joins += (
            f"\nleft join read_{view.name} on {on} "
            f"and requests.tick_index = read_{view.name}.tick_index"
        )
    columns = [
        "requests.request_id", "requests.prediction_time", "requests.event_time",
        f"timestamp_seconds(requests.tick_index * {seconds}) as tick",
        *(f"cast(requests.{f.name} as {CAST[f.dtype]}) as {f.name}" for f in use_case.fields),
        *(f"read_{f.view}.{f.name}" for f in use_case.features),
        "cast(requests.label as double) as label", "requests.label_available_at",
    ]  # fmt: skip
    return (
        "with "
        + ",\n".join(parts)
        + "\nselect "
        + ",\n  ".join(columns)
        + f"\nfrom requests{joins}"
        "\norder by requests.event_time, requests.request_id"
    )


def _read(view: FeatureView, seconds: int) -> list[str]:
    """The view as of each requested (entity, tick); rows older than the ttl stay out."""
    keys, name = ", ".join(view.entity.keys), view.name
    known = " and ".join(f"{key} is not null" for key in view.entity.keys)
    on = " and ".join(f"asof_{name}.{k} = rows_{name}.{k}" for k in view.entity.keys)
    wanted = ", ".join(
        (*(f"asof_{name}.{k}" for k in view.entity.keys), f"asof_{name}.tick_index",
         *(f"rows_{name}.{f.name}" for f in view.features))
    )  # fmt: skip
    return [
        f"rows_{name} as (\n  select {name}.*, unix_seconds(event_timestamp) div {seconds} "
        f"as tick_index\n  from {name}\n)",
        f"union_{name} as (\n  select {keys}, tick_index, tick_index as row_tick, 0 as asked "
        f"from rows_{name}\n  union all\n  select distinct {keys}, tick_index, "
        f"cast(null as bigint) as row_tick, 1 as asked from requests where {known}\n)",
        f"asof_{name} as (\n  select {keys}, tick_index, asked, max(row_tick) over (partition by "
        f"{keys} order by tick_index range between unbounded preceding and current row) "
        f"as row_tick\n  from union_{name}\n)",
        f"read_{name} as (\n  select {wanted}\n  from asof_{name} join rows_{name} on {on} "
        f"and asof_{name}.row_tick = rows_{name}.tick_index\n  where asof_{name}.asked = 1 and "
        f"(asof_{name}.tick_index - asof_{name}.row_tick) * {seconds} <= {_seconds(view.log.ttl)}"
        "\n)",
    ]


def to_duckdb(sql: str) -> str:
    """The same query in DuckDB's dialect."""
    import sqlglot
    import sqlglot.expressions as exp

    def translate(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Anonymous) and node.name.upper() == "TIMESTAMP_SECONDS":
            return exp.Anonymous(this="TO_TIMESTAMP", expressions=node.expressions)
        # Spark's lenient cast would turn an overflow into a null; ours stops instead.
        return exp.Cast(**node.args) if isinstance(node, exp.TryCast) else node

    return sqlglot.parse_one(sql, read="spark").transform(translate).sql("duckdb")


def _seconds(span: timedelta) -> int:
    return span // timedelta(seconds=1)
