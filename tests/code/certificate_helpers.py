"""A home with one certified model, and why it is refused after a test harmed it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from serving_helpers import NOW

from feature_repo.errors import CertificateError
from feature_repo.home import Home
from feature_repo.registry import get_use_case
from serving import certificate, dsse
from serving.certificate import Certificate, Cleared

FLIGHTS = get_use_case("flights")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A home with one certified model, signed by a production key that is trusted."""

    home: Home
    folder: Path
    certificate: Certificate
    key: dsse.SigningKey

    def clear(self, days: int = 0) -> Cleared:
        """The check that a server does, ``days`` from now, without development keys."""
        return certificate.clear(
            self.home, self.folder, dsse.trust(self.home), NOW + timedelta(days=days)
        )


def pem_of(key: Ed25519PrivateKey) -> bytes:
    """A private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def other_key(development: bool = False) -> dsse.SigningKey:
    """A fresh key that nobody trusts yet."""
    private = Ed25519PrivateKey.generate()
    keyid = dsse.key_id(private.public_key())
    return dsse.SigningKey(keyid=keyid, development=development, private=private)


def refusal(made: Made, days: int = 0) -> str:
    """Why the model is refused."""
    with pytest.raises(CertificateError) as refused:
        made.clear(days)
    return str(refused.value)
