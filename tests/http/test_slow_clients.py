"""Clients that do not send, or do not read: they are cut off, and others go on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from twotower_server.config import Address
from twotower_server.engine.limits import Limits
from twotower_server.engine.route import Releases
from twotower_server.engine.whole import WholeCalls
from twotower_server.http import body, server
from twotower_server.http.metrics import ServerState
from twotower_server.http.server import HttpServer
from twotower_server.release.snapshot import Snapshot
from twotower_server.supervisor.port import Port, shared_sockets

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def serving(releases: Path, grace_s: float = 5.0) -> AsyncIterator[int]:
    """The HTTP server of a real release in this process, with time-outs of the test; its port."""
    snapshot = Snapshot.open(releases / "dot")
    calls = WholeCalls(Releases({"dot": snapshot}, "dot"), Limits())
    with Port(Address("127.0.0.1", 0)) as port:
        http = HttpServer(calls, lambda: ServerState("dot", {}, ()), grace_s=grace_s)
        await http.start(shared_sockets(port.address))
        http.set_serving(True)
        yield port.address.port
        await http.stop()


async def test_a_body_that_does_not_come_is_refused(releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "READ_S", 0.1)
    async with serving(releases) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predictions/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in answer
        assert answer.endswith(b'{"error":"DEADLINE: the body did not come in time"}')
        writer.close()


async def test_a_head_that_does_not_come_ends_the_connection(releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_IDLE_S", 0.1)
    async with serving(releases) as port:
        for sent in (b"", b"POST /predictions/score HTTP/1.1\r\nHost: x\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await reader.read() == b""
            writer.close()


async def test_a_client_that_does_not_read_is_cut_off_and_others_are_served(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_WRITE_S", 0.1)
    content = json.dumps({"data": [{"user_age": age % 90} for age in range(5_000)]}).encode()
    head = f"POST /predictions/user_tower HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    async with serving(releases) as port:
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        narrow.connect(("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=narrow, limit=1_024)
        with pytest.raises(ConnectionError):
            while True:
                writer.write(head + content)
                await writer.drain()
        reader, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        other.close()
        writer.transport.abort()


async def test_a_server_that_stops_waits_for_nobody_longer_than_the_grace(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "READ_S", 3_600.0)
    async with serving(releases, grace_s=0.2) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predictions/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        idle.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await idle_reader.readline()
    assert await reader.read() == b""
    await idle_reader.read()
    writer.close()
    idle.close()
