"""A caller that changes items one call after the other, and knows at any time what each of them may be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np

from tests.reliability.load import IDS, broken
from tests.reliability.serving import OWN_CONNECTION
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1

_IDS = 6
_PAUSE_S = 0.01

# The first value of an item's vector; None = there is no such item.
Value = float | None
Catalog = dict[str, Value]


class Writer:
    """Upserts items of its own and deletes them again, on one server at a time.

    possible: by item, what it may be: the last change that was acknowledged, and those whose outcome is not known.
    """

    def __init__(self, name: str, release: str, dimension: int) -> None:
        """name: what the ids begin with. release, dimension: of the vectors."""
        self.possible: dict[str, set[Value]] = {}
        self.acknowledged = self.refused = 0
        self._name = name
        self._release = release
        self._dimension = dimension
        self._order = random.Random(name)
        self._ids: list[str] = []
        self._number = 0

    async def run(self, target: str, kills: bool = False) -> None:
        """Changes items until it is cancelled. kills: the server may be killed, so that connections to it break.

        Raises what a call raises, unless the store of changes cannot be used.
        """
        async with grpc.aio.insecure_channel(target, options=OWN_CONNECTION) as channel:
            catalog: Any = v1.CatalogServiceStub(channel)
            while True:
                try:
                    await self._change(catalog)
                except grpc.aio.AioRpcError as error:
                    if not (str(error.details()).startswith("STORE_UNAVAILABLE: ") or (kills and broken(error))):
                        raise
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    self.refused += 1
                await asyncio.sleep(_PAUSE_S)

    async def _change(self, catalog: Any) -> None:
        self._number += 1
        if len(self._ids) < _IDS:
            item_id = f"{self._name}-{self._number}"
            self._ids.append(item_id)
            self.possible[item_id] = {None}
        item_id = self._order.choice(self._ids)
        values = self.possible[item_id]
        # A delete has no number by which a late upsert would be older: none is under way, and none follows.
        if self._order.random() < 0.3 and len(values) == 1 and values != {None}:
            self._ids.remove(item_id)
            values.add(None)
            await catalog.DeleteItems(v1.DeleteItemsRequest(item_ids=[item_id]), timeout=PATIENCE_S)
            self.possible[item_id] = {None}
        else:
            value = float(self._number)
            values.add(value)
            vector = v1.Embedding(release=self._release, values=[value] + [0.0] * (self._dimension - 1))
            change = v1.ItemChange(item=v1.Item(item_id=item_id), embedding=vector, sequence=self._number)
            answer = await catalog.UpsertItems(v1.UpsertItemsRequest(changes=[change]), timeout=PATIENCE_S)
            assert not answer.problems, answer.problems
            self.possible[item_id] = {value}
        self.acknowledged += 1


def agreed(servings: Sequence[v1.TwoTowerServiceStub], release: str, writers: Sequence[Writer]) -> Catalog:
    """Waits until all have the same items, which must be what they may be; returns them."""
    ids = [*(item_id for writer in writers for item_id in writer.possible), *IDS]
    found: list[Catalog] = []

    def agree() -> bool:
        found[:] = [catalog_of(serving, release, ids) for serving in servings]
        return all(catalog == found[0] for catalog in found)

    until(agree)
    catalog = found[0]
    lost = {
        item_id: (catalog[item_id], possible)
        for writer in writers
        for item_id, possible in writer.possible.items()
        if catalog[item_id] not in possible
    }
    assert lost == {}
    assert None not in {catalog[item_id] for item_id in IDS}, "nobody has deleted these"
    return catalog


def catalog_of(serving: v1.TwoTowerServiceStub, release: str, item_ids: Sequence[str]) -> Catalog:
    """What a worker has of items."""
    request = v1.BatchGetItemEmbeddingsRequest(
        item_ids=item_ids, release=release, encoding=v1.EMBEDDING_ENCODING_MATRIX
    )
    answer = serving.BatchGetItemEmbeddings(request)
    assert not answer.problems, answer.problems
    first = np.frombuffer(answer.matrix.values, "<f4").reshape(len(item_ids), -1)[:, 0].tolist()
    missing = set(answer.missing_indices)
    return {item_id: None if i in missing else first[i] for i, item_id in enumerate(item_ids)}
