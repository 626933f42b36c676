"""The fixtures themselves: what other tests believe of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.redis.fixtures import StartRedis, StartRedisCluster
from tests.redis.running import APPEND_ALWAYS, LOGIN, NO_RETRY, RedisCluster, RedisServer
from tests.redis.slowing import Slowing
from tests.supervisor.running import PATIENCE_S, until


def test_the_server_is_new_enough_and_empty(redis_server: RedisServer) -> None:
    assert int(redis_server.client.info("server")["redis_version"].split(".")[0]) >= 7
    assert redis_server.client.dbsize() == 0


def test_a_killed_server_comes_back_with_what_it_appended(start_redis: StartRedis) -> None:
    server = start_redis(*APPEND_ALWAYS)
    server.client.set("key", b"\xff")
    server.kill()
    with pytest.raises(redis.ConnectionError):
        server.client.get("key")
    server.start()
    assert server.client.get("key") == b"\xff"


def test_a_server_that_was_stopped_comes_back(start_redis: StartRedis) -> None:
    server = start_redis(*APPEND_ALWAYS)
    server.client.set("key", b"\xff")
    server.stop()
    with pytest.raises(redis.ConnectionError):
        server.client.get("key")
    server.start()
    assert server.client.get("key") == b"\xff"


def test_a_slow_way_passes_everything_on_late(redis_server: RedisServer) -> None:
    with (
        Slowing(redis_server.port) as way,
        redis.Redis.from_url(way.url, retry=NO_RETRY) as client,
        redis.Redis.from_url(way.url, socket_timeout=0.1, retry=NO_RETRY) as hasty,
    ):
        client.set("key", "value")
        way.delay(0.2, 0.2, piece_bytes=1_000)
        with pytest.raises(redis.TimeoutError):
            hasty.get("key")
        way.delay(0.0, 0.001, piece_bytes=3)
        assert client.get("key") == b"value"
        way.delay(60.0, 60.0, piece_bytes=1_000)
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(client.get, "key")
            way.hurry()
            assert waiting.result(PATIENCE_S) == b"value"


def test_a_paused_server_says_nothing_until_it_is_resumed(redis_server: RedisServer) -> None:
    redis_server.client.set("key", "value")
    redis_server.pause()
    with (
        redis.Redis.from_url(redis_server.url, socket_timeout=0.05, retry=NO_RETRY) as hasty,
        pytest.raises(redis.TimeoutError),
    ):
        hasty.get("key")
    redis_server.resume()
    assert redis_server.client.get("key") == b"value"


def test_a_login_is_needed_where_it_is_asked_for(start_redis: StartRedis) -> None:
    server = start_redis(*LOGIN, user="app:secret")
    assert server.client.ping()
    with redis.Redis(port=server.port, retry=NO_RETRY) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_tls_is_real(start_redis: StartRedis) -> None:
    server = start_redis(tls=True)
    assert server.client.ping()
    with redis.Redis(port=server.port, ssl=True, retry=NO_RETRY) as distrustful, pytest.raises(redis.ConnectionError):
        distrustful.ping()


def test_keys_spread_over_the_cluster_and_its_replicas(redis_cluster: RedisCluster) -> None:
    for i in range(100):
        redis_cluster.client.set(f"key-{i}", i)
    sizes = [node.client.dbsize() for node in redis_cluster.nodes]
    assert sum(sizes[:3]) == 100
    assert all(sizes[:3])
    for primary, replica in zip(redis_cluster.nodes[:3], redis_cluster.nodes[3:], strict=True):
        until(lambda primary=primary, replica=replica: primary.client.dbsize() == replica.client.dbsize())  # type: ignore[misc]


def test_a_replica_takes_the_place_of_its_primary(start_redis_cluster: StartRedisCluster) -> None:
    cluster = start_redis_cluster()
    cluster.nodes[0].kill()
    until(lambda: cluster.nodes[3].client.info("replication")["role"] == "master")
