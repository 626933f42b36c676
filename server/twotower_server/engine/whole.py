"""Calls that one release serves whole, or that are refused whole.

For protocols whose answers have no place for an entry's own release or problem: one wrong entry refuses the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from twotower_server.cache.user_cache import UserCache
from twotower_server.engine import embed
from twotower_server.engine.limits import Limits
from twotower_server.engine.model import CacheMode, ItemRow, UserRow
from twotower_server.engine.route import Releases, ReleaseSource, Routed
from twotower_server.engine.stored import StoredVectors
from twotower_server.engine.users import UserVectors
from twotower_server.errors import Reason, Refused
from twotower_server.items.ids import item_keys
from twotower_server.release.calibration import scores
from twotower_server.release.snapshot import Snapshot

_NAMED = 3
# Names that no schema of users has; those of the scene may be in any.
_NOT_OF_USER = ("item_", "cross_")


class PairRow(UserRow, ItemRow, Protocol):
    """A user and an item to score together: features of both in one map, told apart by their names."""


class WholeCalls:
    """One a worker; its methods are called on the event loop. Take the snapshot once, and pass it down."""

    def __init__(
        self,
        source: ReleaseSource,
        limits: Limits,
        cache: UserCache | None = None,
        stored: StoredVectors | None = None,
    ) -> None:
        """cache, stored: as of `Engine`, which may share them."""
        self._source = source
        self.limits = limits
        self._users = UserVectors(limits, cache)
        self._stored = stored

    @property
    def releases(self) -> Releases:
        """What serves a call that begins now. Raises NOT_READY."""
        return self._source.now()

    def route(self, release: str, user: Routed | None, entries: int) -> Snapshot:
        """The snapshot for a whole call: of the release that it pins ("" = none), else of the user's arm of a split.

        user: the one whom all entries are of; None = of several users, or of none: the active release.
        Raises RELEASE_NOT_LOADED.
        """
        return self.releases.route(release, user=user, entries=entries)

    async def user_vectors(self, snapshot: Snapshot, users: Sequence[UserRow]) -> NDArray[np.float32]:
        """Vectors of users: float32 [n, dimension]."""
        self.limits.check("users", len(users), "")
        batch = await self._users.many(snapshot, users, [CacheMode.UNSPECIFIED] * len(users))
        _raise_first(batch.refused)
        return batch.values

    async def item_vectors(self, snapshot: Snapshot, items: Sequence[ItemRow]) -> NDArray[np.float32]:
        """Vectors of items: float32 [n, dimension]; computed where there are features of the item, else those stored.

        Raises ITEM_NOT_FOUND for an id that the catalog lacks.
        """
        self.limits.check("items", len(items), "")
        known = _own_features(snapshot, items)
        stored = [i for i, item in enumerate(items) if item.item_id and not _has_any(item, known)]
        by_id = set(stored)
        computed = [i for i in range(len(items)) if i not in by_id]
        values, refused = await embed.embed_items(snapshot, [items[i] for i in computed], self.limits)
        _raise_first({computed[at]: error for at, error in refused.items()})
        if not stored:
            return values
        vectors = np.empty((len(items), snapshot.manifest.dimension), np.float32)
        vectors[computed] = values
        vectors[stored] = await self._stored_vectors(snapshot, items, stored)
        return vectors

    async def scores(self, snapshot: Snapshot, pairs: Sequence[PairRow]) -> NDArray[np.float32]:
        """The score of each user with the item beside it: float32 [n], in (0, 1]."""
        items = await self.item_vectors(snapshot, pairs)
        # Of one user with many items it runs the tower once, which is what takes longest otherwise.
        first, places = await _users(pairs)
        batch = await self._users.many(snapshot, [pairs[i] for i in first], [CacheMode.UNSPECIFIED] * len(first))
        _raise_first({first[at]: error for at, error in batch.refused.items()})
        similarities: NDArray[np.float32] = np.vecdot(items, batch.values[places])
        return scores(similarities, snapshot.manifest.calibration)

    async def _stored_vectors(
        self, snapshot: Snapshot, items: Sequence[ItemRow], places: Sequence[int]
    ) -> NDArray[np.float32]:
        for i in places:
            self.limits.check_id(items[i].item_id, "item_id")
        ids = [items[i].item_id for i in places]
        rows = snapshot.items.find(item_keys(ids))
        if missing := np.flatnonzero(rows < 0).tolist():
            named = ", ".join(repr(ids[at]) for at in missing[:_NAMED])
            more = ", …" if len(missing) > _NAMED else ""
            raise Refused(
                Reason.ITEM_NOT_FOUND, f"release {snapshot.release} lacks {len(missing)} of the items: {named}{more}"
            )
        if snapshot.is_stored:
            assert self._stored is not None, "a release without vectors was opened without a store of them"
            return await self._stored.vectors(snapshot, rows)
        return snapshot.items.vectors(rows)


def _own_features(snapshot: Snapshot, items: Iterable[ItemRow]) -> set[str]:
    """Names, among those sent, of features that describe the item itself: neither its id nor the scene."""
    names: set[str] = set()
    for item in items:
        names.update(item.features, item.string_features)
    names -= {"item_id", "item_item_id"}
    knows = snapshot.item_encoder.knows
    return {name for name in names if not name.startswith("scene_") and knows(name)}


async def _users(pairs: Sequence[PairRow]) -> tuple[list[int], list[int]]:
    """The first pair of each user, and for every pair which of these has its user."""
    known: dict[Hashable, int] = {}
    first: list[int] = []
    places: list[int] = []
    for i, pair in enumerate(pairs):
        if i and i % embed.CHUNK_ROWS == 0:
            await asyncio.sleep(0)
        numbers = [entry for entry in pair.features.items() if not entry[0].startswith(_NOT_OF_USER)]
        texts = [
            (name, tuple(listed.values))
            for name, listed in pair.string_features.items()
            if not name.startswith(_NOT_OF_USER)
        ]
        place = known.setdefault((pair.user_id, frozenset(numbers), frozenset(texts)), len(first))
        if place == len(first):
            first.append(i)
        places.append(place)
    return first, places


def _has_any(item: ItemRow, names: set[str]) -> bool:
    return not (names.isdisjoint(item.features) and names.isdisjoint(item.string_features))


def _raise_first(refused: dict[int, Refused]) -> None:
    if refused:
        first = min(refused)
        raise refused[first].within(f"instances[{first}]")
