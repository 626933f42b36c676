"""Checks the certificate before workers read it, and tells when it expires."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

from twotower_server.config import Config, ConfigError, flag

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# Tags of ASN.1's DER. https://www.rfc-editor.org/rfc/rfc5280#section-4.1
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18


def check_certificate(config: Config) -> int:
    """Finds here what a worker could only say when it starts: a file that is missing or no certificate.

    Returns when the certificate, or one of its chain, expires: Unix seconds, 0 when there is none. Raises ConfigError.
    """
    certificate, key, client_ca = config.tls_certificate, config.tls_key, config.tls_client_ca
    if certificate is None or key is None:
        return 0
    for name, path in (("tls_certificate", certificate), ("tls_key", key), ("tls_client_ca", client_ca or key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{flag(name)}: {path} cannot be read: {error.strerror}") from None
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        expiry = _expiry(certificate.read_bytes())
    except (ssl.SSLError, ValueError, IndexError):
        raise ConfigError(
            f"--tls-certificate and --tls-key: {certificate} and {key} are no PEM certificate chain with its "
            "unencrypted key"
        ) from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca or certificate)
    except ssl.SSLError:
        raise ConfigError(f"--tls-client-ca: {client_ca} holds no PEM certificate") from None
    return expiry


def _expiry(chain: bytes) -> int:
    """When the first of the certificates of a PEM file expires."""
    return min(int(_not_after(ssl.PEM_cert_to_DER_cert(pem.decode())).timestamp()) for pem in _PEM.findall(chain))


def _not_after(certificate: bytes) -> datetime:
    """The end of a certificate's validity. The standard library reads it of certificates of authorities alone.

    Certificate { TBSCertificate { [version], serial number, signature, issuer, validity { not before, not after } … } }
    """
    signed = next(_parts(next(_parts(certificate))[1]))[1]
    fields = [*_parts(signed)]
    validity = fields[4 if fields[0][0] == _VERSION else 3][1]
    _, (tag, value) = _parts(validity)
    if tag not in (_UTC_TIME, _GENERALIZED_TIME):
        raise ValueError("no time")
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = f"{'19' if text[:2] >= '50' else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a DER sequence: tag and content of each."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            length_bytes = size & 0x7F
            size, at = int.from_bytes(data[at : at + length_bytes]), at + length_bytes
        yield tag, data[at : at + size]
        at += size
