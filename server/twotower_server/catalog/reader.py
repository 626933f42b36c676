"""Reading the log: changes in their order, in steps, without those that an item's sequence makes stale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from weakref import finalize

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import CHANGES, Prefix, load_sequences
from twotower_server.catalog.record import FORMAT, LogDamaged, Record, read_records

# Changes that are given at once, which bounds the memory.
_BATCH = 1024


class Reader:
    """Reads the log in the folder of one number. Its file stays open, to be read to the end when its name is gone.

    offset: up to which everything was given, in bytes. sequences: the greatest of every item that has one, up to there.
    """

    def __init__(self, catalog: Path, number: int, *, prefix: bool = True) -> None:
        """prefix: begin with it; else with what follows. Raises FileNotFoundError when there is no such log."""
        compacted = Prefix.load(catalog / str(number))
        self._catalog = catalog
        self._open(number)
        self.offset = len(FORMAT) if prefix else compacted.size_bytes
        self.sequences = load_sequences(catalog / str(number))
        self._compacted_bytes = compacted.size_bytes  # up to here nothing is stale

    @classmethod
    def of_source(cls, catalog: Path, number: int) -> Reader:
        """Begins where the log of this number was made from another, and reads that one."""
        compacted = Prefix.load(catalog / str(number))
        reader = cls(catalog, compacted.source)
        reader.offset = reader._compacted_bytes = compacted.source_bytes
        reader.sequences = load_sequences(catalog / str(number))
        return reader

    @classmethod
    def behind(cls, catalog: Path, number: int, position: int) -> Reader:
        """Reads the changes behind a position, and maybe some before."""
        prefix = Prefix.load(catalog / str(number))
        return cls(catalog, number, prefix=position < prefix.mark.position)

    def read(self, to_bytes: int) -> Iterator[list[Change]]:
        """The changes from the offset on, up to an end of the log that counts, in lists of about a thousand.

        The offset moves on when the next list is asked for: what the caller could not use is given again. Raises
        LogDamaged or OSError.
        """
        if to_bytes <= self.offset:
            return
        batch: list[Change] = []
        sequences: dict[str, int] = {}
        end = self.offset
        for record in read_records(self._file, self.offset, to_bytes):
            batch += self._fresh(record, sequences)
            end = record.end
            if len(batch) >= _BATCH:
                yield batch
                self._moved(end, sequences)
                batch, sequences = [], {}
        yield batch
        self._moved(end, sequences)
        if self.offset < to_bytes:
            raise LogDamaged(f"{self._file.name} cannot be read from byte {self.offset} on")

    def take_over(self, number: int) -> None:
        """Goes on in the log of another number, which was made from this one when less of it was there."""
        compacted = Prefix.load(self._catalog / str(number))
        self._open(number)
        self.offset += compacted.size_bytes - compacted.source_bytes
        self._compacted_bytes = compacted.size_bytes

    def _moved(self, offset: int, sequences: Mapping[str, int]) -> None:
        self.offset = offset
        self.sequences.update(sequences)

    def _fresh(self, record: Record, sequences: dict[str, int]) -> Iterator[Change]:
        """The changes of a record that are not stale. sequences: of this batch; they count before those known."""
        for change in record.changes:
            if change.sequence and record.end > self._compacted_bytes:
                if change.sequence < max(self.sequences.get(change.item_id, 0), sequences.get(change.item_id, 0)):
                    continue
                sequences[change.item_id] = change.sequence
            yield change

    def _open(self, number: int) -> None:
        self._file = _file(self._catalog / str(number))
        finalize(self, self._file.close)


def _file(folder: Path) -> FileIO:
    """The file of a log, also of one that does not count yet."""
    for name in (CHANGES, f"~{CHANGES}"):
        with suppress(FileNotFoundError):
            return _unbuffered(folder / name)
    return _unbuffered(folder / CHANGES)  # it was renamed just now


def _unbuffered(path: Path) -> FileIO:
    # A buffer could hold what a killed writer had left behind the end, which is overwritten.
    return path.open("rb", buffering=0)
