"""What a call can raise, and how a gRPC status becomes it.

    TwoTowerError
    ├── InvalidRequest         the request is wrong; sending it again cannot help
    │   └── SchemaMismatch     dense_features made for another schema
    ├── NotFound               an unknown item or release
    ├── ReleaseMismatch        an embedding of one release with a pin to another, or a switch from another release
    ├── ReleaseNotLoaded       a release that is not in the server's memory; the message names those that are
    ├── ResourceExhausted      a limit of gRPC itself, such as a message over 4 MiB
    │   └── Overloaded         the server sheds load; tried again by the client before it is raised
    ├── Unavailable            no server, or none that is ready; tried again before it is raised
    ├── DeadlineExceeded       the answer did not come within the call's time
    ├── Cancelled              the call was cancelled, for example by closing the client
    ├── AccessDenied           the credentials are missing or not enough
    ├── Unimplemented          the server does not know this RPC
    └── InternalError          a bug in the server

The client decides by the reason in `google.rpc.ErrorInfo` (domain `twotower`, in the trailers), else by the
reason that starts the message, else by the status code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DOMAIN = "twotower"
_LEADING_REASON = re.compile(r"([A-Z][A-Z_]+): (.*)", re.DOTALL)


class ErrorReason(IntEnum):
    """Why the server refused. Names and numbers equal `v1.ErrorReason` without its prefix."""

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

    @classmethod
    def _missing_(cls, value: object) -> ErrorReason:
        # A newer server may know more reasons; the status code and the message still say what happened.
        return cls.UNSPECIFIED


class TwoTowerError(Exception):
    """A call, or one entry of a batch, that failed.

    message:       one sentence from the server (or from gRPC), without the leading reason.
    reason:        `ErrorReason`, equal to the number in `v1.ErrorReason`; UNSPECIFIED when gRPC itself
                   failed.
    code:          the gRPC status code.
    metadata:      what the server adds to the reason (`ErrorInfo.metadata`), such as the field or the
                   release.
    retry_after_s: seconds that the server asks to wait before another try; None when it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason = ErrorReason.UNSPECIFIED,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        metadata: Mapping[str, str] = MappingProxyType({}),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata))
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.reason.name if self.reason else self.code.name}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments and the mapping proxy would break pickling between processes.
        state = (self.message, self.reason, self.code, dict(self.metadata), self.retry_after_s)
        return _rebuild, (type(self), *state)


def _rebuild(
    kind: type[TwoTowerError],
    message: str,
    reason: ErrorReason,
    code: grpc.StatusCode,
    metadata: dict[str, str],
    retry_after_s: float | None,
) -> TwoTowerError:
    return kind(message, reason=reason, code=code, metadata=metadata, retry_after_s=retry_after_s)


class InvalidRequest(TwoTowerError):
    """The request is wrong; the message names the field."""


class SchemaMismatch(InvalidRequest):
    """`dense_features` were made for another schema than that of the release that serves the call."""


class NotFound(TwoTowerError):
    """An item or a release that the server does not know."""


class ReleaseMismatch(TwoTowerError):
    """An embedding of one release was sent with a pin to another; or a switch named another active release."""


class ReleaseNotLoaded(TwoTowerError):
    """The release is not in the server's memory; the message names those that are.

    Raised by a pinned client, it says that the release was retired: pin another.
    """


class ResourceExhausted(TwoTowerError):
    """A limit of gRPC, or of a proxy; mostly a message over 4 MiB: send fewer entries per call."""


class Overloaded(ResourceExhausted):
    """The server sheds load. Raised when the attempts, or the time, are used up."""


class Unavailable(TwoTowerError):
    """No server answers, or none that is ready. Raised when the attempts, or the time, are used up."""


class DeadlineExceeded(TwoTowerError):
    """The answer did not come within the call's time."""


class Cancelled(TwoTowerError):
    """The call was cancelled before its answer."""


class AccessDenied(TwoTowerError):
    """The credentials are missing or not enough."""


