"""CatalogService: every RPC is convert → engine → convert."""

from __future__ import annotations

import math

import numpy as np

from twotower import v1
from twotower_server.catalog.change import Change
from twotower_server.engine.change import CatalogEngine
from twotower_server.errors import Reason, Refused
from twotower_server.features.row import Row, Strings
from twotower_server.items.attribute import AttributeValue
from twotower_server.rpc import convert
from twotower_server.rpc.handler import Method


class CatalogServicer:
    """Serves changes of the catalog. Errors are raised as `Refused`; `handler` turns them into statuses."""

    def __init__(self, engine: CatalogEngine) -> None:
        self._engine = engine

    def methods(self) -> dict[str, Method]:
        """By RPC name."""
        return {"UpsertItems": self.upsert_items, "DeleteItems": self.delete_items}

    async def upsert_items(self, request: v1.UpsertItemsRequest) -> v1.UpsertItemsResponse:
        convert.exactly_one({"changes": request.changes})
        position, refused = await self._engine.upsert([self._change(change) for change in request.changes])
        return v1.UpsertItemsResponse(log_position=position, problems=convert.problems(refused, "changes"))

    async def delete_items(self, request: v1.DeleteItemsRequest) -> v1.DeleteItemsResponse:
        convert.exactly_one({"item_ids": request.item_ids})
        position, missing = await self._engine.delete(list(request.item_ids))
        return v1.DeleteItemsResponse(log_position=position, missing_indices=missing)

    def _change(self, change: v1.ItemChange) -> Change | Refused:
        try:
            return self._checked(change)
        except Refused as error:
            return error

    def _checked(self, change: v1.ItemChange) -> Change:
        limits, item = self._engine.limits, change.item
        if not item.item_id:
            raise Refused(Reason.FIELD_REQUIRED, "name the item", "item.item_id")
        limits.check_id(item.item_id, "item.item_id")
        limits.check("features", len(item.features) + len(item.string_features), "item.features")
        attributes = {name: _attribute(name, value) for name, value in change.attributes.items()}
        if change.HasField("embedding"):
            if item.features or item.string_features:
                raise Refused(
                    Reason.FIELD_CONFLICT, "send the item's features or a ready embedding, not both", "embedding"
                )
            if not change.embedding.release:
                raise Refused(Reason.FIELD_REQUIRED, "an embedding needs its release", "embedding.release")
            vector = np.array(change.embedding.values, np.float32).tolist()
            if not np.isfinite(vector).all():
                raise Refused(Reason.VALUE_NOT_FINITE, "the embedding holds NaN or an infinity", "embedding.values")
            return Change(
                item.item_id,
                vector=vector,
                release=change.embedding.release,
                attributes=attributes,
                sequence=change.sequence,
            )
        if item.dense_features or item.vector_features:
            raise Refused(
                Reason.FEATURE_TYPE,
                "a change is kept for releases to come: send features by name, not dense_features or vector_features",
                "item.dense_features" if item.dense_features else "item.vector_features",
            )
        if not (item.features or item.string_features):
            raise Refused(Reason.FIELD_REQUIRED, "send the item's features, or a ready embedding", "item.features")
        strings = {name: Strings(list(listed.values)) for name, listed in item.string_features.items()}
        return Change(
            item.item_id, row=Row(dict(item.features), strings), attributes=attributes, sequence=change.sequence
        )


def _attribute(name: str, value: v1.AttributeValue) -> AttributeValue:
    match value.WhichOneof("kind"):
        case "text":
            return value.text
        case "number":
            if not math.isfinite(value.number):
                raise Refused(Reason.VALUE_NOT_FINITE, f"the attribute {name} is not finite", f"attributes[{name}]")
            return value.number
        case "flag":
            return value.flag
        case "texts":
            return list(value.texts.values)
    raise Refused(Reason.FIELD_REQUIRED, f"the attribute {name} has no value; leave it out", f"attributes[{name}]")
