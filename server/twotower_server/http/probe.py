"""Whether the server lives and is ready, and its metrics: on the HTTP port, and on one that the supervisor serves."""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

import orjson
from aiohttp import web

from twotower_server.errors import Reason, Refused
from twotower_server.http.metrics import CONTENT_TYPE, ServerState, exposition
from twotower_server.http.status import message_of, status_of

# What aiohttp says of connections that broke, or sent no HTTP, with a stack each.
_connection_log = logging.getLogger(f"{__name__}.connection")
_connection_log.setLevel(logging.CRITICAL)

_BACKLOG = 64
# What ending those who are still being answered may take.
_CUT_S = 0.1


class Probes:
    """What probes and Prometheus ask. Any process can answer for the whole server."""

    def __init__(self, state: Callable[[], ServerState], is_ready: Callable[[], bool]) -> None:
        """state: of the whole server. is_ready: whether it should be sent calls."""
        self._state = state
        self._is_ready = is_ready

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.live),
            web.get("/readyz", self.ready),
            web.get("/metrics", self.metrics),
        ]

    async def live(self, request: web.Request) -> web.Response:
        return json_answer({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        self.check_ready()
        return json_answer({"ready": True})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=exposition(self._state()), headers={"Content-Type": CONTENT_TYPE})

    def check_ready(self) -> None:
        """Calls are served even when this raises NOT_READY, but none should be sent any more, or yet."""
        if not self._is_ready():
            raise Refused(Reason.NOT_READY, "this server is starting or stopping")


class ProbeServer:
    """Serves them in the supervisor, so that no worker that hangs can hide, and none is needed to answer."""

    def __init__(self, probes: Probes) -> None:
        app = web.Application(middlewares=[_refuse])
        app.add_routes(probes.routes())
        self._runner = web.AppRunner(app, access_log=None, logger=_connection_log, shutdown_timeout=_CUT_S)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serves on bound sockets, which it takes over."""
        await self._runner.setup()
        for bound in sockets:
            await web.SockSite(self._runner, bound, backlog=_BACKLOG).start()

    async def stop(self) -> None:
        await self._runner.cleanup()


@web.middleware
async def _refuse(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as error:
        return json_answer({"error": message_of(error)}, status_of(error))


def json_answer(content: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")
