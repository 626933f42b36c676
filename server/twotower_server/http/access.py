"""Who sends a call by HTTP, and whether they may."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from twotower_server.access.access import Access
from twotower_server.access.caller import Caller, Role
from twotower_server.errors import Unauthenticated

# Open to everybody: a probe has no token. All other routes read.
OPEN = frozenset({"/healthz", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"})


class Gate:
    """Admits callers. What proxies say of whom they call for is not believed."""

    def __init__(self, access: Access, *, certificates: bool = False) -> None:
        """certificates: whether clients must show a certificate, as on the gRPC port."""
        self._access = access
        self._certificates = certificates

    def admit(self, request: web.Request) -> Caller:
        """Who calls. Raises Unauthenticated or PermissionDenied for one who may not read."""
        certificate = _certificate(request) if self._certificates else ""
        if self._certificates and not certificate:
            raise Unauthenticated("this server wants a client certificate that its authority has signed")
        host = str(request.transport.get_extra_info("peername", ("",))[0]) if request.transport is not None else ""
        caller = self._access.caller(host, request.headers.getall("Authorization", []), certificate)
        if Role.READ not in caller.roles:
            raise self._access.refusal(caller, Role.READ)
        return caller


def _certificate(request: web.Request) -> str:
    """The identity of the client certificate, by the rule of the gRPC port: a URI, a DNS name, the common name."""
    session = None if request.transport is None else request.transport.get_extra_info("ssl_object")
    shown: dict[str, Any] = (session and session.getpeercert()) or {}
    names = dict(reversed(shown.get("subjectAltName", ())))
    common = {key: value for part in shown.get("subject", ()) for key, value in part}
    return str(names.get("URI") or names.get("DNS") or common.get("commonName") or "")
