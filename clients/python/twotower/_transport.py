"""How a `Call` reaches the server: one of the connections, the deadline, retries, the dense form.

The two classes are the same in steps; one waits by blocking the thread, the other by `await`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import Message

from twotower import v1
from twotower._coalesce import Coalescing
from twotower._dense import DenseOrders, carries_features, dense_orders, schema_mismatched
from twotower._errors import Cancelled, SchemaMismatch, TwoTowerError, from_rpc_error
from twotower._request import Call, Result
from twotower._retry import Attempts, Deadline, RetryPolicy

Metadata = Sequence[tuple[str, str | bytes]]

_CLOSED = "the client is closed"
_ONCE = RetryPolicy(attempts=1)


class _Stub(v1.TwoTowerServiceStub, v1.ReleaseServiceStub):
    """The RPCs of both services, on one channel."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        v1.TwoTowerServiceStub.__init__(self, channel)
        v1.ReleaseServiceStub.__init__(self, channel)


class _Connections:
    """What both transports hold. closed: set by the client before it closes its channels."""

    def __init__(
        self,
        channels: Sequence[grpc.Channel] | Sequence[grpc.aio.Channel],
        timeout_s: float,
        retry: RetryPolicy,
        dense: bool,
        metadata: Metadata,
    ) -> None:
        stubs = [_Stub(channel) for channel in channels]
        self._next_stub = itertools.cycle(stubs).__next__
        self._timeout_s = timeout_s
        self._retry = retry
        self._dense = dense
        self._metadata = tuple(metadata)
        self._orders = DenseOrders()
        self.closed = False
        Deadline(timeout_s)  # refuses a useless time-out when the client is made, not at its first call


class Transport(_Connections):
    """Calls of the blocking client. Safe to share between threads: everything it changes is replaced whole."""

    def run(self, call: Call[Result], timeout_s: float | None) -> Result:
        """The call's result, within its time (seconds; None = the client's)."""
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        if self._dense and carries_features(call.request):
            return call.decode(self._send_dense(call, deadline))
        return call.decode(self._send(call.method, call.request, deadline, call.sent_once))

    def _send_dense(self, call: Call[Any], deadline: Deadline) -> Any:
        if not self._orders.cover(call.request):
            self._fetch_orders(deadline)
        try:
            response = self._send(call.method, self._orders.encode(call.request), deadline)
            if not schema_mismatched(response):
                return response
        except SchemaMismatch:
            pass
        self._fetch_orders(deadline)
        return self._send(call.method, self._orders.encode(call.request), deadline)

    def _fetch_orders(self, deadline: Deadline) -> None:
        self._orders = dense_orders(self._send("GetServingInfo", v1.GetServingInfoRequest(), deadline))

    def _send(self, method: str, request: Message, deadline: Deadline, once: bool = False) -> Any:
        attempts = Attempts(_ONCE if once else self._retry, deadline)
        while True:
            send = getattr(self._next_stub(), method)
            try:
                return send(request, timeout=deadline.remaining_s(), metadata=self._metadata)
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise error from rpc_error
            except ValueError as error:  # so gRPC says that the channel is closed, and other things
                if not self.closed:
                    raise
                raise Cancelled(_CLOSED, code=grpc.StatusCode.CANCELLED) from error
            time.sleep(delay_s)


class AsyncTransport(_Connections):
    """Calls of the asyncio client; for one event loop. coalescing: concurrent calls leave together."""

    def __init__(
        self,
        channels: Sequence[grpc.aio.Channel],
        timeout_s: float,
        retry: RetryPolicy,
        dense: bool,
        metadata: Metadata,
        coalescing: bool,
    ) -> None:
        super().__init__(channels, timeout_s, retry, dense, metadata)
        self._coalescing = Coalescing(self._attempt, len(channels)) if coalescing else None

    async def close(self) -> None:
        """Waits for what was in flight when the channels were closed."""
        if self._coalescing is not None:
            await self._coalescing.close()

    async def run(self, call: Call[Result], timeout_s: float | None) -> Result:
        """The call's result, within its time (seconds; None = the client's)."""
        deadline = Deadline(self._timeout_s if timeout_s is None else timeout_s)
        if self._dense and carries_features(call.request):
            return call.decode(await self._send_dense(call, deadline))
        return call.decode(await self._send(call.method, call.request, deadline, call.sent_once))

    async def _send_dense(self, call: Call[Any], deadline: Deadline) -> Any:
        if not self._orders.cover(call.request):
            await self._fetch_orders(deadline)
        try:
            response = await self._send(call.method, self._orders.encode(call.request), deadline)
            if not schema_mismatched(response):
                return response
        except SchemaMismatch:
            pass
        await self._fetch_orders(deadline)
        return await self._send(call.method, self._orders.encode(call.request), deadline)

    async def _fetch_orders(self, deadline: Deadline) -> None:
        self._orders = dense_orders(await self._send("GetServingInfo", v1.GetServingInfoRequest(), deadline))

    async def _send(self, method: str, request: Message, deadline: Deadline, once: bool = False) -> Any:
        attempts = Attempts(_ONCE if once else self._retry, deadline)
        while True:
            try:
                if self._coalescing is None:
                    return await self._attempt(method, request, deadline.remaining_s())
                return await self._coalescing.call(method, request, deadline)
            except TwoTowerError as error:
                delay_s = attempts.delay_s(error)
                if delay_s is None:
                    raise
            await asyncio.sleep(delay_s)

    async def _attempt(self, method: str, request: Message, timeout_s: float | None) -> Any:
        send = getattr(self._next_stub(), method)
        try:
            return await send(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as rpc_error:
            raise from_rpc_error(rpc_error) from rpc_error
        except (asyncio.CancelledError, grpc.aio.UsageError) as error:
            # Closing a channel looks to its callers as if their own tasks were cancelled.
            task = asyncio.current_task()
            if not self.closed or (task is not None and task.cancelling()):
                raise
            raise Cancelled(_CLOSED, code=grpc.StatusCode.CANCELLED) from error
