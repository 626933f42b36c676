"""What the domain refuses, and why.

The domain raises these and knows nothing of gRPC; `rpc/status.py` holds the one table of reasons and statuses.

    TwoTowerError
    ├── Refused            a request, or one entry of it, that cannot be served: carries the contract's reason
    ├── ReleaseRefused     a release folder, schema or table that disagrees with itself
    ├── StoreUnavailable   Redis does not answer; it may later
    ├── StoreRefused       Redis answers, and cannot be used as it is
    └── ExtraMissing       a part of the package that is not installed
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Why a request was refused. Names and numbers equal `twotower.v1.ErrorReason` without its prefix."""

    UNSPECIFIED = 0
    FIELD_REQUIRED = 1
    FIELD_CONFLICT = 2
    VALUE_NOT_FINITE = 3
    FEATURE_TYPE = 4
    FEATURE_UNKNOWN = 5
    NO_KNOWN_FEATURE = 6
    SCHEMA_MISMATCH = 7
    DIMENSION_MISMATCH = 8
    LIMIT_EXCEEDED = 9
    FILTER_INVALID = 10
    ITEM_NOT_FOUND = 11
    RELEASE_NOT_FOUND = 12
    RELEASE_NOT_LOADED = 13
    RELEASE_MISMATCH = 14
    ITEM_KEY_COLLISION = 15
    OVERLOADED = 16
    NOT_READY = 17
    STORE_UNAVAILABLE = 18
    DEADLINE = 19
    INTERNAL = 20


class TwoTowerError(Exception):
    """Every error that this package raises on purpose."""


class Refused(TwoTowerError):
    """A request, or one entry of a batch, that cannot be served.

    reason:  the contract's reason.
    message: one sentence for the caller, without paths, stacks or a driver's text.
    field:   where in the request, relative to the entry, such as `features[user_age]`; "" when it is not one field.
    """

    def __init__(self, reason: Reason, message: str, field: str = "") -> None:
        super().__init__(f"{reason.name}: {message}")
        self.reason = reason
        self.message = message
        self.field = field

    def within(self, prefix: str) -> Refused:
        """The same refusal, its field seen from outside: `within("user")` makes `user.features[age]`."""
        return Refused(self.reason, self.message, f"{prefix}.{self.field}" if self.field else prefix)


class ReleaseRefused(TwoTowerError):
    """A release, model folder, schema or table that cannot be used; the message says why and what to do."""


class StoreUnavailable(TwoTowerError):
    """Redis does not answer. The same may be tried again."""


class NotAppended(StoreUnavailable):
    """Nothing was appended to the log of changes, for sure; the message says why."""


class OutcomeUnknown(StoreUnavailable):
    """Changes may have been appended, or not, or not to as many replicas as wanted. Appending again is safe."""


class StoreRefused(TwoTowerError):
    """Redis cannot be used as it is: login, rights, memory, version; the message says what to do."""


class ExtraMissing(TwoTowerError):
    """Something needs a package that is not installed; the message says how to install it."""
