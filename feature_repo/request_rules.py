"""What a request must be to be possible at all, and what is done where features are not at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

# Refuse the request; serve what is there, and say in the answer what is not; or let the model of
# the request alone answer (``feature_repo.fallback``), and say so.
Policy = Literal["refuse", "serve", "fallback"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestRule:
    """A rule over several fields of a request, whose each value alone is in order.

    ``holds(fields, prediction_time)`` gets checked values: str, float, aware datetime. Where it
    does not hold the request is refused, ``field`` is named and ``says`` is what it must be.
    """

    field: str
    says: str
    holds: Callable[[Mapping[str, Any], datetime], bool]
