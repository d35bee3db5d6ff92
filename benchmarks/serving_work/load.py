"""Every server under the same load over sockets, one at a time, in turns.

    python -m benchmarks.serving_work.load FOLDER ROUNDS SECONDS

All servers are started once and stay up; each must give the expected scores before it is loaded.
A round is ``SECONDS`` of wrk on 8 connections; server CPU is of the server's whole process tree.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.serving_work.contenders import CONTENDERS, SERVERS, Server
from benchmarks.serving_work.environments import python_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tasks" / "post.lua"
CONNECTIONS, WARM_SECONDS, START_SECONDS = 8, 1.0, 180.0
SIZES = (1, 64)
TOLERANCE = 1e-6
TICKS = os.sysconf("SC_CLK_TCK")
Run = dict[str, float]


class Running:
    """A server's process and port."""

    def __init__(self, server: Server, python: str, facts: dict[str, Any], log: Path) -> None:
        self.port, self._log = _free_port(), log
        command = [python, *server.command]
        if not server.environment:
            command += [
                "--use-case", "flights", "--model-dir", facts["model"], "--home", facts["home"],
                "--port", str(self.port), "--record", "1.0", "--allow-development-key",
            ]  # fmt: skip
        if "bentoml" in server.command:
            command += ["--port", str(self.port), "--host", "127.0.0.1"]
        names = {"BENCH_PORT": str(self.port), "BENCH_MODEL": facts["model"]}
        dropped = ("AIRWORTHY_", "VIRTUAL_ENV")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=log.open("wb"), stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**inherited, **names, **dict(server.more), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def ask(self, path: str, body: bytes, header: int) -> tuple[bytes, dict[str, str]]:
        """One answer, and its headers in lower case."""
        headers = {"content-type": "application/json"}
        if header:
            headers["content-type"] = "application/octet-stream"
            headers["inference-header-content-length"] = str(header)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own
            return answer.read(), {k.lower(): v for k, v in answer.headers.items()}

    def wait(self, path: str, body: bytes, header: int) -> None:
        """Until a first question is answered.

        Raises:
            RuntimeError: the server ended, or does not answer.
        """
        end, said = time.monotonic() + START_SECONDS, ""
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask(path, body, header)
            except (OSError, urllib.error.HTTPError) as exc:
                said = repr(exc)
                time.sleep(0.2)
            else:
                return
        raise RuntimeError(f"does not answer ({said}): {self._log.read_text()[-1500:]}")

    def cpu(self) -> float:
        """CPU seconds so far of the process tree."""
        return sum(_cpu_of(pid) for pid in _tree(self.process.pid))

    def stop(self) -> None:
        """End the process tree."""
        for pid in reversed(_tree(self.process.pid)):
            _signal(pid)
        self.process.wait()


def measured(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Runs by size and contender, and why others have none."""
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("no wrk: run 'make wrk' (as root), or install it")
    facts = json.loads((folder / "facts.json").read_text())
    found: dict[str, Any] = {"runs": {}, "absent": {}, "model": facts["which"]}
    with started(folder, facts, found["absent"]) as servers:
        for size in SIZES:
            runs: dict[str, list[Run]] = {}
            for name in _right(servers, folder, facts, size, found["absent"]):
                load(wrk, servers, name, size, folder, WARM_SECONDS)
                runs[name] = []
            names = list(runs)
            for turn in range(rounds):
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    runs[name].append(load(wrk, servers, name, size, folder, seconds))
            found["runs"][str(size)] = runs
            print(f"batch {size}: {rounds} rounds", file=sys.stderr, flush=True)
        found["log"] = recorded(servers["ours"])
    return found


@contextmanager
def started(
    folder: Path, facts: dict[str, Any], absent: dict[str, str]
) -> Iterator[dict[str, Running]]:
    """All servers that start; the others are told in ``absent``."""
    with ExitStack() as stack:
        servers: dict[str, Running] = {}
        for name, server in SERVERS.items():
            with _told(name, absent):
                python = python_of(server.environment) if server.environment else sys.executable
                log = folder / f"{name}.log".replace(" ", "-")
                servers[name] = Running(server, str(python), facts, log)
                stack.callback(servers[name].stop)
        for name, running in list(servers.items()):
            first = next(c for c in CONTENDERS.values() if c.server == name)
            with _told(name, absent):
                running.wait(first.path, *body_of(folder, first.kind, 1))
        yield {name: running for name, running in servers.items() if name not in absent}


@contextmanager
def _told(name: str, absent: dict[str, str]) -> Iterator[None]:
    """What goes wrong with a contender is written down, and the others go on."""
    try:
        yield
    except (RuntimeError, OSError, ValueError, KeyError, TypeError) as exc:
        absent[name] = str(exc) if isinstance(exc, RuntimeError) else repr(exc)
        print(f"{name}: {absent[name]}", file=sys.stderr, flush=True)


def _right(
    servers: dict[str, Running], folder: Path, facts: dict[str, Any], size: int,
    absent: dict[str, str],
) -> list[str]:  # fmt: skip
    """Contenders whose answer to the first body is that of the model itself."""
    right = []
    for name, contender in CONTENDERS.items():
        running = servers.get(contender.server)
        if running is None:
            absent.setdefault(name, absent[contender.server])
            continue
        with _told(name, absent):
            answer = running.ask(contender.path, *body_of(folder, contender.kind, size))
            scores = contender.scores(*answer)
            pairs = zip(scores, facts["expected"][str(size)], strict=True)
            worst = max(abs(a - b) for a, b in pairs)
            if worst > TOLERANCE:
                raise ValueError(f"scores of batch {size} differ by {worst}")
            right.append(name)
    return right


def body_of(folder: Path, kind: str, size: int) -> tuple[bytes, int]:
    """The first body of a kind, and the length of its JSON header."""
    bodies = folder / "bodies" / f"{kind}-{size}"
    name, header = (bodies / "index").read_text().split(maxsplit=2)[:2]
    return (bodies / name).read_bytes(), int(header)


def load(
    wrk: str, servers: dict[str, Running], name: str, size: int, folder: Path, seconds: float
) -> Run:
    """One round: requests per second, milliseconds, server CPU in microseconds a request."""
    contender = CONTENDERS[name]
    running = servers[contender.server]
    before = running.cpu()
    done = subprocess.run(
        [
            wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "30s",
            "-s", str(SCRIPT),
            f"http://127.0.0.1:{running.port}{contender.path}",
            "--", str(folder / "bodies" / f"{contender.kind}-{size}"),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    used = running.cpu() - before
    told = json.loads(done.stdout.strip().splitlines()[-1])
    count = max(told["requests"], 1)
    return {
        "rps": told["requests"] / told["seconds"], "p50": told["p50"], "p99": told["p99"],
        "cpu": used / count * 1e6, "failed": told["failed"],
    }  # fmt: skip


def recorded(ours: Running) -> dict[str, float]:
    """What became of the answers of our server, by its own metrics, once its queue is empty."""
    time.sleep(2.0)
    with urllib.request.urlopen(f"http://127.0.0.1:{ours.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return read_recorded(text)


def read_recorded(text: str) -> dict[str, float]:
    """The counters of recorded answers in Prometheus' text."""
    found = {}
    for line in text.splitlines():
        if line.startswith("airworthy_prediction_log_total{"):
            outcome = line.split('outcome="')[1].split('"')[0]
            found[outcome] = float(line.rsplit(" ", 1)[1])
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process and of the children that it has waited for (proc(5), stat): what
    a process that seals the log used does not vanish with it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def _signal(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
