"""Whole copies of releases that were copied without their large files; the copies are on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from twotower_server.config import Config
from twotower_server.release.format import FILES, MANIFEST, VECTORS, Manifest, lacking
from twotower_server.release.progress import Progress, Silent
from twotower_server.release.repository import opener
from twotower_server.release.repository_cache import ReleaseCache
from twotower_server.release.transfer import copy_files


class Completion:
    """Completes releases: vectors come from Redis, an index is built, which may take minutes.

    A release that lacks nothing is used where it is, and so is one whose vectors are to stay in Redis.
    """

    def __init__(self, config: Config) -> None:
        """config.item_store: `redis` = vectors stay there, where the index can do without them."""
        self._config = config
        self._cache = ReleaseCache(config.data / "loaded", config.keep_fetched)

    def place(self, folder: Path) -> Path:
        """The folder to open instead of a release's: its own, or that of a whole copy, made or not.

        Raises ReleaseRefused.
        """
        return self._cache.copy_of(Manifest.load(folder)) if self._is_completed(folder) else folder

    def keep(self, folder: Path) -> Path:
        """As `place`; what is there, or will be, stays until `use` leaves it out."""
        return self._cache.keep(Manifest.load(folder)) if self._is_completed(folder) else folder

    def whole(self, folder: Path, progress: Progress | None = None) -> Path:
        """As `keep`; the copy is made now where it is absent. Killed, this leaves nothing under the copy's name.

        Raises ReleaseRefused when Redis lacks vectors of the release, or has others, StoreUnavailable, StoreRefused,
        ConfigError and OSError.
        """
        if not self._is_completed(folder):
            return folder
        hears = progress or Silent()
        manifest = Manifest.load(folder)

        def write(copy: Path) -> None:
            from twotower_server.release.complete import complete  # Faiss and redis-py: only where they are used

            hears.start("copying the rest", len(FILES))
            copy_files(manifest, opener(folder, "rb"), opener(copy, "wb"), lambda: hears.advance(1))
            shutil.copyfile(folder / MANIFEST, copy / MANIFEST)
            complete(manifest, copy, self._config, hears)

        return self._cache.fetch(manifest, write)

    def use(self, releases: Collection[str]) -> None:
        """Frees the copies of all other releases."""
        self._cache.use(releases)

    def _is_completed(self, folder: Path) -> bool:
        """Whether a whole copy is used instead of a release's folder."""
        lacks = lacking(folder)
        if self._config.item_store == "redis" and lacks == [VECTORS]:
            # Without lists every vector would be read for every search. Such catalogs are small.
            return Manifest.load(folder).index.kind == "exact"
        return bool(lacks)
