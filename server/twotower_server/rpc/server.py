"""The gRPC server of one worker: services, health and reflection on one port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from twotower import v1
from twotower_server.access.access import Access
from twotower_server.access.caller import Role
from twotower_server.engine.admission import Admission
from twotower_server.engine.limits import Limits
from twotower_server.observe.observer import Observer
from twotower_server.rpc import inference_servicer
from twotower_server.rpc.access import Gate
from twotower_server.rpc.backlog import Backlog
from twotower_server.rpc.handler import Method, service_handler
from twotower_server.rpc.health import Health
from twotower_server.rpc.parting import Parting
from twotower_server.rpc.reflection import Reflection

_SERVICES: dict[str, ServiceDescriptor] = {
    name: descriptor
    for file in (v1.TWOTOWER_SERVICE_FILE, v1.CATALOG_SERVICE_FILE, v1.RELEASE_SERVICE_FILE)
    for name, descriptor in file.services_by_name.items()
} | {inference_servicer.SERVICE.name: inference_servicer.SERVICE}
# Any other service reads.
_ROLES = {"CatalogService": Role.CATALOG, "ReleaseService": Role.RELEASE}


class Servicer(Protocol):
    """What serves one service of the contract, or of the Open Inference Protocol."""

    def methods(self) -> dict[str, Method]:
        """Every RPC of the service, by name."""


class RpcServer:
    """What listens on one port."""

    def __init__(
        self,
        servicers: Mapping[str, Servicer],
        limits: Limits,
        *,
        is_ready: Callable[[], bool] = lambda: True,
        credentials: grpc.ServerCredentials | None = None,
        reflect: bool = True,
        gate: Gate | None = None,
        observer: Observer | None = None,
        admission: Admission | None = None,
        streams: int = 100,
    ) -> None:
        """servicers: by the name of the contract's service; of one that is left out, gRPC says UNIMPLEMENTED.

        is_ready: what health checks answer, until it drains. credentials: TLS; None = plaintext. reflect: offer server
        reflection. gate: who may call; None = the default, by which everybody may read. observer: of this worker; None
        = what it sees nobody reads. admission: of this worker; None = of its own. streams: calls of one connection at a
        time; others wait in their client.
        """
        observer = observer or Observer.apart()
        gate = gate or Gate(Access(None))
        names = [_SERVICES[name].full_name for name in servicers]
        self._health = Health(names, is_ready)
        self._reflection = Reflection((*names, HEALTH))
        self._credentials = credentials
        self._server = grpc.aio.server(options=_options(limits.request_bytes, streams))
        self._parting = Parting()
        self._backlog = Backlog(lambda: self._health.watching)
        self._admission = admission or Admission()
        # Beside calls that read, the few of operators on a port of their own tell nothing of the worker's queue.
        self._reads = any(_ROLES.get(name, Role.READ) is Role.READ for name in servicers)
        self._counters = observer.counters
        self._watching: asyncio.Task[None] | None = None
        handlers: list[grpc.GenericRpcHandler] = [self._parting, self._backlog]
        for name, servicer in servicers.items():
            role = _ROLES.get(name, Role.READ)
            # Calls of operators are never shed: they may end the overload.
            admitting = Admission() if role is Role.RELEASE else self._admission
            methods, ended = servicer.methods(), self._backlog.end
            handlers.append(service_handler(_SERVICES[name], methods, limits, observer, gate, role, admitting, ended))
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._health.add_to(self._server)
        if reflect:
            self._reflection.add_to(self._server)

    async def start(self, address: str) -> int:
        """Binds and serves. Returns the port, of interest when `address` asks for port 0."""
        if self._credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, self._credentials)
        await self._server.start()
        if self._reads:
            self._watching = asyncio.create_task(self._backlog.watch(self._admission, self._counters))
        return int(port)

    async def stop(self, grace_s: float) -> None:
        """Answers NOT_SERVING, lets calls in flight finish within `grace_s` seconds, then ends them."""
        self._health.drain()
        self._reflection.drain()
        if grace_s:
            await self._parting.begin()
        await self._server.stop(grace_s)
        if self._watching is not None:
            self._watching.cancel()


def _options(request_bytes: int, streams: int) -> Sequence[tuple[str, int]]:
    return (
        ("grpc.so_reuseport", 1),  # workers share the port; the supervisor keeps others off it
        ("grpc.max_receive_message_length", request_bytes),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.enable_channelz", 1),  # for `Backlog`; it is on anyway
        ("grpc.max_channel_trace_event_memory_per_node", 0),
        (
            "grpc.http2.min_recv_ping_interval_without_data_ms",
            10_000,
        ),  # clients may keep idle connections alive
        ("grpc.keepalive_permit_without_calls", 1),
    )
