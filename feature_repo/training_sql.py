"""The training set's SQL, in Spark's dialect: every request with the features of its tick.

For each requested (entity, tick), the view's last row at or before it is found by a running
maximum over the union of both.
"""

from __future__ import annotations

from feature_repo.contract import FeatureView, UseCase
from feature_repo.sql import seconds_of

CAST = {"string": "string", "number": "double", "timestamp": "timestamp"}


def training_set_sql(use_case: UseCase, *bounds: str) -> str:
    """SELECT of the training set: each request with the features of its tick.

    Reads the use case's raw tables and its views, each under its name. Columns, in order:
    ``request_id``, ``prediction_time``, ``event_time``, ``tick``, the request fields, the
    features in the contract's order, ``label``, ``label_available_at``, the column of the auxiliary
    targets where there are any; ordered by prediction time. ``bounds``: those of the markers
    ``start`` and ``end`` (microseconds since the epoch) that
    the prediction times keep to, start <= time < end.
    """
    limits = [
        f"unix_micros(prediction_time) {sign} :{name}"
        for sign, name in ((">=", "start"), ("<", "end"))
        if name in bounds
    ]
    where = "\n  where " + " and ".join(limits) if limits else ""
    seconds = seconds_of(use_case.tick)
    micros, lag = seconds * 1_000_000, seconds_of(use_case.lag) * 1_000_000
    parts = [
        f"_requests as (\n  select _asked.*, (unix_micros(prediction_time) - {lag}) div {micros} "
        f"as _tick_index\n  from ({use_case.requests_sql}) as _asked{where}\n)"
    ]
    joins = ""
    for view in use_case.views:
        parts += _read(view, seconds)
        on = " and ".join(f"_requests.{k} = _read_{view.name}.{k}" for k in view.entity.keys)
        joins += (
            f"\nleft join _read_{view.name} on {on} "
            f"and _requests._tick_index = _read_{view.name}._tick_index"
        )
    columns = [
        "_requests.request_id", "_requests.prediction_time", "_requests.event_time",
        f"timestamp_seconds(_requests._tick_index * {seconds}) as tick",
        *(f"cast(_requests.{f.name} as {CAST[f.dtype]}) as {f.name}" for f in use_case.fields),
        *(f"_read_{f.view}.{f.name}" for f in use_case.features),
        "cast(_requests.label as double) as label", "_requests.label_available_at",
        *(f"cast(_requests.{name} as double) as {name}" for name in use_case.measures),
    ]  # fmt: skip
    return (
        "with "
        + ",\n".join(parts)
        + "\nselect "
        + ",\n  ".join(columns)
        + f"\nfrom _requests{joins}"
        "\norder by _requests.prediction_time, _requests.request_id"
    )


def _read(view: FeatureView, seconds: int) -> list[str]:
    """The view as of each requested (entity, tick); rows older than the ttl stay out."""
    keys, name = ", ".join(view.entity.keys), view.name
    known = " and ".join(f"{key} is not null" for key in view.entity.keys)
    on = " and ".join(f"_asof_{name}.{k} = _rows_{name}.{k}" for k in view.entity.keys)
    wanted = ", ".join(
        (*(f"_asof_{name}.{k}" for k in view.entity.keys), f"_asof_{name}._tick_index",
         *(f"_rows_{name}.{f.name}" for f in view.features))
    )  # fmt: skip
    return [
        f"_rows_{name} as (\n  select {name}.*, unix_seconds(event_timestamp) div {seconds} "
        f"as _tick_index\n  from {name}\n)",
        f"_union_{name} as (\n  select {keys}, _tick_index, _tick_index as _row_tick, 0 as _asked "
        f"from _rows_{name}\n  union all\n  select distinct {keys}, _tick_index, "
        f"cast(null as bigint) as _row_tick, 1 as _asked from _requests where {known}\n)",
        f"_asof_{name} as (\n  select {keys}, _tick_index, _asked, max(_row_tick) over ("
        f"partition by {keys} order by _tick_index "
        "range between unbounded preceding and current row) as _row_tick\n"
        f"  from _union_{name}\n)",
        f"_read_{name} as (\n  select {wanted}\n  from _asof_{name} join _rows_{name} on {on} "
        f"and _asof_{name}._row_tick = _rows_{name}._tick_index\n"
        f"  where _asof_{name}._asked = 1 and "
        f"(_asof_{name}._tick_index - _asof_{name}._row_tick) * {seconds} <= {seconds_of(view.ttl)}"
        "\n)",
    ]
