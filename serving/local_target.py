"""A release on one machine: real server processes behind a weighted reverse proxy.

``targets/<use case>/`` in the home holds what runs: ``local.json``, a pid and a log file for each
process, and the proxy's folder. Everything outlives the task that started it, and every call goes
on where a killed one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from feature_repo.errors import StateError
from feature_repo.home import Home, write_atomically
from serving import processes
from serving.proxy import Proxy, Routes, read_log
from serving.releases import read_current
from serving.served import check_subject
from serving.target import Challenger, Observed

CANARY, SHADOW, CHAMPION = "canary", "shadow", "champion"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One server process: its files' name, port and model directory."""

    name: str
    port: int
    model_dir: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What ``local.json`` says: the arms by role, the shares, where the release's part of the
    proxy's log begins."""

    port: int
    arms: Mapping[str, Arm] = field(default_factory=dict)
    percent: int = 0
    shadow: bool = False
    salt: str = ""
    generation: int = 0
    offset: int = 0


class LocalTarget:
    """``port``: where callers ask (0: where they do already). ``development``: the servers believe
    the home's development key. ``environments``: more variables of a role's process, such as its
    own online store."""

    def __init__(
        self, home: Home, use_case: str, port: int, *, development: bool,
        environments: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:  # fmt: skip
        self._home, self._use_case, self._port = home, use_case, port
        self._development = development
        self._environments = environments or {}
        self._folder = home.root / "targets" / use_case
        self._proxy = Proxy(self._folder / "proxy")

    def begin(self, challenger: Challenger) -> None:
        """See ``Target``. The champion is started too, where it does not answer yet.

        Raises:
            StateError: a server did not become ready, or there is no champion, or no nginx.
        """
        with self._running() as running:
            running = self._champion(running)
            if running.salt != challenger.subject:
                running = self._without_challenger(self._ready(running, CHAMPION))
                log = self._proxy.log
                offset = log.stat().st_size if log.exists() else 0
                running = self._save(replace(running, salt=challenger.subject, offset=offset))
            roles = (SHADOW, CANARY) if running.percent else (SHADOW,)
            for role in roles:
                running = self._arm(running, role, challenger.model_dir)
            self._route(self._ready(running, CHAMPION, *roles))

    def weights(self, percent: int) -> None:
        """See ``Target``. The process that answers callers is started for the first of them.

        Raises:
            StateError: it did not become ready; the traffic stays where it was.
        """
        with self._running() as running:
            if running.percent != percent or not self._proxy.alive():
                if percent and not running.percent:  # one that crashed later stays down, and counts
                    running = self._arm(running, CANARY, Path(running.arms[SHADOW].model_dir))
                    running = self._ready(running, CANARY)
                self._route(replace(running, percent=percent))

    def shadow(self, on: bool) -> None:
        """See ``Target``."""
        with self._running() as running:
            if running.shadow != on or not self._proxy.alive():
                self._route(replace(running, shadow=on))

    def observe(self, slow_seconds: float) -> Observed:
        """See ``Target``."""
        with self._running() as running:
            return read_log(self._proxy.log, running.offset, slow_seconds)

    def rollback(self) -> None:
        """See ``Target``. The champion is the one that servers load: of a promotion that is taken
        back, the one before, which takes over before the other ends."""
        with self._running() as running:
            if CHAMPION in running.arms:
                self._without_challenger(self._ready(self._champion(running), CHAMPION))

    def promote(self) -> None:
        """See ``Target``: a champion's process of the new model takes over before the old ends."""
        with self._running() as running:
            if CANARY in running.arms:
                directory = Path(running.arms[CANARY].model_dir)
                running = self._arm(running, CHAMPION, directory, keep=True)
                self._without_challenger(self._ready(running, CHAMPION))

    def stop(self) -> None:
        """End the proxy and all processes."""
        with self._running() as running:
            self._proxy.stop()
            for arm in running.arms.values():
                processes.stop(self._folder / arm.name)
            self._save(replace(running, arms={}, percent=0, shadow=False))

    @contextmanager
    def _running(self) -> Iterator[Running]:
        """What runs, under the target's lock."""
        with self._home.lock(f"target-{self._use_case}"):
            path = self._folder / "local.json"
            if not path.exists():
                yield Running(port=self._port)
                return
            try:
                told: dict[str, Any] = json.loads(path.read_bytes())
                arms = {role: Arm(**arm) for role, arm in told["arms"].items()}
                running = Running(**{**told, "arms": arms})
            except (ValueError, KeyError, TypeError) as exc:
                raise StateError(
                    f"{path} is damaged ({exc!r}); stop the servers, remove it"
                ) from exc
            yield replace(running, port=self._port or running.port)

    def _save(self, running: Running) -> Running:
        path = self._folder / "local.json"
        write_atomically(path, json.dumps(asdict(running), indent=1).encode())
        return running

    def _champion(self, running: Running) -> Running:
        directory, _ = read_current(self._home, self._use_case)
        return self._arm(running, CHAMPION, directory, keep=True)

    def _arm(self, running: Running, role: str, model_dir: Path, keep: bool = False) -> Running:
        """Have a role's process started; ``keep``: one of another model goes on beside it until
        the proxy knows. A model directory's name is its subject."""
        name, held = f"{role}-{model_dir.name[:12]}", running.arms.get(role)
        if held and held.name == name and self._alive(held):
            return running
        if held and not keep:
            processes.stop(self._folder / held.name)
        processes.stop(self._folder / name)  # a killed call may have left one
        arm = Arm(name=name, port=processes.free_port(), model_dir=str(model_dir))
        running = self._save(replace(running, arms={**running.arms, role: arm}))
        environment = self._environments.get(role, {})
        processes.start(self._folder / name, self._arguments(role, arm), environment)
        return running

    def _ready(self, running: Running, *roles: str) -> Running:
        """Wait for them, and see that each is who is meant."""
        for arm in (running.arms[role] for role in roles):
            processes.wait_ready(self._folder / arm.name, arm.port)
            check_subject(f"http://127.0.0.1:{arm.port}", Path(arm.model_dir).name)
        return running

    def _alive(self, arm: Arm) -> bool:
        return processes.is_alive((self._folder / arm.name).with_suffix(".pid"), processes.WORD)

    def _arguments(self, role: str, arm: Arm) -> list[str]:
        arguments = [
            "--use-case", self._use_case, "--model-dir", arm.model_dir, "--role", role,
            "--port", str(arm.port), "--home", str(self._home.root), "--drain-seconds", "1",
        ]  # fmt: skip
        return [*arguments, "--allow-development-key"] if self._development else arguments

    def _route(self, running: Running) -> Running:
        """Have the proxy send as ``running`` says; saved first, so that a killed call is made
        good by the next one, whose generation is another."""
        running = self._save(replace(running, generation=running.generation + 1))
        ports = {role: arm.port for role, arm in running.arms.items()}
        self._proxy.apply(
            Routes(
                port=running.port, champion=ports[CHAMPION], canary=ports.get(CANARY, 0),
                shadow=ports.get(SHADOW, 0) if running.shadow else 0, percent=running.percent,
                salt=running.salt, generation=running.generation,
            )
        )  # fmt: skip
        return running

    def _without_challenger(self, running: Running) -> Running:
        """The proxy first, then the processes: no request meets one that is gone."""
        arms = {CHAMPION: running.arms[CHAMPION]}
        running = self._route(replace(running, arms=arms, percent=0, shadow=False, salt=""))
        self._sweep(running)
        return running

    def _sweep(self, running: Running) -> None:
        """End what does not belong here any more, that of a killed call too."""
        belongs = {arm.name for arm in running.arms.values()}
        for path in self._folder.glob("*.pid"):
            if path.stem not in belongs:
                processes.stop(path.with_suffix(""))
