"""Changes of the catalog → a snapshot with them: embedded by its own item tower, refused where they do not fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twotower_server.catalog.change import Change
from twotower_server.errors import Reason, Refused
from twotower_server.features.row import Row
from twotower_server.items.attribute import AttributeKind
from twotower_server.items.ids import item_keys
from twotower_server.items.live import Item
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import is_comparable

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
    deleted = [id for id, held in zip(deleted, snapshot.items.holds(deleted), strict=True) if held]
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
            why = encoded.refused.get(at)
            found[i] = why.within("item") if why else Item(changes[i].item_id, vectors[at], changes[i].attributes)
    for i, change in enumerate(changes):
        if change.vector is not None and change.release == snapshot.release:
            vector = snapshot.normalised(np.array([change.vector], np.float32))[0]
            found[i] = Item(change.item_id, vector, change.attributes)
    keys = item_keys([change.item_id for change in changes])
    rows = snapshot.items.find(keys)
    known = rows >= 0
    owners = dict(zip(keys[known].tolist(), snapshot.items.item_ids(rows[known]), strict=True))
    # In the order of the log, so that it is all the same how many changes are applied at once.
    for i, (key, change) in enumerate(zip(keys.tolist(), changes, strict=True)):
        item = found[i]
        if change.deletes:
            if owners.get(key) == change.item_id:
                del owners[key]
        elif isinstance(item, Item):
            why = _refusal(snapshot, change, item, owners.get(key, item.item_id))
            if why is None:
                owners[key] = item.item_id
            else:
                found[i] = why
    return found


def _refusal(snapshot: Snapshot, change: Change, item: Item, owner: str) -> Refused | None:
    if item.vector.size != snapshot.manifest.dimension:
        return Refused(
            Reason.DIMENSION_MISMATCH,
            f"the vector has {item.vector.size} values, release {snapshot.release} has {snapshot.manifest.dimension} "
            "dimensions",
            "embedding.values",
        )
    if not is_comparable(item.vector):
        field = "item.features" if change.vector is None else "embedding.values"
        return Refused(Reason.VALUE_NOT_FINITE, "the vector is not finite, or too long to be compared", field)
    if owner != item.item_id:
        return Refused(
            Reason.ITEM_KEY_COLLISION,
            f"item {owner!r} has the same 64-bit key as {item.item_id!r}; rename one of them",
            "item.item_id",
        )
    kinds = snapshot.items.catalog.attribute_kinds
    for name, value in item.attributes.items():
        kind = kinds.get(name)
        if kind is not None and not isinstance(value, _TYPES[kind]):
            return Refused(
                Reason.FEATURE_TYPE,
                f"the attribute {name} of release {snapshot.release} is a {kind}",
                f"attributes[{name}]",
            )
    return None
