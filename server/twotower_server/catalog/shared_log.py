"""The log that servers share in Redis, and the copy of it on this machine, which is what workers read.

    append → Redis → the copy is brought up to date → acknowledged
    what other servers append → Redis → the copy (`supervisor/sharing.py` waits for it)

Redis has the truth. A copy that turns out to be of another history is made anew, as the log of the next number.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import CHANGES, End, Log, Prefix, load_sequences
from twotower_server.catalog.record import BEGINNING, FORMAT, Mark, encode_changes, encode_record
from twotower_server.catalog.redis_log import Behind, Diverged, Entry, RedisLog
from twotower_server.errors import OutcomeUnknown, StoreRefused, StoreUnavailable

# How long an append waits for a copy that is being made anew.
_PATIENCE_S = 5.0
_PAUSE_S = 0.02
_PIECE_BYTES = 1 << 20


class SharedLog:
    """One process's view of the log in Redis and of its copy. For any number of threads."""

    def __init__(self, copy: Log, redis: RedisLog) -> None:
        self.copy = copy
        self.redis = redis

    def append(self, changes: Sequence[Change], beyond: int = 0) -> int:
        """Appends changes; returns the last one's position. Redis has them then, and every process here sees them.

        beyond: as `Log.append`. Raises NotAppended or OutcomeUnknown, and OSError for no changes.
        """
        if not changes:
            return self.copy.mark.position
        position = self.redis.append(encode_changes(changes), len(changes), beyond, secrets.randbits(64))
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.pull()
            except (Diverged, Behind) as error:
                if time.monotonic() > deadline:
                    raise OutcomeUnknown(f"appended, but the copy on this machine is not up to date: {error}") from None
                time.sleep(_PAUSE_S)
            except (StoreUnavailable, StoreRefused, OSError) as error:
                raise OutcomeUnknown(f"appended, but not read again: {error}") from None
            else:
                return position

    def pull(self) -> None:
        """Brings the copy up to date. Raises Diverged, Behind, StoreUnavailable, StoreRefused, OSError."""
        with self.copy.writing() as writer:
            while entries := self.redis.read(writer.mark):
                for entry in entries:
                    writer.add(_record(entry), entry.mark)

    def download(self, number: int) -> End:
        """Writes the whole log, as Redis has it, as that of a number; where it ends. `Log.take_over` makes it count.

        Raises as `pull`.
        """
        folder = self.copy.folder(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = folder / f"~{CHANGES}"
        snapshot = self.redis.snapshot()
        if snapshot is None:
            path.write_bytes(FORMAT)
            mark = BEGINNING
        else:
            mark, pieces = snapshot
            _unpack(pieces, path)
        with path.open("ab") as file:
            while entries := self.redis.read(mark):
                for entry in entries:
                    file.write(_record(entry))
                    mark = entry.mark
            return End(number, file.tell())

    def publish_snapshot(self, at_least: int) -> None:
        """Lets Redis drop what was compacted here, if its own snapshot is so many changes behind. Raises as `pull`."""
        end, prefix = self.copy.end, self.copy.prefix
        there = self.redis.snapshot()
        if prefix.mark.position - (there[0] if there else BEGINNING).position < at_least:
            return
        size, pieces = _packed(prefix, self.copy.folder(end.number))
        self.redis.publish_snapshot(prefix.mark, size, pieces)


def _packed(prefix: Prefix, folder: Path) -> tuple[int, Iterator[bytes]]:
    """The compacted beginning of a log for others: what is known of it in a line of JSON, then its bytes."""
    about = {"mark": asdict(prefix.mark), "size_bytes": prefix.size_bytes, "sequences": load_sequences(folder)}
    head = json.dumps(about).encode() + b"\n"

    def pieces() -> Iterator[bytes]:
        yield head
        left = prefix.size_bytes
        with (folder / CHANGES).open("rb") as file:
            while piece := file.read(min(left, _PIECE_BYTES)):
                left -= len(piece)
                yield piece

    return len(head) + prefix.size_bytes, pieces()


def _unpack(pieces: Iterator[bytes], path: Path) -> None:
    """Writes what `_packed` gave, and what it says beside it. Raises StoreRefused for something else."""
    head = b""
    for piece in pieces:
        head += piece
        if b"\n" in head:
            break
    line, _, rest = head.partition(b"\n")
    with path.open("wb") as file:
        file.write(rest)
        for piece in pieces:
            file.write(piece)
    try:
        about = json.loads(line)
        prefix, sequences = Prefix(Mark(**about["mark"]), about["size_bytes"]), dict(about["sequences"])
        is_whole = prefix.size_bytes == path.stat().st_size
    except (ValueError, TypeError, KeyError):
        is_whole = False
    if not is_whole:
        raise StoreRefused("the snapshot of changes in Redis is none that this version can read")
    prefix.dump(path.parent, sequences)


def _record(entry: Entry) -> bytes:
    """An entry as the copy has it. Raises StoreRefused for one that somebody else wrote."""
    try:
        found = [Change.from_json(0, values) for values in json.loads(entry.changes)]
    except (ValueError, KeyError, TypeError, AttributeError):
        found = []
    if len(found) != entry.count:
        raise StoreRefused(f"the entry of the log in Redis at position {entry.position} holds no changes")
    return encode_record(entry.changes, entry.mark)
