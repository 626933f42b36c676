"""The catalog: `items.arrow`, written sorted by item key, opened as memory-mapped columns.

The file holds one uncompressed record batch, so that every column is one contiguous piece of the map, shared
by all processes: item_id (text, unique), item_key (uint64, ascending), then the attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from numpy.typing import NDArray

from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.items.attribute import (
    TYPES,
    AttributeKind,
    AttributeSpec,
    AttributeValue,
    convert,
    kind_of,
)
from twotower_server.items.ids import item_keys

__all__ = ["Attribute", "AttributeSpec", "AttributeValue", "Catalog", "CatalogWriter"]

ITEM_ID = "item_id"
ITEM_KEY = "item_key"
# Texts with at most so many distinct values are dictionary-encoded: a filter then compares each of them once.
_MAX_DICTIONARY = 65_536
_CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of all items: an Arrow array of the kind's type, null where absent, memory-mapped.

    text: large_string, or a dictionary of it; number: float64; flag: bool; texts: large_list of what text is.
    """

    kind: AttributeKind
    values: pa.Array


class Catalog:
    """The items of a release, in row order. Immutable, safe in any thread.

    keys: uint64 [items], ascending, a view of the map. attributes by name: see `Attribute`.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        self.keys: NDArray[np.uint64] = batch.column(ITEM_KEY).to_numpy()
        ids = batch.column(ITEM_ID)
        _, offsets, data = ids.buffers()
        self._offsets = np.frombuffer(offsets, np.int64, len(ids) + 1)
        self._data = memoryview(data)
        self.columns: dict[str, Attribute] = {}
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            kind = kind_of(values.type)
            if name not in (ITEM_ID, ITEM_KEY) and kind is not None:
                self.columns[name] = Attribute(kind, values)

    @classmethod
    def open(cls, path: Path) -> Catalog:
        """Maps `items.arrow`; reads only its footer. Raises ReleaseRefused when it is not a catalog."""
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as file:
                batch = file.get_batch(0) if file.num_record_batches == 1 else None
        except FileNotFoundError:
            raise ReleaseRefused(f"{path.name} is missing") from None
        except (pa.ArrowException, OSError) as error:
            raise ReleaseRefused(f"{path.name} cannot be mapped: {str(error).splitlines()[0]}") from None
        if batch is None:
            raise ReleaseRefused(f"{path.name} must hold exactly one record batch")
        names = batch.schema.names
        wanted = {ITEM_ID: TYPES["text"], ITEM_KEY: pa.uint64()}
        for name, data_type in wanted.items():
            if names.count(name) != 1 or batch.column(name).type != data_type or batch.column(name).null_count:
                raise ReleaseRefused(f"{path.name} needs one column {name} of {data_type} without nulls")
        for name, values in zip(names, batch.columns, strict=True):
            kind = kind_of(values.type)
            if name not in wanted and (kind is None or _plain(values.type) != TYPES[kind] or names.count(name) != 1):
                raise ReleaseRefused(f"{path.name}: the column {name} of {values.type} is no attribute")
        return cls(batch)

    @classmethod
    def merged(cls, parts: Sequence[tuple[Catalog, NDArray[np.int64]]]) -> tuple[Catalog, NDArray[np.int64]]:
        """A catalog of rows of others that have the same columns and no item in common.

        Returns the order, too: int64 [rows], its row i was order[i] when the parts stood one after the other.
        """
        batches = [catalog._batch.take(pa.array(rows)) for catalog, rows in parts]
        order = np.argsort(np.concatenate([batch.column(ITEM_KEY).to_numpy() for batch in batches]))
        places = pa.array(order)
        columns = {
            name: pa.concat_arrays([batch.column(name) for batch in batches]).take(places)
            for name in batches[0].schema.names
        }
        return cls(pa.RecordBatch.from_pydict(columns)), order

    def __len__(self) -> int:
        return len(self.keys)

    def verify(self) -> None:
        """Reads every row: what `open` believes. Raises ReleaseRefused for data that is broken or out of order."""
        try:
            self._batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ReleaseRefused(f"the catalog is broken: {str(error).splitlines()[0]}") from None
        if not (self.keys[1:] > self.keys[:-1]).all():
            raise ReleaseRefused(f"the catalog's {ITEM_KEY} is not strictly ascending")
        for start in range(0, len(self), _CHUNK_ROWS):
            rows = np.arange(start, min(start + _CHUNK_ROWS, len(self)))
            wrong = np.flatnonzero(item_keys(self.item_ids(rows)) != self.keys[rows])
            if wrong.size:
                raise ReleaseRefused(f"row {rows[wrong[0]]} of the catalog has an {ITEM_KEY} that is not of its id")

    @property
    def attribute_kinds(self) -> Mapping[str, AttributeKind]:
        """The kind of each attribute, by name."""
        return {name: attribute.kind for name, attribute in self.columns.items()}

    def item_ids(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of rows, int64 [n], each from 0 to items − 1."""
        data = self._data
        starts, ends = self._offsets.take(rows).tolist(), self._offsets.take(rows + 1).tolist()
        return [str(data[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]

    def check_attributes(self, names: Sequence[str]) -> None:
        """Raises FILTER_INVALID for a name that is no attribute, naming those that are."""
        for i, name in enumerate(names):
            if name not in self.columns:
                raise Refused(Reason.FILTER_INVALID, self.no_attribute(name), f"return_attributes[{i}]")

    def no_attribute(self, name: str) -> str:
        """What to tell a caller who names an attribute that this catalog lacks."""
        known = f"it has {', '.join(self.columns)}" if self.columns else "it was built without attributes"
        return f"the catalog has no attribute {name!r}; {known}"

    def attributes(self, rows: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, AttributeValue]]:
        """For each row its values by name; an absent one is left out. Call `check_attributes` first."""
        found: list[dict[str, AttributeValue]] = [{} for _ in rows]
        taken = pa.array(rows)
        for name in names:
            for values, value in zip(found, self.columns[name].values.take(taken).to_pylist(), strict=True):
                if value is not None:
                    values[name] = value
        return found


class CatalogWriter:
    """Writes a catalog from batches in any order; on `finish` they are sorted by key.

    Batches wait in a file beside the result. In memory are 8 bytes an item, and at the end the sorted
    columns: as many bytes as `items.arrow` has, and its widest column twice more.
    """

    def __init__(self, folder: Path, attributes: Sequence[AttributeSpec] = ()) -> None:
        """Raises ReleaseRefused for a name that is taken twice."""
        names = [ITEM_ID, ITEM_KEY, *(spec.name for spec in attributes)]
        for name in names:
            if not name or names.count(name) > 1:
                raise ReleaseRefused(f"an attribute cannot be called {name!r}: the catalog has that name already")
        self._path = folder / "items.spool"
        self._attributes = attributes
        self._kinds: list[AttributeKind] = []
        self._keys: list[NDArray[np.uint64]] = []
        self._rows = 0
        self._sink = pa.OSFile(str(self._path), "wb")
        self._spool: pa.RecordBatchFileWriter | None = None

    def __enter__(self) -> CatalogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._path.unlink(missing_ok=True)

    def add(self, ids: Sequence[str], batch: pa.RecordBatch) -> None:
        """Adds items: their ids, and their columns in the same order.

        Raises ReleaseRefused, naming the column, for one that is absent or holds a value of another kind.
        """
        if self._spool is None:
            self._kinds = [_kind(spec, batch) for spec in self._attributes]
            fields = [(spec.name, TYPES[kind]) for spec, kind in zip(self._attributes, self._kinds, strict=True)]
            self._schema = pa.schema([(ITEM_ID, TYPES["text"]), *fields])
            self._spool = pa.ipc.new_file(self._sink, self._schema)
        arrays = [pa.array(ids, TYPES["text"])]
        for spec, kind in zip(self._attributes, self._kinds, strict=True):
            arrays.append(_attribute(spec, kind, batch, self._rows))
        self._spool.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._keys.append(item_keys(ids))
        self._rows += len(ids)

    def finish(self, path: Path) -> NDArray[np.int64]:
        """Writes the catalog. Returns the order: int64 [items], row i is the added row order[i].

        Raises ReleaseRefused when there are no items, one occurs twice, or two ids have one key.
        """
        self._close()
        if not self._rows:
            raise ReleaseRefused("a catalog needs items: the table has no rows")
        keys = np.concatenate(self._keys)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        with pa.ipc.open_file(pa.memory_map(str(self._path))) as file:
            spooled = file.read_all()
        _check_unique(keys, order, spooled.column(ITEM_ID))
        rows = pa.array(order)
        columns: dict[str, pa.Array] = {}
        for name in spooled.schema.names:
            # Column by column: only one is in memory in both orders.
            column = pa.concat_arrays(spooled.column(name).chunks).take(rows)
            if name == ITEM_ID:
                columns |= {ITEM_ID: column, ITEM_KEY: pa.array(keys)}
            else:
                columns[name] = _compact(column)
        batch = pa.RecordBatch.from_pydict(columns)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)
        return order

    def _close(self) -> None:
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._sink.close()


