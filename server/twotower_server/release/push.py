"""Writes the item vectors of a release to Redis, for programs that read them there, and compares what is there.

A push can be killed at any point. How far it has come stands in Redis beside the vectors, so that the next one goes on
from there; comparing everything at the end finds what Redis has lost meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import StoreRefused
from twotower_server.items.catalog import Catalog
from twotower_server.items.ids import KeyTable, item_keys
from twotower_server.items.redis import PLAIN, RedisKeys, RedisStore
from twotower_server.items.stored import StoredItems
from twotower_server.release import format as files
from twotower_server.release.format import Manifest
from twotower_server.release.progress import Progress
from twotower_server.release.vectors import open_vectors

Verify = Literal["all", "sample", "none"]

_SAMPLE = 10_000


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push has done, in items.

    written: by this push. resumed: by one before, which it went on from. compared: read back.
    repaired: missing or different when they were read back, and written once more.
    """

    release: str
    items: int
    written: int
    resumed: int
    compared: int
    repaired: int


class ReleasePush:
    """One release and where its vectors go."""

    def __init__(self, folder: Path, store: RedisStore, keys: RedisKeys, *, plain: bool = False) -> None:
        """folder: of a verified release. plain: under `item_emb:<item_id>`. Raises ReleaseRefused."""
        self.manifest = Manifest.load(folder)
        self._catalog = Catalog.open(folder / files.ITEMS)
        self._vectors = open_vectors(folder / files.VECTORS, self.manifest.items, self.manifest.dimension)
        self._sha256 = self.manifest.to_json()["sha256"]
        self._store = store
        beginning = PLAIN if plain else keys.items(self.manifest.release)
        self._stored = StoredItems(store, self._catalog, beginning, self.manifest.dimension)
        # The plain keys hold one release after another, so they have one mark.
        self._mark = keys.pushed("" if plain else self.manifest.release)
        self._value_bytes = self.manifest.dimension * 4
        self._order = self._stored.order()

    def run(self, progress: Progress, verify: Verify = "all") -> Pushed:
        """Writes what is not there, then compares. Raises StoreUnavailable and StoreRefused."""
        items = self.manifest.items
        done = resumed = self._items_done()
        progress.start("writing vectors", items)
        progress.advance(resumed)
        for rows in self._stored.batches(self._order[resumed:]):
            self._stored.write(rows, self._values(rows))
            done += len(rows)
            self._set_items_done(done)
            progress.advance(len(rows))
        compared = self._to_compare(verify)
        progress.start("comparing vectors", len(compared))
        repaired = 0
        for rows in self._stored.batches(compared):
            repaired += self._repair(rows)
            progress.advance(len(rows))
        return Pushed(self.manifest.release, items, items - resumed, resumed, len(compared), repaired)

    def other_plain(self, progress: Progress, *, remove: bool) -> int:
        """How many plain keys are of items that this release lacks: what it was pushed over has left them."""
        rows = KeyTable(self._catalog.keys)
        found = 0
        progress.start("looking for other items", None)
        for keys in self._store.scan(PLAIN):
            there = rows.rows(item_keys(key.removeprefix(PLAIN) for key in keys)) >= 0
            others = [key for key, of_release in zip(keys, there, strict=True) if not of_release]
            found += len(others)
            if remove and others:
                self._store.remove(others)
            progress.advance(len(keys))
        return found

    def _to_compare(self, verify: Verify) -> NDArray[np.int64]:
        if verify == "none":
            return self._order[:0]
        if verify == "all" or len(self._order) <= _SAMPLE:
            return self._order
        return np.random.default_rng().choice(self._order, _SAMPLE, replace=False)

    def _repair(self, rows: NDArray[np.int64]) -> int:
        """Writes those of the rows again that are not what they should be; how many."""
        wrong = self._wrong(rows)
        if wrong.size:
            self._stored.write(wrong, self._values(wrong))
            if self._wrong(wrong).size:
                raise StoreRefused(
                    f"{self._store} loses what is written to it, or another program writes the same keys: "
                    f"{wrong.size} of {len(rows)} vectors were not what was written, twice"
                )
        return wrong.size

    def _wrong(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        wanted, found = self._values(rows), self._stored.read(rows)
        if wanted == found:
            return rows[:0]
        return rows[[value != other for value, other in zip(wanted, found, strict=True)]]

    def _values(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Vectors of rows: float32, little-endian."""
        size, data = self._value_bytes, self._vectors[rows].tobytes()
        return [data[at : at + size] for at in range(0, len(data), size)]

    def _items_done(self) -> int:
        """How many items the push before has written, in this one's order; 0 when that was another release."""
        try:
            mark = json.loads(self._store.text(self._mark) or "null")
            if mark["sha256"] == self._sha256:
                return min(int(mark["items"]), self.manifest.items)
        except (ValueError, TypeError, KeyError):
            pass
        return 0

    def _set_items_done(self, items: int) -> None:
        self._store.set_text(self._mark, json.dumps({"sha256": self._sha256, "items": items}))


def expire_release(release: str, store: RedisStore, keys: RedisKeys, seconds: int, progress: Progress) -> int:
    """Lets a release's vectors vanish from Redis in a while; how many there were that did not do so anyway."""
    # First the mark: a push that comes back to the release writes all of it again, which ends the expiry.
    store.remove([keys.pushed(release)])
    expiring = 0
    progress.start("expiring vectors", None)
    for found in store.scan(keys.items(release)):
        if found:
            expiring += store.expire(found, seconds)
            progress.advance(len(found))
    return expiring
