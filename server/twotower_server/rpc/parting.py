"""The moment before a drain, in which callers are asked to go elsewhere.

When gRPC begins to stop, it cancels the calls that it has received and nobody has taken yet, and their callers would
take that for the end of it: CANCELLED is not tried again. So, for some milliseconds, calls that come are refused as
UNAVAILABLE instead, with RetryInfo, until none comes any more; only then connections are told to close.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from twotower_server.errors import Stopping
from twotower_server.rpc.status import abort

# Callers whose calls were all answered send the next ones within this time.
_QUIET_S = 0.02
# Those who do not wait for answers never pause.
_MOST_S = 0.2
_LOOK_S = 0.005
# Probes want an answer.
_HEALTH = "/grpc.health.v1.Health/"


class Parting(grpc.GenericRpcHandler):
    """The first of a server's handlers: passes every call on to the others until `begin`."""

    def __init__(self) -> None:
        self._refusing = False
        self._refused = 0
        self._refusal: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(_refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if not self._refusing or handler_call_details.method.startswith(_HEALTH):
            return None
        self._refused += 1
        return self._refusal

    async def begin(self) -> None:
        """Refuses calls from now on; returns when hardly any come."""
        self._refusing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + _MOST_S
        refused, quiet_since = self._refused, loop.time()
        while (now := loop.time()) < end and now - quiet_since < _QUIET_S:
            await asyncio.sleep(_LOOK_S)
            if self._refused != refused:
                refused, quiet_since = self._refused, loop.time()


async def _refuse(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    await abort(context, Stopping())
