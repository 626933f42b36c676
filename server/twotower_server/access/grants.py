"""The file of `--tokens`: which tokens and certificates there are, whose they are, and what these may do.

    [[token]]
    name = "ranking"                    # the identity, for logs; twice with two tokens while one is replaced
    sha256 = "5e88…"                    # of the token, in hex; or: token = "…"
    roles = ["read"]                    # of read, catalog, release

    [[certificate]]
    identity = "spiffe://example.org/pipeline"
    roles = ["read", "catalog"]

    [anonymous]                         # who shows neither; without this entry they may do nothing
    roles = ["read"]

No message shows anything that stands in the file in place of a value: it may be a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twotower_server.access.caller import ANONYMOUS, Caller, Role
from twotower_server.config import ConfigError

log = logging.getLogger(__name__)

MIN_TOKEN_CHARACTERS = 16
_MAX_FILE_BYTES = 1 << 20
_MAX_TOKENS = 1_000
_MAX_IDENTITY_CHARACTERS = 256
_TOKEN = re.compile(r"[!-~]+")  # what an HTTP header can hold: printable ASCII without spaces
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROLES = ", ".join(Role)


@dataclass(frozen=True, slots=True)
class Grants:
    """What a file grants.

    tokens:       SHA-256 of each token, and whose it is.
    certificates: by the identity of a certificate.
    anonymous:    roles of who shows neither.
    """

    tokens: Sequence[tuple[bytes, Caller]]
    certificates: Mapping[str, Caller]
    anonymous: frozenset[str]

    def by_token(self, token: str) -> Caller | None:
        """Whose a token is; None = nobody's. Takes as long for a wrong one as for a right one."""
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = None
        for known, caller in self.tokens:  # all of them: where a search ends would tell which one it was
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    @classmethod
    def load(cls, path: Path) -> Grants:
        """Reads a file. Raises ConfigError with what is wrong and where, without any value of it."""
        try:
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
                mode = path.stat().st_mode
        except OSError as error:
            raise ConfigError(f"--tokens: {path} cannot be read: {error.strerror}") from None
        if len(content) > _MAX_FILE_BYTES:
            raise ConfigError(f"--tokens: {path} is larger than {_MAX_FILE_BYTES} bytes")
        try:
            values = tomllib.loads(content.decode())
        except UnicodeDecodeError:
            raise ConfigError(f"--tokens: {path} is not UTF-8") from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            where = re.search(r"\(at [a-z0-9, ]*\)$", str(error))
            raise ConfigError(f"--tokens: {path} is not TOML {where[0] if where else ''}".rstrip()) from None
        try:
            grants = cls._of(values)
        except ValueError as error:
            raise ConfigError(f"--tokens: {path}: {error}") from None
        if mode & stat.S_IROTH:
            log.warning("%s can be read by every user of this machine: chmod o-r it, it says who may do what", path)
        return grants

    @classmethod
    def _of(cls, values: Mapping[str, Any]) -> Grants:
        if not values.keys() <= {"token", "certificate", "anonymous"}:
            raise ValueError("there may be [[token]], [[certificate]] and [anonymous], and something else is there")
        tokens: dict[bytes, Caller] = {}
        for where, entry in _entries(values, "token", {"name", "token", "sha256", "roles"}):
            digest = _digest(where, entry)
            if digest in tokens:
                raise ValueError(f"{where} has the token of an entry before it")
            tokens[digest] = Caller(_identity(where, entry, "name"), _roles(where, entry))
        if len(tokens) > _MAX_TOKENS:
            raise ValueError(f"there are {len(tokens)} tokens, at most {_MAX_TOKENS} may be")
        certificates: dict[str, Caller] = {}
        for where, entry in _entries(values, "certificate", {"identity", "roles"}):
            identity = _identity(where, entry, "identity")
            if identity in certificates:
                raise ValueError(f"{where} has the identity of an entry before it")
            certificates[identity] = Caller(identity, _roles(where, entry))
        anonymous = values.get("anonymous", {"roles": []})
        if not isinstance(anonymous, dict) or anonymous.keys() != {"roles"}:
            raise ValueError("[anonymous] must have roles, and nothing else")
        return cls(tuple(tokens.items()), certificates, _roles("[anonymous]", anonymous))


def _entries(values: Mapping[str, Any], kind: str, fields: set[str]) -> Sequence[tuple[str, dict[str, Any]]]:
    entries = values.get(kind, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"write each {kind} under [[{kind}]]")
    named = [(f"[[{kind}]] number {number}", entry) for number, entry in enumerate(entries, 1)]
    for where, entry in named:
        if not entry.keys() <= fields:
            raise ValueError(f"{where} may have {', '.join(sorted(fields))}, and has something else")
    return named


def _identity(where: str, entry: Mapping[str, Any], field: str) -> str:
    value = entry.get(field)
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= _MAX_IDENTITY_CHARACTERS:
        raise ValueError(f"{where} needs {field}: a text of 1 to {_MAX_IDENTITY_CHARACTERS} characters")
    if value.startswith(ANONYMOUS):
        raise ValueError(f"{where}: {field} cannot begin with {ANONYMOUS}, which stands for callers who are not known")
    return value


def _digest(where: str, entry: Mapping[str, Any]) -> bytes:
    token, sha256 = entry.get("token"), entry.get("sha256")
    if (token is None) == (sha256 is None):
        raise ValueError(f"{where} needs either token or sha256")
    if sha256 is not None:
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256.lower()):
            raise ValueError(f"{where}: sha256 must be 64 hexadecimal digits")
        return bytes.fromhex(sha256)
    if not isinstance(token, str) or len(token) < MIN_TOKEN_CHARACTERS or not _TOKEN.fullmatch(token):
        raise ValueError(
            f"{where}: token must have {MIN_TOKEN_CHARACTERS} or more printable ASCII characters and no space; "
            "`twotower token new` makes one"
        )
    return hashlib.sha256(token.encode()).digest()


def _roles(where: str, entry: Mapping[str, Any]) -> frozenset[str]:
    roles = entry.get("roles")
    if not isinstance(roles, list) or not all(isinstance(role, str) and role in [*Role] for role in roles):
        raise ValueError(f"{where} needs roles: a list of {_ROLES}")
    return frozenset(roles)
