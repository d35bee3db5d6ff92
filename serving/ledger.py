"""The ledger as it is read: what happened in this home, hash-chained, its head signed.

``ledger/ledger.jsonl`` holds one entry a line: ``{n, at, kind, subject, facts, previous, hash}``
with ``n`` from 1, ``at`` in UTC, ``hash`` the sha256 of the entry without it, ``previous`` the
hash of the entry before (the format's name for the first). ``ledger/head.json`` is a DSSE
envelope over ``{format, n, hash}`` of the last line: the chain shows a change, the signed head
shows a cut end. Whoever puts back an older ledger together with its older head is not seen here:
keep copies of the head elsewhere.

``tasks.ledger`` appends; reading never writes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from feature_repo.errors import AirworthyError, LedgerError
from feature_repo.home import Home
from serving import dsse

FORMAT = "airworthy.ledger/v1"
PAYLOAD_TYPE = "application/vnd.airworthy.ledger+json"
WAY_OUT = "restore ledger/ from a backup and find out who wrote to it"

Entry = dict[str, Any]


class Left(NamedTuple):
    """What a killed append left: a line cut short, or a signed head that is not yet in place."""

    torn: bool
    pending: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Revocation:
    """A revoked certificate, the content of its model (``artifact.content_of``; nothing where
    an older version revoked it), and why."""

    id: str
    content: str
    reason: str


def entries(home: Home) -> list[Entry]:
    """Every complete entry, oldest first, not verified."""
    return [json.loads(line) for line in lines(home)]


def verify(home: Home, trust: dsse.Trust) -> list[Entry]:
    """Every entry, once each line, the chain and the signed head were checked.

    Raises:
        LedgerError: names the line that was changed, removed, swapped or added, or the head.
    """
    with home.lock("ledger"):
        found = lines(home)
        previous = FORMAT
        for number, line in enumerate(found, start=1):
            previous = _check_line(number, line, previous)
        check_end(home, trust)
        if not found and not head_path(home).exists():
            check_never_used(home)
        return [json.loads(line) for line in found]


def revocations(told: list[Entry]) -> dict[str, Revocation]:
    """The revocations that stand, by id of the certificate; a later entry counts."""
    standing: dict[str, Revocation] = {}
    for facts in (entry["facts"] for entry in told if entry["kind"] == "revocation"):
        id_ = str(facts["certificate"])
        standing.pop(id_, None)
        if facts.get("revoked", True):
            content = str(facts.get("content", ""))
            standing[id_] = Revocation(id=id_, content=content, reason=str(facts["reason"]))
    return standing


def contents(told: list[Entry]) -> dict[str, str]:
    """Content of the model (``artifact.content_of``), by id of the certificate; nothing where an
    older version certified it."""
    return {
        str(entry["facts"]["certificate"]): str(entry["facts"].get("content", ""))
        for entry in told
        if entry["kind"] == "certificate"
    }


def check_end(home: Home, trust: dsse.Trust) -> Left:
    """Hold the last line against the signed head, under the ledger's lock.

    A killed append leaves the old lines and head, perhaps with a part of a line, or a
    ``head.next`` that fits the new last line; every other mismatch is tampering.

    Raises:
        LedgerError: the end was changed, cut or added to.
    """
    head, pending = _open_head(head_path(home), trust), next_path(home)
    torn = _torn(home, head[0])
    entry = last(home)
    end = (entry["n"], entry["hash"]) if entry else (0, FORMAT)
    if end == head:
        return Left(torn=torn, pending=False)
    if pending.exists() and _open_head(pending, trust) == end and head[0] == end[0] - 1:
        return Left(torn=torn, pending=True)
    raise LedgerError(_mismatch(end, head, head_path(home).exists()))


def check_never_used(home: Home, subject: str = "") -> None:
    """An empty ledger beside certified or released models lost all its lines and its head; the
    model with this ``subject`` alone may be there, since its certificate is told last.

    Raises:
        LedgerError: there are others.
    """
    if entries(home):
        return
    certified = [p.parent.name for p in home.root.glob("models/*/*/certificate.json")]
    if set(certified) - {subject} or any(home.root.glob("releases/*/*/release.json")):
        raise LedgerError(
            "ledger line 1 was removed, and all others with the head: the home holds certified "
            f"models; {WAY_OUT} (or, if the first run was killed, run it again)"
        )


def last(home: Home) -> Entry | None:
    """The last complete entry, not verified.

    Raises:
        LedgerError: it is not an entry.
    """
    found = lines(home)
    try:
        return json.loads(found[-1]) if found else None
    except ValueError as exc:
        raise LedgerError(f"ledger line {len(found)} is not an entry; {WAY_OUT}") from exc


def lines(home: Home) -> list[bytes]:
    """The complete lines as they are stored."""
    path = ledger_path(home)
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def hash_of(entry: Entry) -> str:
    """sha256 of an entry without its hash."""
    return hashlib.sha256(text_of(entry)).hexdigest()


def text_of(value: object) -> bytes:
    """The one text of an entry: keys in order, no white space."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def ledger_path(home: Home) -> Path:
    """The lines."""
    return home.root / "ledger" / "ledger.jsonl"


