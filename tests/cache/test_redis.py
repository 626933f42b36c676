"""The cache in Redis, which servers share; the real Redis."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cache.conftest import StartServer
from tests.cache.test_user_cache import CACHE, COMPUTED, OTHER, embed, is_of
from tests.redis.fixtures import StartRedis, StartRedisCluster
from tests.redis.running import LOGIN, RedisCluster, RedisServer
from tests.reliability.serving import Own
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Features, Recomputed
from tests.supervisor.running import until
from twotower import v1

# A busy machine may take longer than the default.
PATIENT = ("--user-cache", "ttl", "--user-cache-redis", "--user-cache-budget-ms", "1000")
HASTY = ("--user-cache", "ttl", "--user-cache-redis", "--user-cache-budget-ms", "30")
AGES = [float(age) for age in range(100)]


def stored(values: Any) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def embed_all(own: Own, release: str = "") -> v1.BatchGetUserEmbeddingsResponse:
    """A batch of users of every age."""
    users = [user({"user_age": age}, user_id=f"aged {age}") for age in AGES]
    request = v1.BatchGetUserEmbeddingsRequest(users=users, release=release)
    got: v1.BatchGetUserEmbeddingsResponse = own.serving.BatchGetUserEmbeddings(request)
    return got


def is_right(got: v1.BatchGetUserEmbeddingsResponse, release: Recomputed) -> bool:
    expected = [release.user({"user_age": age}) for age in AGES]
    return is_of([embedding.values for embedding in got.embeddings], expected)


def test_servers_share_vectors(start_server: StartServer, redis_server: RedisServer, dot: Recomputed) -> None:
    one = start_server(*PATIENT, "--redis", redis_server.url)
    first = embed(one, USER, "a:b", feature_version="7")
    second = embed(one, OTHER, "a:b")
    keys = {b"twotower:user_emb:dot:7:a:b": first, b"twotower:user_emb:dot:-:a:b": second}
    until(lambda: redis_server.client.dbsize() == 2)
    for key, got in keys.items():
        assert redis_server.client.get(key) == stored(got.embedding.values)
        assert 0 < redis_server.client.pttl(key) <= 600_000

    other = start_server(*PATIENT, "--redis", redis_server.url)
    # The age is that of the vector, not of the copy that this server makes of it.
    for left_ms, age_ms in ((100_000, 500_000), (600_000, 0)):
        redis_server.client.pexpire(b"twotower:user_emb:dot:7:a:b", left_ms)
        found = embed(other, OTHER, "a:b", feature_version="7")
        assert (found.source, found.embedding) == (CACHE, first.embedding)
        assert 500_000 <= found.age_ms < 600_000 and age_ms <= found.age_ms
    assert embed(other, USER, "a:b").embedding == second.embedding
    assert one.degraded() == other.degraded() == []


def test_batches_share_vectors(start_server: StartServer, redis_server: RedisServer, dot: Recomputed) -> None:
    one = start_server(*PATIENT, "--redis", redis_server.url)
    got = embed_all(one)
    assert set(got.sources) == {COMPUTED} and is_right(got, dot)
    until(lambda: redis_server.client.dbsize() == len(AGES))
    redis_server.client.delete("twotower:user_emb:dot:-:aged 41.0")
    other = start_server(*PATIENT, "--redis", redis_server.url)
    got = embed_all(other)
    assert [age for age, source in zip(AGES, got.sources, strict=True) if source == COMPUTED] == [41.0]
    assert set(got.sources) == {COMPUTED, CACHE} and is_right(got, dot)
    until(lambda: redis_server.client.dbsize() == len(AGES))


def test_a_refresh_replaces_what_is_shared(start_server: StartServer, redis_server: RedisServer) -> None:
    one = start_server(*PATIENT, "--redis", redis_server.url)
    old = embed(one, USER)
    until(lambda: redis_server.client.get("twotower:user_emb:dot:-:u1") == stored(old.embedding.values))
    new = embed(one, OTHER, cache_mode=v1.CACHE_MODE_REFRESH)
    assert new.source == COMPUTED
    until(lambda: redis_server.client.get("twotower:user_emb:dot:-:u1") == stored(new.embedding.values))
    bypassing = embed(one, USER, "u2", cache_mode=v1.CACHE_MODE_BYPASS)
    assert bypassing.source == COMPUTED
    assert embed(one, USER, "u3").source == COMPUTED
    until(lambda: redis_server.client.exists("twotower:user_emb:dot:-:u3"))
    assert not redis_server.client.exists("twotower:user_emb:dot:-:u2")


@pytest.mark.parametrize(
    "write",
    [
        lambda redis, key, values: redis.set(key, stored(values)),  # lives for ever
        lambda redis, key, values: redis.set(key, stored(values), ex=3600),  # longer than vectors here may
        lambda redis, key, values: redis.set(key, stored(values)[:-4], ex=60),
        lambda redis, key, values: redis.set(key, stored(values)[:-1], ex=60),
        lambda redis, key, values: redis.set(key, b"", ex=60),
        lambda redis, key, values: redis.set(key, stored([*values[:-1], float("nan")]), ex=60),
        lambda redis, key, values: redis.set(key, stored([*values[:-1], 3e38]), ex=60),
    ],
)
def test_a_value_that_is_no_vector_of_ours_is_computed_and_replaced(
    start_server: StartServer,
    redis_server: RedisServer,
    dot: Recomputed,
    write: Callable[[Any, str, list[float]], object],
) -> None:
    own = start_server(*PATIENT, "--redis", redis_server.url)
    write(redis_server.client, "twotower:user_emb:dot:-:u1", [1.0] * 8)
    got = embed(own, USER)
    assert got.source == COMPUTED
    assert is_of(got.embedding.values, dot.user(USER))
    until(lambda: redis_server.client.get("twotower:user_emb:dot:-:u1") == stored(got.embedding.values))
    assert own.degraded() == []


def test_a_cosine_release_normalises_what_enters(start_server: StartServer, redis_server: RedisServer) -> None:
    own = start_server(*PATIENT, "--redis", redis_server.url)
    assert own.load("cosine") == "LOADED"
    redis_server.client.set("twotower:user_emb:cosine:-:u1", stored([2.0] * 8), ex=60)
    got = embed(own, USER, release="cosine")
    assert got.source == CACHE
    assert np.allclose(got.embedding.values, 8**-0.5)
    redis_server.client.set("twotower:user_emb:dot:-:u1", stored([2.0] * 8), ex=60)
    assert list(embed(own, USER).embedding.values) == [2.0] * 8


def test_many_who_miss_the_same_key_at_once_compute_it_once(
    start_server: StartServer, redis_server: RedisServer
) -> None:
    own = start_server(*PATIENT, "--redis", redis_server.url)
    for number in range(10):
        request = v1.GetUserEmbeddingRequest(user=user(USER, user_id=f"u{number}"))
        batch = v1.BatchGetUserEmbeddingsRequest(users=[request.user, request.user])
        calls = [own.serving.GetUserEmbedding.future(request) for _ in range(20)]
        batches = [own.serving.BatchGetUserEmbeddings.future(batch) for _ in range(5)]
        sources = [call.result().source for call in calls]
        sources += [source for call in batches for source in call.result().sources]
        assert sorted(sources) == [COMPUTED] + [CACHE] * 29


def test_login_tls_and_prefix(start_server: StartServer, start_redis: StartRedis, dot: Recomputed) -> None:
    rights = "user app on >secret ~shop:user_emb:* &* -@all +get +set +pttl"
    secure = start_redis(rights, "user default on >root ~* &* +@all", user="default:root", tls=True)
    authority = secure.folder / "ca.pem"
    url = f"rediss://app:secret@127.0.0.1:{secure.port}"
    options = (*PATIENT, "--redis", url, "--redis-ca", str(authority), "--redis-prefix", "shop:")
    one = start_server(*options)
    first = embed(one, USER)
    until(lambda: secure.client.get("shop:user_emb:dot:-:u1") == stored(first.embedding.values))
    assert embed(start_server(*options), OTHER).embedding == first.embedding


def test_a_cluster(start_server: StartServer, redis_cluster: RedisCluster, dot: Recomputed) -> None:
    one = start_server(*PATIENT, "--redis", redis_cluster.url)
    embed_all(one)
    until(lambda: sum(node.client.dbsize() for node in redis_cluster.nodes[:3]) == len(AGES))
    other = start_server(*PATIENT, "--redis", redis_cluster.nodes[4].url)
    got = embed_all(other)
    assert set(got.sources) == {CACHE} and is_right(got, dot)
    assert one.degraded() == other.degraded() == []


# ---- what befalls Redis: every call is served, and the server says what is wrong


def serves(own: Own, dot: Recomputed, name: str) -> None:
    """Calls for users that no tier has yet, and again for them, from memory."""
    for number in range(12):
        features: Features = {"user_age": float(number)}
        got = [embed(own, features, f"{name} {number}") for _ in range(2)]
        assert [vector.source for vector in got] == [COMPUTED, CACHE]
        assert all(is_of(vector.embedding.values, dot.user(features)) for vector in got)


def shares_again(own: Own, redis_server: RedisServer, dot: Recomputed) -> None:
    """Waits until nothing is degraded; then vectors go both ways, and are those of their users."""
    until(lambda: own.degraded() == [])
    for age in AGES:
        key = f"twotower:user_emb:dot:-:aged {age}"
        redis_server.client.set(key, stored(dot.user({"user_age": age})), ex=60)
    got = embed_all(own)
    assert is_right(got, dot)
    new = embed(own, USER, "after all")
    until(lambda: redis_server.client.get("twotower:user_emb:dot:-:after all") == stored(new.embedding.values))


def test_redis_is_killed_and_comes_back(start_server: StartServer, redis_server: RedisServer, dot: Recomputed) -> None:
    own = start_server(*HASTY, "--redis", redis_server.url)
    serves(own, dot, "before")
    redis_server.kill()
    serves(own, dot, "killed")
    until(lambda: own.degraded() != [])
    assert own.degraded() == [
        "user cache: Redis cannot be reached; each worker has only what it computed itself",
    ]
    serves(own, dot, "left alone")
    redis_server.start()
    shares_again(own, redis_server, dot)


def test_redis_hangs_and_goes_on(start_server: StartServer, redis_server: RedisServer, dot: Recomputed) -> None:
    own = start_server(*HASTY, "--redis", redis_server.url)
    redis_server.pause()
    serves(own, dot, "hanging")
    until(lambda: own.degraded() != [])
    assert own.degraded() == [
        "user cache: Redis does not answer in time; each worker has only what it computed itself",
    ]
    redis_server.resume()
    shares_again(own, redis_server, dot)


def test_redis_is_out_of_memory(start_server: StartServer, redis_server: RedisServer, dot: Recomputed) -> None:
    own = start_server(*PATIENT, "--redis", redis_server.url)
    redis_server.client.set("twotower:user_emb:dot:-:known", stored(dot.user(USER)), ex=60)
    redis_server.client.config_set("maxmemory", 1)
    serves(own, dot, "full")
    until(lambda: own.degraded() != [])
    assert own.degraded() == [
        "user cache: Redis is out of memory; vectors computed now are not written to it",
    ]
    assert embed(own, OTHER, "known").source == CACHE  # it can still be read
    redis_server.client.config_set("maxmemory", 0)
    shares_again(own, redis_server, dot)
    assert redis_server.client.exists("twotower:user_emb:dot:-:full 0")  # what waited


def test_redis_refuses_the_login(start_server: StartServer, start_redis: StartRedis, dot: Recomputed) -> None:
    redis_server = start_redis(*LOGIN, user="app:secret")
    own = start_server(*HASTY, "--redis", f"redis://cache:wrong@127.0.0.1:{redis_server.port}")
    assert own.degraded() == [
        "user cache: Redis refuses the login; each worker has only what it computed itself",
    ]
    serves(own, dot, "refused")
    redis_server.client.acl_setuser("cache", enabled=True, passwords=["+wrong"], keys=["*"], categories=["+@all"])
    shares_again(own, redis_server, dot)


def test_a_server_starts_without_redis(start_server: StartServer, redis_server: RedisServer, dot: Recomputed) -> None:
    redis_server.kill()
    own = start_server(*HASTY, "--redis", redis_server.url)
    assert len(own.degraded()) == 1
    serves(own, dot, "alone")
    redis_server.start()
    shares_again(own, redis_server, dot)


def test_a_primary_of_the_cluster_fails_over(
    start_server: StartServer, start_redis_cluster: StartRedisCluster, dot: Recomputed
) -> None:
    cluster = start_redis_cluster()
    own = start_server(*HASTY, "--redis", cluster.nodes[1].url)
    serves(own, dot, "whole")
    cluster.nodes[0].kill()
    serves(own, dot, "broken")
    until(lambda: cluster.nodes[3].client.info("replication")["role"] == "master")
    primaries = (*cluster.nodes[1:3], cluster.nodes[3])

    def everything_is_shared() -> bool:
        for age in AGES:
            embed(own, {"user_age": age}, f"aged {age}", cache_mode=v1.CACHE_MODE_REFRESH)
        return sum(len(node.client.keys("*:aged *")) for node in primaries) == len(AGES)

    until(everything_is_shared)
    until(lambda: own.degraded() == [])
    assert is_right(embed_all(own), dot)


def test_a_password_is_told_nobody(start_server: StartServer, tmp_path: Path) -> None:
    own = start_server(*HASTY, "--redis", "redis://app:hush@127.0.0.1:1")
    assert len(own.degraded()) == 1
    assert "hush" not in f"{own.info()} {own.server.log()}"
