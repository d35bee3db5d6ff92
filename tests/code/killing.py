"""A process that dies at a chosen line, as by kill -9."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any


def killed_at(line: int, modules: str, action: Callable[[], object]) -> bool:
    """Run ``action`` in a forked process that dies, as by kill -9, before the ``line``-th line
    that it executes in ``modules`` (names); False when it came to its end first."""
    child = os.fork()
    if child == 0:
        files = {str(sys.modules[name].__file__) for name in modules.split()}
        _die_at(line, files, action)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), f"the child failed with {code}"
    return code == 9


def _die_at(line: int, files: set[str], action: Callable[[], object]) -> None:
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
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
