"""Raw features → vectors, in chunks that leave the event loop to others in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from twotower_server.engine.limits import Limits
from twotower_server.engine.model import ItemRow, UserRow
from twotower_server.errors import Reason, Refused
from twotower_server.features.encode import Encoded, FeatureUse
from twotower_server.features.row import FeatureRow, Row
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import is_comparable, unusable_rows

# A chunk holds the event loop for about a millisecond.
CHUNK_ROWS = 256

_NOTHING = Row()

_R = TypeVar("_R", bound=FeatureRow)


def embed_user(snapshot: Snapshot, user: UserRow, limits: Limits) -> tuple[NDArray[np.float32], FeatureUse]:
    """One user's vector, float32 [dimension]. Runs at once: it is the hot path."""
    try:
        _check_user(user, limits)
        encoded = snapshot.user_encoder.encode_one(user)
        return _comparable(snapshot.embed_users(encoded), "user")[0], encoded.use[0]
    except Refused as error:
        raise error.within("user") from None


def embed_item(snapshot: Snapshot, item: ItemRow, limits: Limits) -> NDArray[np.float32]:
    """One item's vector, float32 [dimension], computed from its features."""
    try:
        _check_item(item, limits)
        encoded = snapshot.item_encoder.encode_one(item)
        values: NDArray[np.float32] = _comparable(snapshot.embed_items(encoded), "item")[0]
        return values
    except Refused as error:
        raise error.within("item") from None


async def embed_users(
    snapshot: Snapshot, users: Sequence[UserRow], limits: Limits
) -> tuple[NDArray[np.float32], dict[int, Refused], list[FeatureUse]]:
    """Vectors of many users: float32 [n, dimension], refusals by index (their rows are zero), use of features."""
    return await _embed(snapshot, users, _check_user, limits, "user")


async def embed_items(
    snapshot: Snapshot, items: Sequence[ItemRow], limits: Limits
) -> tuple[NDArray[np.float32], dict[int, Refused]]:
    """Vectors of many items, computed: float32 [n, dimension], refusals by index (their rows are zero)."""
    vectors, refused, _ = await _embed(snapshot, items, _check_item, limits, "item")
    return vectors, refused


async def _embed(
    snapshot: Snapshot,
    rows: Sequence[_R],
    check: Callable[[_R, Limits], None],
    limits: Limits,
    side: Literal["user", "item"],
) -> tuple[NDArray[np.float32], dict[int, Refused], list[FeatureUse]]:
    encoder = snapshot.user_encoder if side == "user" else snapshot.item_encoder
    run: Callable[[Encoded], NDArray[np.float32]] = snapshot.embed_users if side == "user" else snapshot.embed_items
    vectors = np.zeros((len(rows), snapshot.manifest.dimension), np.float32)
    use: list[FeatureUse] = []
    refused: dict[int, Refused] = {}
    for start in range(0, len(rows), CHUNK_ROWS):
        if start:
            await asyncio.sleep(0)
        chunk: list[FeatureRow] = []
        for i, row in enumerate(rows[start : start + CHUNK_ROWS], start):
            try:
                check(row, limits)
                chunk.append(row)
            except Refused as error:
                refused[i] = error
                chunk.append(_NOTHING)
        encoded = encoder.encode(chunk)
        computed = run(encoded)
        use += encoded.use
        for i, why in encoded.refused.items():
            refused.setdefault(start + i, why)
        if not is_comparable(computed):
            for i in unusable_rows(computed).tolist():
                refused.setdefault(start + i, _not_comparable(side))
        vectors[start : start + len(chunk)] = computed
    for i in refused:
        vectors[i] = 0.0
    return vectors, refused, use


def is_within(user: UserRow, limits: Limits) -> bool:
    """Whether the user keeps the limits of ids and features."""
    try:
        _check_user(user, limits)
    except Refused:
        return False
    return True


def _check_user(user: UserRow, limits: Limits) -> None:
    # A character takes four bytes at most: texts that are short together need no look at each.
    if 4 * (len(user.user_id) + len(user.feature_version) + len(user.routing_key)) > limits.id_bytes:
        limits.check_id(user.user_id, "user_id")
        limits.check_id(user.feature_version, "feature_version")
        limits.check_id(user.routing_key, "routing_key")
    _check_features(user, limits)


def _check_item(item: ItemRow, limits: Limits) -> None:
    limits.check_id(item.item_id, "item_id")
    _check_features(item, limits)


def _check_features(row: FeatureRow, limits: Limits) -> None:
    count = len(row.features) + len(row.string_features)
    if count > limits.features:
        limits.check("features", count, "features")


def _comparable(vectors: NDArray[np.float32], side: str) -> NDArray[np.float32]:
    if not is_comparable(vectors):
        raise _not_comparable(side)
    return vectors


def _not_comparable(side: str) -> Refused:
    return Refused(
        Reason.VALUE_NOT_FINITE,
        f"of these values the {side} tower makes a vector that is not finite, or too long to be compared; "
        "are they in range?",
        "features",
    )
