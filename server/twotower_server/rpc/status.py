"""THE table: reason → gRPC status, and how a refusal travels (CONTRACT rule 8)."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from twotower_server.errors import Reason, Refused

DOMAIN = "twotower"

# Names that a caller sent stand in messages. Clients refuse trailers of more than 8 KiB, which hold the message twice:
# percent-encoded, and in base64 with the field.
_MESSAGE_BYTES = 1_024
_FIELD_BYTES = 512

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.UNSPECIFIED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.FIELD_REQUIRED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.FIELD_CONFLICT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.VALUE_NOT_FINITE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.FEATURE_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.FEATURE_UNKNOWN: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.NO_KNOWN_FEATURE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.SCHEMA_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.DIMENSION_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.LIMIT_EXCEEDED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.FILTER_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.ITEM_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RELEASE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.RELEASE_NOT_LOADED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.RELEASE_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ITEM_KEY_COLLISION: grpc.StatusCode.ALREADY_EXISTS,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_READY: grpc.StatusCode.UNAVAILABLE,
    Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def code_number(reason: Reason) -> int:
    """The google.rpc.Code number of a reason, for a `Problem`."""
    number: int = CODES[reason].value[0]
    return number


def message_of(error: Refused) -> str:
    """What a caller reads: the reason first."""
    return _shortened(f"{error.reason.name}: {error.message}", _MESSAGE_BYTES)


def field_of(error: Refused) -> str:
    """Where in the request; "" when it is not one field."""
    return _shortened(error.field, _FIELD_BYTES)


def _shortened(text: str, size_bytes: int) -> str:
    """Both ends of a text that is longer, in UTF-8, than about so much."""
    data = text.encode()
    if len(data) <= size_bytes:
        return text
    half = size_bytes // 2
    return f"{data[:half].decode(errors='ignore')}…{data[-half:].decode(errors='ignore')}"


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Refused) -> NoReturn:
    """Ends a call with the status of a refusal: the reason first in the message, ErrorInfo in the trailers."""
    code = CODES[error.reason]
    message, field = message_of(error), field_of(error)
    detail = any_pb2.Any()
    metadata = {"field": field} if field else {}
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=metadata))
    status = status_pb2.Status(code=code.value[0], message=message, details=[detail])
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))
    raise AssertionError("unreachable: abort() raises")
