"""Server processes that outlive the task that starts them, known by their pid files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from feature_repo.errors import StateError

WORD = "serving.server"
_READY_SECONDS = 300.0
_STOP_SECONDS = 30.0
# A shell leaves the process behind, so that it ends with nobody, and its pid is on disk at once.
_DETACH = '"$@" >>"$0.log" 2>&1 & echo $! >"$0.pid"'


def start(place: Path, arguments: list[str], environment: Mapping[str, str]) -> None:
    """Start ``python -m serving.server``: its files are ``place`` with ``.pid`` and ``.log``."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_suffix(".log").unlink(missing_ok=True)
    command = [sys.executable, "-m", "serving.server", *arguments]
    subprocess.run(
        ["sh", "-c", _DETACH, str(place), *command], check=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )  # fmt: skip


def wait_ready(place: Path, port: int) -> None:
    """Wait until the server at ``port`` is ready.

    Raises:
        StateError: it ended, or was not ready in time; what it logged last is in the message.
    """
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and is_alive(place.with_suffix(".pid"), WORD):
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/v2/health/ready", timeout=5
            ) as answer:
                if answer.status == 200:
                    return
        except OSError:  # not listening yet, or not ready (an HTTPError is one too)
            time.sleep(0.1)
    log = place.with_suffix(".log")
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    raise StateError(
        f"the server of {place.name} did not become ready: {said[-1] if said else 'no log'}; its "
        f"log is {log}"
    )


def stop(place: Path) -> None:
    """End the process, first politely; nothing where it is gone."""
    pid_file = place.with_suffix(".pid")
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 5.0)):
        if is_alive(pid_file, WORD):
            with suppress(ProcessLookupError):
                os.kill(int(pid_file.read_text()), number)
        end = time.monotonic() + seconds
        while is_alive(pid_file, WORD) and time.monotonic() < end:
            time.sleep(0.1)
    pid_file.unlink(missing_ok=True)


def is_alive(pid_file: Path, word: str) -> bool:
    """Whether the process runs, and is the one meant: ``word`` is in its command line, so a
    number that was given to another process since is none of ours."""
    try:
        process = Path("/proc") / pid_file.read_text().strip()
        state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        words = (process / "cmdline").read_bytes()
    except OSError:
        return False
    # Without words while it becomes another program, and once it ended and nobody asked how.
    return state not in "ZX" and (not words or word.encode() in words)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
