"""The catalog: written sorted, opened as a map."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.items.attribute import AttributeSpec
from twotower_server.items.catalog import Catalog, CatalogWriter
from twotower_server.items.ids import item_key, item_keys

MakeCatalog = Callable[..., Catalog]


def colliding_id(one: str, other: str) -> str:
    """Ids of which `colliding_id(a, b)` and `colliding_id(b, a)` have one key.

    XXH3 multiplies the halves of eight bytes, each half combined with its secret: where one half equals the
    secret's, the product is 0 whatever the other half is, and only the sum of the eight bytes over the lane
    counts.
    """
    return f"{'x' * 128}{one}xx\U00043417\u06c0{'x' * 55}{other}xx\u4df3g\x1f{'x' * 120}"


def values(catalog: Catalog, name: str) -> dict[str, Any]:
    rows = np.arange(len(catalog))
    found = catalog.attributes(rows, [name])
    return {item_id: value.get(name) for item_id, value in zip(catalog.item_ids(rows), found, strict=True)}


def test_rows_are_sorted_by_key_and_keep_their_attributes(books: Catalog) -> None:
    rows = np.arange(5)
    ids = books.item_ids(rows)
    assert sorted(ids) == ["b1", "b2", "b3", "b4", "b5"]
    assert books.keys.tolist() == [item_key(item_id) for item_id in ids]
    assert (books.keys[1:] > books.keys[:-1]).all()
    assert len(books) == 5
    assert values(books, "genre") == {"b1": "novel", "b2": "poetry", "b3": "novel", "b4": None, "b5": "essay"}
    assert values(books, "title") == {
        "b1": "Emma",
        "b2": "Odes",
        "b3": "Ulysses",
        "b4": "Nameless",
        "b5": None,
    }
    assert values(books, "price") == {"b1": 10.0, "b2": 20.5, "b3": None, "b4": 0.0, "b5": 10.0}
    assert values(books, "pages") == {"b1": 300.0, "b2": 80.0, "b3": 900.0, "b4": None, "b5": 0.0}
    assert values(books, "new") == {"b1": True, "b2": False, "b3": None, "b4": True, "b5": False}
    assert values(books, "tags") == {
        "b1": ["classic", "love"],
        "b2": [],
        "b3": None,
        "b4": ["classic"],
        "b5": ["short"],
    }


def test_values_are_plain_python(books: Catalog) -> None:
    row = np.flatnonzero(books.keys == item_key("b1"))
    found = books.attributes(row, ["genre", "price", "pages", "new", "tags"])[0]
    assert [type(value) for value in found.values()] == [str, float, float, bool, list]


def test_the_order_says_which_row_went_where(tmp_path: Path) -> None:
    ids = [f"i{i}" for i in range(1000)]
    with CatalogWriter(tmp_path) as writer:
        for start in range(0, 1000, 300):
            part = ids[start : start + 300]
            writer.add(part, pa.record_batch({"item_id": part}))
        order = writer.finish(tmp_path / "items.arrow")
    catalog = Catalog.open(tmp_path / "items.arrow")
    assert catalog.item_ids(np.arange(1000)) == [ids[i] for i in order]
    assert order.dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == ["items.arrow"]


def test_ids_of_any_script_in_any_order(make_catalog: MakeCatalog) -> None:
    ids = ["é", "本-7", "🎬", "a" * 512, "x\0y", " "]
    catalog = make_catalog({"item_id": ids})
    rows = np.argsort(np.argsort(item_keys(ids)))
    assert catalog.item_ids(rows) == ids
    assert catalog.item_ids(rows[::-1]) == ids[::-1]
    assert catalog.item_ids(rows[[2, 2]]) == ["🎬", "🎬"]
    assert catalog.item_ids(np.empty(0, np.int64)) == []


def test_keys_are_a_view_of_the_map(books: Catalog) -> None:
    assert not books.keys.flags.owndata
    assert not books.keys.flags.writeable


def test_kinds_come_from_the_columns_or_the_caller(make_catalog: MakeCatalog) -> None:
    table = {
        "item_id": ["a", "b"],
        "count": pa.array([1, 2], pa.int16()),
        "year": ["1999", ""],
        "sale": ["true", "0"],
        "tags": ["x|y", "|"],
        "authors": ["Ann Lee, Bo Ek", "Cy"],
        "day": pa.array([datetime.date(1970, 1, 2), None]),
        "time": pa.array([datetime.datetime(1970, 1, 1, 0, 0, 1, 500_000), None], pa.timestamp("ms")),
        "shelf": pa.array(["s1", "s1"]).dictionary_encode(),
        "words": pa.array([["u", None, "", "v"], None], pa.list_(pa.string())),
        "amount": pa.array([math.nan, 2.5], pa.float32()),
    }
    catalog = make_catalog(
        table,
        "count",
        "year:number",
        "sale:flag",
        "tags:texts",
        AttributeSpec("authors", "texts", separator=", "),
        "day",
        "time",
        "place=shelf",
        "words",
        "amount",
        "code=count:text",
    )
    assert catalog.attribute_kinds == {
        "count": "number",
        "year": "number",
        "sale": "flag",
        "tags": "texts",
        "authors": "texts",
        "day": "number",
        "time": "number",
        "place": "text",
        "words": "texts",
        "amount": "number",
        "code": "text",
    }
    assert values(catalog, "year") == {"a": 1999.0, "b": None}
    assert values(catalog, "sale") == {"a": True, "b": False}
    assert values(catalog, "tags") == {"a": ["x", "y"], "b": []}
    assert values(catalog, "authors") == {"a": ["Ann Lee", "Bo Ek"], "b": ["Cy"]}
    assert values(catalog, "day") == {"a": 86_400.0, "b": None}
    assert values(catalog, "time") == {"a": 1.5, "b": None}
    assert values(catalog, "place") == {"a": "s1", "b": "s1"}
    assert values(catalog, "words") == {"a": ["u", "v"], "b": None}
    assert values(catalog, "amount") == {"a": None, "b": 2.5}
    assert values(catalog, "code") == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("cells", "attribute", "words"),
    [
        (["1", "abc"], "x:number", ["row 2, column x", "abc"]),
        (["1", "inf"], "x:number", ["row 2, column x", "finite"]),
        (["yes", "maybe"], "x:flag", ["row 1, column x", "yes"]),
        ([1, 2], "x:texts", ["row 1, column x", "int64"]),
        ([["a"], ["b"]], "x:number", ["column x"]),
        ([[1], [2]], "x", ["column x", "cannot be an attribute"]),
        (["1", "2"], "y", ["no column y", "item_id, x"]),
    ],
)
def test_a_column_that_cannot_be_an_attribute_is_refused(
    make_catalog: MakeCatalog, cells: list[Any], attribute: str, words: list[str]
) -> None:
    with pytest.raises(ReleaseRefused) as refused:
        make_catalog({"item_id": ["a", "b"], "x": cells}, attribute)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("attributes", [["item_id"], ["item_key=x"], ["x", "x"], [AttributeSpec("")]])
def test_a_name_that_is_taken_is_refused(make_catalog: MakeCatalog, attributes: list[Any]) -> None:
    with pytest.raises(ReleaseRefused, match="cannot be called"):
        make_catalog({"item_id": ["a"], "x": ["1"]}, *attributes)


@pytest.mark.parametrize("text", ["", ":number", "=x", "name=", "name:word", "name:"])
def test_an_attribute_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="NAME"):
        AttributeSpec.parse(text)


def test_attributes_as_the_command_line_names_them() -> None:
    assert AttributeSpec.parse("title") == AttributeSpec("title")
    assert AttributeSpec.parse("price:number") == AttributeSpec("price", "number")
    assert AttributeSpec.parse("tags=item_tags:texts") == AttributeSpec("tags", "texts", "item_tags")


def test_an_item_twice_is_refused(make_catalog: MakeCatalog) -> None:
    with pytest.raises(ReleaseRefused, match=r"item 'b' is in the table twice, in rows 2 and 5"):
        make_catalog({"item_id": ["a", "b", "c", "d", "b"]})


def test_colliding_ids_are_refused(make_catalog: MakeCatalog) -> None:
    one, other = colliding_id("a", "b"), colliding_id("b", "a")
    assert one != other
    assert item_key(one) == item_key(other)
    with pytest.raises(ReleaseRefused, match="have the same 64-bit key") as refused:
        make_catalog({"item_id": ["c", one, "d", other]})
    assert repr(one) in str(refused.value)
    assert repr(other) in str(refused.value)


def test_a_table_without_rows_is_refused(make_catalog: MakeCatalog) -> None:
    with pytest.raises(ReleaseRefused, match="no rows"):
        make_catalog({"item_id": pa.array([], pa.string())})


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), CatalogWriter(tmp_path) as writer:
        writer.add(["a"], pa.record_batch({"item_id": ["a"]}))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_unknown_attributes_are_refused_by_name(books: Catalog) -> None:
    books.check_attributes(["title", "tags"])
    with pytest.raises(Refused, match="'colour'; it has genre, title") as refused:
        books.check_attributes(["title", "colour"])
    assert (refused.value.reason, refused.value.field) == (Reason.FILTER_INVALID, "return_attributes[1]")


def write_batches(path: Path, *batches: pa.RecordBatch) -> None:
    with pa.ipc.new_file(str(path), batches[0].schema) as file:
        for batch in batches:
            file.write_batch(batch)


def good_batch(**columns: pa.Array) -> pa.RecordBatch:
    required = {"item_id": pa.array(["a"], pa.large_string()), "item_key": pa.array([1], pa.uint64())}
    return pa.record_batch(required | columns)


def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.arrow"
    with pytest.raises(ReleaseRefused, match=r"items\.arrow is missing"):
        Catalog.open(path)
    for content in (b"", b"ARROW1\0\0", b"no arrow at all" * 100):
        path.write_bytes(content)
        with pytest.raises(ReleaseRefused, match="cannot be mapped"):
            Catalog.open(path)
    good = good_batch(x=pa.array([1.0]))
    wrong = {
        "exactly one record batch": (good, good),
        "column item_id": (good_batch(item_id=pa.array([1])),),
        "column item_key": (good_batch(item_key=pa.array([1])),),
        "without nulls": (good_batch(item_key=pa.array([None], pa.uint64())),),
        "the column x": (good_batch(x=pa.array([1])),),
    }
    for message, batches in wrong.items():
        write_batches(path, *batches)
        with pytest.raises(ReleaseRefused, match=message):
            Catalog.open(path)
    write_batches(path, good)
    assert Catalog.open(path).item_ids(np.array([0])) == ["a"]


def test_a_truncated_file_is_refused(make_catalog: MakeCatalog, tmp_path: Path) -> None:
    make_catalog({"item_id": [f"i{i}" for i in range(1000)]}, batch_rows=1000)
    content = (tmp_path / "items.arrow").read_bytes()
    for size in (10, len(content) // 2, len(content) - 1):
        # A new file: a mapped one is never changed in place.
        path = tmp_path / f"truncated-{size}.arrow"
        path.write_bytes(content[:size])
        with pytest.raises(ReleaseRefused, match="cannot be mapped"):
            Catalog.open(path)
