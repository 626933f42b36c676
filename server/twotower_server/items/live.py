"""The items of a release as they are now: its immutable catalog, and small segments of changes over it.

Every segment is a catalog of its own, with keys, vectors and an index. An item has at most one row that is not hidden:
a change hides the row before it, wherever it lies. Segments of like size are merged, so that n changes lie in about
log2(n) of them. Nothing changes in place: applying changes makes another `Items`, and whoever holds the one before
goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twotower_server.index.base import Index
from twotower_server.index.exact import ExactIndex
from twotower_server.index.similarity import best, similarities
from twotower_server.items.attribute import TYPES, AttributeKind, AttributeValue
from twotower_server.items.catalog import ITEM_ID, ITEM_KEY, Catalog
from twotower_server.items.filter import FilterLike, mask
from twotower_server.items.ids import KeyTable, item_keys

# Hidden rows that a search leaves out by name; more are left out by a bitmap.
_MAX_NAMED = 128


@dataclass(frozen=True, slots=True)
class Item:
    """An item that is added or replaced. vector: float32 [dimension], as the release keeps vectors."""

    item_id: str
    vector: NDArray[np.float32]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows that belong together. hidden: bool [rows], None = none is.

    vectors: float32 [rows, dimension]; [0, dimension] when they stay in Redis.
    """

    catalog: Catalog
    keys: KeyTable
    vectors: NDArray[np.float32]
    index: Index
    hidden: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.catalog)

    @property
    def is_stored(self) -> bool:
        """Whether its vectors stay in Redis."""
        return len(self.vectors) < len(self.catalog)

    @property
    def live(self) -> int:
        """Rows that are not hidden."""
        return len(self) - (0 if self.hidden is None else int(np.count_nonzero(self.hidden)))

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of keys, -1 where absent or hidden: int64 [n]."""
        rows = self.keys.rows(keys)
        if self.hidden is not None:
            rows[(rows >= 0) & self.hidden.take(rows)] = -1
        return rows

    def without(self, keys: NDArray[np.uint64]) -> Segment:
        """The segment with the rows of these keys hidden."""
        rows = self.find(keys)
        rows = rows[rows >= 0]
        if not rows.size:
            return self
        hidden = np.zeros(len(self), np.bool_) if self.hidden is None else self.hidden.copy()
        hidden[rows] = True
        return replace(self, hidden=hidden)

    def search(
        self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int64] | None, filter: FilterLike | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """As `Index.search`. excluded: rows, ascending and distinct."""
        eligible = None if filter is None else mask(self.catalog, filter)
        if self.hidden is not None:
            hidden = np.flatnonzero(self.hidden)
            if eligible is None and len(hidden) <= _MAX_NAMED:
                excluded = hidden if excluded is None else np.union1d(excluded, hidden)
            else:
                eligible = ~self.hidden if eligible is None else eligible & ~self.hidden
        return self.index.search(query, k, excluded_rows=excluded, eligible=eligible)

    @property
    def live_rows(self) -> NDArray[np.int64]:
        """The rows that are not hidden, ascending."""
        return np.arange(len(self)) if self.hidden is None else np.flatnonzero(~self.hidden)

    @classmethod
    def merged(cls, segments: Sequence[Segment]) -> Segment:
        """One of all rows that are not hidden. segments: made by `of` with the same kinds, or by this."""
        rows = [segment.live_rows for segment in segments]
        catalog, order = Catalog.merged([(s.catalog, live) for s, live in zip(segments, rows, strict=True)])
        vectors = np.concatenate([s.vectors[live] for s, live in zip(segments, rows, strict=True)])[order]
        return cls(catalog, KeyTable(catalog.keys), vectors, ExactIndex(vectors, catalog.item_ids))

    @classmethod
    def of(cls, items: Sequence[Item], kinds: Mapping[str, AttributeKind]) -> Segment:
        """A segment of items with distinct ids. kinds: of the release's attributes; others are left out."""
        keys = item_keys([item.item_id for item in items])
        order = np.argsort(keys)
        items = [items[i] for i in order]
        columns = {
            ITEM_ID: pa.array([item.item_id for item in items], TYPES["text"]),
            ITEM_KEY: pa.array(keys[order]),
            **{
                name: pa.array([item.attributes.get(name) for item in items], TYPES[kind])
                for name, kind in kinds.items()
            },
        }
        catalog = Catalog(pa.RecordBatch.from_pydict(columns))
        vectors = np.stack([item.vector for item in items])
        return cls(catalog, KeyTable(catalog.keys), vectors, ExactIndex(vectors, catalog.item_ids))


