"""What a real client of gRPC sends, byte by byte."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.reliability.serving import OWN_CONNECTION
from tests.rpc.messages import USER, user
from twotower import v1


def recorded(target: str) -> list[bytes]:
    """Some connections to a server, each from its preface to its end."""
    return asyncio.run(_recorded(target))


async def _recorded(target: str) -> list[bytes]:
    host, _, port = target.rpartition(":")
    found: list[bytearray] = []
    connections: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(bytearray())
        connections.append(asyncio.current_task())
        onward = await asyncio.open_connection(host, int(port))
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(reader, onward[1], found[-1]))
            group.create_task(_copy(onward[0], writer, bytearray()))

    proxy = await asyncio.start_server(accept, "localhost", 0)
    async with proxy:
        address = f"localhost:{proxy.sockets[0].getsockname()[1]}"
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            options = [*OWN_CONNECTION, ("grpc.keepalive_time_ms", 60_000)]
            async with grpc.aio.insecure_channel(address, options=options, compression=compression) as channel:
                stub = v1.TwoTowerServiceStub(channel)
                score = v1.ScoreRequest(user=user(USER), item_ids=[f"i{i}" for i in range(300)])
                await stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER)), timeout=30)
                await asyncio.gather(
                    stub.Score(score),
                    stub.Recommend(v1.RecommendRequest(user=user(USER), k=5), metadata=(("x-bin", b"\0\xff"),)),
                    stub.BatchScore(v1.BatchScoreRequest(requests=[score] * 9)),
                )
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
                await watch.read()
                watch.cancel()
        await asyncio.gather(*filter(None, connections))
    return [bytes(data) for data in found]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: bytearray) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            into += data
            writer.write(data)
            await writer.drain()
    writer.close()
