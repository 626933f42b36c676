"""A file of changes: a line that names its format, then records, one for each call that changed the catalog.

    length and CRC-32 of what follows   4 bytes each, little-endian
    the changes                         a JSON list
    position of the last change         8 bytes, little-endian
    token                               8 bytes: the same only in copies of this record

Position and token stand last, where the next writer finds them: its `Mark`.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from typing import BinaryIO

from twotower_server.catalog.change import Change
from twotower_server.errors import TwoTowerError

FORMAT = b"twotower changes 2\n"
_HEAD = struct.Struct("<II")
_MARK = struct.Struct("<QQ")


class LogDamaged(TwoTowerError):
    """The file of the log holds something else than changes; the message says where."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the history of a catalog. position: of a record's last change. token: of the record.

    Two logs that have one mark have the same changes up to it.
    """

    position: int
    token: int


BEGINNING = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class Record:
    """changes: empty for a record that only holds a mark. end: of the record in its file, in bytes."""

    changes: Sequence[Change]
    mark: Mark
    end: int


def encode_changes(changes: Sequence[Change]) -> bytes:
    """Changes as records hold them."""
    return json.dumps([change.to_json() for change in changes], ensure_ascii=False, separators=(",", ":")).encode()


def encode_record(changes: bytes, mark: Mark) -> bytes:
    """changes: as `encode_changes` gives them, at positions without gaps up to that of the mark."""
    content = changes + _MARK.pack(mark.position, mark.token)
    return _HEAD.pack(len(content), zlib.crc32(content)) + content


def read_records(file: BinaryIO | FileIO, offset: int, size: int) -> Iterator[Record]:
    """The records from an offset on, up to one that is not whole.

    Raises LogDamaged for a whole record that holds something else.
    """
    file.seek(offset)
    while offset + _HEAD.size <= size:
        length, crc = _HEAD.unpack(file.read(_HEAD.size))
        if not _MARK.size < length <= size - offset - _HEAD.size:
            return
        content = file.read(length)
        if zlib.crc32(content) != crc:
            return
        try:
            listed = json.loads(content[: -_MARK.size])
            mark = Mark(*_MARK.unpack(content[-_MARK.size :]))
            first = mark.position - len(listed) + 1
            changes = [Change.from_json(position, values) for position, values in enumerate(listed, first)]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LogDamaged(f"the record at byte {offset} of {file.name} holds no changes that can be read") from None
        offset += _HEAD.size + length
        yield Record(changes, mark, offset)


def last_mark(file: BinaryIO, end: int) -> Mark:
    """The mark of the record that ends at `end`."""
    if end == len(FORMAT):
        return BEGINNING
    file.seek(end - _MARK.size)
    return Mark(*_MARK.unpack(file.read(_MARK.size)))


def holds_record(file: BinaryIO, offset: int) -> bool:
    """Whether a whole record begins at an offset, or anywhere after it."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start in range(offset, len(data) - _HEAD.size):
            length, crc = _HEAD.unpack_from(data, start)
            end = start + _HEAD.size + length
            if length > _MARK.size and end <= len(data) and zlib.crc32(data[start + _HEAD.size : end]) == crc:
                return True
    return False
