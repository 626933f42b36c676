"""The gRPC server of one worker: services, health and reflection on one port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from twotower import v1
from twotower_server.engine.limits import Limits
from twotower_server.rpc.handler import Method, service_handler

_SERVICES: dict[str, ServiceDescriptor] = {
    name: descriptor
    for file in (v1.TWOTOWER_SERVICE_FILE, v1.CATALOG_SERVICE_FILE, v1.RELEASE_SERVICE_FILE)
    for name, descriptor in file.services_by_name.items()
}
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Servicer(Protocol):
    """What serves one service of the contract."""

    def methods(self) -> dict[str, Method]:
        """Every RPC of the service, by name."""


class RpcServer:
    """NOT_SERVING until `set_serving(True)`, and again before the drain."""

    def __init__(
        self,
        servicers: Mapping[str, Servicer],
        limits: Limits,
        *,
        credentials: grpc.ServerCredentials | None = None,
        reflect: bool = True,
    ) -> None:
        """servicers: by the name of the contract's service; of one that is left out, gRPC says UNIMPLEMENTED.

        credentials: TLS; None = plaintext. reflect: offer server reflection.
        """
        self._credentials = credentials
        self._server = grpc.aio.server(options=_options(limits.request_bytes))
        self._health = health.aio.HealthServicer()
        handlers = [
            service_handler(_SERVICES[name], servicer.methods(), limits) for name, servicer in servicers.items()
        ]
        self._server.add_generic_rpc_handlers(tuple(handlers))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [_SERVICES[name].full_name for name in servicers]
        if reflect:
            names = (*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def start(self, address: str) -> int:
        """Binds and serves. Returns the port, of interest when `address` asks for port 0."""
        await self.set_serving(False)
        if self._credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, self._credentials)
        await self._server.start()
        return int(port)

    async def set_serving(self, serving: bool) -> None:
        """What health checks answer, for the server ("") and each service."""
        for name in ("", *self._names):
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Answers NOT_SERVING, lets calls in flight finish within `grace_s` seconds, then ends them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


def _options(request_bytes: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", 1),  # workers share the port; the supervisor keeps others off it
        ("grpc.max_receive_message_length", request_bytes),
        (
            "grpc.http2.min_recv_ping_interval_without_data_ms",
            10_000,
        ),  # clients may keep idle connections alive
        ("grpc.keepalive_permit_without_calls", 1),
    )
