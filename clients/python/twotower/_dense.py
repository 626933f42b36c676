"""Numeric features as `dense_features`: in the order of the server's schema, with its fingerprint.

A client opened with `dense=True` sends every user and item this way: the names stay at home, and the server
reads a vector instead of a map. The order comes from GetServingInfo and is kept; SCHEMA_MISMATCH makes the
client fetch it again and send the call once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from twotower import v1

_ENTRY_FIELDS = (("user", False), ("users", False), ("item", True), ("items", True))


@dataclass(frozen=True, slots=True)
class DenseOrder:
    """names: for each position of the vector the names that mean its feature, the one that wins first."""

    fingerprint: int
    names: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class DenseOrders:
    """The orders of all loaded releases at one moment. Immutable, so threads share it.

    releases: (user, item) by release; "" stands for what is not pinned, None where a traffic split may send it
              to releases of different schemas.
    """

    releases: Mapping[str, tuple[DenseOrder, DenseOrder] | None] = field(default_factory=dict)

    def cover(self, request: Message) -> bool:
        """Whether every release that the request can be routed to is known."""
        return all(_release(one) in self.releases for one in _routed(request))

    def encode(self, request: Any) -> Any:
        """A copy of the request with its users and items in the dense form.

        An entry of a release that is not loaded stays as it is: the server says so better. So does one of
        which only the server knows the release: every release reads a map.
        """
        encoded = type(request)()
        encoded.CopyFrom(request)
        for one in _routed(encoded):
            orders = self.releases.get(_release(one))
            if orders is not None:
                for entry, is_item in _entries(one):
                    _encode(entry, orders[is_item])
        return encoded


def dense_orders(info: v1.GetServingInfoResponse) -> DenseOrders:
    """The orders of all releases in the answer."""
    releases: dict[str, tuple[DenseOrder, DenseOrder] | None] = {
        one.release: (_order(one.user_schema, "user_"), _order(one.item_schema, "item_")) for one in info.releases
    }
    unpinned = {releases[one.release] for one in info.releases if one.active or one.traffic_share > 0}
    releases[""] = unpinned.pop() if len(unpinned) == 1 else None
    return DenseOrders(releases)


def carries_features(request: Message) -> bool:
    """Whether the request has a user or an item that the dense form changes."""
    return any(entry.features and not entry.dense_features for one in _routed(request) for entry, _ in _entries(one))


def schema_mismatched(response: Any) -> bool:
    """Whether an entry of a batch failed because its dense vector was made for another schema."""
    fields = response.DESCRIPTOR.fields_by_name
    problems = list(response.problems) if "problems" in fields else []
    if isinstance(response, v1.BatchScoreResponse):
        problems += [problem for one in response.responses for problem in one.problems]
    return any(problem.reason == v1.ERROR_REASON_SCHEMA_MISMATCH for problem in problems)


def _order(schema: v1.TowerSchema, prefix: str) -> DenseOrder:
    return DenseOrder(schema.fingerprint, tuple(_names(name, prefix) for name in schema.dense_order))


def _names(name: str, prefix: str) -> tuple[str, ...]:
    """The spellings that the server reads: `user_age`, `age`, and the doubled `user_user_age`."""
    return (name, name.removeprefix(prefix), f"{prefix}{name}") if name.startswith(prefix) else (name,)


def _encode(entry: v1.User | v1.Item, order: DenseOrder) -> None:
    if entry.dense_features or not entry.features:
        return
    features = dict(entry.features)
    values: list[float] = []
    for names in order.names:
        sent = [features.pop(name) for name in names if name in features]
        values.append(sent[0] if sent else math.nan)
    if len(features) == len(entry.features):
        return  # no name is known: a vector of NaN would hide from the server that they are all wrong
    entry.features.clear()
    entry.features.update(features)
    entry.dense_features.extend(values)
    entry.schema_fingerprint = order.fingerprint


def _routed(request: Any) -> Iterable[Any]:
    """The messages that name a release: the request, or the requests in it."""
    return request.requests if isinstance(request, v1.BatchScoreRequest) else (request,)


def _entries(request: Any) -> Iterator[tuple[Any, bool]]:
    """Each user and item with whether it is an item."""
    fields = request.DESCRIPTOR.fields_by_name
    for name, is_item in _ENTRY_FIELDS:
        if name in fields and name.endswith("s"):
            for entry in getattr(request, name):
                yield entry, is_item
        elif name in fields and request.HasField(name):
            yield getattr(request, name), is_item


def _release(request: Any) -> str:
    """The release that the request names, itself or by its embedding; "" = none."""
    carries_embedding = "embedding" in request.DESCRIPTOR.fields_by_name and request.HasField("embedding")
    return request.release or (request.embedding.release if carries_embedding else "")
