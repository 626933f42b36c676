"""A worker's snapshots that follow one history of changes, as its log tells it.

Compaction moves a history to the log of another number, and gives its releases new folders; a history that turns out
to have been another begins a new `History` beside the one that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import End, Prefix
from twotower_server.catalog.reader import Reader
from twotower_server.release.apply import apply
from twotower_server.release.snapshot import Snapshot


class History:
    """number: of the log that is read. snapshots: by their folder; all have the changes up to the same place."""

    def __init__(self, catalog: Path, number: int, open_release: Callable[[Path], Snapshot]) -> None:
        self.number = number
        self.snapshots: dict[str, Snapshot] = {}
        self._catalog = catalog
        self._open_release = open_release
        # What was compacted is in the releases' bases; one without gets it when it is opened.
        self._reader = Reader(catalog, number, prefix=False)

    def is_source(self, number: int) -> bool:
        """Whether the log of another number was made from what this one has read, so that it can go on there."""
        prefix = Prefix.load(self._catalog / str(number))
        return prefix.source == self.number and prefix.source_bytes <= self._reader.offset

    def catch_up(self, end: End) -> None:
        """Applies the changes up to an end, if it is one of this log, to every snapshot."""
        if end.number == self.number:
            for changes in self._reader.read(end.size_bytes):
                self.snapshots = {folder: changed(snapshot, changes) for folder, snapshot in self.snapshots.items()}

    def go_on(self, number: int) -> None:
        """Goes on in the log of a number, if that is another one (`is_source`)."""
        if number != self.number:
            self._reader.take_over(number)
            self.number = number

    def open(self, folder: Path, number: int) -> tuple[Snapshot, Reader]:
        """Opens a release with the changes that it lacks. For a thread.

        number: of the log that will count when the release serves.
        """
        snapshot = self._open_release(folder)
        reader = self._reader_for(snapshot.manifest.log_position, number)
        return replayed(snapshot, reader, self._reader.offset), reader

    def add(self, folder: str, opened: tuple[Snapshot, Reader]) -> None:
        """Has a release follow. opened: as `open` gave it; it gets the changes since."""
        snapshot, reader = opened
        self.snapshots[folder] = replayed(snapshot, reader, self._reader.offset)

    def keep(self, folders: Collection[str]) -> bool:
        """Lets go of all other snapshots; whether there were any."""
        gone = [folder for folder in self.snapshots if folder not in folders]
        for folder in gone:
            del self.snapshots[folder]
        return bool(gone)

    def _reader_for(self, position: int, number: int) -> Reader:
        """The changes behind a position, and maybe some before."""
        if number != self.number:
            following = Prefix.load(self._catalog / str(number))
            if following.source == self.number and following.mark.position <= position:
                return Reader.of_source(self._catalog, number)
        return Reader.behind(self._catalog, self.number, position)


def replayed(snapshot: Snapshot, reader: Reader, to_bytes: int) -> Snapshot:
    """The snapshot with the changes up to an end of the log."""
    for changes in reader.read(to_bytes):
        snapshot = changed(snapshot, changes)
    return snapshot


def changed(snapshot: Snapshot, changes: Sequence[Change]) -> Snapshot:
    """The snapshot with those of the changes that its release does not contain."""
    return apply(snapshot, [change for change in changes if change.position > snapshot.manifest.log_position])
