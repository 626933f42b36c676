"""The body of a request: JSON, of limited size, that comes in reasonable time."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from aiohttp import web

from twotower_server.errors import Reason, Refused

READ_S = 10.0


class TooLarge(Exception):
    """The body has more bytes than a request may have."""


class TooSlow(Exception):
    """The body did not come in time."""


async def read_json(request: web.Request) -> dict[str, Any]:
    """The object that a request holds. NaN, Infinity, and more than 1,024 levels are no JSON here."""
    try:
        async with asyncio.timeout(READ_S):
            content = await request.read()
    except TimeoutError:
        raise TooSlow from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLarge from None
    except web.RequestPayloadError as error:  # broken chunks, or no such gzip
        raise Refused(Reason.UNSPECIFIED, f"the body cannot be read: {error}") from None
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Refused(Reason.UNSPECIFIED, f"the body is not JSON: {error.msg} (byte {error.pos})") from None
    if not isinstance(body, dict):
        raise Refused(Reason.UNSPECIFIED, "the body must be a JSON object")
    return body
