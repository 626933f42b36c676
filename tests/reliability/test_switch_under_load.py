"""The promise: what is sent after ActivateRelease returned is served by the new release, and nothing is ever mixed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc.aio
import pytest

from tests.reliability.load import Expected, Load, Observed
from tests.reliability.serving import StartOwn
from twotower import v1

SWITCHES = 30
CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Switched:
    """When ActivateRelease was called and returned (monotonic seconds), and what it made active."""

    called: float
    returned: float
    release: str


def stale(observed: list[Observed], switches: list[Switched]) -> list[Observed]:
    """Answers by a release that was not active at any moment from the sending of the request to its answer."""
    found = []
    for entry in observed:
        returned = [switch.release for switch in switches if switch.returned <= entry.sent]
        during = {
            switch.release for switch in switches if switch.called <= entry.answered and switch.returned > entry.sent
        }
        if entry.release not in {returned[-1], *during}:
            found.append(entry)
    return found


@pytest.mark.asyncio
async def test_switches_under_load_from_many_connections(start: StartOwn, expected: Mapping[str, Expected]) -> None:
    own = start("--workers", "2", worker="tests.reliability.slow_worker:run")
    assert own.load("right") == "LOADED"
    load = Load(own.target, expected)
    switches = [Switched(0.0, 0.0, "left")]

    async def switching() -> None:
        async with grpc.aio.insecure_channel(own.target) as channel:
            stub = v1.ReleaseServiceStub(channel)
            for number in range(SWITCHES):
                # Every connection meets the release before it goes: so each switch is seen by all of them.
                await load.all_answered(CONNECTIONS, switches[-1].returned)
                release = ("right", "left")[number % 2]
                called = time.monotonic()
                answer = await stub.ActivateRelease(v1.ActivateReleaseRequest(release=release))
                switches.append(Switched(called, time.monotonic(), release))
                assert answer.previous == switches[-2].release
            await load.all_answered(CONNECTIONS, switches[-1].returned)

    await load.run(CONNECTIONS, switching)
    assert stale(load.observed, switches) == []
    print(len(load.observed), load.flows)
