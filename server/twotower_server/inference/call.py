"""A call of a model: instances in, one release, one array out."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from twotower_server.engine.whole import WholeCalls
from twotower_server.inference.instance import Instance, Instances
from twotower_server.inference.model import Model
from twotower_server.release.snapshot import Snapshot

# Instances that are read between two looks at the event loop.
_INSTANCES_A_TURN = 256


async def infer(
    calls: WholeCalls, model: Model, release: str, given: Instances, value_bytes: int
) -> tuple[Snapshot, NDArray[np.float32]]:
    """What served the call, and its answer: float32 in `model.shape`.

    release: that the call pins, "" = none. value_bytes: what a number of the answer takes on the wire.
    Raises `Refused` for the whole call when one instance is wrong.
    """
    snapshot = calls.route(release, given.user())
    calls.limits.check_response(value_bytes * int(np.prod(model.shape(snapshot, len(given)))))
    read = given.reader(model.schemas(snapshot), snapshot.release)
    found: list[Instance] = []
    for start in range(0, len(given), _INSTANCES_A_TURN):
        if start:
            await asyncio.sleep(0)
        found += map(read, range(start, min(start + _INSTANCES_A_TURN, len(given))))
    return snapshot, await model.run(calls, snapshot, found)
