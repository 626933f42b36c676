"""TLS of the gRPC server."""

from __future__ import annotations

from pathlib import Path

import grpc


def server_credentials(certificate: Path | None, key: Path | None) -> grpc.ServerCredentials | None:
    """Credentials from PEM files: the certificate chain and its key. None without them: plaintext.

    Raises OSError when a file cannot be read.
    """
    if certificate is None or key is None:
        return None
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
