"""An S3 server of the tests' own, reached as a pod would reach one: by environment variables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest
import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "flights"


@contextmanager
def s3_server() -> Iterator[s3fs.S3FileSystem]:
    """The file system of a server with one empty bucket, in which checkpoints are kept while the
    block runs; what it held is gone after it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AIRWORTHY_CHECKPOINTS", f"s3://{BUCKET}/checkpoints")
        s3fs.S3FileSystem.clear_instance_cache()
        fs = s3fs.S3FileSystem()
        fs.mkdir(BUCKET)
        try:
            yield fs
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
            server.stop()
