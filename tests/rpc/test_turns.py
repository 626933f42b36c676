"""What keeps the event loop free for other calls: large answers are written in turns, brief searches take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import Message

from twotower_server.engine.engine import Engine
from twotower_server.engine.limits import Limits
from twotower_server.engine.model import Found, GivenEmbedding, Selection, UserVector
from twotower_server.engine.route import Releases
from twotower_server.release.snapshot import Snapshot
from twotower_server.rpc import convert

Answer = Callable[[Found], Awaitable[Message]]

ITEMS = 10_000


def found(count: int, *, embeddings: bool = False, attributes: int = 0) -> Found:
    values = np.linspace(1.0, 0.5, count, dtype=np.float32)
    return Found(
        item_ids=[f"i{i}" for i in range(count)],
        scores=values,
        similarities=values,
        release="r1",
        embeddings=np.outer(values, np.ones(4, np.float32)) if embeddings else None,
        attributes=[{f"a{n}": float(i) for n in range(attributes)} for i in range(count)] if attributes else None,
        user=UserVector(np.ones(4, np.float32), "r1"),
    )


async def turns_beside(answer: Awaitable[object]) -> int:
    """How often another task ran until the answer was there."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await answer
    running.cancel()
    return turns


@pytest.mark.parametrize("answer", [convert.nearest, lambda found: convert.recommended(found, False)])
def test_other_calls_have_their_turn_while_many_items_are_written(answer: Answer) -> None:
    plain = asyncio.run(turns_beside(answer(found(ITEMS))))
    assert plain >= ITEMS // 500 - 1
    assert asyncio.run(turns_beside(answer(found(ITEMS, embeddings=True)))) > plain
    # Few items with much to tell are as much work as many.
    assert asyncio.run(turns_beside(answer(found(200, attributes=50)))) >= plain


def test_a_usual_answer_is_written_at_once() -> None:
    assert asyncio.run(turns_beside(convert.nearest(found(100, embeddings=True, attributes=3)))) == 0


def test_an_answer_in_turns_has_every_item_in_its_place() -> None:
    expected = found(2_500, embeddings=True, attributes=2)
    items = asyncio.run(convert.nearest(expected)).items
    assert [item.item_id for item in items] == expected.item_ids
    assert [item.score for item in items] == expected.scores.tolist()
    assert [item.similarity for item in items] == expected.similarities.tolist()
    assert expected.embeddings is not None
    assert [list(item.embedding.values) for item in items] == expected.embeddings.tolist()
    assert {item.embedding.release for item in items} == {"r1"}
    assert [item.attributes["a1"].number for item in items] == [float(i) for i in range(2_500)]


def test_searches_on_the_loop_take_turns(releases: Path) -> None:
    snapshot = Snapshot.open(releases / "dot")
    engine = Engine(Releases({"dot": snapshot}, "dot"), Limits())
    query = GivenEmbedding(np.ones(snapshot.manifest.dimension, np.float32), "dot")
    selection = Selection(5, None, (), np.empty(0, np.uint64), embeddings=False, attributes=())

    async def searches(count: int) -> list[Found]:
        return await asyncio.gather(*(engine.search_items(query, selection) for _ in range(count)))

    async def measured() -> tuple[int, int, list[Found]]:
        alone = await turns_beside(engine.search_items(query, selection))
        return alone, await turns_beside(searches(16)), await searches(16)

    try:
        assert snapshot.items.is_brief(5)
        alone, together, results = asyncio.run(measured())
        assert alone == 0
        assert together >= 15
        assert len({tuple(found.item_ids) for found in results}) == 1
    finally:
        engine.close()
