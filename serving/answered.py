"""One request's answers, as columns: what a server hands to the prediction log."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[Any, np.dtype[np.float64]]

Layout = Literal["store", "vector"]
Role = Literal["champion", "canary", "shadow"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """The n answers of one request; each of the rows has an id.

    * ``at``: when they were given; ``prediction_times`` [n]: when each was asked as of. Aware.
    * ``tick``: that of the stored features; None where the caller sent the full vector.
    * ``fields`` [n]: the request's fields: strings, numbers, instants, None.
    * ``scores``: float64 [n], the probabilities, or the values predicted.
    * ``values``: float64 [n, columns], NaN where missing. Layout ``store``: the stored features in
      the order of ``UseCase.features``; ``vector``: the numeric inputs that the caller sent, in
      the order of ``feature_repo.inputs.input_columns`` (the categorical ones are fields).
    * ``ages``: float64 [n, views], minutes from each view's row to the tick, NaN where no row
      lives; None for vectors.
    * ``stale`` [n], or one for all; ``source``: ``online`` or ``batch``.
    * ``fallback`` [n], or one for all: why the fallback answered, such as ``stale,missing``; empty
      where the model did.
    * ``request_id``: given by a proxy, so that a shadow's answer is paired with the champion's.
    """

    ids: Sequence[str]
    at: datetime
    prediction_times: Sequence[datetime]
    tick: datetime | None
    fields: Sequence[Mapping[str, Any]]
    scores: Matrix
    layout: Layout
    values: Matrix
    ages: Matrix | None
    version: str
    certificate: str
    subject: str
    source: str = "online"
    stale: Sequence[bool] | bool = False
    fallback: Sequence[str] | str = ""
    request_id: str = ""
    role: Role = "champion"


def new_ids(count: int) -> list[str]:
    """Fresh prediction ids: 32 hex digits, ordered by time (UUID version 7, RFC 9562)."""
    now = f"{time.time_ns() // 1_000_000:012x}7"
    digits = os.urandom(10 * count).hex()
    return [
        f"{now}{digits[i : i + 3]}{'89ab'[int(digits[i + 3], 16) & 3]}{digits[i + 4 : i + 19]}"
        for i in range(0, 20 * count, 20)
    ]


def new_id() -> str:
    """A fresh prediction id, see ``new_ids``."""
    return new_ids(1)[0]


def sampled(answered: Answered, share: float) -> bool:
    """Whether a request is among the ``share`` (of 1) that is recorded.

    Its id decides: servers that answer the same request, as champion and as shadow, keep the
    same ones. A request without an id goes by that of its first answer.
    """
    if share >= 1:
        return True
    key = answered.request_id or answered.ids[0]
    return zlib.crc32(key.encode()) < share * 2**32
