"""Reading many values at once from the real Redis: every byte, and whatever else a server may answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio import RedisCluster as Client

from tests.redis.fixtures import StartRedis
from tests.redis.running import LOGIN, RedisCluster, RedisServer
from twotower_server.items.redis_bulk import BulkReader, Unexpected

# Of every kind of length: none, shorter and longer than what is read at once.
VALUES: dict[str, bytes] = {
    "empty": b"",
    "ends": b"\r\n$5\r\n",
    "ü{x}y": b"a",
    "{}z": b"b",
    "large": bytes(range(256)) * 12_000,
    **{f"i{i}": bytes([i % 256]) * 256 for i in range(10_000)},
}
KEYS = ["nothing", *VALUES, "nothing too", "i5", "i5"]
WANTED = [VALUES.get(key) for key in KEYS]

Use = Callable[[BulkReader], Coroutine[Any, Any, None]]


def reading(client: Any, use: Use, timeout_s: float = 30.0) -> None:
    """Calls `use` with a reader by a client."""

    async def run() -> None:
        reader = BulkReader(client, timeout_s)
        try:
            await use(reader)
        finally:
            await reader.close()
            await client.aclose()

    asyncio.run(run())


async def read_all(reader: BulkReader) -> None:
    for _ in range(2):
        assert await reader.get(KEYS) == WANTED
    for found in await asyncio.gather(*(reader.get(KEYS) for _ in range(3))):
        assert found == WANTED
    assert await reader.get([]) == []


def test_a_standalone_server(redis_server: RedisServer) -> None:
    redis_server.client.mset(VALUES)
    reading(Redis.from_url(redis_server.url, protocol=2), read_all)


def test_a_cluster(redis_cluster: RedisCluster) -> None:
    for key, value in VALUES.items():
        redis_cluster.client.set(key, value)
    reading(Client.from_url(redis_cluster.url, protocol=2), read_all)


def test_login_database_and_tls(start_redis: StartRedis) -> None:
    server = start_redis(*LOGIN, user="app:secret", tls=True)
    server.client.select(2)
    server.client.set("a", b"1")
    url, _, options = server.url.partition("?")

    async def read(reader: BulkReader) -> None:
        assert await reader.get(["a", "b"]) == [b"1", None]

    reading(Redis.from_url(f"{url}/2?{options}", protocol=2), read)


def test_what_is_no_value_is_told_and_the_next_answer_is_right(redis_cluster: RedisCluster) -> None:
    redis_cluster.client.rpush("list", b"x")
    redis_cluster.client.set("a", b"1")

    async def read(reader: BulkReader) -> None:
        with pytest.raises(Unexpected, match=r"^WRONGTYPE "):
            await reader.get(["a", "list", "b"])
        assert await reader.get(["a", "b"]) == [b"1", None]

    reading(Client.from_url(redis_cluster.url, protocol=2), read)


def test_a_server_that_was_restarted_and_one_that_hangs(redis_server: RedisServer) -> None:
    async def read(reader: BulkReader) -> None:
        assert await reader.get(["a"]) == [None]
        redis_server.kill()
        redis_server.start()
        with pytest.raises(Unexpected, match="the server has closed the connection"):
            await reader.get(["a"])
        assert await reader.get(["a"]) == [None]
        redis_server.pause()
        # All wait for one answer, and hear the same.
        answers = await asyncio.gather(*(reader.get(["a"]) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [TimeoutError] * 3
        redis_server.resume()
        assert await reader.get(["a"]) == [None]

    reading(Redis.from_url(redis_server.url, protocol=2), read, timeout_s=1.0)
