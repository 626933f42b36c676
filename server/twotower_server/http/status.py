"""THE table of this port: reason → HTTP status, and what a refused caller reads."""

from __future__ import annotations

from http import HTTPStatus

from twotower_server.errors import Reason, Refused

# Names that a caller sent stand in messages.
_MESSAGE_CHARACTERS = 1_000

STATUSES: dict[Reason, HTTPStatus] = {
    Reason.UNSPECIFIED: HTTPStatus.BAD_REQUEST,
    Reason.FIELD_REQUIRED: HTTPStatus.BAD_REQUEST,
    Reason.FIELD_CONFLICT: HTTPStatus.BAD_REQUEST,
    Reason.VALUE_NOT_FINITE: HTTPStatus.BAD_REQUEST,
    Reason.FEATURE_TYPE: HTTPStatus.BAD_REQUEST,
    Reason.FEATURE_UNKNOWN: HTTPStatus.BAD_REQUEST,
    Reason.NO_KNOWN_FEATURE: HTTPStatus.BAD_REQUEST,
    Reason.SCHEMA_MISMATCH: HTTPStatus.BAD_REQUEST,
    Reason.DIMENSION_MISMATCH: HTTPStatus.BAD_REQUEST,
    Reason.LIMIT_EXCEEDED: HTTPStatus.BAD_REQUEST,
    Reason.FILTER_INVALID: HTTPStatus.BAD_REQUEST,
    Reason.ITEM_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.RELEASE_NOT_FOUND: HTTPStatus.NOT_FOUND,
    Reason.RELEASE_NOT_LOADED: HTTPStatus.NOT_FOUND,
    Reason.RELEASE_MISMATCH: HTTPStatus.BAD_REQUEST,
    Reason.ITEM_KEY_COLLISION: HTTPStatus.CONFLICT,
    Reason.OVERLOADED: HTTPStatus.TOO_MANY_REQUESTS,
    Reason.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.STORE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Reason.DEADLINE: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def message_of(error: Refused) -> str:
    """What a caller reads: the reason first, then where, then what."""
    where = "" if error.message.startswith(error.field) else f"{error.field}: "
    text = f"{error.reason.name}: {where}{error.message}"
    if len(text) <= _MESSAGE_CHARACTERS:
        return text
    half = _MESSAGE_CHARACTERS // 2
    return f"{text[:half]}…{text[-half:]}"
