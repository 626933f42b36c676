"""The promise: what is sent after ActivateRelease returned is served by the new release, and nothing is ever mixed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.reliability.load import RPCS, Expected, Load, Switched, stale, switched
from tests.reliability.serving import StartOwn

SWITCHES = 30
CONNECTIONS = 16


@pytest.mark.asyncio
@pytest.mark.parametrize("cache", ["off", "ttl"])
async def test_switches_under_load_from_many_connections(
    start: StartOwn, expected: Mapping[str, Expected], cache: str
) -> None:
    own = start("--workers", "2", "--user-cache", cache, worker="tests.reliability.slow_worker:run")
    assert own.load("right") == "LOADED"
    load = Load(own.target, expected, pins=["left", "right"])
    switches = [Switched(0.0, 0.0, "left")]

    async def switching() -> None:
        for number in range(SWITCHES):
            # Every kind of call meets a release from its beginning to its end before it goes.
            await load.answered(RPCS, switches[-1].returned)
            switches.append(await switched(own, ("right", "left")[number % 2]))
        await load.answered(RPCS, switches[-1].returned)

    await load.run(CONNECTIONS, switching)
    assert stale(load.observed, switches) == []
