"""TLS of the HTTP port."""

from __future__ import annotations

import ssl
from pathlib import Path


class Certificate:
    """The server's certificate, and whose certificates clients may show. `reload` swaps it between handshakes."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """PEM files: the certificate chain, its key, and the authorities of clients; None = clients show none.

        A client may come without a certificate, for what is open to everybody. Raises OSError or ssl.SSLError.
        """
        self._files = certificate, key, client_ca
        self._loaded = self._read()
        self.context = self._read()
        # The context that listens was handed over; each handshake takes what is loaded now.
        self.context.sni_callback = self._take

    def reload(self) -> None:
        """Reads the files again. Raises OSError or ssl.SSLError; then what was read before is still used."""
        self._loaded = self._read()

    def _take(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._loaded

    def _read(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")  # the empty one keeps OpenSSL from asking
        if client_ca is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(client_ca)
        return context
