"""The training set's SQL, in Spark's dialect: every request with the features of its tick.

For each requested (entity, tick), the view's last row at or before it is found by a running
maximum over the union of both.
"""

from __future__ import annotations

from feature_repo.contract import FeatureView, UseCase
from feature_repo.sql import seconds_of

CAST = {"string": "string", "number": "double", "timestamp": "timestamp"}


def training_set_sql(use_case: UseCase, start: int | None = None, end: int | None = None) -> str:
    """SELECT of the training set: each request with the features of its tick.

    Reads the use case's raw tables and its views, each under its name. Columns, in order:
    ``request_id``, ``prediction_time``, ``event_time``, ``tick``, the request fields, the
    features in the contract's order, ``label``, ``label_available_at``; ordered by prediction
    time. ``start`` and ``end`` (epoch seconds) bound the prediction times: start <= time < end.
    """
    bounds = [
        f"unix_micros(prediction_time) {sign} {instant * 1_000_000}"
        for sign, instant in ((">=", start), ("<", end))
        if instant is not None
    ]
    where = "\n  where " + " and ".join(bounds) if bounds else ""
    seconds = seconds_of(use_case.tick)
    micros, lag = seconds * 1_000_000, seconds_of(use_case.lag) * 1_000_000
    parts = [
        f"requests as (\n  select asked.*, (unix_micros(prediction_time) - {lag}) div {micros} "
        f"as tick_index\n  from ({use_case.requests_sql}) as asked{where}\n)"
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
        "\norder by requests.prediction_time, requests.request_id"
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
        f"(asof_{name}.tick_index - asof_{name}.row_tick) * {seconds} <= {seconds_of(view.log.ttl)}"
        "\n)",
    ]
