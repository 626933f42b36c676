"""A servicer whose answers each test writes itself, and one face for both clients."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import twotower
from twotower import v1

Answer = Callable[[Any, grpc.ServicerContext], Any]
ServerFactory = Callable[..., "ScriptedServer"]
RPCS = [
    method.name
    for file in (v1.TWOTOWER_SERVICE_FILE, v1.RELEASE_SERVICE_FILE)
    for service in file.services_by_name.values()
    for method in service.methods
]


def trailers_of(
    reason: str, *, domain: str = "twotower", retry_after_ms: int | None = None, **metadata: str
) -> tuple[tuple[str, bytes], ...]:
    """The trailers of a refusal, as the contract has them."""
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata)]
    if retry_after_ms is not None:
        delay = Duration()
        delay.FromMilliseconds(retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status()
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def refuse(code: grpc.StatusCode, reason: str = "", message: str = "no", **details: Any) -> Answer:
    """An answer that refuses; without a reason it is one of gRPC's own."""

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        if reason:
            context.set_trailing_metadata(trailers_of(reason, **details))
        context.abort(code, f"{reason}: {message}" if reason else message)

    return answer


class ScriptedServer:
    """Answers every RPC by the next of the answers that the test gave for it; the last one stays."""

    def __init__(self) -> None:
        self.target = ""
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.peers: set[str] = set()
        self._answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()

    def answer(self, rpc: str, *answers: Any) -> None:
        """answers: messages, or functions of request and context."""
        self._answers[rpc] = [
            one if callable(one) else functools.partial(lambda message, *_: message, one) for one in answers
        ]

    def handle(self, rpc: str, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self.peers.add(context.peer())
            answers = self._answers[rpc]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer(request, context)


def servicer_of(script: ScriptedServer) -> Any:
    """A servicer of TwoTowerService and of ReleaseService."""
    methods = {rpc: (lambda self, request, context, rpc=rpc: script.handle(rpc, request, context)) for rpc in RPCS}
    return type("Scripted", (v1.TwoTowerServiceServicer, v1.ReleaseServiceServicer), methods)()


class BlockingAsyncClient:
    """An `AsyncClient` whose methods block, so that one test checks both clients."""

    def __init__(self, runner: asyncio.Runner, client: Any) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if isinstance(method, twotower.AsyncReleases):
            return BlockingAsyncClient(self._runner, method)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            async def await_it() -> Any:
                return await method(*args, **kwargs)

            result = self._runner.run(await_it())
            if isinstance(result, twotower.AsyncPinnedClient):
                return BlockingAsyncClient(self._runner, result)
            return result

        return call
