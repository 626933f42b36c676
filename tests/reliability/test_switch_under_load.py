"""The promise: what is sent after ActivateRelease returned is served by the new release, and nothing is ever mixed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.reliability.load import Expected, Load, Switched, stale, switched
from tests.reliability.serving import StartOwn

SWITCHES = 30
CONNECTIONS = 16


@pytest.mark.asyncio
async def test_switches_under_load_from_many_connections(start: StartOwn, expected: Mapping[str, Expected]) -> None:
    own = start("--workers", "2", worker="tests.reliability.slow_worker:run")
    assert own.load("right") == "LOADED"
    load = Load(own.target, expected, pins=["left", "right"])
    switches = [Switched(0.0, 0.0, "left")]

    async def switching() -> None:
        for number in range(SWITCHES):
            # Every connection meets a release before it goes: so each switch is seen by all of them.
            await load.all_answered(CONNECTIONS, switches[-1].returned)
            switches.append(await switched(own, ("right", "left")[number % 2]))
        await load.all_answered(CONNECTIONS, switches[-1].returned)

    await load.run(CONNECTIONS, switching)
    assert stale(load.observed, switches) == []
