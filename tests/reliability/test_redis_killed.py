"""kill -9 of workers, of whole servers and of Redis, at random, while both servers change the items that they share.

Redis appends every write to its disk before it answers (AOF always). What was acknowledged stays, whatever is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.catalog.live import READY, workers
from tests.redis.running import APPEND_ALWAYS, RedisServer
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import IDS
from tests.reliability.serving import Own, connected, starting
from tests.reliability.writing import Catalog, Writer, catalog_of, lost
from tests.supervisor.running import until

ROUNDS = 4
KILLS = {"Redis": 15, "worker": 6, "server": 4}  # of each round
RELEASE = "left"
DIMENSION = 8
WORKERS = 2
# So few that the log is compacted again and again meanwhile.
COMPACT_CHANGES = 200


class Member:
    """One of the servers. What it keeps on its disk outlives it."""

    def __init__(self, releases: Path, data: Path, redis: RedisServer) -> None:
        self.writer = Writer(data.name, RELEASE, DIMENSION)
        self.logs = ""
        self._releases = releases
        self._data = data
        self._options = ("--change-log", "redis", "--redis", redis.url, "--compact-changes", str(COMPACT_CHANGES))
        self._running = ExitStack()
        self._killed = 0  # of its workers
        self._writing: asyncio.Task[None] | None = None
        stamp(releases, data)

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        server = starting(self._releases, self._data, "--workers", str(WORKERS), *self._options)
        self.own: Own = self._running.enter_context(connected(self._running.enter_context(server)))
        self._killed = 0

    def kill(self) -> None:
        """Kills the whole server."""
        self.own.server.send(signal.SIGKILL)
        self._running.close()
        self.logs += self.own.server.log()

    @property
    def is_whole(self) -> bool:
        """Whether all its workers serve."""
        return self.own.server.log().count(READY) == WORKERS + self._killed

    def kill_worker(self, order: random.Random) -> None:
        self._killed += 1
        os.kill(order.choice(workers(self.own.server)), signal.SIGKILL)

    async def write(self) -> None:
        """Lets the writer change items until `rest`, or until it has met what it should not."""
        self._writing = asyncio.create_task(self.writer.run(self.own.target, kills=True))

    async def rest(self) -> None:
        """Stops the writer. Raises what it met."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            if not self._writing.cancelled():
                self._writing.result()
            self._writing = None


@dataclass(slots=True)
class Servers:
    """Two servers and their Redis."""

    releases: Path
    redis: RedisServer
    members: list[Member]

    def same_catalog(self) -> Catalog:
        """Waits until all are whole and have the same items, which must be what they may be; returns them."""
        writers = [member.writer for member in self.members]
        ids = [item_id for writer in writers for item_id in writer.possible] + IDS
        found: list[Catalog] = []

        def agree() -> bool:
            found[:] = [catalog_of(member.own, RELEASE, ids) for member in self.members]
            return all(catalog == found[0] for catalog in found)

        until(lambda: all(member.is_whole and not member.own.degraded() for member in self.members))
        until(agree)
        assert lost(found[0], writers) == {}
        assert None not in {found[0][item_id] for item_id in IDS}
        return found[0]


@pytest.fixture
def servers(orthogonal: Path, tmp_path: Path) -> Iterator[Servers]:
    redis = RedisServer(tmp_path / "redis", *APPEND_ALWAYS)
    releases = own_folder(orthogonal, tmp_path)
    found = Servers(releases, redis, [Member(releases, tmp_path / name, redis) for name in ("one", "two")])
    try:
        for member in found.members:
            member.start()
        yield found
    finally:
        for member in found.members:
            member.kill()
        redis.close()


async def kill_many(servers: Servers, order: random.Random) -> None:
    """Kills one thing after the other while items change."""
    restarting: dict[Member, asyncio.Task[None]] = {}

    async def restart(member: Member) -> None:
        await asyncio.to_thread(member.start)
        await member.write()

    async def whole() -> Member:
        """One of the servers of which nothing is dead."""
        while True:
            serving = [m for m in servers.members if m not in restarting or restarting[m].done()]
            if found := [member for member in serving if member.is_whole]:
                return order.choice(found)
            await asyncio.sleep(0.02)

    for member in servers.members:
        await member.write()
    plan = [what for what, times in KILLS.items() for _ in range(times)]
    order.shuffle(plan)
    for what in plan:
        await asyncio.sleep(order.random() * 0.2)
        if what == "Redis":
            servers.redis.kill()
            await asyncio.sleep(order.random() * 0.05)
            await asyncio.to_thread(servers.redis.start)
        elif what == "worker":
            (await whole()).kill_worker(order)
        else:
            member = await whole()
            await asyncio.to_thread(member.kill)
            await member.rest()
            restarting[member] = asyncio.create_task(restart(member))
    await asyncio.gather(*restarting.values())
    for member in servers.members:
        await member.rest()


@pytest.mark.asyncio
async def test_nothing_acknowledged_is_lost_whatever_is_killed(servers: Servers, tmp_path: Path) -> None:
    order = random.Random(5)
    for _ in range(ROUNDS):
        acknowledged = [member.writer.acknowledged for member in servers.members]
        await kill_many(servers, order)
        servers.same_catalog()
        assert all(m.writer.acknowledged > n for m, n in zip(servers.members, acknowledged, strict=True))
    assert "serving from the compacted changes" in "".join(member.logs for member in servers.members)

    # Everything is restarted, and one server begins with nothing.
    for member in servers.members:
        member.kill()
    servers.redis.kill()
    servers.redis.start()
    for member in servers.members:
        member.start()
    catalog = servers.same_catalog()
    late = Member(servers.releases, tmp_path / "late", servers.redis)
    late.start()
    try:
        assert catalog_of(late.own, RELEASE, list(catalog)) == catalog
    finally:
        late.kill()
