"""A release under way, as the home keeps it, and what the ledger is told of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from feature_repo.errors import StateError
from feature_repo.home import Home, write_atomically
from serving.rollout_plan import Plan, State, from_json, to_json
from tasks.ledger import append


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One release: its plan, where it stands, the model, the champion's directory and version
    when it began, why it is tried again, the target, and how many decisions the ledger knows."""

    use_case: str
    version: str
    certificate: str
    model_dir: str
    champion_dir: str
    champion_version: str
    began: str
    again: str = ""
    target: str = "local"
    told: int = 0
    promoted: bool = False
    plan: Plan
    state: State

    @property
    def subject(self) -> str:
        """The challenger's subject digest."""
        return Path(self.model_dir).name

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.state.ended == "back" or self.promoted

    @property
    def since(self) -> datetime:
        """When it began, aware."""
        return datetime.fromisoformat(self.began)


def load(home: Home, use_case: str) -> Rollout | None:
    """The latest release of a use case that has begun.

    Raises:
        StateError: its document is damaged.
    """
    path = path_of(home, use_case)
    if not path.exists():
        return None
    plan, state, more = from_json(path.read_bytes())
    try:
        return Rollout(**more["rollout"], plan=plan, state=state)
    except (KeyError, TypeError) as exc:
        raise StateError(f"{path} is damaged ({exc!r}); roll back, and begin again") from exc


def save(home: Home, rollout: Rollout) -> Rollout:
    """Keep it, atomically."""
    about = {k: v for k, v in asdict(rollout).items() if k not in ("plan", "state")}
    content = to_json(rollout.plan, rollout.state, {"rollout": about})
    write_atomically(path_of(home, rollout.use_case), content)
    return rollout


def tell(home: Home, rollout: Rollout) -> Rollout:
    """Have each decision in the ledger, with its figures; what it knows is not told again."""
    for number, decision in enumerate(rollout.state.decisions, start=1):
        if number > rollout.told:
            facts = {
                "use_case": rollout.use_case, "version": rollout.version, "began": rollout.began,
                "again": rollout.again, "certificate": rollout.certificate, "look": number,
                **asdict(decision),
            }  # fmt: skip
            append(home, "rollout", rollout.subject, facts)
            rollout = save(home, replace(rollout, told=number))
    return rollout


def path_of(home: Home, use_case: str) -> Path:
    """Its document."""
    return home.root / "rollouts" / f"{use_case}.json"
