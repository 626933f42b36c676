"""kill -9 of workers, of whole servers and of Redis, at random, while both servers change the items that they share.

Redis appends every write to its disk before it answers (AOF always). What was acknowledged stays, whatever is killed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.redis.running import APPEND_ALWAYS, RedisServer
from tests.reliability.conftest import own_folder
from tests.reliability.member import RELEASE, Member, same_catalog
from tests.reliability.writing import catalog_of

ROUNDS = 4
KILLS = {"Redis": 18, "worker": 5, "server": 2}  # of each round
# So few changes that the log is compacted again and again meanwhile.
COMPACTING = ("--compact-changes", "200")


@dataclass(slots=True)
class Servers:
    """Servers and their Redis."""

    releases: Path
    redis: RedisServer
    members: list[Member]


@pytest.fixture
def servers(orthogonal: Path, tmp_path: Path) -> Iterator[Servers]:
    redis = RedisServer(tmp_path / "redis", *APPEND_ALWAYS)
    releases = own_folder(orthogonal, tmp_path)
    members = [Member(releases, tmp_path / name, redis.url, *COMPACTING) for name in ("one", "two")]
    try:
        for member in members:
            member.start()
        yield Servers(releases, redis, members)
    finally:
        for member in members:
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
        same_catalog(servers.members)
        assert all(m.writer.acknowledged > n for m, n in zip(servers.members, acknowledged, strict=True))
    assert "serving from the compacted changes" in "".join(member.log() for member in servers.members)

    # Everything is restarted, and one server begins with nothing.
    for member in servers.members:
        member.kill()
    servers.redis.kill()
    servers.redis.start()
    for member in servers.members:
        member.start()
    catalog = same_catalog(servers.members)
    late = Member(servers.releases, tmp_path / "late", servers.redis.url)
    late.start()
    try:
        assert catalog_of(late.own.serving, RELEASE, list(catalog)) == catalog
    finally:
        late.kill()
