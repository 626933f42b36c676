"""The engine: embed, score, recommend. Every method takes its snapshot once and passes it down."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from twotower_server.cache.user_cache import UserCache
from twotower_server.engine import embed
from twotower_server.engine.limits import Limits
from twotower_server.engine.model import (
    Arm,
    CacheMode,
    Candidates,
    Found,
    GivenEmbedding,
    ItemRow,
    ItemVector,
    Scored,
    Selection,
    Source,
    UserRow,
    UserVector,
    Vectors,
)
from twotower_server.engine.route import Releases, ReleaseSource
from twotower_server.engine.search import search
from twotower_server.engine.stored import StoredVectors
from twotower_server.engine.users import UserVectors
from twotower_server.errors import Reason, Refused
from twotower_server.index.similarity import similarities
from twotower_server.items.ids import item_keys
from twotower_server.release.calibration import scores
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import is_comparable

# What an answer takes, for the check before work; the server holds every answer to the limit once it is made.
_SCORE_BYTES = 8  # a score and a similarity, float32 each
_ENTRY_BYTES = 16  # of an embedding, or of an entry of BatchScore, beside its values and its release
_ITEM_BYTES = 32  # of an item found: id, score, similarity; ids and attributes vary, these are usual sizes
_ATTRIBUTE_BYTES = 24
# Entries of a BatchScore between two looks at the event loop.
_ENTRIES_A_TURN = 8

Query = UserRow | GivenEmbedding
Result = TypeVar("Result")

# Stands in a batch's list until its entry is served or refused.
_UNSERVED = Refused(Reason.INTERNAL, "an entry of the batch was passed over")


class ScoreEntry:
    """One user and the candidates to score: a Score, or one entry of a BatchScore."""

    __slots__ = ("cache_mode", "candidates", "query", "release", "require_all")

    def __init__(
        self,
        query: Query,
        candidates: Candidates,
        release: str = "",
        require_all: bool = False,
        cache_mode: int = CacheMode.UNSPECIFIED,
    ) -> None:
        self.query = query
        self.candidates = candidates
        self.release = release
        self.require_all = require_all
        self.cache_mode = cache_mode


class Engine:
    """Serves the loaded releases. One a worker; its methods are called on the event loop."""

    def __init__(
        self,
        source: ReleaseSource,
        limits: Limits,
        cache: UserCache | None = None,
        stored: StoredVectors | None = None,
    ) -> None:
        """cache: of user vectors; None = each is computed. stored: vectors of items that stay in Redis; None = no
        release that was opened without them will be served.
        """
        self._source = source
        self.limits = limits
        self._cache = cache
        self._stored = stored
        self._user_vectors = UserVectors(limits, cache)
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="search")
        # Held by the one search that may run on the event loop between two looks at it.
        self._turn = asyncio.Lock()

    def close(self) -> None:
        self._threads.shutdown(wait=True)

    @property
    def releases(self) -> Releases:
        """What serves a call that begins now; take it once. Raises NOT_READY."""
        return self._source.now()

    @property
    def degraded(self) -> list[str]:
        """What of this worker does not work as it should, one sentence each."""
        parts = [part.degraded for part in (self._cache, self._stored) if part is not None]
        return [sentence for sentence in parts if sentence]

    async def embed_user(self, user: UserRow, release: str = "", cache_mode: int = CacheMode.UNSPECIFIED) -> UserVector:
        """The vector of one user."""
        return await self._user_vectors.one(self.releases.route(release, user=user), user, cache_mode)

    async def embed_users(
        self, users: Sequence[UserRow], release: str = "", cache_mode: int = CacheMode.UNSPECIFIED
    ) -> list[Arm]:
        """Vectors of a batch of users, by the release that serves them; a bad one fails alone."""
        self.limits.check("users", len(users), "users")
        releases = self.releases
        places: dict[Snapshot, Sequence[int]] = {}
        if release or not releases.split:
            places[releases.route(release, entries=len(users))] = range(len(users))
        else:
            routed = [releases.route("", user=user) for user in users]
            for snapshot in dict.fromkeys(routed):
                places[snapshot] = [i for i, other in enumerate(routed) if other is snapshot]
        self._check_vectors({snapshot: len(indices) for snapshot, indices in places.items()})
        arms = []
        for snapshot, indices in places.items():
            own = users if len(places) == 1 else [users[i] for i in indices]
            batch = await self._user_vectors.many(snapshot, own, [cache_mode] * len(own))
            vectors = Vectors(batch.values, snapshot.release, batch.refused, ages_ms=batch.ages_ms)
            arms.append(Arm(indices, vectors))
        return arms

    async def item_vector(self, item_id: str, release: str = "") -> ItemVector:
        """The stored vector of one item. Raises ITEM_NOT_FOUND."""
        snapshot = self.releases.route(release)
        row = self._row(snapshot, item_id)
        vectors = await self._item_vectors(snapshot, row)
        return ItemVector(vectors[0], snapshot.release, Source.STORED)

    def embed_item(self, item: ItemRow, release: str = "") -> ItemVector:
        """The vector of one item, computed from its features."""
        snapshot = self.releases.route(release)
        return ItemVector(embed.embed_item(snapshot, item, self.limits), snapshot.release, Source.COMPUTED)

    async def item_vectors(self, items: Candidates, release: str = "") -> Vectors:
        """Vectors of many items, stored (ids, keys) or computed (items)."""
        snapshot = self.releases.route(release)
        self.limits.check("items", len(items), items.field)
        self._check_vectors({snapshot: len(items)})
        if items.items is not None:
            values, refused = await embed.embed_items(snapshot, items.items, self.limits)
            return Vectors(values, snapshot.release, refused)
        rows = _rows(snapshot, items)
        missing = np.flatnonzero(rows < 0)
        values = await self._item_vectors(snapshot, rows)
        values[missing] = 0.0
        return Vectors(values, snapshot.release, missing=missing.tolist())

    async def score(self, entry: ScoreEntry) -> Scored:
        """Scores the candidates of one user."""
        snapshot = self._route_entry(entry)
        self._check_scores((entry,))
        user = await self._user(snapshot, entry.query, entry.cache_mode)
        return await self._score(snapshot, user, entry)

    async def score_batch(self, entries: Sequence[ScoreEntry | Refused]) -> list[Scored | Refused]:
        """Scores every entry with a release of its own; a bad entry is refused alone (or came refused).

        Users that share a release are embedded together: a batch costs a tower run a release, not one an entry.
        """
        results: list[Scored | Refused] = [_UNSERVED] * len(entries)
        asking: dict[Snapshot, list[tuple[int, ScoreEntry]]] = {}
        for i, entry in enumerate(entries):
            try:
                if isinstance(entry, Refused):
                    raise entry
                asking.setdefault(self._route_entry(entry), []).append((i, entry))
            except Refused as error:
                results[i] = error
        self._check_scores([entry for indexed in asking.values() for _, entry in indexed])
        for snapshot, indexed in asking.items():
            users = await self._users(snapshot, [entry for _, entry in indexed])
            for turn, ((i, entry), user) in enumerate(zip(indexed, users, strict=True)):
                if turn and turn % _ENTRIES_A_TURN == 0:
                    await asyncio.sleep(0)
                try:
                    if isinstance(user, Refused):
                        raise user
                    results[i] = await self._score(snapshot, user, entry)
                except Refused as error:
                    results[i] = error
        return results

    async def recommend(
        self, query: Query, selection: Selection, release: str = "", cache_mode: int = CacheMode.UNSPECIFIED
    ) -> Found:
        """The best items of the catalog for one user."""
        snapshot = self._route(query, release)
        self._check_selection(snapshot, selection)
        user = await self._user(snapshot, query, cache_mode)
        return await self._search(snapshot, user.values, selection, user=user)

    async def search_items(
        self, query: str | ItemRow | GivenEmbedding, selection: Selection, release: str = ""
    ) -> Found:
        """The items nearest to an item (by id, by features) or to a vector; an item never finds itself."""
        given = query.release if isinstance(query, GivenEmbedding) else None
        snapshot = self.releases.route(release, embedding_release=given)
        self._check_selection(snapshot, selection)
        if isinstance(query, str):
            values = (await self._item_vectors(snapshot, self._row(snapshot, query)))[0]
            return await self._search(snapshot, values, selection, exclude=query)
        if isinstance(query, GivenEmbedding):
            return await self._search(snapshot, _given(snapshot, query), selection)
        values = embed.embed_item(snapshot, query, self.limits)
        return await self._search(snapshot, values, selection, exclude=query.item_id)

    async def _user(self, snapshot: Snapshot, query: Query, cache_mode: int) -> UserVector:
        if isinstance(query, GivenEmbedding):
            return _given_user(snapshot, query)
        return await self._user_vectors.one(snapshot, query, cache_mode)

    async def _users(self, snapshot: Snapshot, entries: Sequence[ScoreEntry]) -> list[UserVector | Refused]:
        """As `_user`, for many: those with features are embedded together, a bad one is refused alone."""
        users: list[UserVector | Refused] = [_UNSERVED] * len(entries)
        places: list[int] = []
        rows: list[UserRow] = []
        for i, entry in enumerate(entries):
            if not isinstance(entry.query, GivenEmbedding):
                places.append(i)
                rows.append(entry.query)
                continue
            try:
                users[i] = _given_user(snapshot, entry.query)
            except Refused as error:
                users[i] = error
        batch = await self._user_vectors.many(snapshot, rows, [entries[i].cache_mode for i in places])
        for at, i in enumerate(places):
            if at in batch.refused:
                users[i] = batch.refused[at].within("user")
                continue
            age_ms = batch.ages_ms.get(at)
            source = Source.COMPUTED if age_ms is None else Source.CACHE
            users[i] = UserVector(batch.values[at], snapshot.release, source, batch.uses[at], age_ms)
        return users

    async def _score(self, snapshot: Snapshot, user: UserVector, entry: ScoreEntry) -> Scored:
        candidates = entry.candidates
        if candidates.items is not None:
            vectors, refused = await embed.embed_items(snapshot, candidates.items, self.limits)
            found = similarities(vectors, None, user.values)
            failed = np.array(sorted(refused), np.int64)
            missing: list[int] = []
        else:
            refused = {}
            rows = _rows(snapshot, candidates)
            if snapshot.is_stored:
                found = similarities(await self._item_vectors(snapshot, rows), None, user.values)
            else:
                found = snapshot.items.similarities(rows, user.values)
            failed = np.flatnonzero(rows < 0)
            missing = failed.tolist()
        if missing and entry.require_all:
            raise _not_found(candidates, missing)
        scored = scores(found, snapshot.manifest.calibration)
        if failed.size:
            found[failed] = 0.0
            scored[failed] = 0.0
        return Scored(scored, found, missing, user, refused)

    async def _search(
        self,
        snapshot: Snapshot,
        query: NDArray[np.float32],
        selection: Selection,
        *,
        exclude: str = "",
        user: UserVector | None = None,
    ) -> Found:
        if snapshot.is_stored:
            return await self._of_store().search(snapshot, query, selection, exclude, user, self._in_thread)
        nearest = selection.k + len(selection.exclude_ids) + len(selection.exclude_keys)
        if selection.filter is None and snapshot.items.is_brief(nearest):
            await self._turn.acquire()
            # Not now: all calls that are ready have their part of this turn, and each may be a search.
            asyncio.get_running_loop().call_soon(self._turn.release)
            return search(snapshot, query, selection, exclude, user)
        return await self._in_thread(search, snapshot, query, selection, exclude, user)

    def _in_thread(self, function: Callable[..., Result], *args: object) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _item_vectors(self, snapshot: Snapshot, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of rows: float32 [n, dimension]; of no meaning where a row is -1. Raises STORE_UNAVAILABLE."""
        if snapshot.is_stored:
            return await self._of_store().vectors(snapshot, rows)
        return snapshot.items.vectors(rows)

    def _of_store(self) -> StoredVectors:
        assert self._stored is not None, "a release without vectors was opened without a store of them"
        return self._stored

    def _row(self, snapshot: Snapshot, item_id: str) -> NDArray[np.int64]:
        self.limits.check_id(item_id, "item_id")
        row = snapshot.items.find(item_keys((item_id,)))
        if row[0] < 0:
            raise Refused(Reason.ITEM_NOT_FOUND, f"release {snapshot.release} has no item {item_id!r}", "item_id")
        return row

    def _route_entry(self, entry: ScoreEntry) -> Snapshot:
        self.limits.check("items", len(entry.candidates), entry.candidates.field)
        return self._route(entry.query, entry.release)

    def _route(self, query: Query, release: str) -> Snapshot:
        if isinstance(query, GivenEmbedding):
            return self.releases.route(release, embedding_release=query.release)
        return self.releases.route(release, user=query)

    def _check_scores(self, entries: Sequence[ScoreEntry]) -> None:
        candidates = sum(len(entry.candidates) for entry in entries)
        self.limits.check_response(candidates * _SCORE_BYTES + len(entries) * _ENTRY_BYTES)

    def _check_vectors(self, counts: Mapping[Snapshot, int]) -> None:
        self.limits.check_response(
            sum(
                count * (snapshot.manifest.dimension * 4 + len(snapshot.release) + _ENTRY_BYTES)
                for snapshot, count in counts.items()
            )
        )

    def _check_selection(self, snapshot: Snapshot, selection: Selection) -> None:
        limits = self.limits
        limits.check("k", selection.k, "k")
        excluded = len(selection.exclude_ids) + len(selection.exclude_keys)
        limits.check("exclusions", excluded, "exclude_item_ids")
        snapshot.catalog.check_attributes(selection.attributes)
        item_bytes = _ITEM_BYTES + sum(len(name) + _ATTRIBUTE_BYTES for name in selection.attributes)
        if selection.embeddings:
            item_bytes += snapshot.manifest.dimension * 4 + len(snapshot.release) + _ENTRY_BYTES
        # An answer holds no more items than the catalog.
        limits.check_response(min(selection.k, len(snapshot.items)) * item_bytes)


