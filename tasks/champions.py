"""Who was champion when, by the ledger."""

from __future__ import annotations

from typing import Any

from feature_repo.errors import AirworthyError, StateError
from feature_repo.home import Home
from serving import ledger, revocations
from serving.releases import check_served


def history(home: Home, model: str, faults: list[AirworthyError]) -> list[str]:
    """Champions of a use case over time, from the ledger; added to ``faults``: servers would load
    another model than the last one, as after a promotion that was killed between the two.

    Raises:
        StateError: the ledger knows no such model.
    """
    told = ledger.entries(home)
    entries = [e for e in told if e["facts"].get("use_case") == model]
    if not entries:
        known = sorted({str(e["facts"].get("use_case", "")) for e in told} - {""})
        raise StateError(
            f"the ledger knows no model {model!r}; it knows {', '.join(known) or 'none yet'}"
        )
    champions = [e for e in entries if e["kind"] == "promotion"]
    if not champions:
        return [f"{model}: no champion yet"]
    ends = [*(str(e["at"]) for e in champions[1:]), "now"]
    try:
        check_served(home, model, champions[-1]["subject"], champions[-1]["facts"]["version"])
    except StateError as exc:
        faults.append(exc)
    return [
        f"champions of {model}:",
        *(
            f"  {e['at']} to {end}  {e['facts']['version']:<8} {e['facts']['certificate']}  "
            f"subject {e['subject'][:12]} (entry {e['n']}){_revoked(told, e)}"
            for e, end in zip(champions, ends, strict=True)
        ),
    ]


def _revoked(told: list[dict[str, Any]], promotion: dict[str, Any]) -> str:
    """That a champion's certificate, or another one over the same content, is revoked now."""
    revoked, id_ = ledger.revocations(told).values(), str(promotion["facts"]["certificate"])
    found = revocations.against(revoked, {id_}, ledger.contents(told).get(id_, ""))
    return f"  REVOKED: {found.reason}" if found else ""
