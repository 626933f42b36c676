"""A real gRPC server in this process, on a free port, and clients of both kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import twotower
from tests.client.scripted import BlockingAsyncClient, ScriptedServer, ServerFactory, servicer_of
from twotower import v1


@pytest.fixture
def start_scripted() -> Iterator[ServerFactory]:
    """Starts scripted servers; with credentials they speak TLS."""
    running: list[grpc.Server] = []

    def start(credentials: grpc.ServerCredentials | None = None) -> ScriptedServer:
        script = ScriptedServer()
        server = grpc.server(ThreadPoolExecutor(8))
        v1.add_TwoTowerServiceServicer_to_server(servicer_of(script), server)
        if credentials is None:
            port = server.add_insecure_port("localhost:0")
        else:
            port = server.add_secure_port("localhost:0", credentials)
        server.start()
        running.append(server)
        script.target = f"localhost:{port}"
        return script

    yield start
    for server in running:
        server.stop(0).wait()


@pytest.fixture
def scripted(start_scripted: ServerFactory) -> ScriptedServer:
    return start_scripted()


@pytest.fixture(params=["sync", "asyncio"])
def open_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens clients of both kinds, with the arguments of `twotower.Client`; retries wait next to nothing."""
    opened: list[Any] = []
    runner = asyncio.Runner() if request.param == "asyncio" else None

    def open_(target: str, **kwargs: Any) -> Any:
        kwargs.setdefault("retry", twotower.RetryPolicy(initial_backoff_s=0.001, max_backoff_s=0.002))
        kwargs.setdefault("timeout_s", 20.0)
        if runner is None:
            client: Any = twotower.Client(target, **kwargs)
        else:

            async def make() -> twotower.AsyncClient:
                return twotower.AsyncClient(target, **kwargs)

            client = BlockingAsyncClient(runner, runner.run(make()))
        opened.append(client)
        return client

    yield open_
    for client in opened:
        client.close()
    if runner is not None:
        runner.close()
