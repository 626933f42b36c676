"""A Redis of each kind, and logs in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalog.redis.entries import PREFIX, OpenLog, Redis
from twotower_server.catalog.redis_log import RedisLog


@pytest.fixture(params=["redis_server", "redis_cluster"])
def redis(request: pytest.FixtureRequest) -> Redis:
    """An empty Redis, standalone and then a Cluster. Do not stop it."""
    found: Redis = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def open_log() -> Iterator[OpenLog]:
    """Opens logs with the arguments of `RedisLog`, without the prefix."""
    opened: list[RedisLog] = []

    def open_one(url: str, ca: Path | None = None, replicas: int = 0, timeout_s: float = 2.0) -> RedisLog:
        opened.append(RedisLog(url, ca, PREFIX, replicas, timeout_s))
        return opened[-1]

    yield open_one
    for log in opened:
        log.close()


@pytest.fixture
def log(redis: Redis, open_log: OpenLog) -> RedisLog:
    """An empty log in `redis`."""
    return open_log(redis.url)
