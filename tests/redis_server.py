"""A redis-server of the tests' own: a real process on a socket , with nothing on disk."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Its URL; the process ends with the block. ``make test`` sees to it that there is one."""
    program = shutil.which("redis-server")
    assert program, "no redis-server: run 'make redis' (as root), or install it"
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    url = f"unix://{socket}"
    try:
        _wait(redis.Redis.from_url(url), process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait(client: redis.Redis, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            assert process.poll() is None, "redis-server ended"
            assert time.monotonic() < end, "redis-server does not answer"
            time.sleep(0.02)
