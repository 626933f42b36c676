"""Verification: does a release agree with itself? Run once a machine, before the first open.

Reads everything; `stamp` then lets workers open the same files without reading them again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.index.similarity import exact_top
from twotower_server.items.ids import item_keys
from twotower_server.release import format as files
from twotower_server.release.calibration import scores
from twotower_server.release.format import Manifest, file_entry
from twotower_server.release.golden import TOLERANCE, Golden
from twotower_server.release.snapshot import Snapshot

_CHUNK_ROWS = 65_536
_RECALL_K = 100
_RECALL_QUERIES = 32
# Measured recall of a few dozen queries scatters around the recorded one.
_RECALL_SLACK = 0.05
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified, and how long it took."""

    name: str
    seconds: float


@dataclass(slots=True)
class Report:
    """What was verified of a release, in order."""

    manifest: Manifest
    checks: list[Check] = field(default_factory=list)


def verify_release(folder: Path, on_check: Callable[[Check], None] = lambda check: None) -> Report:
    """Verifies a release folder; `on_check` hears of every check that passed.

    Raises ReleaseRefused with the reason at the first thing that does not agree.
    """
    manifest = Manifest.load(folder)
    if manifest.release != folder.name:
        raise ReleaseRefused(f"{files.MANIFEST} is of release {manifest.release}, the folder is named {folder.name}")
    report = Report(manifest)

    @contextmanager
    def check(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        report.checks.append(Check(name, time.perf_counter() - start))
        on_check(report.checks[-1])

    with check("checksums"):
        _checksums(folder, manifest)
    with check("schema, graphs and dimensions"):
        snapshot = Snapshot.open(folder)
    with check("item ids and keys"):
        _item_keys(snapshot)
    with check("vectors finite" + (" and of unit length" if manifest.similarity == "cosine" else "")):
        _vectors(snapshot)
    golden = Golden.load(folder / files.GOLDEN)
    with check("golden users and items"):
        _golden(snapshot, golden)
    with check("index recall"):
        _recall(snapshot, golden.user_vectors[:_RECALL_QUERIES])
    return report


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


def _item_keys(snapshot: Snapshot) -> None:
    keys = snapshot.catalog.keys
    if not (keys[1:] > keys[:-1]).all():
        raise ReleaseRefused(f"{files.ITEMS}: item_key is not strictly ascending")
    for start in range(0, len(keys), _CHUNK_ROWS):
        rows = np.arange(start, min(start + _CHUNK_ROWS, len(keys)))
        wrong = np.flatnonzero(item_keys(snapshot.catalog.item_ids(rows)) != keys[rows])
        if wrong.size:
            raise ReleaseRefused(f"{files.ITEMS}: row {rows[wrong[0]]} has an item_key that is not of its item_id")


def _vectors(snapshot: Snapshot) -> None:
    cosine = snapshot.manifest.similarity == "cosine"
    for start in range(0, len(snapshot.vectors), _CHUNK_ROWS):
        chunk = snapshot.vectors[start : start + _CHUNK_ROWS]
        squares = np.einsum("ij,ij->i", chunk, chunk)
        # A square sum is finite only when every value is, unless values near float32's end overflow it.
        bad = np.flatnonzero(~np.isfinite(squares))
        if bad.size:
            raise ReleaseRefused(f"{files.VECTORS}: row {start + bad[0]} is not finite, or too long to be compared")
        if cosine:
            off = np.flatnonzero((np.abs(squares - 1.0) > _UNIT_TOLERANCE) & (squares != 0.0))
            if off.size:
                raise ReleaseRefused(f"{files.VECTORS}: row {start + off[0]} is not of unit length")


def _golden(snapshot: Snapshot, golden: Golden) -> None:
    users = snapshot.embed_users(snapshot.user_encoder.encode(golden.users))
    _same(users, golden.user_vectors, "the user tower gives other vectors for the golden users")
    items = snapshot.embed_items(snapshot.item_encoder.encode(golden.items))
    _same(items, golden.item_vectors, "the item tower gives other vectors for the golden items")
    rows = snapshot.keys.rows(item_keys(golden.item_ids))
    if (rows < 0).any():
        raise ReleaseRefused(f"{files.ITEMS} lacks the golden item {golden.item_ids[int(np.argmin(rows))]!r}")
    _same(snapshot.vectors[rows], items, f"{files.VECTORS} holds other vectors than the item tower gives")
    _same(
        scores(users @ items.T, snapshot.manifest.calibration),
        golden.scores,
        "the calibration gives other scores",
    )


def _same(found: NDArray[np.float32], wanted: NDArray[np.float32], otherwise: str) -> None:
    if found.shape != wanted.shape:
        raise ReleaseRefused(f"{otherwise}: shape {found.shape}, recorded {wanted.shape}")
    difference = float(np.max(np.abs(found - wanted)))
    if not difference <= TOLERANCE * max(1.0, float(np.max(np.abs(wanted)))):
        raise ReleaseRefused(f"{otherwise}: they differ by up to {difference:.3g}")


def _recall(snapshot: Snapshot, queries: NDArray[np.float32]) -> None:
    recorded = snapshot.manifest.index.recall
    k = min(_RECALL_K, len(snapshot.catalog))
    hits = 0
    for query in queries:
        exact = exact_top(snapshot.vectors, query, k)
        hits += len(np.intersect1d(exact, snapshot.index.search(query, k)[0]))
    recall = hits / (k * len(queries))
    if recorded is not None and recall < recorded - _RECALL_SLACK:
        raise ReleaseRefused(f"{files.INDEX} finds {recall:.3f} of the best {k}, recorded are {recorded:.3f}")
