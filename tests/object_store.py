"""A real S3 server on loopback, as fixtures of several folders use it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "bucket"


@contextmanager
def object_store() -> Iterator[str]:
    """A URL in an empty bucket, for this process and those that it starts."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as environ:
            environ.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            environ.setenv("AWS_ACCESS_KEY_ID", "anybody")
            environ.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            environ.setenv("AWS_DEFAULT_REGION", "us-east-1")
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            # fsspec keeps a file system that it has opened, with the address of the server before this one.
            S3FileSystem.clear_instance_cache()
            yield f"s3://{BUCKET}/releases"
    finally:
        server.stop()
