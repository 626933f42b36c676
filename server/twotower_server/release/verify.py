"""Verification: does a release agree with itself? Run once a machine, before the first open.

Reads everything; `stamp` then lets workers open the same files without reading them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.index.recall import Truth
from twotower_server.items.ids import item_keys
from twotower_server.release import format as files
from twotower_server.release.calibration import scores
from twotower_server.release.format import Manifest, file_entry
from twotower_server.release.golden import TOLERANCE, Golden
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.vectors import unusable_rows

_CHUNK_ROWS = 65_536
_RECALL_QUERIES = 32
# Measured recall of a few dozen queries scatters around the recorded one.
_RECALL_SLACK = 0.05
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, and how long it took."""

    name: str
    seconds: float


def verify_release(folder: Path, on_check: Callable[[Check], None] = lambda check: None) -> None:
    """Verifies a release folder; `on_check` hears of every check that passed.

    Raises ReleaseRefused with the reason at the first thing that does not agree, and MemoryError.
    """

    @contextmanager
    def check(name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except (ReleaseRefused, MemoryError):
            raise
        except Exception as error:  # what a reader of files says of damage that no check names
            raise ReleaseRefused(f"{name} cannot be verified: {type(error).__name__}: {error}") from error
        on_check(Check(name, time.perf_counter() - start))

    with check("manifest"):
        manifest = _manifest(folder)
    with check("checksums"):
        _checksums(folder, manifest)
    with check("schema, graphs and dimensions"):
        snapshot = Snapshot.open(folder)
    with check("catalog"):
        snapshot.catalog.verify()
    with check("vectors"):
        _vectors(snapshot)
    with check("golden samples"):
        golden = Golden.load(folder / files.GOLDEN)
        _golden(snapshot, golden)
    with check("sample of items recomputed"):
        _sample(snapshot, golden)
    with check("index recall"):
        _recall(snapshot, golden.user_vectors[:_RECALL_QUERIES])


def _manifest(folder: Path) -> Manifest:
    for name in (files.MANIFEST, *files.FILES):
        if (folder / name).is_symlink():
            raise ReleaseRefused(f"{name} is a symbolic link; a release holds its files itself")
    manifest = Manifest.load(folder)
    if manifest.release != folder.name:
        raise ReleaseRefused(f"{files.MANIFEST} is of release {manifest.release}, the folder is named {folder.name}")
    return manifest


def _checksums(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        try:
            found = file_entry(folder / name)
        except FileNotFoundError:
            raise ReleaseRefused(f"{name} is missing") from None
        if found.size_bytes != entry.size_bytes:
            raise ReleaseRefused(f"{name} has {found.size_bytes} bytes, {files.MANIFEST} says {entry.size_bytes}")
        if found.sha256 != entry.sha256:
            raise ReleaseRefused(f"{name} has changed: its SHA-256 is not the one in {files.MANIFEST}")


def _vectors(snapshot: Snapshot) -> None:
    cosine = snapshot.manifest.similarity == "cosine"
    for start in range(0, len(snapshot.vectors), _CHUNK_ROWS):
        chunk = snapshot.vectors[start : start + _CHUNK_ROWS]
        bad = unusable_rows(chunk)
        if bad.size:
            raise ReleaseRefused(f"{files.VECTORS}: row {start + bad[0]} is not finite, or too long to be compared")
        if cosine:
            squares = np.einsum("ij,ij->i", chunk, chunk)
            off = np.flatnonzero((np.abs(squares - 1.0) > _UNIT_TOLERANCE) & (squares != 0.0))
            if off.size:
                raise ReleaseRefused(f"{files.VECTORS}: row {start + off[0]} is not of unit length")


def _golden(snapshot: Snapshot, golden: Golden) -> None:
    users = snapshot.embed_users(snapshot.user_encoder.encode(golden.users))
    _same(users, golden.user_vectors, f"{files.USER_TOWER} gives other vectors for the golden users")
    items = snapshot.embed_items(snapshot.item_encoder.encode(golden.items))
    _same(items, golden.item_vectors, f"{files.ITEM_TOWER} gives other vectors for the golden items")
    _same(
        scores(users @ items.T, snapshot.manifest.calibration),
        golden.scores,
        "the calibration gives other scores for the golden samples",
    )


def _sample(snapshot: Snapshot, golden: Golden) -> None:
    """Golden items are spread over the catalog, and `_golden` has recomputed them."""
    rows = snapshot.keys.rows(item_keys(golden.item_ids))
    if (rows < 0).any():
        raise ReleaseRefused(f"{files.ITEMS} lacks the golden item {golden.item_ids[int(np.argmin(rows))]!r}")
    _same(snapshot.vectors[rows], golden.item_vectors, f"{files.VECTORS} holds other vectors than the item tower gives")


def _same(found: NDArray[np.float32], wanted: NDArray[np.float32], otherwise: str) -> None:
    if found.shape != wanted.shape:
        raise ReleaseRefused(f"{otherwise}: shape {found.shape}, recorded {wanted.shape}")
    difference = float(np.max(np.abs(found - wanted)))
    if not difference <= TOLERANCE * max(1.0, float(np.max(np.abs(wanted)))):
        raise ReleaseRefused(f"{otherwise}: they differ by up to {difference:.3g}")


def _recall(snapshot: Snapshot, queries: NDArray[np.float32]) -> None:
    recorded = snapshot.manifest.index.recall or 0.0
    recall = float(Truth.of(snapshot.vectors, queries).recalls(snapshot.index).mean())
    if recall < recorded - _RECALL_SLACK:
        raise ReleaseRefused(f"{files.INDEX} has recall {recall:.3f}, recorded is {recorded:.3f}")
