"""The store, while Redis goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.redis.fixtures import StartRedis, StartRedisCluster
from tests.redis.running import APPEND_ALWAYS, RedisServer
from twotower_server.errors import StoreRefused, StoreUnavailable
from twotower_server.items.redis import RedisStore, check_version

VALUES = {f"twotower:item_emb:r1:{i}": bytes([i % 256]) * 16 for i in range(1_000)}


def wait_then(act: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(0.5, act)
    timer.start()
    return timer


def test_a_redis_that_is_restarted_is_waited_for(start_redis: StartRedis) -> None:
    server = start_redis(*APPEND_ALWAYS)
    with RedisStore(server.url) as store:
        store.write(VALUES)
        server.kill()
        timer = wait_then(server.start)
        assert store.read(list(VALUES)) == list(VALUES.values())
        timer.join()


def test_a_redis_that_does_not_come_back_is_given_up(redis_server: RedisServer) -> None:
    with RedisStore(redis_server.url, patience_s=0.5) as store:
        redis_server.kill()
        with pytest.raises(StoreUnavailable, match=f"^no answer from Redis at 127.0.0.1:{redis_server.port}"):
            store.write(VALUES)


def test_a_failover_is_waited_for(start_redis_cluster: StartRedisCluster) -> None:
    cluster = start_redis_cluster()
    with RedisStore(cluster.url) as store:
        store.write(VALUES)
        cluster.nodes[1].kill()
        store.write(VALUES)
        assert store.read(list(VALUES)) == list(VALUES.values())
        assert {key for keys in store.scan("twotower:item_emb:r1:") for key in keys} == set(VALUES)
        assert store.expire(list(VALUES), 100) == len(VALUES)
        store.remove(list(VALUES))
        assert store.read(list(VALUES)) == [None] * len(VALUES)


def test_versions() -> None:
    for version in ("7.0.0", "7.4.1", "8.0", "10.2.3"):
        check_version(version, "host")
    for version in ("6.2.14", "5.0.0"):
        with pytest.raises(StoreRefused, match=rf"^Redis at host is {version}; 7.0 or newer is needed$"):
            check_version(version, "host")
