"""Attributes of items: what a build keeps of a table's columns, for filters and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower_server.errors import ReleaseRefused
from twotower_server.features.table import epoch_seconds, is_time

AttributeKind = Literal["text", "number", "flag", "texts"]
AttributeValue = str | float | bool | list[str]

# How each kind lies in items.arrow. Texts that repeat are dictionary-encoded on top of it.
TYPES: dict[AttributeKind, pa.DataType] = {
    "text": pa.large_string(),
    "number": pa.float64(),
    "flag": pa.bool_(),
    "texts": pa.large_list(pa.large_string()),
}


@dataclass(frozen=True, slots=True)
class AttributeSpec:
    """A column that becomes an attribute.

    name: as filters and answers call it. kind: None = what the column's type says (text in a CSV file).
    column: None = of the same name. separator: splits text into texts.
    """

    name: str
    kind: AttributeKind | None = None
    column: str | None = None
    separator: str = "|"

    @property
    def source(self) -> str:
        """The column in the table."""
        return self.column or self.name

    @classmethod
    def parse(cls, text: str) -> AttributeSpec:
        """Reads `NAME`, `NAME:KIND`, `NAME=COLUMN` or `NAME=COLUMN:KIND`. Raises ValueError."""
        head, colon, kind = text.rpartition(":")
        name, equals, column = (head if colon else text).partition("=")
        if not name or (equals and not column) or (colon and kind not in get_args(AttributeKind)):
            raise ValueError(
                f"{text!r} is not NAME[=COLUMN][:KIND] with a KIND of {', '.join(get_args(AttributeKind))}"
            )
        return cls(name, kind if colon else None, column or None)  # type: ignore[arg-type]


def kind_of(data_type: pa.DataType) -> AttributeKind | None:
    """The kind that a column's Arrow type stands for; None when it cannot be an attribute."""
    types = pa.types
    if types.is_dictionary(data_type):
        return kind_of(data_type.value_type)
    if types.is_string(data_type) or types.is_large_string(data_type):
        return "text"
    if types.is_boolean(data_type):
        return "flag"
    if types.is_integer(data_type) or types.is_floating(data_type) or types.is_decimal(data_type):
        return "number"
    if is_time(data_type):
        return "number"
    if types.is_list(data_type) or types.is_large_list(data_type):
        return "texts" if kind_of(data_type.value_type) == "text" else None
    return None


def convert(column: pa.Array, kind: AttributeKind, separator: str) -> pa.Array:
    """A column as `TYPES[kind]`: empty text and NaN become absent, dates and times seconds since 1970.

    Raises ReleaseRefused for a value that is none of that kind.
    """
    try:
        return _convert(column, kind, separator)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ReleaseRefused(f"not a {kind}: {str(error).splitlines()[0]}") from None


def _convert(column: pa.Array, kind: AttributeKind, separator: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = kind_of(column.type) == "text"
    if is_text:
        column = pc.if_else(pc.equal(column, ""), None, column)
    if kind == "texts":
        return _texts(pc.split_pattern(column, separator) if is_text else column)
    if kind != "number":
        return pc.cast(column, TYPES[kind])
    if is_time(column.type):
        column = epoch_seconds(column)
    # Not safe: whole numbers above 2^53 round, as every number of an AttributeValue does.
    numbers = pc.cast(column, pa.float64(), safe=is_text)
    numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
    if pc.any(pc.is_inf(numbers)).as_py():
        raise pa.ArrowInvalid("a value is not finite")
    return numbers


def _texts(lists: pa.Array) -> pa.Array:
    """Lists without their empty and absent elements; an absent list stays absent."""
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
        raise pa.ArrowInvalid(f"a column of {lists.type}")
    values = pc.cast(pc.list_flatten(lists), pa.large_string())
    kept = pc.fill_null(pc.not_equal(values, ""), False)
    parents = pc.list_parent_indices(lists).filter(kept).to_numpy()
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(np.bincount(parents, minlength=len(lists)), out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values.filter(kept), mask=pc.is_null(lists))
