"""The HTTP server of one worker: routes, limits, time-outs, and what callers read when a call is refused."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path

import orjson
from aiohttp import web

from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import Refused
from twotower_server.http.body import TooLarge, TooSlow
from twotower_server.http.gateway import Gateway, UnknownModel
from twotower_server.http.metrics import ServerState
from twotower_server.http.model import Model
from twotower_server.http.status import STATUSES, message_of

log = logging.getLogger(__name__)
# What aiohttp says of connections that broke, or sent no HTTP, with a stack each. Bugs are logged below.
_connection_log = logging.getLogger(f"{__name__}.connection")
_connection_log.setLevel(logging.CRITICAL)

# Longer than Go's clients keep an idle connection (90 s): then they close it, and no call meets a closed one.
# It is also how long a connection may take to send the head of a request.
_IDLE_S = 120.0
# How long a client may take to read what fits no buffer of the kernel.
_WRITE_S = 30.0
# How long the rest of a refused body is still read, for its sender to come to the answer.
_LINGER_S = 2.0
# While draining: how long connections get for a call, whose answer then tells that they close.
_PARTING_S = 1.0
# What cutting off those that are left may take.
_CUT_S = 0.1
_BACKLOG = 1_024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Not ready until `set_serving(True)`, and again before the drain."""

    def __init__(
        self,
        calls: WholeCalls,
        state: Callable[[], ServerState],
        *,
        grace_s: float,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        """state: of the whole server, for /metrics. grace_s: what calls in flight get when the server stops.

        certificate, key: PEM files; None = plaintext.
        """
        self._gateway = Gateway(calls, state)
        self._tls = _tls(certificate, key)
        self._limit_bytes = calls.limits.request_bytes
        self._grace_s = grace_s
        self._draining = False

        @web.middleware
        async def call(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._call(request, handler)

        app = web.Application(middlewares=[call], client_max_size=self._limit_bytes)
        app.add_routes(self._gateway.routes())
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_connection_log,
            keepalive_timeout=_IDLE_S,
            lingering_time=_LINGER_S,
            shutdown_timeout=_CUT_S,
        )

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serves on bound sockets, which it takes over."""
        await self._runner.setup()
        for bound in sockets:
            await web.SockSite(self._runner, bound, ssl_context=self._tls, backlog=_BACKLOG).start()

    def set_serving(self, serving: bool) -> None:
        """What health checks answer."""
        self._gateway.is_serving = serving

    async def stop(self) -> None:
        """Takes no new connection, lets calls in flight finish within the grace, then ends them."""
        self.set_serving(False)
        self._draining = True
        for site in [*self._runner.sites]:
            await site.stop()
        now = asyncio.get_running_loop().time()
        # A connection that was closed now, between two calls, would cost its client the next one.
        await self._until_left(now + min(_PARTING_S, self._grace_s))
        if self._runner.server is not None:
            # Closes those that are idle, and each other after its call. Of a body, what has not come yet is lost.
            self._runner.server.pre_shutdown()
        await self._until_left(now + self._grace_s)
        await self._runner.cleanup()

    async def _until_left(self, end: float) -> None:
        """Waits until there is no connection, or until a time of the loop's clock."""
        loop = asyncio.get_running_loop()
        while self._runner.server is not None and self._runner.server.connections and loop.time() < end:
            await asyncio.sleep(0.01)

    async def _call(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await self._response(request, handler)
        response.headers["Server"] = "twotower"
        if self._draining:
            response.force_close()
        try:
            async with asyncio.timeout(_WRITE_S):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _response(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path[:200]
        try:
            return await handler(request)
        except Refused as error:
            return _refusal(STATUSES[error.reason], message_of(error))
        except UnknownModel:
            return _refusal(HTTPStatus.NOT_FOUND, f"UNSPECIFIED: there is no such model; there are {', '.join(Model)}")
        except TooLarge:
            why = f"LIMIT_EXCEEDED: the request has more than {self._limit_bytes} bytes"
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
        except TooSlow:
            response = _refusal(HTTPStatus.REQUEST_TIMEOUT, "DEADLINE: the body did not come in time")
            response.force_close()
            return response
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            response = _refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"UNSPECIFIED: {path} takes {allowed}")
            response.headers["Allow"] = allowed
            return response
        except web.HTTPNotFound:
            return _refusal(HTTPStatus.NOT_FOUND, f"UNSPECIFIED: there is nothing at {path}; docs/http.md lists all")
        except ConnectionError:  # the client has gone
            raise
        except Exception:
            log.exception("%s %s failed", request.method, path)
            why = "INTERNAL: this is a bug of the server; its log has the details"
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, why)


def _refusal(status: HTTPStatus, message: str) -> web.Response:
    return web.Response(status=status, body=orjson.dumps({"error": message}), content_type="application/json")


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
