"""Reading vectors within a budget from the real Redis: who is to blame when an answer is late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from tests.redis.running import RedisServer
from twotower_server.errors import Reason, Refused
from twotower_server.items.redis_vectors import RedisVectors

CALLS = 64
BUDGET_MS = 200
VECTORS = np.arange(CALLS * 100 * 8, dtype="<f4").reshape(CALLS, 100, 8)


def ids(call: int) -> list[str]:
    return [f"{call}-{i}" for i in range(100)]


def reading(redis_server: RedisServer, use: Callable[[RedisVectors], Coroutine[Any, Any, None]]) -> None:
    """Calls `use` with a store of the release `r1`, once Redis answers in time."""
    for call in range(CALLS):
        keys = (f"twotower:item_emb:r1:{item_id}" for item_id in ids(call))
        redis_server.client.mset(dict(zip(keys, (vector.tobytes() for vector in VECTORS[call]), strict=True)))

    async def run() -> None:
        store = RedisVectors(redis_server.url, None, "twotower:", BUDGET_MS)
        await store.start()
        try:
            while store.degraded:
                await asyncio.sleep(0.01)
            await use(store)
        finally:
            await store.close()

    asyncio.run(run())


def test_many_calls_at_once_get_what_they_asked_for_however_late_the_worker_is(redis_server: RedisServer) -> None:
    async def use(store: RedisVectors) -> None:
        reads = [asyncio.create_task(store.read("r1", ids(call), 8)) for call in range(CALLS)]
        for _ in range(3):
            await asyncio.sleep(0)
        time.sleep(3 * BUDGET_MS / 1e3)  # the event loop does something else
        for call, found in enumerate(await asyncio.gather(*reads)):
            assert found.tobytes() == VECTORS[call].tobytes()
        assert store.degraded == ""

    reading(redis_server, use)


def test_a_pause_counts_once_for_all_calls_that_it_meets(redis_server: RedisServer) -> None:
    async def use(store: RedisVectors) -> None:
        redis_server.pause()
        reads = [store.read("r1", ids(call), 8) for call in range(CALLS)]
        answers = await asyncio.gather(*reads, return_exceptions=True)
        redis_server.resume()
        assert {answer.reason for answer in answers if isinstance(answer, Refused)} == {Reason.STORE_UNAVAILABLE}
        assert all("does not answer within 200 ms" in str(answer) for answer in answers)
        assert store.degraded == ""
        assert (await store.read("r1", ids(3), 8)).tobytes() == VECTORS[3].tobytes()

    reading(redis_server, use)
