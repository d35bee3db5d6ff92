"""A person's word that a challenger may take all the traffic: a signed statement of its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from feature_repo.errors import CertificateError, DeclarationError
from feature_repo.home import Home
from serving.certificate import Certificate, release_path
from serving.dsse import SigningKey, Trust
from serving.statements import instant, read_statement, write_statement

APPROVAL_TYPE = "https://airworthy.dev/approval/v1"


def approve(
    home: Home, key: SigningKey, certificate: Certificate, approver: str, reason: str, now: datetime
) -> Path:
    """Sign that ``approver`` lets the certified model take all the traffic; the statement's file.

    Raises:
        DeclarationError: nobody is named.
    """
    if not approver.strip():
        raise DeclarationError("an approval names its approver: give a name or an address")
    path = approval_path(home, certificate)
    predicate = {
        "use_case": certificate.predicate.get("use_case"),
        "version": certificate.predicate.get("version"),
        "subject": certificate.subject,
        "certificate": certificate.id,
        "approver": approver.strip(),
        "reason": reason,
        "approved_at": now.isoformat(),
    }
    write_statement(path, key, APPROVAL_TYPE, certificate.files, predicate)
    return path


def approver_of(home: Home, certificate: Certificate, trust: Trust, since: datetime) -> str:
    """Who approved this model since then (aware); nobody: an empty text.

    Raises:
        CertificateError: the statement is changed, not signed by a trusted key, or of other files.
    """
    path = approval_path(home, certificate)
    if not path.exists():
        return ""
    statement = read_statement(path, APPROVAL_TYPE, trust)
    if statement.subject != certificate.files:
        raise CertificateError(f"{path}: it approves other files; approve this version anew")
    if instant(statement.predicate.get("approved_at")) < since:
        return ""  # of an earlier release, which ended
    return str(statement.predicate["approver"])


def approval_path(home: Home, certificate: Certificate) -> Path:
    """Where the approval of a model lies, beside its release statement."""
    use_case = str(certificate.predicate.get("use_case"))
    return release_path(home, use_case, certificate.subject).with_name("approval.json")
