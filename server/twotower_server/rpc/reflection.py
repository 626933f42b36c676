"""Server reflection whose streams end when the drain begins: they would hold it up until the grace is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

SERVICE_NAME: str = reflection.SERVICE_NAME


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # it has no types
    """Says which services there are, and what their messages are made of."""

    def __init__(self, services: Collection[str]) -> None:
        """services: full names."""
        super().__init__((*services, SERVICE_NAME))
        self._draining = asyncio.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Before the server starts."""
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(self, server)

    def drain(self) -> None:
        """Ends all streams."""
        self._draining.set()

    async def ServerReflectionInfo(  # noqa: N802
        self, request_iterator: AsyncIterator[ServerReflectionRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[ServerReflectionResponse]:
        async for answer in super().ServerReflectionInfo(self._until_drain(request_iterator), context):
            yield answer

    async def _until_drain(
        self, requests: AsyncIterator[ServerReflectionRequest]
    ) -> AsyncIterator[ServerReflectionRequest]:
        draining = asyncio.create_task(self._draining.wait())
        try:
            while True:
                following = asyncio.ensure_future(anext(requests, None))
                await asyncio.wait((following, draining), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    return
                if (request := following.result()) is None:
                    return
                yield request
        finally:
            draining.cancel()