def head_path(home: Home) -> Path:
    """The signed head."""
    return home.root / "ledger" / "head.json"


def next_path(home: Home) -> Path:
    """The signed head of an append that is under way."""
    return home.root / "ledger" / "head.next"


def _check_line(number: int, line: bytes, previous: str) -> str:
    """Check one line against the one before and return its hash."""
    try:
        entry = json.loads(line)
        claimed = {key: value for key, value in entry.items() if key != "hash"}
        intact = entry["hash"] == hash_of(claimed) and line == text_of(entry)
        n, before = entry["n"], entry["previous"]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise LedgerError(f"ledger line {number} is not an entry; {WAY_OUT}") from exc
    if not intact:
        raise LedgerError(f"ledger line {number} was changed: its hash is not its own; {WAY_OUT}")
    if n != number:
        raise LedgerError(
            f"ledger line {number} holds entry {n}: entry {number} was removed or swapped; "
            f"{WAY_OUT}"
        )
    if before != previous:
        raise LedgerError(
            f"ledger line {max(number - 1, 1)} was changed: line {number} follows another; "
            f"{WAY_OUT}"
        )
    return str(entry["hash"])


def _torn(home: Home, counted: int) -> bool:
    """Whether the last line is unfinished, as the signed head says that it never was complete."""
    content = ledger_path(home).read_bytes() if ledger_path(home).exists() else b""
    if content.rfind(b"\n") + 1 == len(content):
        return False
    number = content.count(b"\n") + 1
    if counted >= number or not next_path(home).exists():
        raise LedgerError(f"ledger line {number} was changed: it is cut short; {WAY_OUT}")
    return True


def _mismatch(end: tuple[int, str], head: tuple[int, str], signed: bool) -> str:
    if not signed:
        return f"ledger/head.json is missing while the ledger has {end[0]} lines; {WAY_OUT}"
    if end[0] < head[0]:
        return (
            f"ledger line {end[0] + 1} was removed: the signed head counts {head[0]} lines, "
            f"{end[0]} are left; {WAY_OUT}"
        )
    if end[0] > head[0]:
        return (
            f"ledger line {head[0] + 1} was added: the signed head counts {head[0]} lines, not "
            f"{end[0]}; {WAY_OUT}"
        )
    return f"ledger line {end[0]} was changed: it is not the one that was signed; {WAY_OUT}"


def _open_head(path: Path, trust: dsse.Trust) -> tuple[int, str]:
    """Line count and hash that a head signs; of no head, those of an empty ledger."""
    if not path.exists():
        return 0, FORMAT
    try:
        payload, _ = dsse.open_envelope(json.loads(path.read_bytes()), trust)
        head = json.loads(payload)
        if head["format"] != FORMAT:
            raise LedgerError(f"ledger/{path.name} is of format {head['format']!r}, not {FORMAT!r}")
        return int(head["n"]), str(head["hash"])
    except LedgerError:
        raise
    except (AirworthyError, ValueError, KeyError, TypeError) as exc:
        raise LedgerError(
            f"ledger/{path.name} is not signed by a trusted key ({exc}); if the signing key was "
            "replaced, keep the old public key among those of $AIRWORTHY_TRUSTED_KEYS; if not, "
            f"{WAY_OUT}"
        ) from exc
