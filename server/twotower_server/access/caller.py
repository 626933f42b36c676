"""Who has sent a call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# How the identity of a caller begins who showed neither a token nor a certificate.
ANONYMOUS = "anonymous@"


class Role(StrEnum):
    """What an identity may do; one role does not contain another."""

    READ = "read"  # embeddings, scores, recommendations, searches, and what is served
    CATALOG = "catalog"  # items: upsert, delete
    RELEASE = "release"  # releases: list, load, activate, roll back, split


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has sent a call, and what they may do.

    identity: the name of their token, the identity of their certificate, or, of a caller who showed neither,
              `anonymous@HOST`, as anonymous@10.0.0.7. Never a secret: it may stand in logs.
    roles:    names of roles.
    """

    identity: str
    roles: frozenset[str]

    @property
    def is_anonymous(self) -> bool:
        return self.identity.startswith(ANONYMOUS)