class Unimplemented(TwoTowerError):
    """The server does not offer this RPC."""


class InternalError(TwoTowerError):
    """A bug in the server, or an answer that the client cannot read."""


_BY_REASON: dict[ErrorReason, type[TwoTowerError]] = {
    ErrorReason.FIELD_REQUIRED: InvalidRequest,
    ErrorReason.FIELD_CONFLICT: InvalidRequest,
    ErrorReason.VALUE_NOT_FINITE: InvalidRequest,
    ErrorReason.FEATURE_TYPE: InvalidRequest,
    ErrorReason.FEATURE_UNKNOWN: InvalidRequest,
    ErrorReason.NO_KNOWN_FEATURE: InvalidRequest,
    ErrorReason.SCHEMA_MISMATCH: SchemaMismatch,
    ErrorReason.DIMENSION_MISMATCH: InvalidRequest,
    ErrorReason.LIMIT_EXCEEDED: InvalidRequest,
    ErrorReason.FILTER_INVALID: InvalidRequest,
    ErrorReason.ITEM_NOT_FOUND: NotFound,
    ErrorReason.RELEASE_NOT_FOUND: NotFound,
    ErrorReason.RELEASE_NOT_LOADED: ReleaseNotLoaded,
    ErrorReason.RELEASE_MISMATCH: ReleaseMismatch,
    ErrorReason.ITEM_KEY_COLLISION: InvalidRequest,
    ErrorReason.OVERLOADED: Overloaded,
    ErrorReason.NOT_READY: Unavailable,
    ErrorReason.STORE_UNAVAILABLE: Unavailable,
    ErrorReason.DEADLINE: DeadlineExceeded,
    ErrorReason.INTERNAL: InternalError,
}

_BY_CODE: dict[grpc.StatusCode, type[TwoTowerError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}

_CODE_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def status_code(number: int) -> grpc.StatusCode:
    """The status code of a `google.rpc.Code` number; UNKNOWN for a number that gRPC does not have."""
    return _CODE_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN)


def error_of(
    message: str,
    reason: ErrorReason,
    code: grpc.StatusCode,
    metadata: Mapping[str, str] = MappingProxyType({}),
    retry_after_s: float | None = None,
) -> TwoTowerError:
    """The error of the tree that fits the reason, else the code."""
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, TwoTowerError)
    message = without_reason(message, reason)
    return kind(message, reason=reason, code=code, metadata=metadata, retry_after_s=retry_after_s)


def without_reason(message: str, reason: ErrorReason) -> str:
    """The server's message without the reason that it starts with; the errors carry it beside."""
    return message.removeprefix(f"{reason.name}: ")


def from_rpc_error(rpc_error: grpc.RpcError) -> TwoTowerError:
    """The typed error of what a stub, sync or asyncio, raised."""
    call = cast(grpc.Call, rpc_error)
    code, message = call.code(), call.details() or ""
    info, retry_after_s = _details(call.trailing_metadata() or ())
    if info is not None:
        return error_of(message, _reason(info.reason), code, info.metadata, retry_after_s)
    leading = _LEADING_REASON.fullmatch(message)
    reason = _reason(leading[1]) if leading else ErrorReason.UNSPECIFIED
    return error_of(message, reason, code, retry_after_s=retry_after_s)


def _reason(name: str) -> ErrorReason:
    return ErrorReason.__members__.get(name, ErrorReason.UNSPECIFIED)


def _details(trailers: Iterable[Any]) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """ErrorInfo of our domain and RetryInfo's delay in seconds, where the trailers have them."""
    status = status_pb2.Status()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            try:
                status.ParseFromString(value)
            except DecodeError:  # a proxy's trailer; the code and the message are still good
                return None, None
    found: error_details_pb2.ErrorInfo | None = None
    retry_after_s: float | None = None
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == _DOMAIN:
            found = info
        elif detail.Unpack(retry):
            retry_after_s = max(0.0, retry.retry_delay.ToTimedelta().total_seconds())
    return found, retry_after_s
