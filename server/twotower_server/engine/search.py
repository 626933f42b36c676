"""Search of one catalog: exclusions and filter → index → ids, scores and what else was asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from twotower_server.engine.model import Found, Selection, UserVector
from twotower_server.items.ids import item_keys
from twotower_server.items.live import Items
from twotower_server.release.calibration import scores
from twotower_server.release.snapshot import Snapshot


def search(
    snapshot: Snapshot,
    query: NDArray[np.float32],
    selection: Selection,
    exclude: str,
    user: UserVector | None,
) -> Found:
    """The `selection.k` items most similar to `query`, float32 [dimension]; fewer only when fewer are eligible.

    exclude: one more item id to leave out ("" = none). The attributes wanted are those of the catalog. Safe in any
    thread: a snapshot never changes.
    """
    items = snapshot.items
    excluded = excluded_rows(items, selection, exclude)
    rows, similarities = items.search(query, selection.k, excluded, selection.filter)
    vectors = items.vectors(rows) if selection.embeddings else None
    return found(snapshot, rows, similarities, vectors, selection, user)


def found(
    snapshot: Snapshot,
    rows: NDArray[np.int64],
    similarities: NDArray[np.float32],
    vectors: NDArray[np.float32] | None,
    selection: Selection,
    user: UserVector | None,
) -> Found:
    """What a caller gets of the rows of a search. vectors: of the rows; they may be None unless asked for."""
    items = snapshot.items
    return Found(
        item_ids=items.item_ids(rows),
        scores=scores(similarities, snapshot.manifest.calibration),
        similarities=similarities,
        release=snapshot.release,
        embeddings=vectors if selection.embeddings else None,
        attributes=items.attributes(rows, selection.attributes) if selection.attributes else None,
        user=user,
    )


def excluded_rows(items: Items, selection: Selection, exclude: str) -> NDArray[np.int64] | None:
    """Rows to leave out, ascending and distinct; ids that the catalog lacks exclude nothing."""
    ids = [*selection.exclude_ids, exclude] if exclude else selection.exclude_ids
    if not ids and not len(selection.exclude_keys):
        return None
    rows = np.unique(items.find(np.concatenate([item_keys(ids), selection.exclude_keys])))
    return rows[rows >= 0]
