"""Signed statements about a model directory (in-toto Statement v1 in a DSSE envelope).

A certificate, a release and a list of revocations have one form: a subject (files and their
digests), a predicate type and a predicate. Source of the form: https://in-toto.io/Statement/v1.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.errors import CertificateError
from feature_repo.home import write_atomically
from serving.dsse import HOW_TO_ALLOW, SigningKey, Trust, encode, open_envelope, payload_of

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """A statement as read: ``subject`` maps file names to sha256; ``keyid`` is empty when the
    signature was not checked."""

    predicate_type: str
    predicate: dict[str, Any]
    subject: dict[str, str]
    digest: str
    keyid: str = ""


def sign_statement(
    key: SigningKey, kind: str, subject: Mapping[str, str], predicate: Mapping[str, Any]
) -> bytes:
    """A signed statement as the bytes of its file; the signer's id is put into the predicate."""
    signer = {"keyid": key.keyid, "development": key.development}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": n, "digest": {"sha256": d}} for n, d in sorted(subject.items())],
        "predicateType": kind,
        "predicate": {**predicate, "signer": signer},
    }
    payload = json.dumps(_plain(statement), sort_keys=True, allow_nan=False).encode()
    return encode(key.sign(PAYLOAD_TYPE, payload))


def write_statement(
    path: Path,
    key: SigningKey,
    kind: str,
    subject: Mapping[str, str],
    predicate: Mapping[str, Any],
    aside: Path | None = None,
) -> None:
    """Sign a statement and write it atomically to ``path``; ``aside`` as in
    ``write_atomically``."""
    write_atomically(path, sign_statement(key, kind, subject, predicate), aside)


def read_statement(path: Path, kind: str, trust: Trust | None) -> Statement:
    """The statement in ``path``; with ``trust=None`` its signature is not looked at.

    Raises:
        CertificateError: missing, no signed statement of ``kind``, not signed by a trusted key,
            or signed by a development key where that is not allowed.
    """
    try:
        content = path.read_bytes()
        envelope = json.loads(content)
    except FileNotFoundError as exc:
        raise CertificateError(f"{path} is missing; issue it, or restore it") from exc
    except (OSError, ValueError) as exc:
        raise CertificateError(
            f"{path} cannot be read as JSON ({exc}); restore the original, or issue it anew"
        ) from exc
    try:
        if trust is None:
            payload, keyid = payload_of(envelope), ""
        else:
            if encode(envelope) != content:
                raise CertificateError(
                    "it is not written as it was when it was signed; restore the original, or "
                    "issue it anew"
                )
            payload, keyid = open_envelope(envelope, trust)
        statement = _statement(payload, keyid, kind)
        if trust is not None:
            _check_signer(statement, trust)
    except CertificateError as exc:
        raise CertificateError(f"{path}: {exc}") from exc
    return statement


def instant(text: Any) -> datetime:
    """An aware instant from its ISO text.

    Raises:
        CertificateError: it is no ISO instant with an offset.
    """
    try:
        value = datetime.fromisoformat(text)
    except (TypeError, ValueError) as exc:
        raise CertificateError(f"{text!r} is no ISO instant; issue the document anew") from exc
    if value.tzinfo is None:
        raise CertificateError(f"the instant {text!r} lacks its offset; issue the document anew")
    return value


def _statement(payload: bytes, keyid: str, kind: str) -> Statement:
    try:
        document = json.loads(payload)
        subject = {str(s["name"]): str(s["digest"]["sha256"]) for s in document["subject"]}
        found = str(document["predicateType"])
        predicate = dict(document["predicate"])
        complete = document["_type"] == STATEMENT_TYPE and len(subject) == len(document["subject"])
    except (ValueError, KeyError, TypeError) as exc:
        raise CertificateError(f"it holds no in-toto statement ({exc!r}); issue it anew") from exc
    if not complete or found != kind:
        raise CertificateError(
            f"it holds a statement of type {found!r} where {kind!r} is read; issue it with this "
            "version, or use the version that issued it"
        )
    digest = hashlib.sha256(payload).hexdigest()
    return Statement(
        predicate_type=found, predicate=predicate, subject=subject, digest=digest, keyid=keyid
    )


def _check_signer(statement: Statement, trust: Trust) -> None:
    signer = statement.predicate.get("signer")
    if not isinstance(signer, dict) or signer.get("keyid") != statement.keyid:
        raise CertificateError(
            f"it is signed by {statement.keyid} but does not name that key as its signer; issue "
            "it anew"
        )
    if signer.get("development") is not False and not trust.allow_development:
        raise CertificateError(f"signed by the development key {statement.keyid}; {HOW_TO_ALLOW}")


def _plain(value: Any) -> Any:
    """JSON knows no NaN: a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
