"""The fixtures of `tests.redis`, for every folder of tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis.running import RedisCluster, RedisServer

StartRedis = Callable[..., RedisServer]
StartRedisCluster = Callable[..., RedisCluster]


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Starts a Redis with the arguments of `RedisServer`, without the folder."""
    started: list[RedisServer] = []
    number = itertools.count()

    def start(*lines: str, user: str = "", tls: bool = False) -> RedisServer:
        started.append(RedisServer(tmp_path / f"redis-{next(number)}", *lines, user=user, tls=tls))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def redis_server(start_redis: StartRedis) -> RedisServer:
    """An empty Redis of the test's own."""
    return start_redis()


@pytest.fixture
def start_redis_cluster(tmp_path: Path) -> Iterator[StartRedisCluster]:
    """Starts a Cluster with lines of redis.conf, which takes about two seconds."""
    started: list[RedisCluster] = []
    number = itertools.count()

    def start(*lines: str) -> RedisCluster:
        started.append(RedisCluster(tmp_path / f"cluster-{next(number)}", *lines))
        return started[-1]

    yield start
    for cluster in started:
        cluster.close()


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def redis_cluster(_cluster: RedisCluster) -> RedisCluster:
    """A Cluster without a key. Do not stop its nodes."""
    _cluster.client.flushall()
    return _cluster
