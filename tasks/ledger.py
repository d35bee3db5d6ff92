"""Telling the ledger: append-only. ``serving.ledger`` says what its files hold, and reads them.

An append goes: signed ``head.next``, line and fsync, rename ``head.next`` to ``head.json``. Killed
anywhere, the next one finds either the old line count and head, or a ``head.next`` that fits the
new last line, and mends it; every other mismatch is tampering, and nothing is appended on top.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import Any

from feature_repo.home import Home, write_atomically
from serving import dsse, ledger
from serving.ledger import Entry, text_of


def append(
    home: Home, kind: str, subject: str, facts: dict[str, Any], *, recurring: bool = False
) -> Entry:
    """Add an entry; one that says nothing new is not added again, and the old one is returned.

    Something that happens once (a certificate) is new unless an entry of the same kind,
    subject and facts exists anywhere. Something ``recurring`` (a promotion, a release, a
    revocation) is new unless it is the latest of its kind in the same use case
    (``facts["use_case"]``).

    Raises:
        LedgerError: the ledger's end does not fit its signed head.
    """
    with home.lock("ledger"):
        _mend(home, own_trust(home))
        known = _known(home, kind, subject, facts, recurring)
        if known is not None:
            return known
        last = ledger.last(home)
        if last is None:
            ledger.check_never_used(home, subject if kind == "certificate" else "")
        entry = _entry(last, kind, subject, facts)
        head = {"format": ledger.FORMAT, "n": entry["n"], "hash": entry["hash"]}
        envelope = dsse.signing_key(home).sign(ledger.PAYLOAD_TYPE, text_of(head))
        write_atomically(ledger.next_path(home), text_of(envelope))
        with ledger.ledger_path(home).open("ab") as file:
            file.write(text_of(entry) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        ledger.next_path(home).replace(ledger.head_path(home))
        return entry


def own_trust(home: Home) -> dsse.Trust:
    """Whom this installation trusts: the configured public keys, and the key it signs with."""
    key = dsse.signing_key(home)
    return dsse.trust(home, allow_development=key.development).with_key(key)


def _mend(home: Home, trust: dsse.Trust) -> None:
    """Complete or drop what a killed append left; anything else that does not fit raises."""
    left = ledger.check_end(home, trust)
    if left.torn:
        with ledger.ledger_path(home).open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
            os.fsync(file.fileno())
    if left.pending:
        ledger.next_path(home).replace(ledger.head_path(home))
    else:
        ledger.next_path(home).unlink(missing_ok=True)


def _known(
    home: Home, kind: str, subject: str, facts: dict[str, Any], recurring: bool
) -> Entry | None:
    """The entry that already says this."""
    if recurring:
        use_case = facts.get("use_case")
        same = [
            e
            for e in ledger.entries(home)
            if e["kind"] == kind and e["facts"].get("use_case") == use_case
        ][-1:]
    else:
        mark = f'"subject":{json.dumps(subject)}'.encode()
        same = [json.loads(line) for line in ledger.lines(home) if mark in line]
        same = [e for e in same if e["kind"] == kind]
    plain = json.loads(text_of(facts))
    return next((e for e in same if e["subject"] == subject and e["facts"] == plain), None)


def _entry(last: Entry | None, kind: str, subject: str, facts: dict[str, Any]) -> Entry:
    entry: Entry = {
        "n": last["n"] + 1 if last else 1,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kind": kind,
        "subject": subject,
        "facts": json.loads(text_of(facts)),
        "previous": last["hash"] if last else ledger.FORMAT,
    }
    return {**entry, "hash": ledger.hash_of(entry)}
