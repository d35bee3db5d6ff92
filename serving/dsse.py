"""Signed envelopes (DSSE v1, ed25519): how every certificate and statement is signed and read.

Source of the method: https://github.com/secure-systems-lab/dsse (protocol.md, v1.0). Public keys
are trusted because they lie in a folder that the operator names, or because they are this home's
development key and the caller allows it; never because they came with the signed document.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from feature_repo.errors import CertificateError
from feature_repo.home import (
    Home,
    development_key_allowed,
    signing_key_path,
    trusted_keys_path,
    write_atomically,
)

_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
_PRIVATE_NAME, _PUBLIC_NAME = "development.pem", "development.pub.pem"
HOW_TO_TRUST = (
    "to trust it, put its public key (PEM) into the folder that $AIRWORTHY_TRUSTED_KEYS names"
)
HOW_TO_ALLOW = (
    "for a trial on this machine allow it with --allow-development-key, or with "
    "AIRWORTHY_ALLOW_DEVELOPMENT_KEY=1; in production sign with a key of $AIRWORTHY_SIGNING_KEY"
)


def key_id(key: Ed25519PublicKey) -> str:
    """Name of a public key: ``ed25519-`` and 16 hex digits of the sha256 of its 32 bytes."""
    return f"ed25519-{hashlib.sha256(key.public_bytes(*_RAW)).hexdigest()[:16]}"


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that a DSSE signature covers (PAE of the protocol)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, kw_only=True, slots=True)
class SigningKey:
    """A private key, and whether it is one that was made for development."""

    keyid: str
    development: bool
    private: Ed25519PrivateKey

    def sign(self, payload_type: str, payload: bytes) -> dict[str, Any]:
        """A DSSE envelope around ``payload``, with one signature."""
        signature = self.private.sign(pre_authentication_encoding(payload_type, payload))
        return {
            "payloadType": payload_type,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": self.keyid, "sig": base64.b64encode(signature).decode()}],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """Public keys whose signatures count, and whether development keys may be among them."""

    keys: Mapping[str, Ed25519PublicKey]
    allow_development: bool = False
    development_keyid: str = ""

    def with_key(self, key: SigningKey) -> Trust:
        """This trust and one key more: for a process that holds the key itself."""
        return Trust(
            keys={**self.keys, key.keyid: key.private.public_key()},
            allow_development=self.allow_development or key.development,
            development_keyid=self.development_keyid,
        )


def trust_in(key: SigningKey) -> Trust:
    """Trust in exactly one key."""
    return Trust(keys={}).with_key(key)


def signing_key(home: Home) -> SigningKey:
    """The key of ``$AIRWORTHY_SIGNING_KEY``, else the home's development key, made on first use.

    Raises:
        CertificateError: the file is no ed25519 private key in PEM.
    """
    path = signing_key_path()
    if path is not None:
        return _signing_key(path, development=False)
    path = home.path("keys", _PRIVATE_NAME)
    with home.lock("keys"):
        if not path.exists():
            _write_private(path, Ed25519PrivateKey.generate())
        key = _signing_key(path, development=True)
        public = path.with_name(_PUBLIC_NAME)
        if not public.exists():
            write_atomically(public, public_pem(key.private.public_key()))
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """A public key as PEM, the form that the folder of trusted keys holds."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form)


