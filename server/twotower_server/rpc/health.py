"""grpc.health.v1: whether this server should be sent calls.

It says what `is_ready` says at that moment. While the server drains it is not ready, whatever that says, and streams
of Watch end: they would hold up the drain until the grace is over.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse

# How late those who watch may hear of a change.
_LOOK_S = 0.1

_Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """Answers for the server ("") and each of its services, which are ready all at once."""

    def __init__(self, services: Collection[str], is_ready: Callable[[], bool]) -> None:
        """services: full names."""
        self._services = {"", *services}
        self._is_ready = is_ready
        self._draining = False
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.watching = 0  # streams of Watch that are open

    def add_to(self, server: grpc.aio.Server) -> None:
        """Before the server starts."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    def drain(self) -> None:
        """Says that it is not ready, once more to those who watch, and ends their streams."""
        self._draining = True
        if self._looking is not None:
            self._looking.cancel()
        self._changed.set()

    async def Check(self, request: HealthCheckRequest, context: _Context) -> HealthCheckResponse:  # noqa: N802
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return HealthCheckResponse(status=self._status(request.service))

    async def List(self, request: HealthListRequest, context: _Context) -> HealthListResponse:  # noqa: N802
        statuses = {name: HealthCheckResponse(status=self._status(name)) for name in self._services}
        return HealthListResponse(statuses=statuses)

    async def Watch(self, request: HealthCheckRequest, context: _Context) -> None:  # noqa: N802
        self.watching += 1
        try:
            await self._tell(request, context)
        finally:
            self.watching -= 1

    async def _tell(self, request: HealthCheckRequest, context: _Context) -> None:
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        told = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            if self._draining:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "NOT_READY: this server is stopping")
            await changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        ready = self._is_ready() and not self._draining
        return int(HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING)

    async def _look(self) -> None:
        """Wakes those who watch when something has changed: one look for all of them."""
        was = self._is_ready()
        while True:
            await asyncio.sleep(_LOOK_S)
            if (now := self._is_ready()) != was:
                was = now
                self._changed.set()
                self._changed = asyncio.Event()
