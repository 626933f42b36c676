"""Raw features → vectors, in chunks that leave the event loop to others in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twotower_server.engine.limits import Limits
from twotower_server.engine.model import ItemRow, UserRow
from twotower_server.errors import Reason, Refused
from twotower_server.features.encode import Encoded, FeatureUse
from twotower_server.features.row import FeatureRow, Row
from twotower_server.release.snapshot import Snapshot

# A chunk holds the event loop for about a millisecond.
CHUNK_ROWS = 256

_NOTHING = Row()


def embed_user(snapshot: Snapshot, user: UserRow, limits: Limits) -> tuple[NDArray[np.float32], FeatureUse]:
    """One user's vector, float32 [dimension]. Runs at once: it is the hot path."""
    try:
        limits.check_id(user.user_id, "user_id")
        _check_features(user, limits)
        encoded = snapshot.user_encoder.encode_one(user)
        return _finite(snapshot.embed_users(encoded), "user")[0], encoded.use[0]
    except Refused as error:
        raise error.within("user") from None


def embed_item(snapshot: Snapshot, item: ItemRow, limits: Limits) -> NDArray[np.float32]:
    """One item's vector, float32 [dimension], computed from its features."""
    try:
        limits.check_id(item.item_id, "item_id")
        _check_features(item, limits)
        values: NDArray[np.float32] = _finite(snapshot.embed_items(snapshot.item_encoder.encode_one(item)), "item")[0]
        return values
    except Refused as error:
        raise error.within("item") from None


async def embed_users(
    snapshot: Snapshot, users: Sequence[UserRow], limits: Limits
) -> tuple[NDArray[np.float32], dict[int, Refused], list[FeatureUse]]:
    """Vectors of many users: float32 [n, dimension], refusals by index (their rows are zero), use of features."""
    too_large = _check_rows(users, [user.user_id for user in users], "user_id", limits)
    return await _embed(snapshot, users, too_large, "user")


async def embed_items(
    snapshot: Snapshot, items: Sequence[ItemRow], limits: Limits
) -> tuple[NDArray[np.float32], dict[int, Refused]]:
    """Vectors of many items, computed: float32 [n, dimension], refusals by index (their rows are zero)."""
    too_large = _check_rows(items, [item.item_id for item in items], "item_id", limits)
    vectors, refused, _ = await _embed(snapshot, items, too_large, "item")
    return vectors, refused


async def _embed(
    snapshot: Snapshot, rows: Sequence[FeatureRow], refused: dict[int, Refused], side: Literal["user", "item"]
) -> tuple[NDArray[np.float32], dict[int, Refused], list[FeatureUse]]:
    encoder = snapshot.user_encoder if side == "user" else snapshot.item_encoder
    run: Callable[[Encoded], NDArray[np.float32]] = snapshot.embed_users if side == "user" else snapshot.embed_items
    vectors = np.zeros((len(rows), snapshot.manifest.dimension), np.float32)
    use: list[FeatureUse] = []
    for start in range(0, len(rows), CHUNK_ROWS):
        if start:
            await asyncio.sleep(0)
        chunk: Sequence[FeatureRow] = rows[start : start + CHUNK_ROWS]
        if refused:
            chunk = [_NOTHING if start + i in refused else row for i, row in enumerate(chunk)]
        encoded = encoder.encode(chunk)
        computed = run(encoded)
        use += encoded.use
        for i, error in encoded.refused.items():
            refused.setdefault(start + i, error)
        if not np.isfinite(computed).all():
            for i in np.flatnonzero(~np.isfinite(computed).all(axis=1)).tolist():
                refused.setdefault(start + i, _not_finite(side))
        vectors[start : start + len(chunk)] = computed
    for i in refused:
        vectors[i] = 0.0
    return vectors, refused, use


def _check_rows(rows: Sequence[FeatureRow], ids: Sequence[str], id_field: str, limits: Limits) -> dict[int, Refused]:
    refused: dict[int, Refused] = {}
    for i, (row, id) in enumerate(zip(rows, ids, strict=True)):
        try:
            limits.check_id(id, id_field)
            _check_features(row, limits)
        except Refused as error:
            refused[i] = error
    return refused


def _check_features(row: FeatureRow, limits: Limits) -> None:
    count = len(row.features) + len(row.string_features)
    if count > limits.features:
        limits.check("features", count, "features")


def _finite(vectors: NDArray[np.float32], side: str) -> NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise _not_finite(side)
    return vectors


def _not_finite(side: str) -> Refused:
    return Refused(
        Reason.VALUE_NOT_FINITE,
        f"the {side} tower gives no finite vector for these values; are they in range?",
        "features",
    )
