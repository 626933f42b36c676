"""The three models of this port: what each computes of instances, and how that is called."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import Reason, Refused
from twotower_server.features.schema import TowerSchema
from twotower_server.http.instance import Instance
from twotower_server.release.snapshot import Snapshot


class Model(StrEnum):
    """user_tower and item_tower: a vector for each instance. score: one number for each."""

    USER_TOWER = "user_tower"
    ITEM_TOWER = "item_tower"
    SCORE = "score"

    @classmethod
    def named(cls, name: str) -> Model | None:
        """None when there is no such model."""
        return next((model for model in cls if model.value == name), None)

    @property
    def output(self) -> str:
        """Name of the only output tensor."""
        return "score" if self is Model.SCORE else "embedding"

    def schemas(self, snapshot: Snapshot) -> tuple[TowerSchema, ...]:
        """Of the towers that run."""
        user, item = snapshot.schema.user, snapshot.schema.item
        return {Model.USER_TOWER: (user,), Model.ITEM_TOWER: (item,), Model.SCORE: (user, item)}[self]

    def shape(self, snapshot: Snapshot, count: int) -> list[int]:
        """Of the answer to so many instances."""
        return [count] if self is Model.SCORE else [count, snapshot.manifest.dimension]

    async def run(self, calls: WholeCalls, snapshot: Snapshot, instances: Sequence[Instance]) -> NDArray[np.float32]:
        """float32 in `shape`. Raises what the first wrong instance is refused with."""
        if self is Model.USER_TOWER:
            values = await calls.user_vectors(snapshot, instances)
        elif self is Model.ITEM_TOWER:
            values = await calls.item_vectors(snapshot, instances)
        else:
            values = await calls.scores(snapshot, instances)
        if not np.isfinite(values).all():
            # JSON has no such numbers; other clients of the same release may take them.
            raise Refused(Reason.VALUE_NOT_FINITE, "the answer holds values that are not finite")
        return values
