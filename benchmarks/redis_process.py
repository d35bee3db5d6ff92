"""A redis-server of one's own, for benchmarks."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of a redis-server that keeps nothing on disk."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("no redis-server: run 'make redis' (as root), or install it")
    command = [program, "--port", str(port), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        import redis
        from redis.backoff import ConstantBackoff
        from redis.retry import Retry

        redis.Redis(port=port, retry=Retry(ConstantBackoff(0.05), 200)).ping()
        yield port
    finally:
        process.terminate()
        process.wait()
