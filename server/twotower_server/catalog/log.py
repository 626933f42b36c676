"""The log of changes in a file: durable before acknowledged, whatever ends the process or the machine.

The file begins with a line that names its format. Then come records, one an append:

    length and CRC-32 of what follows   4 bytes each, little-endian
    the changes                         a JSON list
    position of the last change         8 bytes, little-endian: stands last, where the next writer finds it

What counts ends where the page says (`LogEnd`). Whoever holds the lock cuts what a killed writer has left behind that,
and only then appends.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from twotower_server.catalog.change import Change
from twotower_server.errors import TwoTowerError

log = logging.getLogger(__name__)

_FORMAT = b"twotower changes 1\n"
_HEAD = struct.Struct("<II")
_POSITION = struct.Struct("<Q")
_LOG = "log"
_LOCK = "lock"


class LogDamaged(TwoTowerError):
    """The file of the log holds something else than changes; the message says where."""


class LogEnd(Protocol):
    """Where the log ends, shared by the processes of a server.

    log_bytes: of the file that count. One word, so that a writer that is killed has published all of it or nothing.
    """

    log_bytes: int


class Log:
    """One process's view of the log. Methods wait for the disk."""

    def __init__(self, folder: Path, end: LogEnd) -> None:
        self._folder = folder
        self._path = folder / _LOG
        self._end = end

    def recover(self) -> None:
        """Finds the end in the file, once, before anybody else looks.

        What was not written to its end was never acknowledged, and does not count. Raises LogDamaged when changes
        that were acknowledged cannot be read, TwoTowerError when the file cannot be used at all.
        """
        try:
            self._end.log_bytes = self._recovered()
        except OSError as error:
            raise TwoTowerError(f"the log of item changes in {self._folder} cannot be used: {error.strerror}") from None

    def append(self, changes: Sequence[Change], beyond: int = 0) -> int:
        """Appends changes; returns the last one's position. They are then on the disk, and every process sees them.

        beyond: their positions are greater than this, too. Raises OSError; then nothing was appended.
        """
        with self._locked(), self._path.open("r+b") as file:
            start = self._end.log_bytes
            if file.seek(0, os.SEEK_END) < start:
                raise OSError(f"{self._path} was cut by somebody else")
            last = _last_position(file, start)
            if not changes:
                return last
            position = max(last, beyond) + len(changes)
            record = _record(changes, position)
            file.truncate(start)
            file.seek(start)
            file.write(record)
            file.flush()
            os.fdatasync(file.fileno())
            self._end.log_bytes = start + len(record)
            return position

    def _recovered(self) -> int:
        self._path.touch()
        with self._path.open("r+b") as file:
            begin = file.read(len(_FORMAT))
            if not _FORMAT.startswith(begin):
                raise LogDamaged(f"{self._path} is no log of item changes that this version can read")
            if begin != _FORMAT:  # it is new, or whoever began it was killed
                self._begin(file)
            size = file.seek(0, os.SEEK_END)
            end = max((end for _, end in _records(file, len(_FORMAT), size)), default=len(_FORMAT))
            if end < size and _holds_record(file, end + 1):
                raise LogDamaged(
                    f"{self._path} is damaged at byte {end}, and holds changes behind that; put back a copy of it, or "
                    "move it away to serve the releases without any of its changes"
                )
        if end < size:
            log.warning("the log's last %d bytes were never written to their end and do not count", size - end)
        return end

    def _begin(self, file: BinaryIO) -> None:
        file.seek(0)
        file.write(_FORMAT)
        file.flush()
        os.fsync(file.fileno())
        folder = os.open(self._folder, os.O_RDONLY)  # or the machine could lose the file's name
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Reader:
    """Reads the log from its beginning, in steps; leaves out changes that an item's sequence makes stale."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOG
        self._offset = len(_FORMAT)
        self._sequences: dict[str, int] = {}

    def read(self, to_bytes: int) -> Iterator[list[Change]]:
        """The changes from where the last call ended up to an end of the log that counts, a list a record.

        Raises LogDamaged or OSError; what was not yet given comes again by the next call.
        """
        if to_bytes <= self._offset:
            return
        with self._path.open("rb") as file:
            for changes, end in _records(file, self._offset, to_bytes):
                self._offset = end
                yield [change for change in changes if not self._is_stale(change)]
        if self._offset < to_bytes:
            raise LogDamaged(f"{self._path} cannot be read from byte {self._offset} on")

    def _is_stale(self, change: Change) -> bool:
        if not change.sequence:
            return False
        if change.sequence < self._sequences.get(change.item_id, 0):
            return True
        self._sequences[change.item_id] = change.sequence
        return False


def _record(changes: Sequence[Change], position: int) -> bytes:
    listed = json.dumps([change.to_json() for change in changes], ensure_ascii=False, separators=(",", ":"))
    content = listed.encode() + _POSITION.pack(position)
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _records(file: BinaryIO, offset: int, size: int) -> Iterator[tuple[list[Change], int]]:
    """The changes of each record from an offset on and where it ends, up to one that is not whole.

    Raises LogDamaged for a whole record that holds something else.
    """
    file.seek(offset)
    while offset + _HEAD.size <= size:
        length, crc = _HEAD.unpack(file.read(_HEAD.size))
        if not _POSITION.size < length <= size - offset - _HEAD.size:
            return
        content = file.read(length)
        if zlib.crc32(content) != crc:
            return
        try:
            listed = json.loads(content[: -_POSITION.size])
            first = _POSITION.unpack(content[-_POSITION.size :])[0] - len(listed) + 1
            changes = [Change.from_json(position, values) for position, values in enumerate(listed, first)]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LogDamaged(f"the record at byte {offset} of {file.name} holds no changes that can be read") from None
        offset += _HEAD.size + length
        yield changes, offset


def _last_position(file: BinaryIO, end: int) -> int:
    if end == len(_FORMAT):
        return 0
    file.seek(end - _POSITION.size)
    position: int = _POSITION.unpack(file.read(_POSITION.size))[0]
    return position


def _holds_record(file: BinaryIO, offset: int) -> bool:
    """Whether a whole record begins at an offset, or anywhere after it."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start in range(offset, len(data) - _HEAD.size):
            length, crc = _HEAD.unpack_from(data, start)
            end = start + _HEAD.size + length
            if length > _POSITION.size and end <= len(data) and zlib.crc32(data[start + _HEAD.size : end]) == crc:
                return True
    return False