def _rows(snapshot: Snapshot, candidates: Candidates) -> NDArray[np.int64]:
    """Rows of ids or keys, -1 where the catalog lacks them. int64 [n]."""
    keys = candidates.keys if candidates.keys is not None else item_keys(candidates.ids or ())
    return snapshot.items.find(keys)


def _given_user(snapshot: Snapshot, given: GivenEmbedding) -> UserVector:
    return UserVector(_given(snapshot, given), snapshot.release, Source.UNSPECIFIED)


def _given(snapshot: Snapshot, given: GivenEmbedding) -> NDArray[np.float32]:
    """A vector that the caller sent, checked, as this release keeps vectors. float32 [dimension]."""
    values, dimension = given.values, snapshot.manifest.dimension
    if values.size != dimension:
        raise Refused(
            Reason.DIMENSION_MISMATCH,
            f"the embedding has {values.size} values, release {snapshot.release} has {dimension} dimensions",
            "embedding.values",
        )
    cosine = snapshot.manifest.similarity == "cosine"  # what enters is normalised, so it may be of any length
    if not (np.isfinite(values).all() if cosine else is_comparable(values)):
        raise Refused(
            Reason.VALUE_NOT_FINITE,
            "the embedding holds NaN or an infinity, or is too long to be compared",
            "embedding.values",
        )
    normalised: NDArray[np.float32] = snapshot.normalised(values[None])[0]
    return normalised


def _not_found(candidates: Candidates, missing: list[int]) -> Refused:
    chosen: Sequence[object] = candidates.ids if candidates.ids is not None else candidates.keys  # type: ignore[assignment]
    named = ", ".join(str(chosen[i])[:64] for i in missing[:3])
    more = ", …" if len(missing) > 3 else ""
    return Refused(
        Reason.ITEM_NOT_FOUND,
        f"{len(missing)} of {len(candidates)} candidates are not in the catalog ({named}{more}) and require_all is set",
        candidates.field,
    )
