"""Ask a real server process what the offline predictor was asked, and compare the answers."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.errors import SkewError, StateError
from feature_repo.home import online_store
from feature_repo.tables import Table, read_table
from feature_repo.ticks import aware
from serving import processes

if TYPE_CHECKING:
    import pyarrow as pa

    from feature_repo.contract import UseCase
    from feature_repo.home import Home

TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """One request: asked over HTTP, and predicted offline from the same training-set row."""

    request_id: str
    prediction_id: str
    served: float
    offline: float

    @property
    def difference(self) -> float:
        """Absolute difference of the two answers."""
        return abs(self.served - self.offline)


def probe(
    home: Home, use_case: UseCase, model_dir: Path, rows: pa.Table, development: bool
) -> list[Probed]:
    """Start the server, ask it for ``rows``, stop it; the answers beside the offline ones.

    Raises:
        StateError: the server did not become ready, or refused a request.
        SkewError: an answer and the offline prediction do not ``agree``.
    """
    from serving.predictor import Predictor

    offline = Predictor(use_case, model_dir).predict(_columns(use_case, rows))
    with server(home, use_case.name, model_dir, development) as port:
        answers = _ask(port, use_case, rows)
    key = "probability" if use_case.task == "binary" else "value"
    probed = [
        Probed(
            request_id=request_id, prediction_id=answer["prediction_id"], served=answer[key],
            offline=float(expected),
        )
        for request_id, answer, expected in zip(
            rows["request_id"].to_pylist(), answers, offline, strict=True
        )
    ]  # fmt: skip
    differing = [p for p in probed if not agree(p.served, p.offline)]
    if differing:
        worst = max(differing, key=lambda p: p.difference)
        raise SkewError(
            f"request {worst.request_id}: the server answered {worst.served}, offline it is "
            f"{worst.offline} for the same instant; the online store and the training set "
            "disagree: materialise the store from the views of this training set"
        )
    return probed


def agree(one: float, other: float) -> bool:
    """Whether two scores of one model are the same: up to 1e-5 (below 1: absolute)."""
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def sample_requests(use_case: UseCase, table: Table, tick: datetime, count: int) -> pa.Table:
    """Up to ``count`` rows of a training set that read the online store's tick, spread evenly.

    Raises:
        StateError: there is none, so nothing can be compared.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = read_table(table)
    rows = rows.filter(pc.equal(rows["tick"], pa.scalar(tick, rows.schema.field("tick").type)))
    rows = askable(use_case, rows)
    if not rows.num_rows:
        raise StateError(
            f"no request of the training set reads the online store's tick {tick.isoformat()}; "
            "materialise the store as of a tick that requests read"
        )
    return spread(rows, count)


def askable(use_case: UseCase, rows: pa.Table) -> pa.Table:
    """Rows of a training set that a caller could ask: no field is null that may not be."""
    import pyarrow.compute as pc

    for field in use_case.fields:
        if field.model_input or field.dtype != "string":
            rows = rows.filter(pc.is_valid(rows[field.name]))
    return rows


def spread(rows: pa.Table, count: int) -> pa.Table:
    """Up to ``count`` rows, evenly."""
    chosen = np.linspace(0, rows.num_rows - 1, min(count, rows.num_rows)).astype(np.int64)
    return rows.take(chosen)


@contextmanager
def server(home: Home, use_case: str, model_dir: Path, development: bool) -> Iterator[int]:
    """A server process that is ready, by its port; it is stopped at the end of the block.

    Raises:
        StateError: it ended, or was not ready in time; what it logged last is in the message.
    """
    port = processes.free_port()
    arguments = [
        "--use-case", use_case, "--model-dir", str(model_dir), "--home", str(home.root),
        "--port", str(port), *(["--allow-development-key"] if development else []),
    ]  # fmt: skip
    place = home.path("probes", f"{use_case}-{port}")
    try:
        processes.start(place, arguments, {"AIRWORTHY_ONLINE_STORE": online_store(home)})
        processes.wait_ready(place, port)
        yield port
    finally:
        processes.stop(place)
    place.with_suffix(".log").unlink(missing_ok=True)


def _columns(use_case: UseCase, rows: pa.Table) -> dict[str, np.ndarray[Any, Any]]:
    names = ("tick", *(f.name for f in use_case.fields), *(s.name for s in use_case.features))
    columns = {}
    for name in names:
        values = rows[name].to_numpy()
        columns[name] = values.astype("datetime64[s]") if values.dtype.kind == "M" else values
    return columns


def _ask(port: int, use_case: UseCase, rows: pa.Table) -> list[dict[str, Any]]:
    names = [f.name for f in use_case.fields]
    instances = [
        {name: _json(row[name]) for name in (*names, "prediction_time")}
        for row in rows.select([*names, "prediction_time"]).to_pylist()
    ]
    status, body = _post(port, f"/v1/models/{use_case.name}:predict", {"instances": instances})
    if status != 200:
        raise StateError(
            f"the server of {use_case.name!r} refused a request of the training set with "
            f"{status}: {json.dumps(body)}"
        )
    predictions: list[dict[str, Any]] = body["predictions"]
    return predictions


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return aware(value).isoformat()
    return value


def _post(port: int, path: str, document: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(document).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read())
