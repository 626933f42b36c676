"""What befalls Redis in the middle of traffic.

Every call that the release can serve is served, and rightly; and no change of an item that was acknowledged is lost.
"""

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

from tests.catalog.redis.entries import LOG
from tests.redis.faults import ADMIN, FAULTS, LOGINS, SLOWNESS, USER, Fault, failing_over
from tests.redis.running import APPEND_ALWAYS, RedisCluster, RedisServer
from tests.redis.slowing import Slowing
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import RPCS, USERS, Expected, Load, features_of
from tests.reliability.serving import OWN_CONNECTION, Own, connected, starting
from tests.reliability.writing import Catalog, Writer, agreed, catalog_of
from tests.rpc.messages import user
from tests.supervisor.running import until
from twotower import v1

# The budget is longer than a busy machine lets a Redis wait that is well.
OPTIONS = ("--user-cache", "ttl", "--user-cache-redis", "--user-cache-budget-ms", "50", "--change-log", "redis")
# What servers say besides, when they cannot read what others have changed.
CUT_OFF = "the log of item changes in Redis cannot be read"
RELEASE = "left"
FAULT_S = 2.0
CALLERS = 4
DEADLINE_S = 5.0
# So many that both of two workers have some.
CONNECTIONS = 8


@dataclass(slots=True)
class Pair:
    """Two servers that share a Redis, and calls for users whom most of the time no cache knows."""

    folder: Path
    options: tuple[str, ...]
    redis: RedisServer | RedisCluster
    servers: list[Own] = field(default_factory=list)
    connections: list[list[Own]] = field(default_factory=list)  # of each server
    writers: list[Writer] = field(default_factory=list)
    _seen: dict[int, Iterator[int]] = field(default_factory=lambda: defaultdict(itertools.count))

    @contextmanager
    def start(self, workers: int) -> Iterator[Own]:
        """Starts one more server that shares the Redis."""
        data = self.folder / f"data-{next(self._seen[-1])}"
        stamp(self.folder / "releases", data)
        options = (*self.options, "--workers", str(workers))
        with starting(self.folder / "releases", data, *options) as server, connected(server) as own:
            yield own

    def caller(self, number: int) -> v1.User:
        """Each user a few times, whichever server they come to."""
        return user(features_of(number), user_id=f"u{number}-{next(self._seen[number]) // 4}")

    def degraded(self) -> set[tuple[str, ...]]:
        """What all workers say."""
        return {tuple(own.degraded()) for connections in self.connections for own in connections}

    def same_catalog(self) -> Catalog:
        """Waits until every worker of both servers has the same items, which must be what they may be; returns them."""
        servings = [own.serving for connections in self.connections for own in connections]
        return agreed(servings, RELEASE, self.writers)

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
def pair(orthogonal: Path, folder: Path, redis: RedisServer | RedisCluster, url: str, *options: str) -> Iterator[Pair]:
    own_folder(orthogonal, folder)
    found = Pair(folder, (*OPTIONS, "--redis", url, *options), redis)
    with ExitStack() as started:

        def connect(server: Own) -> Own:
            channel = started.enter_context(grpc.insecure_channel(server.target, OWN_CONNECTION))
            return Own(server.server, server.target, channel)

        for workers in (2, 1):
            own = started.enter_context(found.start(workers))
            found.servers.append(own)
            found.connections.append([connect(own) for _ in range(CONNECTIONS)])
        yield found


async def check(pair: Pair, fault: Fault, expected: Mapping[str, Expected]) -> None:
    """Traffic before, during and after a fault. Raises what a call raises, and for an answer that is wrong."""
    loads = [Load(own.target, expected, pair.caller, DEADLINE_S, pins=[RELEASE]) for own in pair.servers]
    dimension = expected[RELEASE].vectors.shape[1]
    writers = [Writer(f"w{len(pair.writers) + i}", RELEASE, dimension) for i in range(len(pair.servers))]
    pair.writers += writers

    async def all_served() -> None:
        sent = time.monotonic()
        for load in loads:
            await load.answered(RPCS, sent)

    async def told(holds: Callable[[set[tuple[str, ...]]], bool]) -> None:
        await asyncio.to_thread(until, lambda: holds(pair.degraded()))

    async def all_acknowledged() -> None:
        before = [writer.acknowledged for writer in writers]
        while any(writer.acknowledged < count + 5 for writer, count in zip(writers, before, strict=True)):
            await asyncio.sleep(0.02)

    async def during() -> None:
        await told(lambda said: said == {()})
        await all_acknowledged()
        await all_served()
        refused = [writer.refused for writer in writers]
        await asyncio.to_thread(fault.begin)
        try:
            await asyncio.sleep(FAULT_S)
            if fault.told:
                await told(lambda said: all(_names(lines, fault.told) for lines in said))
            await all_served()
        finally:
            await asyncio.to_thread(fault.end)
        await all_acknowledged()
        if not fault.writable:
            assert all(writer.refused > count for writer, count in zip(writers, refused, strict=True))
        await told(lambda said: said == {()})
        await all_served()

    async def writing() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(writer.run(own.target)) for writer, own in zip(writers, pair.servers, strict=True)
            ]
            try:
                await during()
            finally:
                for task in tasks:
                    task.cancel()

    first, second = loads
    await first.run(CALLERS, lambda: second.run(CALLERS, writing))
    pair.share(expected[RELEASE])
    pair.same_catalog()


def _names(lines: tuple[str, ...], told: str) -> bool:
    """Whether a worker says what is wrong for the user cache, and nothing else but that changes are missing."""
    said = [line for line in lines if not line.startswith(CUT_OFF)]
    return len(said) == 1 and said[0].startswith(f"user cache: Redis {told}; ")


def check_latecomer(pair: Pair) -> None:
    """A server that starts now has what the others have, as soon as it serves."""
    catalog = pair.same_catalog()
    with pair.start(workers=1) as late:
        assert catalog_of(late.serving, RELEASE, list(catalog)) == catalog


# ---- one Redis


@pytest.fixture(scope="module")
def standalone(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("standalone")
    redis = RedisServer(folder / "redis", *APPEND_ALWAYS, *LOGINS, user=ADMIN)
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


def test_a_server_that_starts_after_all_has_the_same_items(standalone: Pair) -> None:
    check_latecomer(standalone)


@pytest.fixture(scope="module")
def slow(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Slowing]]:
    folder = tmp_path_factory.mktemp("slow")
    redis = RedisServer(folder / "redis", *APPEND_ALWAYS)
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
    cluster = RedisCluster(tmp_path / "cluster", *APPEND_ALWAYS)
    try:
        with pair(orthogonal, tmp_path, cluster, cluster.nodes[1].url, "--change-log-replicas", "1") as found:
            await check(found, failing_over(cluster, LOG), expected)
            await asyncio.to_thread(check_latecomer, found)
    finally:
        cluster.close()
