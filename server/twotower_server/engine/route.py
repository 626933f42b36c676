"""Which release serves an entry."""

from __future__ import annotations

from collections.abc import Mapping

from twotower_server.errors import Reason, Refused
from twotower_server.release.snapshot import Snapshot


class Releases:
    """The releases that are loaded, and the active one. Immutable: a switch replaces the whole object.

    Take it once an entry and pass the snapshot down; never fetch it again after an `await`.
    """

    def __init__(self, loaded: Mapping[str, Snapshot], active: str) -> None:
        self.loaded = dict(loaded)
        self.active = self.loaded[active]

    def route(self, pin: str, embedding_release: str | None = None) -> Snapshot:
        """The snapshot for one entry.

        pin:               the request's `release`; "" = the active one.
        embedding_release: release of the vector that the caller sent; None = it sent none.
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
        if not name:
            return self.active
        snapshot = self.loaded.get(name)
        if snapshot is None:
            raise Refused(
                Reason.RELEASE_NOT_LOADED,
                f"release {name[:63]!r} is not loaded; loaded are {', '.join(sorted(self.loaded))}",
                "release" if embedding_release is None else "embedding.release",
            )
        return snapshot
