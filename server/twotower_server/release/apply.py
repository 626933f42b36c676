"""Changes of the catalog → a snapshot with them: embedded by its own item tower, refused where they do not fit it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twotower_server.catalog.change import Change
from twotower_server.errors import Reason, Refused
from twotower_server.features.row import Row
from twotower_server.items.attribute import AttributeKind, AttributeValue
from twotower_server.items.ids import item_keys
from twotower_server.items.live import Item
from twotower_server.release.snapshot import Snapshot

# Rows that the item tower runs at once.
_CHUNK_ROWS = 256
_NOTHING = Row()
_TYPES: dict[AttributeKind, type] = {"text": str, "number": float, "flag": bool, "texts": list}


def apply(snapshot: Snapshot, changes: Sequence[Change]) -> Snapshot:
    """The snapshot after changes, in their order. One that does not fit this release leaves its item as it was."""
    items = evaluate(snapshot, changes)
    last: dict[str, Item | None] = {}
    for change, item in zip(changes, items, strict=True):
        if change.deletes:
            last[change.item_id] = None
        elif isinstance(item, Item):
            last[change.item_id] = item
    if not last:
        return snapshot
    upserted = [item for item in last.values() if item is not None]
    deleted = [id for id, item in last.items() if item is None]
    return replace(snapshot, items=snapshot.items.changed(upserted, deleted))


def evaluate(snapshot: Snapshot, changes: Sequence[Change]) -> list[Item | Refused | None]:
    """What each change means for this release: an item, why it does not fit, or None (a delete, or not of it)."""
    found: list[Item | Refused | None] = [None] * len(changes)
    computed = [i for i, change in enumerate(changes) if change.row is not None]
    for start in range(0, len(computed), _CHUNK_ROWS):
        chunk = computed[start : start + _CHUNK_ROWS]
        encoded = snapshot.item_encoder.encode([changes[i].row or _NOTHING for i in chunk])
        vectors = snapshot.embed_items(encoded)
        for at, i in enumerate(chunk):
            found[i] = encoded.refused.get(at) or Item(changes[i].item_id, vectors[at], changes[i].attributes)
    for i, change in enumerate(changes):
        if change.vector is not None and change.release == snapshot.release:
            vector = snapshot.normalised(np.array([change.vector], np.float32))[0]
            found[i] = Item(change.item_id, vector, change.attributes)
    owners: dict[int, str] = {}
    keys = item_keys([change.item_id for change in changes])
    rows = snapshot.items.find(keys)
    ids = snapshot.items.item_ids(rows[rows >= 0])
    held = dict(zip(np.flatnonzero(rows >= 0).tolist(), ids, strict=True))
    for i, item in enumerate(found):
        if isinstance(item, Item):
            owner = owners.setdefault(int(keys[i]), held.get(i, item.item_id))
            found[i] = _refusal(snapshot, item, owner) or item
    return found


def _refusal(snapshot: Snapshot, item: Item, owner: str) -> Refused | None:
    if item.vector.size != snapshot.manifest.dimension:
        return Refused(
            Reason.DIMENSION_MISMATCH,
            f"the vector has {item.vector.size} values, release {snapshot.release} {snapshot.manifest.dimension}",
            "embedding.values",
        )
    # A finite squared norm: as engine.embed.is_comparable has it.
    if not math.isfinite(np.vdot(item.vector, item.vector)):
        return Refused(Reason.VALUE_NOT_FINITE, "the vector is not finite, or too long to be compared", "item.features")
    if owner != item.item_id:
        return Refused(
            Reason.ITEM_KEY_COLLISION,
            f"item {owner!r} has the same 64-bit key as {item.item_id!r}; rename one of them",
            "item.item_id",
        )
    kinds = snapshot.items.catalog.attribute_kinds
    for name, value in item.attributes.items():
        kind = kinds.get(name)
        if kind is not None and not _is_of(value, kind):
            return Refused(
                Reason.FEATURE_TYPE,
                f"the attribute {name} of release {snapshot.release} is a {kind}",
                f"attributes[{name}]",
            )
    return None


def _is_of(value: AttributeValue, kind: AttributeKind) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind != "number" or math.isfinite(value))  # type: ignore[arg-type]
