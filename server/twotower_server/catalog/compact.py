"""Compaction of the log: of every item only the last changes stay, so that the log does not grow for ever.

Positions stay as they are, and so does the last mark. What a later change replaces is left out; a change that some
release could not take replaces nothing (`Change.partial`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from twotower_server.catalog.change import Change
from twotower_server.catalog.log import CHANGES, End, Prefix
from twotower_server.catalog.reader import Reader
from twotower_server.catalog.record import FORMAT, Mark, encode_changes, encode_record, last_mark

# Of one record; a reader has all of them in memory.
_MAX_CHANGES = 512


def compact_log(catalog: Path, end: End, number: int) -> Prefix:
    """Writes the log of another number from the beginning of the current one, up to `end`; see `Log.take_over`.

    In memory are about 200 bytes an item that has changed. Raises LogDamaged and OSError.
    """
    reader = Reader(catalog, end.number)
    kept: dict[str, dict[str, int]] = {}  # by item and by what they replace: positions
    for changes in reader.read(end.size_bytes):
        for change in changes:
            _keep(kept.setdefault(change.item_id, {}), change)
    positions = {position for of_item in kept.values() for position in of_item.values()}
    with (catalog / str(end.number) / CHANGES).open("rb") as source:
        mark = last_mark(source, end.size_bytes)
    folder = catalog / str(number)
    with (folder / f"~{CHANGES}").open("wb") as file:
        file.write(FORMAT)
        run: list[Change] = []
        for changes in Reader(catalog, end.number).read(end.size_bytes):
            for change in changes:
                if change.position in positions:
                    if run and (change.position != run[-1].position + 1 or len(run) == _MAX_CHANGES):
                        file.write(_record(run))
                        run = []
                    run.append(change)
        file.write(_record(run))
        file.write(encode_record(encode_changes(()), mark))
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    prefix = Prefix(mark, size, end.number, end.size_bytes)
    prefix.dump(folder, reader.sequences)
    return prefix


def _keep(of_item: dict[str, int], change: Change) -> None:
    """of_item: positions of what an item is made of; a ready vector counts for its release alone."""
    if change.partial:
        of_item[f"partial {change.position}"] = change.position
    elif change.vector is not None:
        of_item[f"release {change.release}"] = change.position
    else:
        of_item.clear()
        of_item["all"] = change.position


def _record(changes: Sequence[Change]) -> bytes:
    return encode_record(encode_changes(changes), Mark(changes[-1].position, 0)) if changes else b""
