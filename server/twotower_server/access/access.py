"""Who may do what: the one decision for all ports of a worker, by what a caller showed and where they are.

Without a file of tokens everybody may read, and only callers on this machine may change items and releases. With one,
nobody may do anything that it does not grant, on this machine or elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from twotower_server.access.caller import ANONYMOUS, Caller, Role
from twotower_server.access.grants import Grants
from twotower_server.access.peer import is_local
from twotower_server.errors import PermissionDenied, Unauthenticated

log = logging.getLogger(__name__)

_LOCAL = frozenset(Role)
_REMOTE = frozenset({Role.READ})


class Access:
    """What is granted now; `reload` swaps it while calls come in."""

    def __init__(self, tokens: Path | None, *, is_encrypted: bool = False) -> None:
        """tokens: the file of grants; None = there is none. is_encrypted: whether callers come by TLS.

        Raises ConfigError when the file cannot be used.
        """
        self._path = tokens
        self._grants = None if tokens is None else Grants.load(tokens)
        self._is_encrypted = is_encrypted
        self._warned: set[str] = set()

    def reload(self) -> None:
        """Reads the file again. Raises ConfigError, and what was granted before stays."""
        if self._path is not None:
            self._grants = Grants.load(self._path)

    @property
    def wants_token(self) -> bool:
        """Whether tokens mean anything: without a file of them nobody need look for one."""
        return self._grants is not None

    def caller(self, host: str, authorization: Sequence[str] = (), certificate: str = "") -> Caller:
        """Who calls.

        host:          where from, of `peer.host_of`.
        authorization: values of the header of that name.
        certificate:   identity of the verified client certificate; "" = none was shown.
        Raises Unauthenticated for a token that is wrong, whatever else was shown.
        """
        grants = self._grants
        unknown = certificate or f"{ANONYMOUS}{host}"
        if grants is None:
            return Caller(unknown, _LOCAL if is_local(host) else _REMOTE)
        if authorization:
            caller = grants.by_token(_bearer(authorization))
            if caller is None:
                raise Unauthenticated("the token is unknown: it was mistyped, replaced or revoked; get a new one")
            if not self._is_encrypted and not is_local(host):
                self._warn_of_plaintext(caller)
            return caller
        return grants.certificates.get(certificate) or Caller(unknown, grants.anonymous)

    def refusal(self, caller: Caller, role: Role) -> Unauthenticated | PermissionDenied:
        """Why a caller who lacks a role is refused, and what to do."""
        if self._grants is None:
            return PermissionDenied(
                "this server takes changes of items and releases from its own machine alone; to allow others, start it "
                "with --tokens FILE"
            )
        if caller.is_anonymous:
            return Unauthenticated(f"this needs the role {role}: send a token that has it (authorization: Bearer …)")
        return PermissionDenied(
            f"{caller.identity} lacks the role {role}: who runs the server can add it in its file of tokens"
        )

    def _warn_of_plaintext(self, caller: Caller) -> None:
        if caller.identity not in self._warned:
            self._warned.add(caller.identity)
            log.warning(
                "the token of %s came over a network in clear text, unless something before this server did TLS: "
                "serve TLS (--tls-certificate), then replace the token",
                caller.identity,
            )


def _bearer(values: Sequence[str]) -> str:
    """The token of the header. Raises Unauthenticated."""
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the authorization must be one `Bearer TOKEN`")
    return token.strip()
