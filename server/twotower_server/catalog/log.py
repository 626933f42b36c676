"""The log of changes in a file: durable before acknowledged, whatever ends the process or the machine.

A record is its length, the CRC-32 of its content (8 bytes, little-endian), and the content. Records are numbered from
1 in their order. What counts ends where the page says (`LogEnd`): whoever holds the lock cuts what a killed writer has
left behind that, and only then appends.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from twotower_server.catalog.change import Change

_HEAD = struct.Struct("<II")
_LOCK = "lock"


class LogEnd(Protocol):
    """Where the log ends, shared by the processes of a server.

    log_bytes: of the file that count; written before `log_position`, the number of the last change.
    """

    log_position: int
    log_bytes: int


class Log:
    """One process's view of the log. Methods wait for the disk; they raise OSError."""

    def __init__(self, folder: Path, end: LogEnd) -> None:
        self._path = folder / "log"
        self._lock_path = folder / _LOCK
        self._end = end

    def recover(self) -> None:
        """Finds the end in the file, once, before anybody else looks: everything up to the first torn record counts."""
        self._path.touch()
        position, size_bytes = 0, 0
        for content in _records(self._path, 0):
            position += 1
            size_bytes += _HEAD.size + len(content)
        self._end.log_bytes = size_bytes
        self._end.log_position = position

    def append(self, changes: Sequence[Change]) -> int:
        """Appends changes; returns the last one's position. They are then on the disk, and every process sees them."""
        content = b"".join(_record(change.to_bytes()) for change in changes)
        with self._locked(), self._path.open("r+b") as file:
            start = self._end.log_bytes
            file.truncate(start)
            file.seek(start)
            file.write(content)
            file.flush()
            os.fdatasync(file.fileno())
            self._end.log_bytes = start + len(content)
            self._end.log_position += len(changes)
            return self._end.log_position

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Reader:
    """Reads the log from its beginning, in steps; leaves out changes that an item's sequence makes stale."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log"
        self.position = 0
        self._offset = 0
        self._sequences: dict[str, int] = {}

    def read(self, to_position: int) -> list[Change]:
        """The changes from where the last call ended up to a position that counts."""
        changes = []
        records = _records(self._path, self._offset)
        while self.position < to_position:
            content = next(records)
            self.position += 1
            self._offset += _HEAD.size + len(content)
            change = Change.from_bytes(self.position, content)
            if change.sequence:
                if change.sequence < self._sequences.get(change.item_id, 0):
                    continue
                self._sequences[change.item_id] = change.sequence
            changes.append(change)
        return changes


def _record(content: bytes) -> bytes:
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def _records(path: Path, offset: int) -> Iterator[bytes]:
    """The records from an offset up to the end, or to one that is torn."""
    with path.open("rb") as file:
        file.seek(offset)
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            length, crc = _HEAD.unpack(head)
            content = file.read(length)
            if len(content) < length or zlib.crc32(content) != crc:
                return
            yield content