class Items:
    """All segments, as one catalog. Immutable, safe in any thread. Rows count through all segments."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """segments: the release's own first."""
        self.segments = tuple(segments)
        self._starts = np.cumsum([0, *(len(segment) for segment in segments)])
        # Nothing has changed: as most calls find it, so nothing is done by parts.
        self._base = segments[0] if len(segments) == 1 and segments[0].hidden is None else None

    @property
    def is_unchanged(self) -> bool:
        """Whether these are the items that the release was built with."""
        return self._base is not None

    def __len__(self) -> int:
        return sum(segment.live for segment in self.segments)

    @property
    def catalog(self) -> Catalog:
        """The release's own: it says which attributes there are."""
        return self.segments[0].catalog

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of keys, -1 where there is no such item: int64 [n]."""
        if self._base is not None:
            return self._base.keys.rows(keys)
        rows = np.full(len(keys), -1, np.int64)
        for start, segment in zip(self._starts, self.segments, strict=False):
            found = segment.find(keys)
            rows = np.where(found >= 0, found + start, rows)
        return rows

    def holds(self, item_ids: Sequence[str]) -> list[bool]:
        """Whether each item is there: it, and no other whose id has the same key."""
        rows = self.find(item_keys(item_ids))
        found = iter(self.item_ids(rows[rows >= 0]))
        return [row >= 0 and next(found) == item_id for row, item_id in zip(rows.tolist(), item_ids, strict=True)]

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows: float32 [n, dimension]; of no meaning where a row is -1."""
        if self._base is not None:
            return self._base.vectors.take(rows, 0)
        # Zeros, not any bytes: similarities of what is absent are computed, too, and must not overflow.
        found = np.zeros((len(rows), self.segments[0].vectors.shape[1]), np.float32)
        for segment, at, local in self.parts(rows):
            found[at] = segment.vectors.take(local, 0)
        return found

    def similarities(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Similarities of rows to a query: float32 [n]; of no meaning where a row is -1."""
        if self._base is not None:
            return similarities(self._base.vectors, rows, query)
        return similarities(self.vectors(rows), None, query)

    def item_ids(self, rows: NDArray[np.int64]) -> list[str]:
        if self._base is not None:
            return self._base.catalog.item_ids(rows)
        ids = [""] * len(rows)
        for segment, at, local in self.parts(rows):
            for i, id in zip(at.tolist(), segment.catalog.item_ids(local), strict=True):
                ids[i] = id
        return ids

    def attributes(self, rows: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, AttributeValue]]:
        """For each row its values by name; an absent one is left out."""
        if self._base is not None:
            return self._base.catalog.attributes(rows, names)
        found: list[dict[str, AttributeValue]] = [{} for _ in rows]
        for segment, at, local in self.parts(rows):
            for i, values in zip(at.tolist(), segment.catalog.attributes(local, names), strict=True):
                found[i] = values
        return found

    def search(
        self, query: NDArray[np.float32], k: int, excluded: NDArray[np.int64] | None, filter: FilterLike | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k items most similar to `query`: rows int64 [n] and similarities float32 [n]; ties by item id.

        excluded: rows, ascending and distinct. Fewer than k only when fewer are eligible.
        """
        if self._base is not None:
            return self._base.search(query, k, excluded, filter)
        rows, values = [], []
        for start, segment in zip(self._starts.tolist(), self.segments, strict=False):
            own = None
            if excluded is not None:
                inside = excluded[(excluded >= start) & (excluded < start + len(segment))]
                own = inside - start if inside.size else None
            found, similar = segment.search(query, k, own, filter)
            rows.append(found + start)
            values.append(similar)
        return best(np.concatenate(rows), np.concatenate(values), k, self.item_ids)

    def is_brief(self, nearest: int) -> bool:
        """As `Index.is_brief`; hidden rows are exclusions, too."""
        return all(segment.index.is_brief(nearest + len(segment) - segment.live) for segment in self.segments)

    def changed(self, upserted: Sequence[Item], deleted: Sequence[str]) -> Items:
        """The items after changes: no id is in both lists, or twice in one."""
        keys = item_keys([*(item.item_id for item in upserted), *deleted])
        base, *others = (segment.without(keys) for segment in self.segments)
        others = [segment for segment in others if segment.live]
        kinds = self.catalog.attribute_kinds
        if upserted:
            others.append(Segment.of(upserted, kinds))
        while len(others) > 1 and others[-2].live <= 2 * others[-1].live:
            others[-2:] = [Segment.merged(others[-2:])]
        return Items((base, *others))

    def parts(self, rows: NDArray[np.int64]) -> list[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]]:
        """Segments with rows, the places of these, and the rows inside; a row of -1 belongs to none."""
        which = np.searchsorted(self._starts, rows, "right") - 1
        parts = []
        for i in np.unique(which[which >= 0]).tolist():
            at = np.flatnonzero(which == i)
            parts.append((self.segments[i], at, rows[at] - self._starts[i]))
        return parts
