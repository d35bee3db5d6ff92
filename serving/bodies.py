"""Bodies of requests as they come over HTTP: of which kind, compressed or not, how large."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import orjson

from feature_repo.errors import RequestError
from serving.requests import MAX_BODY

BINARY = "application/octet-stream"
HEADER_LENGTH = b"inference-header-content-length"
_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})

Headers = Mapping[bytes, bytes]


def json_length(headers: Headers, protocol: str) -> int | None:
    """How many bytes of the body are JSON, where binary data follow (``protocol`` v2 only).

    Raises:
        RequestError: 415 the body is of another kind, 400 that number is none.
    """
    length = headers.get(HEADER_LENGTH)
    sent = headers.get(b"content-type")
    if sent is not None and sent != b"application/json":
        kind, _, rest = sent.decode("latin-1").lower().partition(";")
        charset = rest.strip().removeprefix("charset=").strip('"')
        known = ("application/json",) if length is None else ("application/json", BINARY)
        if kind.strip() not in known or charset not in _CHARSETS:
            raise RequestError(415, "content-type", f"send {' or '.join(known)} in UTF-8")
    if length is None:
        return None
    if not length.isdigit() or len(length) > 10:
        raise RequestError(400, HEADER_LENGTH.decode(), "must be a number of bytes")
    if protocol != "v2":
        raise RequestError(400, HEADER_LENGTH.decode(), "only V2 requests hold binary data")
    return int(length)


def inflated(headers: Headers, body: bytes) -> bytes:
    """The body as it was before gzip; never more than the limit of it is held.

    Raises:
        RequestError: 415 another compression, 400 it is no gzip, 413 it is too large.
    """
    encoding = headers.get(b"content-encoding")
    if encoding is None or encoding.lower() == b"identity":
        return body
    if encoding.lower() != b"gzip":
        raise RequestError(415, "content-encoding", "send the body as it is, or with gzip")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, MAX_BODY + 1)
    except zlib.error as exc:
        raise RequestError(400, "content-encoding", f"the body is no gzip ({exc})") from exc
    if len(plain) > MAX_BODY:
        raise too_large()
    if not inflater.eof or inflater.unused_data:
        raise RequestError(400, "content-encoding", "the gzip stream is cut, or something follows")
    return plain


def too_large() -> RequestError:
    """A body beyond the limit."""
    return RequestError(413, "", f"the body is larger than {MAX_BODY} bytes; split the request")


def version_of(body: bytes) -> str:
    """The version that a repository request names in its parameters, if any."""
    if not body:
        return ""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError(400, "", f"the body is no JSON: {exc}") from exc
    parameters = document.get("parameters", {}) if isinstance(document, dict) else None
    version = parameters.get("version", "") if isinstance(parameters, dict) else None
    if not isinstance(version, str):
        raise RequestError(
            422, "parameters", 'send {"parameters": {"version": "1.2.3"}}, or nothing'
        )
    return version
