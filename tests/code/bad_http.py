"""Wrong HTTP: headers, encodings, lengths, methods and places."""

from __future__ import annotations

import gzip

from bad_inputs import GOOD, INFER, PREDICT, Bad, request, v1

from serving.requests import MAX_BODY

LENGTH = "inference-header-content-length"
BOMB = gzip.compress(b" " * (64 * MAX_BODY))
HEADERS = {
    "content type of a text": v1(GOOD, 415, "content-type", content_type="text/plain"),
    "content type of a form": v1(
        GOOD, 415, "content-type", content_type="application/x-www-form-urlencoded"
    ),
    "charset latin-1": v1(
        GOOD, 415, "content-type", content_type="application/json; charset=latin-1"
    ),
    "binary content type for V1": v1(
        GOOD, 415, "content-type", content_type="application/octet-stream"
    ),
    "header length for V1": v1(GOOD, 400, LENGTH, inference_header_content_length="10"),
    "no gzip": v1(GOOD, 400, "content-encoding", content_encoding="gzip"),
    "cut gzip": v1(gzip.compress(GOOD)[:-9], 400, "content-encoding", content_encoding="gzip"),
    "two gzips": v1(gzip.compress(GOOD) * 2, 400, "content-encoding", content_encoding="gzip"),
    "gzip bomb": v1(BOMB, 413, content_encoding="gzip"),
    "gzip of nothing": v1(b"", 400, "content-encoding", content_encoding="gzip"),
    "brotli": v1(GOOD, 415, "content-encoding", content_encoding="br"),
    "two encodings": v1(GOOD, 415, "content-encoding", content_encoding="gzip, gzip"),
    "negative content-length": v1(GOOD, 400, content_length="-5"),
    "content-length a text": v1(GOOD, 400, content_length="many"),
    "content-length past all": v1(b"", 413, content_length="9" * 18),
    "content-length overflows": v1(b"", 400, content_length="9" * 30),
    "content-length too short": v1(GOOD, 400, content_length="9"),
    "two content-lengths": v1(GOOD, 400, Content_Length=str(len(GOOD) - 1)),
    "length and chunks": v1(GOOD, 400, transfer_encoding="chunked"),
    "no chunk": v1(b"many\r\n", 400, content_length=None, transfer_encoding="chunked"),
    "a line without a colon": Bad(request("POST", PREDICT).replace(b"host: x", b"host x"), 400),
    "null in a header": v1(GOOD, 400, x_request_id="a\0b"),
    "endless header": v1(GOOD, 431, x_more="x" * 2**20),
    "endless headers": v1(GOOD, 431, **{f"x_{i}": "x" * 100 for i in range(9000)}),
    "endless path": Bad(request("POST", "/" + "x" * 2**20, GOOD), 431),
    "no HTTP": Bad(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "HTTP/9": Bad(b"POST / HTTP/9.9\r\n\r\n", 400),
}  # fmt: skip
PLACES = {
    "unknown model": Bad(request("POST", "/v1/models/other:predict", GOOD), 404, "model"),
    "unknown model, V2": Bad(request("POST", "/v2/models/other/infer", GOOD), 404, "model"),
    "unknown version": Bad(
        request("POST", "/v2/models/flights/versions/9/infer", GOOD), 404, "version"
    ),
    "explain": Bad(request("POST", "/v1/models/flights:explain", GOOD), 404),
    "nothing posted here": Bad(request("POST", "/", GOOD), 405, "method"),
    "nothing got here": Bad(request("GET", PREDICT), 405, "method"),
    "nothing got here, V2": Bad(request("GET", INFER), 405, "method"),
    "nothing put here": Bad(request("PUT", INFER, GOOD), 405, "method"),
    "nothing deleted here": Bad(request("DELETE", "/v2/models/flights"), 405, "method"),
    "unknown method": Bad(request("BREW", PREDICT, GOOD), 400),
    "no such place": Bad(request("GET", "/nothing"), 404),
    "no such place, V1": Bad(request("GET", "/v1/models/other"), 404, "model"),
    "no such place, V2": Bad(request("GET", "/v2/models/other"), 404, "model"),
    "no such version": Bad(request("GET", "/v2/models/flights/versions/9/ready"), 404, "version"),
    "a path of bytes": Bad(request("GET", "/v1/models/\xff"), 400),
    "a path of percents": Bad(request("GET", "/v1/models/%ff%00"), 404, "model"),
    "a path up": Bad(request("GET", "/v2/../etc/passwd"), 404),
    "load without leave": Bad(
        request("POST", "/v2/repository/models/flights/load"), 403, "authorization"
    ),
    "unload without leave": Bad(
        request("POST", "/v2/repository/models/flights/unload"), 403, "authorization"
    ),
    "WebSocket": Bad(
        request("GET", "/v2/models/other", connection="upgrade", upgrade="websocket"), 404, "model"
    ),
    "HTTP/2 by upgrade": v1(GOOD, 400, connection="upgrade", upgrade="h2c"),
    "the index is posted": Bad(request("GET", "/v2/repository/index"), 405, "method"),
}  # fmt: skip
