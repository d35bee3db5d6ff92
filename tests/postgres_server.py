"""A PostgreSQL of the tests' own: a real server on a socket, in a folder that goes with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


@contextmanager
def postgres_server() -> Iterator[str]:
    """Its URL; the server ends with the block. ``make test`` sees to it that there is one."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    # It refuses to run as root: Debian's package brings a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    made = [_program("initdb"), "--auth", "trust", "--username", "postgres", "--no-sync", str(data)]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
    where = ["-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(
        [_program("postgres"), *where], stderr=subprocess.DEVNULL, user=user, cwd=folder
    )
    try:
        _wait(f"host={folder} user=postgres dbname=postgres", process)
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)  # does not wait for those who are connected
        process.wait(30)
        shutil.rmtree(folder)


def _program(name: str) -> str:
    """Debian keeps the server's programs off the path, one folder a version."""
    found = [str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    program = shutil.which(name) or max(found, default="")
    assert program, f"no {name}: run 'make postgres' (as root), or install PostgreSQL"
    return program


def _wait(where: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(where).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, "PostgreSQL ended"
            assert time.monotonic() < end, "PostgreSQL does not answer"
            time.sleep(0.05)
