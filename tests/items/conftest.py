"""A small catalog with an attribute of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from twotower_server.items.catalog import AttributeSpec, Catalog, CatalogWriter

MakeCatalog = Callable[..., Catalog]

BOOKS: dict[str, list[Any]] = {
    "item_id": ["b1", "b2", "b3", "b4", "b5"],
    "genre": ["novel", "poetry", "novel", None, "essay"],
    "title": ["Emma", "Odes", "Ulysses", "Nameless", None],
    "price": [10.0, 20.5, None, 0.0, 10.0],
    "pages": [300, 80, 900, None, 0],
    "new": [True, False, None, True, False],
    "tags": [["classic", "love"], [], None, ["classic"], ["short"]],
}


@pytest.fixture
def make_catalog(tmp_path: Path) -> MakeCatalog:
    def make(table: dict[str, Any], *attributes: str | AttributeSpec, batch_rows: int = 2) -> Catalog:
        specs = [a if isinstance(a, AttributeSpec) else AttributeSpec.parse(a) for a in attributes]
        batch = pa.record_batch(table)
        with CatalogWriter(tmp_path, specs) as writer:
            for start in range(0, batch.num_rows, batch_rows):
                part = batch.slice(start, batch_rows)
                writer.add(part.column("item_id").to_pylist(), part)
            writer.finish(tmp_path / "items.arrow")
        return Catalog.open(tmp_path / "items.arrow")

    return make


@pytest.fixture
def books(make_catalog: MakeCatalog) -> Catalog:
    return make_catalog(BOOKS, "genre", "title", "price", "pages", "new", "tags")
