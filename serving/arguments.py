"""A guard around importing KServe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_arguments() -> Iterator[None]:
    """Hide the command line: KServe parses ``sys.argv`` when it is imported, abbreviations
    included, and would end the process over another program's ``--config``."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments
