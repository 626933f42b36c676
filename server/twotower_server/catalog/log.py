"""The log of changes on this machine: durable before acknowledged, whatever ends the process or the machine.

It lies in a folder with a number. Compaction, or a history that turns out to be another, makes a folder with the next:

    <catalog>/<number>/changes        the log; once it has this name, lower numbers count no more
    <catalog>/<number>/prefix.json    what the compacted beginning of that file is (`Prefix`)
    <catalog>/<number>/sequences.json the greatest sequence of every item that had one there
    <catalog>/<number>/<hash>/...     releases with the changes of that beginning (`release/base.py`)
    <catalog>/lock                    held by whoever writes

What counts of the file ends where the page says (`LogEnd`). Whoever holds the lock cuts what a killed writer has left
behind that, and only then appends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from twotower_server import durable
from twotower_server.catalog.change import Change
from twotower_server.catalog.record import (
    BEGINNING,
    FORMAT,
    LogDamaged,
    Mark,
    encode_changes,
    encode_record,
    holds_record,
    last_mark,
    read_records,
)
from twotower_server.errors import TwoTowerError

log = logging.getLogger(__name__)

CHANGES = "changes"
PREFIX = "prefix.json"
_SEQUENCES = "sequences.json"
_LOCK = "lock"
# Of the one word that says where the log ends: these bits are the size, those above the number.
_SIZE_BITS = 48


@dataclass(frozen=True, slots=True)
class End:
    """Where a log ends: in the folder of which number, and after how many bytes of its file."""

    number: int
    size_bytes: int

    @property
    def word(self) -> int:
        return self.number << _SIZE_BITS | self.size_bytes

    @classmethod
    def of(cls, word: int) -> Self:
        return cls(word >> _SIZE_BITS, word & (1 << _SIZE_BITS) - 1)


class LogEnd(Protocol):
    """Where the log ends (`End.word`), shared by the processes of a server.

    One word, so that a writer that is killed has published all of it or nothing.
    """

    log_end: int


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a log that holds of every item only the last changes.

    mark:       up to which. size_bytes: of it in its file.
    source:     the number of the log that it was made from; 0 = it came from elsewhere. source_bytes: of that one.
    """

    mark: Mark = BEGINNING
    size_bytes: int = len(FORMAT)
    source: int = 0
    source_bytes: int = 0

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Of the log in a folder. Raises LogDamaged."""
        values = _read(folder / PREFIX)
        if values is None:
            return cls()
        try:
            return cls(**{**values, "mark": Mark(**values["mark"])})
        except (TypeError, KeyError):
            raise _damaged(folder / PREFIX) from None

    def dump(self, folder: Path, sequences: Mapping[str, int]) -> None:
        """Writes it beside the log, durably. sequences: the greatest of every item that had one."""
        durable.write_text(folder / _SEQUENCES, json.dumps(sequences))
        durable.write_text(folder / PREFIX, json.dumps(asdict(self)))


def load_sequences(folder: Path) -> dict[str, int]:
    """The greatest sequence of every item that had one in the compacted beginning of a log. Raises LogDamaged."""
    return _read(folder / _SEQUENCES) or {}


def _read(path: Path) -> dict[str, Any] | None:
    """What `Prefix.dump` wrote; None when there is no such file."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(values, dict):
        raise _damaged(path)
    return values


def _damaged(path: Path) -> LogDamaged:
    return LogDamaged(f"{path} is damaged; put back a copy of it")


class Log:
    """One process's view of the log. Methods wait for the disk."""

    def __init__(self, catalog: Path, end: LogEnd) -> None:
        self.catalog = catalog
        self._end = end

    @property
    def end(self) -> End:
        return End.of(self._end.log_end)

    @property
    def prefix(self) -> Prefix:
        """Of the log that counts. Raises LogDamaged."""
        return Prefix.load(self.folder(self.end.number))

    @property
    def mark(self) -> Mark:
        """Of the last record. Raises OSError."""
        end = self.end
        with (self.folder(end.number) / CHANGES).open("rb") as file:
            return last_mark(file, end.size_bytes)

    def folder(self, number: int) -> Path:
        return self.catalog / str(number)

    def recover(self) -> None:
        """Finds the end in the files, once, before anybody else looks.

        What was not written to its end was never acknowledged, and does not count. Raises LogDamaged when changes
        that were acknowledged cannot be read, TwoTowerError when the files cannot be used at all.
        """
        try:
            numbers = [int(path.parent.name) for path in self.catalog.glob(f"[0-9]*/{CHANGES}")]
            number = max(numbers, default=1)
            self.remove_others(number)
            self._end.log_end = End(number, self._recovered(self.folder(number))).word
        except OSError as error:
            raise TwoTowerError(f"the log of item changes in {self.catalog} cannot be used: {error.strerror}") from None

    def append(self, changes: Sequence[Change], beyond: int = 0) -> int:
        """Appends changes; returns the last one's position. They are then on the disk, and every process sees them.

        beyond: their positions are greater than this, too. Raises OSError; then nothing was appended.
        """
        with self.writing() as writer:
            last = writer.mark.position
            if not changes:
                return last
            mark = Mark(max(last, beyond) + len(changes), secrets.randbits(64))
            writer.add(encode_record(encode_changes(changes), mark), mark)
            return mark.position

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Keeps everybody else from writing. Raises OSError."""
        with self.locked():
            end = self.end
            if (self.folder(end.number + 1) / CHANGES).exists():
                # Whoever took that over was killed before it said so; a server that starts now begins there.
                raise OSError(f"{self.catalog}: the log {end.number} counts no more")
            with (self.folder(end.number) / CHANGES).open("r+b") as file:
                if file.seek(0, os.SEEK_END) < end.size_bytes:
                    raise OSError(f"{file.name} was cut by somebody else")
                yield Writer(file, end, self._end)

    @contextmanager
    def locked(self) -> Iterator[None]:
        with (self.catalog / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def take_over(self, number: int) -> None:
        """Makes the log of the next number the one that counts. The lock is held; its file is called `~changes`.

        Of a log that was made from the current one, what was appended since comes first. Raises OSError; then the
        current one goes on.
        """
        folder, end = self.folder(number), self.end
        prefix = Prefix.load(folder)
        with (folder / f"~{CHANGES}").open("r+b") as file:
            if prefix.source == end.number:
                file.truncate(prefix.size_bytes)  # what an attempt before has left
                file.seek(prefix.size_bytes)
                with (self.folder(end.number) / CHANGES).open("rb") as source:
                    source.seek(prefix.source_bytes)
                    file.write(source.read(end.size_bytes - prefix.source_bytes))
            file.flush()
            size = file.seek(0, os.SEEK_END)
            os.fsync(file.fileno())
        try:
            os.rename(folder / f"~{CHANGES}", folder / CHANGES)
            durable.fsync(folder)
            durable.fsync(self.catalog)
        except OSError:
            (folder / CHANGES).unlink(missing_ok=True)
            raise
        self._end.log_end = End(number, size).word

    def remove_others(self, number: int) -> None:
        """Removes the folders of all numbers but one."""
        for folder in self.catalog.glob("[0-9]*"):
            if folder.name != str(number):
                shutil.rmtree(folder, ignore_errors=True)

    def _recovered(self, folder: Path) -> int:
        folder.mkdir(exist_ok=True)
        path = folder / CHANGES
        path.touch()
        with path.open("r+b") as file:
            begin = file.read(len(FORMAT))
            if not FORMAT.startswith(begin):
                raise LogDamaged(f"{path} is no log of item changes that this version can read")
            if begin != FORMAT:  # it is new, or whoever began it was killed
                _begin(file)
                durable.fsync(folder)
                durable.fsync(self.catalog)
            size = file.seek(0, os.SEEK_END)
            end = max((record.end for record in read_records(file, len(FORMAT), size)), default=len(FORMAT))
            if end < Prefix.load(folder).size_bytes or (end < size and holds_record(file, end + 1)):
                raise LogDamaged(
                    f"{path} is damaged at byte {end}, and holds changes behind that; put back a copy of it, or "
                    "move its folder away to serve the releases without any of its changes"
                )
        if end < size:
            log.warning("the log's last %d bytes were never written to their end and do not count", size - end)
        return end


class Writer:
    """Appends records to the log, while the lock is held."""

    def __init__(self, file: BinaryIO, end: End, shared: LogEnd) -> None:
        self._file = file
        self._end = end
        self._shared = shared
        self.mark = last_mark(file, end.size_bytes)

    def add(self, record: bytes, mark: Mark) -> None:
        """Appends a record; when this returns it is on the disk, and every process sees it. Raises OSError."""
        start = self._end.size_bytes
        self._file.truncate(start)
        self._file.seek(start)
        self._file.write(record)
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._end = End(self._end.number, start + len(record))
        self.mark = mark
        self._shared.log_end = self._end.word


def _begin(file: BinaryIO) -> None:
    file.seek(0)
    file.write(FORMAT)
    file.flush()
    os.fsync(file.fileno())
