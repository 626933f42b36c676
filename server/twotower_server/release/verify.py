"""Verification: does a release agree with itself? Run once a machine, before the first open.

Reads everything; `stamp` then lets workers open the same files without reading them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.index.recall import Truth
from twotower_server.items.catalog import Catalog
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


_STORED_SAMPLE = 900
# What Redis holds of rows of a catalog, at most a thousand.
ReadStored = Callable[[Manifest, Catalog, NDArray[np.int64]], Sequence[bytes | None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, and how long it took."""

    name: str
    seconds: float


def verify_release(
    folder: Path,
    on_check: Callable[[Check], None] = lambda check: None,
    *,
    golden_items: bool = True,
    read_stored: ReadStored | None = None,
) -> None:
    """Verifies a release folder; `on_check` hears of every check that passed.

    golden_items: whether these are still as the release was built. read_stored: reads vectors that stay in Redis, of
    which a sample is verified; None = the folder must have them.
    Raises ReleaseRefused with the reason at the first thing that does not agree, MemoryError, and what `read_stored`
    raises.
    """
    is_stored = read_stored is not None and files.VECTORS in files.lacking(folder)

    @contextmanager
    def check(name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except (TwoTowerError, MemoryError):
            raise
        except Exception as error:  # what a reader of files says of damage that no check names
            raise ReleaseRefused(f"{name} cannot be verified: {type(error).__name__}: {error}") from error
        on_check(Check(name, time.perf_counter() - start))

    with check("manifest"):
        manifest = _manifest(folder)
    with check("checksums"):
        _checksums(folder, manifest, without=[files.VECTORS] if is_stored else [])
    with check("schema, graphs and dimensions"):
        snapshot = Snapshot.open(folder, stored=is_stored)
    with check("catalog"):
        snapshot.catalog.verify()
    with check("vectors"):
        _vectors(snapshot)
    with check("golden samples"):
        golden = Golden.load(folder / files.GOLDEN)
        _golden(snapshot, golden)
    if is_stored and read_stored is not None:
        with check("sample of vectors in Redis"):
            _stored(snapshot, golden, read_stored)
        return
    if golden_items:
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


def _checksums(folder: Path, manifest: Manifest, without: Sequence[str]) -> None:
    for name, entry in manifest.files.items():
        if name in without:
            continue
        try:
            found = file_entry(folder / name)
        except FileNotFoundError:
            raise ReleaseRefused(f"{name} is missing") from None
        if found.size_bytes != entry.size_bytes:
            raise ReleaseRefused(f"{name} has {found.size_bytes} bytes, {files.MANIFEST} says {entry.size_bytes}")
        if found.sha256 != entry.sha256:
            raise ReleaseRefused(f"{name} has changed: its SHA-256 is not the one in {files.MANIFEST}")


def _vectors(snapshot: Snapshot) -> None:
    for start in range(0, len(snapshot.vectors), _CHUNK_ROWS):
        _check_sound(snapshot, snapshot.vectors[start : start + _CHUNK_ROWS], f"{files.VECTORS}: row", start)


def _check_sound(snapshot: Snapshot, vectors: NDArray[np.float32], where: str, start: int = 0) -> None:
    """Refuses vectors, float32 [n, dimension], that no release keeps. start: the number of the first."""
    bad = unusable_rows(vectors)
    if bad.size:
        raise ReleaseRefused(f"{where} {start + bad[0]} is not finite, or too long to be compared")
    if snapshot.manifest.similarity == "cosine":
        squares = np.einsum("ij,ij->i", vectors, vectors)
        off = np.flatnonzero((np.abs(squares - 1.0) > _UNIT_TOLERANCE) & (squares != 0.0))
        if off.size:
            raise ReleaseRefused(f"{where} {start + off[0]} is not of unit length")


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
    rows = _golden_rows(snapshot, golden)
    _same(snapshot.vectors[rows], golden.item_vectors, f"{files.VECTORS} holds other vectors than the item tower gives")


def _golden_rows(snapshot: Snapshot, golden: Golden) -> NDArray[np.int64]:
    rows = snapshot.keys.rows(item_keys(golden.item_ids))
    if (rows < 0).any():
        raise ReleaseRefused(f"{files.ITEMS} lacks the golden item {golden.item_ids[int(np.argmin(rows))]!r}")
    return rows


def _stored(snapshot: Snapshot, golden: Golden, read_stored: ReadStored) -> None:
    """The golden items, and others by chance, as Redis has them."""
    manifest = snapshot.manifest
    chance = np.random.default_rng().integers(manifest.items, size=_STORED_SAMPLE)
    rows = np.concatenate([_golden_rows(snapshot, golden), chance])
    values = read_stored(manifest, snapshot.catalog, rows)
    sound = [value for value in values if value is not None and len(value) == manifest.dimension * 4]
    if len(sound) < len(rows):
        raise ReleaseRefused(
            f"of a sample of {len(rows)} vectors Redis lacks {len(rows) - len(sound)}, or they are of another size; "
            f"write them again: twotower items push {manifest.release}"
        )
    vectors = np.frombuffer(b"".join(sound), "<f4").reshape(-1, manifest.dimension)
    _check_sound(snapshot, vectors, "Redis: of a sample, vector")
    golden_vectors = vectors[: len(golden.item_ids)]
    _same(golden_vectors, golden.item_vectors, "Redis holds other vectors than the item tower gives")


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
