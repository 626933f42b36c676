"""A base: a release with some of the changes, in a folder like that of a release, so that it is opened like one.

Its towers and schema are the release's own; items, vectors and index are made anew. Its manifest says by
`log_position` which changes it contains. It is found by the release that it was made from:

    <catalog>/<number of the log>/<beginning of the SHA-256 of the release's manifest>/<release>/
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twotower_server import durable
from twotower_server.index.base import IndexEntry
from twotower_server.index.exact import EXACT_ITEMS
from twotower_server.index.faiss import build_index, lists_for, open_index, refill_index
from twotower_server.index.recall import Truth
from twotower_server.items.catalog import AttributeSpec, CatalogWriter
from twotower_server.items.live import Segment
from twotower_server.release import format as files
from twotower_server.release.format import Manifest, file_entry
from twotower_server.release.golden import Golden
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import VectorSpool, open_vectors

_CHUNK_ROWS = 65_536
# Lists that lose more than this have to be trained anew.
_LOST_RECALL = 0.03
# So many times as many lists as there are, or as few, and all are made anew.
_MISFIT = 2


def base_folder(catalog: Path, number: int, release: Path) -> Path:
    """Where the base of a release lies for the log of a number. release: its folder, or that of another base of it."""
    if catalog in release.parents:
        digest = release.parent.name
    else:
        digest = str(Manifest.load(release).to_json()["sha256"])[:16]
    return catalog / str(number) / digest / release.name


def write_base(snapshot: Snapshot, source: Path, folder: Path, position: int) -> bool:
    """Writes the snapshot's items as a base. source: folder that it was opened from. position: of the last change.

    Returns False when there are no items at all: the release's own folder and the log say so, too. Raises OSError.
    """
    if not len(snapshot.items):
        return False
    with durable.new_folder(folder) as new:
        for name in files.FILES:
            _link(source / name, new / name)
        manifest = replace(snapshot.manifest, log_position=position)
        if not snapshot.items.is_unchanged:
            manifest = replace(manifest, items=len(snapshot.items))
            for name in (files.ITEMS, files.VECTORS, files.INDEX):
                (new / name).unlink()
            _write_items(snapshot, new)
            manifest = replace(manifest, index=_write_index(manifest, source, new))
            entries = {name: file_entry(new / name) for name in (files.ITEMS, files.VECTORS, files.INDEX)}
            manifest = replace(manifest, files={**manifest.files, **entries})
        manifest.dump(new)
    return True


def _write_items(snapshot: Snapshot, folder: Path) -> None:
    kinds = snapshot.items.catalog.attribute_kinds
    specs = [AttributeSpec(name, kind) for name, kind in kinds.items()]
    with CatalogWriter(folder, specs) as catalog, VectorSpool(folder, snapshot.manifest.dimension) as spool:
        for segment, rows in _live_rows(snapshot):
            taken = pa.array(rows)
            columns = {name: segment.catalog.columns[name].values.take(taken) for name in kinds}
            ids = segment.catalog.item_ids(rows)
            catalog.add(ids, pa.RecordBatch.from_pydict(columns))
            spool.add(segment.vectors[rows])
        spool.finish(folder / files.VECTORS, catalog.finish(folder / files.ITEMS))


def _live_rows(snapshot: Snapshot) -> Iterator[tuple[Segment, NDArray[np.int64]]]:
    """Rows that are not hidden, in pieces of a segment."""
    for segment in snapshot.items.segments:
        rows = segment.live_rows
        for start in range(0, len(rows), _CHUNK_ROWS):
            yield segment, rows[start : start + _CHUNK_ROWS]


def _write_index(manifest: Manifest, source: Path, folder: Path) -> IndexEntry:
    """Refills the index that was trained for the release, unless its lists fit no more."""
    entry, path = manifest.index, folder / files.INDEX
    vectors = open_vectors(folder / files.VECTORS, manifest.items, manifest.dimension)
    users = Golden.load(source / files.GOLDEN).user_vectors
    lists = entry.parameters.get("lists", 0)
    if entry.kind == "exact" and manifest.items <= 2 * EXACT_ITEMS:
        return build_index(vectors, path, kind="exact")
    if lists / _MISFIT <= lists_for(manifest.items) <= lists * _MISFIT:
        refill_index(source / files.INDEX, vectors, path)
        index = open_index(path, vectors, entry, lambda rows: [""] * len(rows))
        if float(Truth.of(vectors, users).recalls(index).mean()) >= (entry.recall or 0.0) - _LOST_RECALL:
            return entry
    return build_index(vectors, path, queries=users, wanted_recall=entry.recall or 0.95)


def _link(source: Path, target: Path) -> None:
    """A second name of a file that never changes; a copy where file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
