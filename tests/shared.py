"""What the processes of one test run make once: the first to ask makes it, the others read it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], str]) -> str:
    """What ``make`` told of the folder that it filled, in whichever process it ran.

    A maker that fails leaves nothing: the next process tries again, in a folder of its own.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    told = root / f"{name}.json"
    with FileLock(root / f"{name}.lock"):
        if not told.exists():
            told.write_text(make(factory.mktemp(name)))
    return told.read_text()
