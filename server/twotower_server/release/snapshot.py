"""A snapshot: a release opened in memory. Immutable; every request entry is served by exactly one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twotower_server.errors import ReleaseRefused
from twotower_server.features.encode import Encoded, Encoder
from twotower_server.features.schema import Schema
from twotower_server.index.base import Index
from twotower_server.index.faiss import open_index
from twotower_server.items.catalog import Catalog
from twotower_server.items.ids import KeyTable
from twotower_server.items.live import Items, Segment
from twotower_server.release import format as files
from twotower_server.release.format import Manifest
from twotower_server.release.vectors import open_vectors, unit_length
from twotower_server.towers.tower import Tower


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One release, ready to serve.

    catalog, keys, vectors, index: of the release as it was built; vectors: float32 [items, dimension],
    memory-mapped, row i is row i of the catalog; unit length when cosine; [0, dimension] when they stay in Redis.
    items: the same with the changes since.
    """

    manifest: Manifest
    schema: Schema
    user_encoder: Encoder
    item_encoder: Encoder
    user_tower: Tower
    item_tower: Tower
    catalog: Catalog
    keys: KeyTable
    vectors: NDArray[np.float32]
    index: Index
    items: Items

    @property
    def release(self) -> str:
        return self.manifest.release

    @property
    def is_stored(self) -> bool:
        """Whether the vectors of the release stay in Redis."""
        return not len(self.vectors)

    @classmethod
    def open(cls, folder: Path, *, strict_features: bool = False, stored: bool = False) -> Snapshot:
        """Opens a release that was verified before (`stamp.is_stamped`); checks shapes only.

        strict_features: refuse feature names that the schema lacks. stored: the folder may lack the vectors, which stay
        in Redis then. Raises ReleaseRefused.
        """
        manifest = Manifest.load(folder)
        schema = Schema.load(folder / files.SCHEMA)
        user_tower = Tower(folder / files.USER_TOWER, schema.user)
        item_tower = Tower(folder / files.ITEM_TOWER, schema.item)
        for tower in (user_tower, item_tower):
            if tower.dimension != manifest.dimension:
                raise ReleaseRefused(
                    f"{tower.name} gives {tower.dimension} dimensions, {files.MANIFEST} says {manifest.dimension}"
                )
        catalog = Catalog.open(folder / files.ITEMS)
        if stored and files.VECTORS in files.lacking(folder):
            vectors = np.empty((0, manifest.dimension), np.float32)
        else:
            vectors = open_vectors(folder / files.VECTORS, manifest.items, manifest.dimension)
        if len(catalog) != manifest.items:
            raise ReleaseRefused(f"{files.ITEMS} has {len(catalog)} rows, {files.MANIFEST} says {manifest.items}")
        keys = KeyTable(catalog.keys)
        index = open_index(folder / files.INDEX, vectors, manifest.index, catalog.item_ids, manifest.items)
        return cls(
            manifest,
            schema,
            Encoder(schema.user, strict=strict_features),
            Encoder(schema.item, strict=strict_features),
            user_tower,
            item_tower,
            catalog,
            keys,
            vectors,
            index,
            Items((Segment(catalog, keys, vectors, index),)),
        )

    def embed_users(self, encoded: Encoded) -> NDArray[np.float32]:
        """float32 [n, dimension]; unit length when cosine."""
        return self.normalised(self.user_tower.run(encoded))

    def embed_items(self, encoded: Encoded) -> NDArray[np.float32]:
        """float32 [n, dimension]; unit length when cosine."""
        return self.normalised(self.item_tower.run(encoded))

    def normalised(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as this release keeps them: unit length when cosine (zero stays zero), else unchanged."""
        return unit_length(vectors) if self.manifest.similarity == "cosine" else vectors