def trust(home: Home, allow_development: bool = False) -> Trust:
    """The keys of ``$AIRWORTHY_TRUSTED_KEYS``, and the home's development key where allowed
    (by ``allow_development``, or by ``$AIRWORTHY_ALLOW_DEVELOPMENT_KEY``).

    Raises:
        CertificateError: the folder is missing, or a file in it is no ed25519 public key.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    allow_development = allow_development or development_key_allowed()
    folder = trusted_keys_path()
    if folder is not None:
        if not folder.is_dir():
            raise CertificateError(
                f"the folder of trusted keys {folder} does not exist; correct "
                "$AIRWORTHY_TRUSTED_KEYS, or mount the secret that holds the keys"
            )
        keys = {key_id(key): key for key in map(_public_key, sorted(folder.glob("*.pem")))}
    own = home.root / "keys" / _PUBLIC_NAME
    development = _public_key(own) if own.exists() else None
    if development is not None and allow_development:
        keys[key_id(development)] = development
    return Trust(
        keys=keys,
        allow_development=allow_development,
        development_keyid="" if development is None else key_id(development),
    )


def open_envelope(envelope: Mapping[str, Any], trust: Trust) -> tuple[bytes, str]:
    """Payload of an envelope, and the id of the trusted key whose signature on it is valid.

    Raises:
        CertificateError: no envelope, no trusted signature, or a payload that was changed.
    """
    payload_type, payload, signatures = _parts(envelope)
    signed = pre_authentication_encoding(payload_type, payload)
    for keyid, signature in signatures:
        key = trust.keys.get(keyid)
        if key is None:
            continue
        if keyid == trust.development_keyid and not trust.allow_development:
            raise CertificateError(f"signed by the development key {keyid}; {HOW_TO_ALLOW}")
        try:
            key.verify(signature, signed)
        except InvalidSignature as exc:
            raise CertificateError(
                f"the signature of key {keyid} does not fit the content: it was changed after "
                "signing; restore the original, or issue it anew"
            ) from exc
        return payload, keyid
    raise CertificateError(_untrusted([keyid for keyid, _ in signatures], trust))


def encode(envelope: Mapping[str, Any]) -> bytes:
    """The one text of an envelope. Base64 and JSON allow several for the same content; a file
    that is not this one was changed after it was written.

    Raises:
        CertificateError: it is no DSSE envelope.
    """
    payload_type, payload, signatures = _parts(envelope)
    document = {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": k, "sig": base64.b64encode(s).decode()} for k, s in signatures],
    }
    return json.dumps(document, indent=1).encode()


def payload_of(envelope: Mapping[str, Any]) -> bytes:
    """Payload of an envelope whose signature nobody has checked.

    Raises:
        CertificateError: it is no DSSE envelope.
    """
    return _parts(envelope)[1]


def _parts(envelope: Mapping[str, Any]) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [
            (str(s["keyid"]), base64.b64decode(s["sig"], validate=True))
            for s in envelope["signatures"]
        ]
        return str(envelope["payloadType"]), payload, signatures
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise CertificateError(
            "this is no signed (DSSE) document: payloadType, payload and signatures are needed; "
            "restore the original, or issue it anew"
        ) from exc


def _untrusted(keyids: list[str], trust: Trust) -> str:
    if not keyids:
        return "it carries no signature at all; issue it anew with a signing key"
    names = ", ".join(keyids)
    if trust.development_keyid in keyids:
        return f"signed by {names}, this home's development key, not trusted here; {HOW_TO_ALLOW}"
    return f"signed by key {names}, which is not among the trusted keys; {HOW_TO_TRUST}"


def _signing_key(path: Path, *, development: bool) -> SigningKey:
    try:
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise CertificateError(
            f"{path} is no readable private key without a password; write one with "
            "'openssl genpkey -algorithm ed25519'"
        ) from exc
    if not isinstance(private, Ed25519PrivateKey):
        raise CertificateError(
            f"{path} holds a {type(private).__name__}; signing needs an ed25519 key: write one "
            "with 'openssl genpkey -algorithm ed25519'"
        )
    return SigningKey(keyid=key_id(private.public_key()), development=development, private=private)


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as exc:
        raise CertificateError(
            f"{path} among the trusted keys is no public key in PEM; remove or replace it"
        ) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError(f"{path} among the trusted keys is no ed25519 key; remove it")
    return key


def _write_private(path: Path, key: Ed25519PrivateKey) -> None:
    """Atomically, and never readable by others, not even for a moment."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
