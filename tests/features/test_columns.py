"""Columns of a table that was not made for us, under the names of features."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

from twotower_server.errors import ReleaseRefused
from twotower_server.features.columns import Column, ColumnMapping

BATCH = pa.RecordBatch.from_pydict(
    {
        "book_id": [7, 8, 9],
        "authors": ["A. One, B. Two", None, "C"],
        "tags": [["x"], [], None],
        "year": ["1999", "", None],
    }
)
MAPPING = ColumnMapping(
    "book_id",
    {"item_authors": Column("authors", ", "), "item_tags": Column("tags", "|"), "item_year": Column("year")},
)


def test_columns_get_the_names_of_features_and_keep_their_own() -> None:
    batch = MAPPING.apply(BATCH)
    assert batch.schema.names == [*BATCH.schema.names, "item_authors", "item_tags", "item_year"]
    assert batch["item_authors"].to_pylist() == [["A. One", "B. Two"], None, ["C"]]
    assert batch["item_tags"].to_pylist() == [["x"], [], None], "a list needs no splitting"
    assert batch["item_year"].to_pylist() == ["1999", "", None]


def test_ids_are_text() -> None:
    assert MAPPING.ids(BATCH, 0) == ["7", "8", "9"]


def test_it_goes_through_json() -> None:
    data = MAPPING.to_json()
    assert data["item_columns"]["item_authors"] == {"column": "authors", "separator": ", "}
    assert data["item_columns"]["item_year"] == {"column": "year"}
    assert ColumnMapping.from_json(data) == MAPPING
    assert ColumnMapping.from_json({}) == ColumnMapping()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"item_id_column": 3}, "item_id_column must be text"),
        ({"item_columns": []}, "item_columns an object"),
        ({"item_columns": {"item_a": {}}}, "item_columns.item_a needs a column"),
        ({"item_columns": {"item_a": {"column": "a", "separator": ""}}}, "separator must be text"),
    ],
)
def test_a_broken_mapping_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ReleaseRefused, match=re.escape(message)):
        ColumnMapping.from_json(data)


def test_absent_columns_and_empty_ids_are_named() -> None:
    with pytest.raises(ReleaseRefused, match="no column title for the feature item_title; it has book_id"):
        ColumnMapping("book_id", {"item_title": Column("title")}).apply(BATCH)
    with pytest.raises(ReleaseRefused, match="no column sku with item ids"):
        ColumnMapping("sku").ids(BATCH, 0)
    with pytest.raises(ReleaseRefused, match="row 102 has no year"):
        ColumnMapping("year").ids(BATCH, 100)
