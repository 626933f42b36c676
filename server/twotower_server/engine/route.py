"""Which release serves an entry."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Protocol

from xxhash import xxh3_64_intdigest

from twotower_server.errors import Reason, Refused
from twotower_server.release.snapshot import Snapshot


class Routed(Protocol):
    """What the traffic split looks at. `twotower.v1.User` is one."""

    @property
    def user_id(self) -> str: ...
    @property
    def routing_key(self) -> str: ...


class ReleaseSource(Protocol):
    """Where the engine gets its releases from, at the beginning of every call."""

    def now(self) -> Releases:
        """What serves a call that begins now. Raises NOT_READY while this process is behind a switch."""


def _uncounted(release: str, entries: int) -> None:
    pass


class Releases:
    """The releases that are loaded, and how traffic is split between them. Immutable: a switch makes another.

    Take it once a call and pass the snapshots down; never fetch it again after an `await`.
    """

    def __init__(
        self,
        loaded: Mapping[str, Snapshot],
        active: str,
        shares: Mapping[str, float] | None = None,
        count: Callable[[str, int], None] = _uncounted,
    ) -> None:
        """shares: of the traffic, by release, sum 1; none = all to the active one. count: hears of entries served.

        `split` says whether users without a pin may go to another than the active release.
        """
        self.loaded = dict(loaded)
        self.active = self.loaded[active]
        self.shares = dict(sorted((shares or {active: 1.0}).items()))
        self._count = count
        # Arms by name, each up to a point of the unit interval; the last takes what rounding leaves.
        self._arms = [self.loaded[name] for name in self.shares]
        self._ends = list(accumulate(self.shares.values()))[:-1]
        self.split = self._arms != [self.active]

    def now(self) -> Releases:
        """Itself: what never switches is a source, too."""
        return self

    def route(
        self, pin: str, *, embedding_release: str | None = None, user: Routed | None = None, entries: int = 1
    ) -> Snapshot:
        """The snapshot for one entry, which is counted as served by it.

        pin:               the request's `release`; "" = by the split.
        embedding_release: release of the vector that the caller sent; None = it sent none.
        user:              whose routing key, else id, the split goes by; None = the active release.
        entries:           how many the snapshot is for.
        Raises FIELD_REQUIRED, RELEASE_MISMATCH or RELEASE_NOT_LOADED; never takes another release silently.
        """
        name = pin
        if embedding_release is not None:
            if not embedding_release:
                raise Refused(
                    Reason.FIELD_REQUIRED,
                    "an embedding needs the release that it came with; vectors of two releases cannot be compared",
                    "embedding.release",
                )
            if pin and pin != embedding_release:
                raise Refused(
                    Reason.RELEASE_MISMATCH,
                    f"the embedding is of release {embedding_release}, the request pins {pin}",
                    "embedding.release",
                )
            name = embedding_release
        snapshot = self.loaded.get(name) if name else self._arm(user)
        if snapshot is None:
            raise self.not_loaded(name, "release" if embedding_release is None else "embedding.release")
        self._count(snapshot.release, entries)
        return snapshot

    def not_loaded(self, release: str, field: str) -> Refused:
        """Why a release that is not loaded cannot serve. field: of the request, that names it."""
        return Refused(
            Reason.RELEASE_NOT_LOADED,
            f"release {release[:63]!r} is not loaded; loaded are {', '.join(sorted(self.loaded))}",
            field,
        )

    def _arm(self, user: Routed | None) -> Snapshot:
        if not self.split:
            return self.active
        key = user.routing_key or user.user_id if user is not None else ""
        return self._arms[bisect_right(self._ends, position(key))] if key else self.active


def position(key: str) -> float:
    """The place of a routing key in [0, 1): XXH3-64 (seed 0) of its UTF-8 bytes, its upper 53 bits / 2^53.

    The Go client computes the same. A key keeps its arm while shares grow or shrink around it.
    """
    return (xxh3_64_intdigest(key.encode()) >> 11) / 2**53