def _kind(spec: AttributeSpec, batch: pa.RecordBatch) -> AttributeKind:
    data_type = _column(spec, batch).type
    kind = spec.kind or kind_of(data_type)
    if kind is None:
        raise ReleaseRefused(
            f"the column {spec.source} of {data_type} cannot be an attribute: use text, numbers, booleans, "
            "dates or lists of text"
        )
    return kind


def _attribute(spec: AttributeSpec, kind: AttributeKind, batch: pa.RecordBatch, first_row: int) -> pa.Array:
    column = _column(spec, batch)
    try:
        return convert(column, kind, spec.separator)
    except ReleaseRefused:
        # Arrow does not say which row it is.
        for i in range(len(column)):
            try:
                convert(column.slice(i, 1), kind, spec.separator)
            except ReleaseRefused as error:
                raise ReleaseRefused(f"row {first_row + i + 1}, column {spec.source}: {error}") from None
        raise


def _column(spec: AttributeSpec, batch: pa.RecordBatch) -> pa.Array:
    if batch.schema.names.count(spec.source) != 1:
        raise ReleaseRefused(
            f"the table has no column {spec.source} for the attribute {spec.name}; "
            f"it has {', '.join(batch.schema.names)}"
        )
    return batch.column(spec.source)


def _check_unique(keys: NDArray[np.uint64], order: NDArray[np.int64], ids: pa.ChunkedArray) -> None:
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if not twice.size:
        return
    one, other = (int(row) for row in order[twice[0] : twice[0] + 2])
    if ids[one] == ids[other]:
        raise ReleaseRefused(f"item {ids[one].as_py()!r} is in the table twice, in rows {one + 1} and {other + 1}")
    raise ReleaseRefused(
        f"items {ids[one].as_py()!r} and {ids[other].as_py()!r} have the same 64-bit key; rename one of them"
    )


def _plain(data_type: pa.DataType) -> pa.DataType:
    """A column's type without dictionary encoding."""
    if pa.types.is_large_list(data_type):
        return pa.large_list(_plain(data_type.value_type))
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def _compact(values: pa.Array) -> pa.Array:
    """Texts that repeat as a dictionary; other columns as they are."""
    if pa.types.is_large_list(values.type):
        inner = _compact(values.values)
        return pa.LargeListArray.from_arrays(values.offsets, inner, mask=pc.is_null(values))
    if not pa.types.is_large_string(values.type):
        return values
    encoded = values.dictionary_encode()
    return encoded if len(encoded.dictionary) <= min(_MAX_DICTIONARY, len(values) // 2) else values
