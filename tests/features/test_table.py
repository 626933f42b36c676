"""Feature tables: cells of every type become the raw features that a request could have sent."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from twotower_server.errors import ReleaseRefused
from twotower_server.features.columns import Column, ColumnMapping
from twotower_server.features.schema import TowerSchema
from twotower_server.features.table import count_rows, feature_rows, read_batches

MARKER = {"rule": "marker"}
SCHEMA = TowerSchema.from_json(
    "user",
    {
        "transforms": "server",
        "features": [
            {"name": "user_age", "kind": "numeric", "missing": MARKER},
            {"name": "user_city", "kind": "categorical", "buckets": 9, "missing": MARKER},
            {"name": "user_clicks", "kind": "sequence", "buckets": 9, "max_length": 3, "missing": MARKER},
            {"name": "user_likes_*", "kind": "weighted_bag", "buckets": 9, "max_length": 3, "missing": MARKER},
        ],
    },
)


def read(name: str, cells: Any) -> list[Any]:
    """What each row says of one column: a number, a list of texts, a dict of a bag's weights; None if nothing."""
    batch = pa.record_batch({"other": [0] * len(cells), "user_city": ["x"] * len(cells)} | {name: cells})
    found: list[Any] = []
    for row in feature_rows(batch, SCHEMA):
        bag = {key: weight for key, weight in row.features.items() if key.startswith("user_likes_")}
        strings = row.string_features.get(name)
        found.append(bag or row.features.get(name, list(strings.values) if strings else None))
    return found


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        ([1, None, -3], [1.0, None, -3.0]),
        ([1.5, math.nan, None], [1.5, None, None]),
        (["1", "", "-2.5e3"], [1.0, None, -2500.0]),
        ([True, False], [1.0, 0.0]),
        ([Decimal("1.25"), None], [1.25, None]),
        (pa.array(["7", "7"]).dictionary_encode(), [7.0, 7.0]),
        ([datetime.date(1970, 1, 2), None], [86_400.0, None]),
        (pa.array([1_500_000_001, None], pa.timestamp("ns")), [1.5, None]),
        (pa.array([3], pa.timestamp("s", tz="Asia/Tokyo")), [3.0]),
    ],
)
def test_numbers(cells: Any, numbers: list[float | None]) -> None:
    assert read("user_age", cells) == numbers


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (["Oslo", "", None], [["Oslo"], None, None]),
        ([7, None], [["7"], None]),
        ([7.0, None], [["7"], None]),
        ([True, False], [["true"], ["false"]]),
        (pa.array(["a", "b"]).dictionary_encode(), [["a"], ["b"]]),
        ([datetime.date(2024, 1, 2)], [["2024-01-02"]]),
        (["a|b"], [["a|b"]]),
    ],
)
def test_categories(cells: Any, texts: list[list[str] | None]) -> None:
    assert read("user_city", cells) == texts


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (["a|b", "a", "", "|", None], [["a", "b"], ["a"], None, None, None]),
        ([["a", "b"], ["a", None, ""], [], None], [["a", "b"], ["a"], None, None]),
        ([[1, 2]], [["1", "2"]]),
        ([[1.0, 2.0]], [["1", "2"]]),
    ],
)
def test_lists(cells: Any, texts: list[list[str] | None]) -> None:
    assert read("user_clicks", cells) == texts


@pytest.mark.parametrize(
    "cells",
    [
        ["sport:0.5|a:b:1", "", None],
        pa.array([[("sport", 0.5), ("a:b", 1.0)], [], None], pa.map_(pa.string(), pa.float64())),
        pa.array([{"sport": 0.5, "a:b": 1.0}, {"sport": None, "a:b": None}, None]),
    ],
)
def test_bags_in_one_column(cells: Any) -> None:
    assert read("user_likes_*", cells) == [{"user_likes_sport": 0.5, "user_likes_a:b": 1.0}, None, None]


def test_bags_of_one_column_a_name() -> None:
    batch = pa.record_batch({"user_likes_film": [0.5, None], "user_likes_sport": ["2", ""]})
    assert [row.features for row in feature_rows(batch, SCHEMA)] == [
        {"user_likes_film": 0.5, "user_likes_sport": 2.0},
        {},
    ]


@pytest.mark.parametrize(
    ("name", "cells", "message"),
    [
        ("user_age", ["1", "old"], "row 12, column user_age: 'old' is not a number"),
        ("user_age", [math.inf], "row 11, column user_age: inf is not finite"),
        ("user_age", [datetime.time(1)], "row 11, column user_age: .* is not a number"),
        ("user_city", [["a"]], r"row 11, column user_city: \['a'\] is neither text nor a whole number"),
        ("user_city", [0.5], "row 11, column user_city: 0.5 is neither text nor a whole number"),
        ("user_city", [b"a"], "row 11, column user_city: b'a' is neither text nor a whole number"),
        ("user_clicks", [[], [["b"]]], r"row 12, column user_clicks: \['b'\] is neither text nor a whole number"),
        ("user_likes_*", ["sport"], r"row 11, column user_likes_\*: 'sport' is not of the form name:weight"),
        ("user_likes_*", ["sport:much"], r"row 11, column user_likes_\*: 'much' is not a number"),
        ("user_likes_film", ["much"], "row 11, column user_likes_film: 'much' is not a number"),
    ],
)
def test_cells_of_another_type_are_refused_by_row_and_column(name: str, cells: Any, message: str) -> None:
    with pytest.raises(ReleaseRefused, match=message):
        feature_rows(pa.record_batch({name: cells}), SCHEMA, first_row=10)


def test_columns_that_are_no_features_are_left_alone() -> None:
    batch = pa.record_batch({"user_city": ["Oslo"], "user_likes": [0.5], "item_price": [[b"?"]]})
    (row,) = feature_rows(batch, SCHEMA)
    assert list(row.features) == []
    assert list(row.string_features) == ["user_city"]
    with pytest.raises(ReleaseRefused, match="no column of a user feature: it has item_price, the schema user_age"):
        feature_rows(batch.select(["item_price"]), SCHEMA)


def test_batches_are_small_whatever_the_file_holds(tmp_path: Path) -> None:
    table = pa.table({"user_age": range(1_000)})
    pq.write_table(table, tmp_path / "t.parquet")
    pa.csv.write_csv(table, tmp_path / "t.csv")
    with pa.ipc.new_file(str(tmp_path / "t.arrow"), table.schema) as file:
        file.write_table(table)
    for ending in ("parquet", "csv", "arrow"):
        batches = list(read_batches(tmp_path / f"t.{ending}", 300))
        assert [batch.num_rows for batch in batches] == [300, 300, 300, 100]
        assert [int(cell) for batch in batches for cell in batch.column(0).to_pylist()] == list(range(1_000))
    assert count_rows(tmp_path / "t.parquet") == 1_000
    assert count_rows(tmp_path / "t.csv") is None
    assert count_rows(tmp_path / "nowhere.parquet") is None


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('\ufeffuser_age,"user_city"\r\n1,"Os, lo"\r\n2,"a ""b""\r\nc"\r\n'.encode())
    (batch,) = read_batches(tmp_path / "t.csv")
    assert batch.to_pydict() == {"user_age": ["1", "2"], "user_city": ["Os, lo", 'a "b"\r\nc']}


def test_a_column_that_cannot_be_split_is_refused() -> None:
    mapping = ColumnMapping(features={"user_clicks": Column("clicks", ",")})
    with pytest.raises(ReleaseRefused, match=r"column clicks of struct<a: int64> is no text that could be split"):
        mapping.apply(pa.record_batch({"clicks": [{"a": 1}]}))
