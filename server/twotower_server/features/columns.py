"""Which column of a table is which feature, for tables that were not made for us.

Kept in `model.json` by training, so that `release build` reads the same items in the same way:

    "item_id_column": "book_id",
    "item_columns": {"item_authors": {"column": "authors", "separator": ", "}, "item_year": {"column": "year"}}

A feature that is not named here stands under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from twotower_server.errors import ReleaseRefused


@dataclass(frozen=True, slots=True)
class Column:
    """A feature's column. separator: splits text into a list, None when the cell is one value."""

    column: str
    separator: str | None = None


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """id_column: the column of item ids. features: by feature name."""

    id_column: str = "item_id"
    features: Mapping[str, Column] = field(default_factory=dict)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the mapped columns under their features' names beside its own columns.

        Raises ReleaseRefused when a named column is absent.
        """
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        added: dict[str, pa.Array] = {}
        for name, source in self.features.items():
            array = arrays.get(source.column)
            if array is None:
                raise ReleaseRefused(
                    f"the table has no column {source.column} for the feature {name}; it has {', '.join(arrays)}"
                )
            if source.separator is not None and not _is_list(array.type):
                array = _split(array, source)
            added[name] = array
        return pa.RecordBatch.from_pydict({**arrays, **added})

    def ids(self, batch: pa.RecordBatch, first_row: int) -> list[str]:
        """Item ids of a batch as text. first_row counts the rows before the batch, for messages.

        Raises ReleaseRefused for an absent column, and for an id that is empty or neither text nor a whole number.
        """
        if self.id_column not in batch.schema.names:
            raise ReleaseRefused(
                f"the table has no column {self.id_column} with item ids; it has {', '.join(batch.schema.names)}"
            )
        cells = batch.column(self.id_column).to_pylist()
        for i, cell in enumerate(cells):
            if cell is None or cell == "":
                raise ReleaseRefused(f"row {first_row + i + 1} has no {self.id_column}")
            if isinstance(cell, bool) or not isinstance(cell, str | int):
                raise ReleaseRefused(
                    f"row {first_row + i + 1}, column {self.id_column}: {cell!r} is neither text nor a whole number"
                )
        return [str(cell) for cell in cells]

    def to_json(self) -> dict[str, Any]:
        """The two keys of `model.json`."""
        columns = {
            name: {"column": c.column, **({} if c.separator is None else {"separator": c.separator})}
            for name, c in self.features.items()
        }
        return {"item_id_column": self.id_column, "item_columns": columns}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ColumnMapping:
        """Reads the two keys of `model.json`; both may be absent. Raises ReleaseRefused."""
        id_column, columns = data.get("item_id_column", "item_id"), data.get("item_columns", {})
        if not isinstance(id_column, str) or not isinstance(columns, dict):
            raise ReleaseRefused("item_id_column must be text and item_columns an object")
        features = {}
        for name, entry in columns.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("column"), str):
                raise ReleaseRefused(f"item_columns.{name} needs a column")
            separator = entry.get("separator")
            if separator is not None and (not isinstance(separator, str) or not separator):
                raise ReleaseRefused(f"item_columns.{name}.separator must be text")
            features[name] = Column(entry["column"], separator)
        return cls(id_column, features)


def _is_list(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_list(data_type) or pa.types.is_large_list(data_type))


def _split(texts: pa.Array, source: Column) -> pa.Array:
    try:
        return pc.split_pattern(pc.cast(texts, pa.string()), source.separator)
    except pa.ArrowException:
        raise ReleaseRefused(f"column {source.column} of {texts.type} is no text that could be split") from None
