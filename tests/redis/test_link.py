"""The connection to a Redis that calls wait for; what befalls Redis meanwhile is in `tests.reliability`."""

from __future__ import annotations

import pytest

from tests.redis.running import RedisCluster
from twotower_server.redis_link import RedisLink


@pytest.mark.asyncio
async def test_looking_for_primaries_anew_does_not_ask_for_all_commands(redis_cluster: RedisCluster) -> None:
    async def probe() -> None:
        await link.client.get("key")

    def asked() -> int:
        stats = [node.client.info("commandstats") for node in redis_cluster.nodes]
        return sum(int(found["cmdstat_command"]["calls"]) for found in stats if "cmdstat_command" in found)

    link = RedisLink("test", redis_cluster.url, None, 10, probe)
    before = asked()
    await link.start()
    try:
        for _ in range(3):
            await link.look_anew()
            await probe()
        assert asked() == before + 1
    finally:
        await link.close()
