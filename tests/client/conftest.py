"""A real gRPC server in this process, on a free port, and clients of both kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

import twotower
from tests.client.scripted import BlockingAsyncClient, ScriptedServer, ServerFactory, servicer_of
from tests.supervisor.running import Server
from twotower import v1


@pytest.fixture
def start_scripted() -> Iterator[ServerFactory]:
    """Starts scripted servers; with credentials they speak TLS."""
    running: list[grpc.Server] = []

    def start(credentials: grpc.ServerCredentials | None = None) -> ScriptedServer:
        script = ScriptedServer()
        server = grpc.server(ThreadPoolExecutor(8))
        servicer = servicer_of(script)
        v1.add_TwoTowerServiceServicer_to_server(servicer, server)
        v1.add_ReleaseServiceServicer_to_server(servicer, server)
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


@dataclass(frozen=True, slots=True)
class Switchable:
    """A server that a test may switch. releases: its own folder, with `dot` and `cosine`."""

    target: str
    releases: Path


StartSwitchable = Callable[..., Switchable]


@pytest.fixture(scope="module")
def start_switchable(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartSwitchable]:
    """Starts servers of the release `dot`, with options of `twotower serve`."""
    started: list[Server] = []

    def start(*options: str) -> Switchable:
        folder = tmp_path_factory.mktemp("switchable")
        own = folder / "releases"
        own.mkdir()
        for name in ("dot", "cosine"):
            (own / name).symlink_to(releases / name)
        (own / "active").write_text("dot\n")
        command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
        server = Server([*command, "--listen", "localhost:0", *options], folder / "log", {})
        started.append(server)
        return Switchable(str(server.ready()["target"]), own)

    yield start
    for server in started:
        server.close()


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
