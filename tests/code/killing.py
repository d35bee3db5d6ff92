"""A process that dies at a chosen line, as by kill -9."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def killed_at(line: int, module: str, action: Callable[[], object]) -> bool:
    """Run ``action`` in a forked process that dies, as by kill -9, before the ``line``-th line
    that it executes in ``module``; False when it came to its end first."""
    child = os.fork()
    if child == 0:
        _die_at(line, str(Path(sys.modules[module].__file__ or "")), action)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), f"the child failed with {code}"
    return code == 9


def _die_at(line: int, file: str, action: Callable[[], object]) -> None:
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os._exit(9)
        return trace

    try:
        sys.settrace(trace)
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
