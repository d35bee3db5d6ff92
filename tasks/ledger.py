"""The ledger: what happened in this home, append-only, hash-chained, its head signed.

``ledger/ledger.jsonl`` holds one entry a line: ``{n, at, kind, subject, facts, previous, hash}``
with ``n`` from 1, ``at`` in UTC, ``hash`` the sha256 of the entry without it, ``previous`` the
hash of the entry before (the format's name for the first). ``ledger/head.json`` is a DSSE
envelope over ``{format, n, hash}`` of the last line: the chain shows a change, the signed head
shows a cut end.

An append goes: signed ``head.next``, line and fsync, rename ``head.next`` to ``head.json``. Killed
anywhere, the next one finds either the old line count and head, or a ``head.next`` that fits the
new last line; every other mismatch is tampering, and nothing is appended on top of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from feature_repo.errors import AirworthyError, LedgerError
from feature_repo.home import Home, write_atomically
from serving import dsse

FORMAT = "airworthy.ledger/v1"
PAYLOAD_TYPE = "application/vnd.airworthy.ledger+json"

Entry = dict[str, Any]


def append(
    home: Home, kind: str, subject: str, facts: dict[str, Any], *, recurring: bool = False
) -> Entry:
    """Add an entry; one that says nothing new is not added again, and the old one is returned.

    Something that happens once (a certificate) is new unless an entry of the same kind,
    subject and facts exists anywhere. Something ``recurring`` (a promotion, a release) is new
    unless it is the latest of its kind in the same use case (``facts["use_case"]``).

    Raises:
        LedgerError: the ledger's end does not fit its signed head.
    """
    with home.lock("ledger"):
        _recover(home, own_trust(home))
        known = _known(home, kind, subject, facts, recurring)
        if known is not None:
            return known
        last = _last(home)
        if last is None:
            check_never_used(home, subject if kind == "certificate" else "")
        entry = _entry(last, kind, subject, facts)
        head = {"format": FORMAT, "n": entry["n"], "hash": entry["hash"]}
        envelope = dsse.signing_key(home).sign(PAYLOAD_TYPE, _text(head))
        write_atomically(_next_path(home), _text(envelope))
        with _path(home).open("ab") as file:
            file.write(_text(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _next_path(home).replace(_head_path(home))
        return entry


def entries(home: Home) -> list[Entry]:
    """Every complete entry, oldest first, not verified."""
    return [json.loads(line) for line in _lines(home)]


def verify(home: Home, trust: dsse.Trust) -> int:
    """Check every line, the chain and the signed head; returns the number of entries.

    Raises:
        LedgerError: names the line that was changed, removed, swapped or added, or the head.
    """
    with home.lock("ledger"):
        lines = _lines(home)
        previous = FORMAT
        for number, line in enumerate(lines, start=1):
            previous = _check_line(number, line, previous)
        _recover(home, trust)
        if not lines and not _head_path(home).exists():
            check_never_used(home)
        return len(lines)


def revocations(home: Home) -> dict[str, str]:
    """Reasons of all revocations that were ever told, by id of the certificate."""
    told = [e["facts"] for e in entries(home) if e["kind"] == "revocation"]
    return {str(facts["certificate"]): str(facts["reason"]) for facts in told}


def own_trust(home: Home) -> dsse.Trust:
    """Whom this installation trusts: the configured public keys, and the key it signs with."""
    key = dsse.signing_key(home)
    return dsse.trust(home, allow_development=key.development).with_key(key)


def _check_line(number: int, line: bytes, previous: str) -> str:
    """Check one line against the one before and return its hash."""
    try:
        entry = json.loads(line)
        claimed = {key: value for key, value in entry.items() if key != "hash"}
        intact = entry["hash"] == _hash(claimed) and line == _text(entry)
        n, before = entry["n"], entry["previous"]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise LedgerError(f"ledger line {number} is not an entry; {_WAY_OUT}") from exc
    if not intact:
        raise LedgerError(f"ledger line {number} was changed: its hash is not its own; {_WAY_OUT}")
    if n != number:
        raise LedgerError(
            f"ledger line {number} holds entry {n}: entry {number} was removed or swapped; "
            f"{_WAY_OUT}"
        )
    if before != previous:
        raise LedgerError(
            f"ledger line {max(number - 1, 1)} was changed: line {number} follows another; "
            f"{_WAY_OUT}"
        )
    return str(entry["hash"])


_WAY_OUT = "restore ledger/ from a backup and find out who wrote to it"


def _recover(home: Home, trust: dsse.Trust) -> None:
    """Complete or drop what a killed append left; anything else that does not fit raises."""
    _drop_torn_line(home, trust)
    last = _last(home)
    end = (last["n"], last["hash"]) if last else (0, FORMAT)
    head = _open_head(_head_path(home), trust)
    pending = _next_path(home)
    if end == head:
        pending.unlink(missing_ok=True)
    elif pending.exists() and _open_head(pending, trust) == end and head[0] == end[0] - 1:
        pending.replace(_head_path(home))
    else:
        raise LedgerError(_mismatch(end, head, _head_path(home).exists()))


def _mismatch(end: tuple[int, str], head: tuple[int, str], signed: bool) -> str:
    if not signed:
        return f"ledger/head.json is missing while the ledger has {end[0]} lines; {_WAY_OUT}"
    if end[0] < head[0]:
        return (
            f"ledger line {end[0] + 1} was removed: the signed head counts {head[0]} lines, "
            f"{end[0]} are left; {_WAY_OUT}"
        )
    if end[0] > head[0]:
        return (
            f"ledger line {head[0] + 1} was added: the signed head counts {head[0]} lines, not "
            f"{end[0]}; {_WAY_OUT}"
        )
    return f"ledger line {end[0]} was changed: it is not the one that was signed; {_WAY_OUT}"


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
            f"{_WAY_OUT}"
        ) from exc


def _drop_torn_line(home: Home, trust: dsse.Trust) -> None:
    """Cut an unfinished last line, if the signed head says that it was never complete."""
    path = _path(home)
    content = path.read_bytes() if path.exists() else b""
    complete = content.rfind(b"\n") + 1
    if complete == len(content):
        return
    number = content.count(b"\n") + 1
    if _open_head(_head_path(home), trust)[0] >= number or not _next_path(home).exists():
        raise LedgerError(f"ledger line {number} was changed: it is cut short; {_WAY_OUT}")
    with path.open("rb+") as file:
        file.truncate(complete)
        os.fsync(file.fileno())


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
            f"models; {_WAY_OUT} (or, if the first run was killed, run it again)"
        )


def _known(
    home: Home, kind: str, subject: str, facts: dict[str, Any], recurring: bool
) -> Entry | None:
    """The entry that already says this."""
    if recurring:
        use_case = facts.get("use_case")
        same = [
            e for e in entries(home) if e["kind"] == kind and e["facts"].get("use_case") == use_case
        ][-1:]
    else:
        mark = f'"subject":{json.dumps(subject)}'.encode()
        same = [json.loads(line) for line in _lines(home) if mark in line]
        same = [e for e in same if e["kind"] == kind]
    plain = json.loads(_text(facts))
    return next((e for e in same if e["subject"] == subject and e["facts"] == plain), None)


def _entry(last: Entry | None, kind: str, subject: str, facts: dict[str, Any]) -> Entry:
    entry: Entry = {
        "n": last["n"] + 1 if last else 1,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kind": kind,
        "subject": subject,
        "facts": json.loads(_text(facts)),
        "previous": last["hash"] if last else FORMAT,
    }
    return {**entry, "hash": _hash(entry)}


def _last(home: Home) -> Entry | None:
    lines = _lines(home)
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError as exc:
        raise LedgerError(f"ledger line {len(lines)} is not an entry; {_WAY_OUT}") from exc


def _lines(home: Home) -> list[bytes]:
    path = _path(home)
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _hash(entry: Entry) -> str:
    return hashlib.sha256(_text(entry)).hexdigest()


def _text(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _path(home: Home) -> Path:
    return home.path("ledger", "ledger.jsonl")


def _head_path(home: Home) -> Path:
    return home.path("ledger", "head.json")


def _next_path(home: Home) -> Path:
    return home.path("ledger", "head.next")
