"""The gRPC servers of one worker: of all services, or of those that change something on a port of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from twotower_server.rpc.server import RpcServer, Servicer

# What --admin-listen moves to its own port.
ADMIN = frozenset({"CatalogService", "ReleaseService"})


class RpcServers:
    """One server for each port; they start and stop as one."""

    def __init__(
        self,
        servicers: Mapping[str, Servicer],
        serve: Callable[[Mapping[str, Servicer]], RpcServer],
        address: str,
        admin: str | None,
    ) -> None:
        """servicers: by the name of the service. serve: makes a server of some of them.

        address: where to serve, as gRPC wants it. admin: where to serve ADMIN, and there alone; None = with the others.
        """
        if admin is None:
            self._servers = {address: serve(servicers)}
            return
        self._servers = {
            address: serve({name: servicer for name, servicer in servicers.items() if name not in ADMIN}),
            admin: serve({name: servicer for name, servicer in servicers.items() if name in ADMIN}),
        }

    async def start(self) -> None:
        """Binds and serves. Raises RuntimeError when a port cannot be bound."""
        for address, server in self._servers.items():
            await server.start(address)

    async def stop(self, grace_s: float) -> None:
        """Drains all ports at the same time."""
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers.values()))
