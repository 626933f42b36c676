"""The large files of a release, made anew: vectors loaded from Redis, an index built from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower_server.config import Config
from twotower_server.errors import ReleaseRefused
from twotower_server.index.faiss import build_index
from twotower_server.items.catalog import Catalog
from twotower_server.items.redis import RedisKeys, RedisStore
from twotower_server.items.stored import StoredItems
from twotower_server.release.format import GOLDEN, INDEX, ITEMS, VECTORS, Manifest, file_entry, lacking
from twotower_server.release.golden import Golden
from twotower_server.release.progress import Progress
from twotower_server.release.vectors import VectorSpool, open_vectors


def complete(manifest: Manifest, folder: Path, config: Config, progress: Progress) -> None:
    """Writes what a release's folder lacks: the vectors of its build, bit for bit; an index, and release.json anew.

    Raises ReleaseRefused, StoreUnavailable, StoreRefused, ConfigError and OSError.
    """
    lacks = lacking(folder)
    if VECTORS in lacks:
        if config.redis is None:
            raise ReleaseRefused(
                f"{VECTORS} is missing: the release was copied without it; name the Redis that has it by --redis URL"
            )
        with RedisStore(config.redis, config.redis_ca) as store:
            _load_vectors(manifest, folder, store, RedisKeys(config.redis_prefix), progress)
    if INDEX in lacks:
        _build_index(manifest, folder, progress)


def read_stored(config: Config, manifest: Manifest, catalog: Catalog, rows: NDArray[np.int64]) -> list[bytes | None]:
    """What Redis has of some rows, at most a thousand. Raises StoreUnavailable, StoreRefused, ConfigError."""
    assert config.redis is not None, "item_store is redis, which Config does not take without"
    with RedisStore(config.redis, config.redis_ca) as store:
        keys = RedisKeys(config.redis_prefix).items(manifest.release)
        return StoredItems(store, catalog, keys, manifest.dimension).read(rows)


def _load_vectors(manifest: Manifest, folder: Path, store: RedisStore, keys: RedisKeys, progress: Progress) -> None:
    release, value_bytes = manifest.release, manifest.dimension * 4
    stored = StoredItems(store, Catalog.open(folder / ITEMS), keys.items(release), manifest.dimension)
    progress.start("loading vectors", manifest.items)
    order = stored.order()
    missing = odd = 0
    with VectorSpool(folder, manifest.dimension) as spool:
        for rows in stored.batches(order):
            found = [value for value in stored.read(rows) if value is not None]
            sound = [value for value in found if len(value) == value_bytes]
            missing += len(rows) - len(found)
            odd += len(found) - len(sound)
            if not missing and not odd:
                spool.add(np.frombuffer(b"".join(sound), "<f4").reshape(-1, manifest.dimension))
            progress.advance(len(rows))
        again = f"write them again: twotower items push {release}"
        if missing or odd:
            wrong = f", and {odd:,} are of another size" if odd else ""
            raise ReleaseRefused(
                f"Redis lacks {missing:,} of the {manifest.items:,} vectors of {release}{wrong}; {again}"
            )
        spool.finish(folder / VECTORS, np.argsort(order))
    if file_entry(folder / VECTORS) != manifest.files[VECTORS]:
        raise ReleaseRefused(f"Redis holds other vectors than {release} was built with; {again}")


def _build_index(manifest: Manifest, folder: Path, progress: Progress) -> None:
    """An index of the kind and with the recall that the manifest states, measured on the golden users."""
    progress.start("building the index", manifest.items)
    entry = build_index(
        open_vectors(folder / VECTORS, manifest.items, manifest.dimension),
        folder / INDEX,
        kind=manifest.index.kind,
        queries=Golden.load(folder / GOLDEN).user_vectors,
        wanted_recall=manifest.index.recall or 0.95,
        on_stage=progress.start,
        on_progress=progress.advance,
    )
    replace(manifest, index=entry, files={**manifest.files, INDEX: file_entry(folder / INDEX)}).dump(folder)
