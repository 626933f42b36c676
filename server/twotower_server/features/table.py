"""Feature tables: CSV, Parquet and Arrow files of users or items, read in batches.

A column holds one feature under its name. A list is an Arrow list, or text separated by `|`. A weighted bag is one
column a name (`user_interest_sport`), or a column under its own name (`user_interest_*`) that holds an Arrow map or
text such as `sport:0.8|music:0.1`. An empty cell is a missing value. Other columns are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from twotower_server.errors import ReleaseRefused
from twotower_server.features.row import Row, Strings
from twotower_server.features.schema import TowerSchema

BATCH_ROWS = 8192
LIST_SEPARATOR = "|"


def read_batches(path: Path, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yields a table's rows in batches, never holding the whole file.

    Columns of a CSV file are text: their meaning comes from the schema. Raises ReleaseRefused when the file is missing,
    is not what its ending says (.csv, .parquet, .arrow, .feather), or names a column twice.
    """
    readers: dict[str, Callable[[Path, int], Iterator[pa.RecordBatch]]] = {
        ".csv": _csv,
        ".parquet": _parquet,
        ".arrow": _arrow,
        ".feather": _arrow,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise ReleaseRefused(f"{path} must end with {', '.join(readers)}")
    try:
        for batch in reader(path, batch_rows):
            if twice := sorted({name for name in batch.schema.names if batch.schema.names.count(name) > 1}):
                raise ReleaseRefused(f"{path} has the column {', '.join(twice)} twice")
            # Arrow believes what a file says of itself: text that is not UTF-8 fails later, wrong offsets crash.
            batch.validate(full=True)
            yield batch
    except FileNotFoundError:
        raise ReleaseRefused(f"{path} does not exist") from None
    except (pa.ArrowException, OSError) as error:
        raise ReleaseRefused(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from None


def count_rows(path: Path) -> int | None:
    """How many rows a table has where the format says so, else None. For progress only."""
    try:
        if path.suffix == ".parquet":
            return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        pass
    return None


def feature_rows(batch: pa.RecordBatch, schema: TowerSchema, first_row: int = 0) -> list[Row]:
    """The rows of a batch, ready for the encoder. `first_row` counts the rows before the batch, for messages.

    Raises ReleaseRefused when no column is a feature or a cell has the wrong type, naming row and column.
    """
    by_name = {f.name: f for f in schema.features}
    stems = tuple(f.name[:-1] for f in schema.features if f.wildcard)
    numbers: list[tuple[str, list[Any]]] = []
    texts: list[tuple[str, list[Any]]] = []
    bags: list[tuple[str, list[Any]]] = []
    for name in batch.schema.names:
        feature = by_name.get(name)
        if feature is None and not name.startswith(stems):
            continue
        numeric = feature is None or feature.kind == "numeric"
        cells = _cells(batch.column(name), numeric=numeric)
        if feature is None or numeric:
            numbers.append((name, _convert(cells, _number, name, first_row)))
        elif feature.wildcard:
            bags.append((name[:-1], _convert(cells, _bag, name, first_row)))
        else:
            to_texts = _category if feature.kind == "categorical" else _list
            texts.append((name, _convert(cells, to_texts, name, first_row)))
    if not numbers and not texts and not bags:
        raise ReleaseRefused(
            f"the table has no column of a {schema.side} feature: it has {', '.join(batch.schema.names)}, "
            f"the schema {', '.join(by_name)}"
        )
    rows = []
    for i in range(batch.num_rows):
        features = {name: cells[i] for name, cells in numbers if cells[i] is not None}
        for stem, cells in bags:
            for key, weight in cells[i] or ():
                features[stem + key] = weight
        strings = {name: Strings(cells[i]) for name, cells in texts if cells[i]}
        rows.append(Row(features, strings))
    return rows


def is_time(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_date(data_type) or pa.types.is_timestamp(data_type))


def epoch_seconds(times: pa.Array) -> pa.Array:
    """Dates or times as seconds since 1970, float64; those without a time zone are taken as UTC."""
    # Microseconds fit float64 exactly until the year 2255.
    microseconds = pc.cast(pc.cast(times, pa.timestamp("us"), safe=False), pa.int64())
    return pc.divide(microseconds, 1e6)


def _csv(path: Path, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with path.open("rb") as file:
        header = pyarrow.csv.read_csv(pa.BufferReader(file.readline())).column_names
    reader = pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=1 << 20),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    for batch in reader:
        for start in range(0, batch.num_rows, batch_rows):
            yield batch.slice(start, batch_rows)


def _parquet(path: Path, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_rows)


def _arrow(path: Path, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        reader = pyarrow.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            for start in range(0, batch.num_rows, batch_rows):
                yield batch.slice(start, batch_rows)


def _cells(column: pa.Array, *, numeric: bool) -> list[Any]:
    if is_time(column.type):
        column = epoch_seconds(column) if numeric else pc.cast(column, pa.string())
    cells: list[Any] = column.to_pylist()
    return cells


def _convert(cells: list[Any], convert: Callable[[Any], Any], name: str, first_row: int) -> list[Any]:
    converted = []
    for i, cell in enumerate(cells):
        try:
            converted.append(None if cell is None or cell == "" else convert(cell))
        except (ValueError, TypeError) as error:
            raise ReleaseRefused(f"row {first_row + i + 1}, column {name}: {error}") from None
    return converted


def _number(cell: Any) -> float | None:
    try:
        value = float(cell)
    except (ValueError, TypeError):
        raise ValueError(f"{cell!r} is not a number") from None
    if math.isinf(value):
        raise ValueError(f"{cell!r} is not finite")
    return None if math.isnan(value) else value


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if not isinstance(cell, str | int):
        raise ValueError(f"{cell!r} is neither text nor a whole number that could name a category")
    return str(cell)


def _category(cell: Any) -> list[str]:
    return [_text(cell)]


def _list(cell: Any) -> list[str]:
    values = cell if isinstance(cell, list) else str(cell).split(LIST_SEPARATOR)
    return [_text(value) for value in values if value is not None and value != ""]


def _bag(cell: Any) -> list[tuple[str, float]]:
    if isinstance(cell, dict):
        pairs: list[tuple[Any, ...]] = list(cell.items())
    elif isinstance(cell, list):
        pairs = [tuple(entry) for entry in cell]
    else:
        pairs = [tuple(entry.rsplit(":", 1)) for entry in str(cell).split(LIST_SEPARATOR) if entry]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{cell!r} is not of the form name:weight|name:weight")
    # A struct has every name in every row, null where the bag lacks it.
    weighted = [(str(name), _number(weight)) for name, weight in pairs if weight is not None]
    return [(name, weight) for name, weight in weighted if weight is not None]
