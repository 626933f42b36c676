"""What befalls Redis in the middle of traffic: every call that the release can serve is served, and rightly."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from tests.redis.faults import ADMIN, FAULTS, LOGINS, SLOWNESS, USER, Fault, failing_over
from tests.redis.running import RedisCluster, RedisServer
from tests.redis.slowing import Slowing
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import RPCS, USERS, Expected, Load, features_of
from tests.reliability.serving import OWN_CONNECTION, Own, connected, starting
from tests.rpc.messages import user
from tests.supervisor.running import until
from twotower import v1

# Longer than a busy machine lets a Redis wait that is well.
OPTIONS = ("--user-cache", "ttl", "--user-cache-redis", "--user-cache-budget-ms", "50")
FAULT_S = 2.0
CALLERS = 4
DEADLINE_S = 5.0
# So many that both of two workers have some.
CONNECTIONS = 8


@dataclass(slots=True)
class Pair:
    """Two servers that share a Redis, and calls for users whom most of the time no cache knows."""

    servers: list[Own]
    connections: list[list[Own]]  # of each server
    redis: RedisServer | RedisCluster
    _seen: dict[int, Iterator[int]] = field(default_factory=lambda: defaultdict(itertools.count))

    def caller(self, number: int) -> v1.User:
        """Each user a few times, whichever server they come to."""
        return user(features_of(number), user_id=f"u{number}-{next(self._seen[number]) // 4}")

    def degraded(self) -> set[tuple[str, ...]]:
        """What all workers say."""
        return {tuple(own.degraded()) for connections in self.connections for own in connections}

    def share(self, expected: Expected) -> None:
        """Waits until every worker has taken from Redis what a worker of the other server computed."""
        for one, connections in zip(reversed(self.servers), self.connections, strict=True):
            for other in connections:
                until(lambda one=one, other=other: self._shares(one, other, expected))  # type: ignore[misc]

    def _shares(self, one: Own, other: Own, expected: Expected) -> bool:
        newcomer = user(features_of(1), user_id=f"shared-{next(self._seen[USERS])}")
        request = v1.GetUserEmbeddingRequest(user=newcomer)
        computed = one.serving.GetUserEmbedding(request)
        key = f"twotower:user_emb:{expected.release}:-:{newcomer.user_id}"
        until(lambda: self.redis.client.exists(key))
        found = other.serving.GetUserEmbedding(request)  # for the first time, so it is in no memory there
        expected.check_vector("GetUserEmbedding", found.embedding.values, expected.users[1])
        assert found.embedding == computed.embedding
        return bool(found.source == v1.SOURCE_CACHE)


@contextmanager
def pair(orthogonal: Path, place: Path, redis: RedisServer | RedisCluster, url: str) -> Iterator[Pair]:
    releases = own_folder(orthogonal, place)
    with ExitStack() as started:
        servers = []
        for number, workers in enumerate((2, 1)):
            data = place / f"data-{number}"
            stamp(releases, data)
            options = (*OPTIONS, "--workers", str(workers), "--redis", url)
            servers.append(started.enter_context(starting(releases, data, *options)))
        own = [started.enter_context(connected(server)) for server in servers]

        def connect(server: Own) -> Own:
            channel = started.enter_context(grpc.insecure_channel(server.target, OWN_CONNECTION))
            return Own(server.server, server.target, channel)

        yield Pair(own, [[connect(server) for _ in range(CONNECTIONS)] for server in own], redis)


async def check(pair: Pair, fault: Fault, expected: Mapping[str, Expected]) -> None:
    """Traffic before, during and after a fault. Raises what a call raises, and for an answer that is wrong."""
    loads = [Load(own.target, expected, pair.caller, DEADLINE_S, pins=["left"]) for own in pair.servers]

    async def all_served() -> None:
        sent = time.monotonic()
        for load in loads:
            await load.answered(RPCS, sent)

    async def told(holds: Callable[[set[tuple[str, ...]]], bool]) -> None:
        await asyncio.to_thread(until, lambda: holds(pair.degraded()))

    async def during() -> None:
        await told(lambda said: said == {()})
        await all_served()
        await asyncio.to_thread(fault.begin)
        try:
            await asyncio.sleep(FAULT_S)
            if fault.told:
                await told(lambda said: all(len(lines) == 1 and _names(lines[0], fault.told) for lines in said))
            await all_served()
        finally:
            await asyncio.to_thread(fault.end)
        await told(lambda said: said == {()})
        await all_served()
        await asyncio.to_thread(pair.share, expected["left"])

    first, second = loads
    await first.run(CALLERS, lambda: second.run(CALLERS, during))


def _names(line: str, told: str) -> bool:
    return line.startswith(f"user cache: Redis {told}; ")


# ---- one Redis


@pytest.fixture(scope="module")
def standalone(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("standalone")
    redis = RedisServer(folder / "redis", *LOGINS, user=ADMIN)
    try:
        with pair(orthogonal, folder, redis, f"redis://{USER}@127.0.0.1:{redis.port}") as found:
            yield found
    finally:
        redis.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", FAULTS)
async def test_redis_in_the_middle_of_traffic(standalone: Pair, expected: Mapping[str, Expected], name: str) -> None:
    assert isinstance(standalone.redis, RedisServer)
    await check(standalone, FAULTS[name](standalone.redis), expected)


@pytest.fixture(scope="module")
def slow(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Slowing]]:
    folder = tmp_path_factory.mktemp("slow")
    redis = RedisServer(folder / "redis")
    try:
        with Slowing(redis.port) as way, pair(orthogonal, folder, redis, way.url) as found:
            yield found, way
    finally:
        redis.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", SLOWNESS)
async def test_redis_becomes_slow_in_the_middle_of_traffic(
    slow: tuple[Pair, Slowing], expected: Mapping[str, Expected], name: str
) -> None:
    found, way = slow
    await check(found, SLOWNESS[name](way), expected)


# ---- a Cluster


@pytest.mark.asyncio
async def test_a_primary_of_a_cluster_fails_over_in_the_middle_of_traffic(
    orthogonal: Path, tmp_path: Path, expected: Mapping[str, Expected]
) -> None:
    cluster = RedisCluster(tmp_path / "cluster")
    try:
        with pair(orthogonal, tmp_path, cluster, cluster.nodes[1].url) as found:
            await check(found, failing_over(cluster), expected)
    finally:
        cluster.close()
