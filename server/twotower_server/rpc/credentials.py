"""TLS of the gRPC server."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc


class Certificate:
    """The server's certificate, and whose certificates clients must show. `reload` swaps it between handshakes."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """PEM files: the certificate chain, its key, and the authorities of clients; None = clients show none.

        With authorities each client must show a certificate: gRPC for Python cannot take it or leave it.
        Raises OSError when a file cannot be read, or is no such PEM.
        """
        self._files = certificate, key, client_ca
        self._loaded = self._read()

    def reload(self) -> None:
        """Reads the files again. Raises OSError; then what was read before is still used."""
        self._loaded = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """For a server. Connections that are open keep what they began with."""
        used = self._loaded

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal used
            if used is self._loaded:
                return None  # each that is returned is parsed anew, in the handshake
            used = self._loaded
            return used

        must_show = self._files[2] is not None
        return grpc.dynamic_ssl_server_credentials(used, changed, must_show)  # type: ignore[arg-type]  # may be None

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, client_ca = self._files
        # gRPC itself would say nothing of files that do not fit. The empty password keeps OpenSSL from asking.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        roots = None if client_ca is None else client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), certificate.read_bytes())], roots)
