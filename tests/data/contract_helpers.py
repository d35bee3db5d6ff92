"""Derived inputs to declare, and refusals of declarations."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feature_repo.errors import DeclarationError


def hour(columns: Any) -> Any:
    """An hour."""
    return np.zeros(len(columns["origin"]))


def hour_plus_one(columns: Any) -> Any:
    """Another hour."""
    return np.ones(len(columns["origin"]))


def refused(make: Callable[[], object], *parts: str) -> None:
    """The message names the use case's part, the rule and the way out; it survives a pickle."""
    with pytest.raises(DeclarationError) as caught:
        make()
    text = str(caught.value)
    assert all(part in text for part in parts), text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text  # noqa: S301 - made here
