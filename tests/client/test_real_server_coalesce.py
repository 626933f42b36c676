"""Calls of the asyncio client that left together answer as single calls do, against the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

import twotower
from tests.client.test_real_server import BAD, OTHER, USER
from tests.conftest import Running
from twotower import CacheMode, v1

UNKNOWN = twotower.user("u4", nothing_of_this=1)
IDS = ["i1", "gone", "i7"]


def embedding_calls(client: twotower.AsyncClient) -> list[Coroutine[Any, Any, Any]]:
    return [
        client.get_user_embedding(USER),
        client.get_user_embedding(BAD),
        client.get_user_embedding(OTHER, cache_mode=CacheMode.BYPASS),
        client.get_user_embedding(USER, cache_mode=CacheMode.BYPASS),
        client.get_user_embedding(UNKNOWN),
        client.get_user_embedding(v1.User()),
        client.get_user_embedding(USER, release="dot"),
        client.get_user_embedding(OTHER, release="dot"),
        client.get_user_embedding(USER, release="nope"),
        client.get_user_embedding(OTHER, release="nope"),
        client.get_user_embedding(OTHER),
    ]


def score_calls(client: twotower.AsyncClient, vector: twotower.Embedding) -> list[Coroutine[Any, Any, Any]]:
    return [
        client.score(USER, IDS),
        client.score(BAD, IDS),
        client.score(vector, IDS, release="dot"),
        client.score(vector, IDS, release="nope"),
        client.score(OTHER, IDS, require_all=True),
        client.score(OTHER, item_keys=[1, 2]),
        client.score(USER, items=[twotower.item("new", price=3), twotower.item("bad", price=float("nan"))]),
        client.score(USER),
        client.score(UNKNOWN, IDS, release="dot"),
        client.score(USER, IDS, item_keys=[1]),
    ]


def same(alone: Any, together: Any) -> None:
    assert type(together) is type(alone)
    if isinstance(alone, twotower.TwoTowerError):
        assert together.__reduce__() == alone.__reduce__()
        return
    for name in type(alone).__dataclass_fields__:
        one, other = getattr(alone, name), getattr(together, name)
        if name == "feature_use" and isinstance(alone, twotower.UserEmbedding):
            assert one is not None and other is None
        elif isinstance(one, np.ndarray):
            assert one.dtype == other.dtype and not other.flags.writeable
            assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
        else:
            assert other == one, name


async def settled(calls: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("dense", [False, True])
def test_calls_together_answer_as_alone(server: Running, dense: bool) -> None:
    async def compare() -> None:
        async with (
            twotower.AsyncClient(server.target, timeout_s=60, dense=dense, coalescing=False) as single,
            twotower.AsyncClient(server.target, timeout_s=60, dense=dense) as client,
        ):
            await client.get_user_embedding(USER)  # a dense client has the server's order from here on
            vector = await single.get_user_embedding(USER)
            alone = await settled(embedding_calls(single)) + await settled(score_calls(single, vector))
            together = await settled(embedding_calls(client)) + await settled(score_calls(client, vector))
            # A dense client sends NaN as missing.
            assert sum(isinstance(one, twotower.TwoTowerError) for one in alone) == (9 if dense else 11)
            for one, other in zip(alone, together, strict=True):
                same(one, other)

    asyncio.run(compare())


def test_many_callers_over_many_rounds(server: Running) -> None:
    async def use() -> None:
        async with twotower.AsyncClient(server.target, timeout_s=60, connections=2) as client:
            expected = [await client.score(twotower.user(f"u{age}", age=age), IDS) for age in range(20, 40)]

            async def ask(position: int) -> None:
                for turn in range(10):
                    age = (position + turn) % len(expected)
                    call = client.score(twotower.user(f"u{20 + age}", age=20 + age), IDS)
                    if turn % 3 == position % 3:
                        task = asyncio.create_task(call)
                        await asyncio.sleep(0)
                        task.cancel()
                    else:
                        assert (await call).similarities == pytest.approx(expected[age].similarities, rel=1e-5)

            async with asyncio.TaskGroup() as tasks:
                for position in range(100):
                    tasks.create_task(ask(position))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(use())
