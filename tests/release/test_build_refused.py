"""What a build refuses, and what it says: the table, the row, the column."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from tests.items.test_catalog import colliding_id
from tests.model_folder import item_table
from tests.release import graphs
from tests.release.conftest import Build
from twotower_server.errors import ReleaseRefused
from twotower_server.features.table import BATCH_ROWS
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.verify import verify_release


def table(**columns: Any) -> pa.Table:
    """Three items, with other columns than usual: None leaves one out."""
    usual = {"item_id": ["a", "b", "c"], "item_price": [1.0, 2.0, 3.0], "item_category": ["film", "film", "film"]}
    return pa.table({name: cells for name, cells in {**usual, **columns}.items() if cells is not None})


def not_utf8() -> pa.Array:
    return pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"\xff", b"c"]).buffers())


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (table(item_id=None), "items.parquet: the table has no column item_id with item ids; it has item_price"),
        (table(item_id=["a", "b", "a"]), "items.parquet: item 'a' is in the table twice, in rows 1 and 3"),
        (table(item_id=["a", "", "c"]), "items.parquet: row 2 has no item_id"),
        (table(item_id=["a", None, "c"]), "items.parquet: row 2 has no item_id"),
        (table(item_id=[1.5, 2.0, 3.0]), "row 1, column item_id: 1.5 is neither text nor a whole number"),
        (table(item_id=[b"a", b"b", b"c"]), "row 1, column item_id: b'a' is neither text nor a whole number"),
        (table(item_id=[True, False, None]), "row 1, column item_id: True is neither text nor a whole number"),
        (table(item_id=["c", colliding_id("a", "b"), colliding_id("b", "a")]), "have the same 64-bit key"),
        (table(item_price=["1", "dear", "3"]), "items.parquet: row 2, column item_price: 'dear' is not a number"),
        (table(item_price=["1", "2", "1e999"]), "row 3, column item_price: '1e999' is not finite"),
        (table(item_price=[1.0, -math.inf, 2.0]), "row 2, column item_price: -inf is not finite"),
        (table(item_price=[[1.0], [2.0], [3.0]]), "row 1, column item_price: [1.0] is not a number"),
        (table(item_price=[1.0, 2.0, 1e39]), "row 3, item 'c': item_price is 1e+39"),
        (table(item_category=[["film"], ["film"], []]), "row 1, column item_category: ['film'] is neither text nor"),
        (table(item_category=[1.0, 1.5, 1.0]), "row 2, column item_category: 1.5 is neither text nor a whole number"),
        (table(item_tags=[[1.0], [0.5], None]), "row 2, column item_tags: 0.5 is neither text nor a whole number"),
        (table(item_category=[b"film", b"", None]), "row 1, column item_category: b'film' is neither text nor"),
        (
            table(item_price=[1.0, None, 2.0], item_category=["film", None, "film"]),
            "items.parquet: row 2, item 'b': the item has no features; send at least one",
        ),
        (
            table(item_price=None, item_category=None, price=[1.0, 2.0, 3.0]),
            "items.parquet: the table has no column of a item feature: it has item_id, price, the schema item_age_days",
        ),
        (table().slice(0, 0), "has no rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_is_refused(build: Build, items: pa.Table, message: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused) as refused:
        build(items)
    assert message in str(refused.value)
    assert not (tmp_path / "releases" / "r1").exists()
    assert list((tmp_path / "releases").iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a"] * 3}, "item 'a' is in the table twice"),
        ({"item_price": [1.0, "x", 2.0]}, "row {row}, column item_price: 'x' is not a number"),
        ({"year": ["1999", "last", "2001"]}, "row {row}, column year: not a number"),
        ({"item_id": ["a", "", "c"]}, "row {row} has no item_id"),
    ],
)
def test_rows_are_counted_through_all_batches(
    build: Build, columns: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    rows = [f"i{i},1.5,1999" for i in range(BATCH_ROWS + 100)]
    usual = {"item_id": ["a", "b", "c"], "item_price": [1.0, 2.0, 3.0], "year": ["1", "2", "3"], **columns}
    rows += [",".join(map(str, cells)) for cells in zip(*usual.values(), strict=True)]
    (tmp_path / "items.csv").write_text("item_id,item_price,year\n" + "\n".join(rows) + "\n")
    with pytest.raises(ReleaseRefused, match=message.format(row=BATCH_ROWS + 102)):
        build(tmp_path / "items.csv", attributes=[AttributeSpec("year", "number")])


def test_bytes_that_are_no_text_are_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match=r"items\.parquet cannot be read as \.parquet: .*UTF8"):
        build(table(item_id=not_utf8()))
    with pytest.raises(ReleaseRefused, match="UTF8"):
        build(table(item_category=not_utf8()))
    (tmp_path / "items.csv").write_bytes(b"item_id,item_price\na,1\n\xff,2\n")
    with pytest.raises(ReleaseRefused, match=r"items\.csv cannot be read as \.csv: .*UTF8"):
        build(tmp_path / "items.csv")


def test_a_column_twice_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,item_price,item_price\na,1,2\n")
    with pytest.raises(ReleaseRefused, match="has the column item_price twice"):
        build(tmp_path / "items.csv")
    batch = pa.RecordBatch.from_arrays([pa.array(["a"]), pa.array([1.0]), pa.array([2.0])], ["item_id", "x", "x"])
    with pa.ipc.new_file(str(tmp_path / "items.arrow"), batch.schema) as file:
        file.write_batch(batch)
    with pytest.raises(ReleaseRefused, match="has the column x twice"):
        build(tmp_path / "items.arrow")


def test_files_that_are_no_tables_are_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match=r"items\.csv does not exist"):
        build(tmp_path / "items.csv")
    with pytest.raises(ReleaseRefused, match=r"items\.txt must end with \.csv, \.parquet, \.arrow, \.feather"):
        build(tmp_path / "items.txt")
    for ending in ("csv", "parquet", "arrow"):
        (tmp_path / f"folder.{ending}").mkdir()
        with pytest.raises(ReleaseRefused, match=rf"folder\.{ending} cannot be read as \.{ending}"):
            build(tmp_path / f"folder.{ending}")
        (tmp_path / f"empty.{ending}").write_bytes(b"")
        with pytest.raises(ReleaseRefused, match=rf"empty\.{ending} cannot be read as \.{ending}"):
            build(tmp_path / f"empty.{ending}")
    (tmp_path / "short.csv").write_text("item_id,item_price\na,1\nb\n")
    with pytest.raises(ReleaseRefused, match=r"short\.csv cannot be read as \.csv: .*Expected 2 columns, got 1"):
        build(tmp_path / "short.csv")


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_truncated_table_is_refused(build: Build, ending: str, tmp_path: Path) -> None:
    whole = tmp_path / f"items.{ending}"
    if ending == "parquet":
        pq.write_table(item_table(300), whole)
    else:
        with pa.ipc.new_file(str(whole), item_table(1).schema) as file:
            file.write_table(item_table(1))
    (tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(ReleaseRefused, match=rf"cut\.{ending} cannot be read as \.{ending}"):
        build(tmp_path / f"cut.{ending}")


@pytest.mark.parametrize(
    ("cells", "spec", "message"),
    [
        (["1", "x", "3"], "year:number", "items.parquet: row 2, column year: not a number"),
        (["yes", "true", "false"], "year:flag", "items.parquet: row 1, column year: not a flag"),
        ([1, 2, 3], "year:texts", "items.parquet: row 1, column year: not a texts"),
        ([[1], [2], [3]], "year", "items.parquet: the column year of list<"),
        ([1, 2, 3], "age=jear", "the table has no column jear for the attribute age"),
        ([1, 2, 3], "item_id=year", "an attribute cannot be called 'item_id'"),
    ],
)
def test_an_attribute_that_is_refused(build: Build, cells: list[Any], spec: str, message: str) -> None:
    with pytest.raises(ReleaseRefused) as refused:
        build(table(year=cells), attributes=[AttributeSpec.parse(spec)])
    assert message in str(refused.value)


def test_held_back_users_are_refused_by_row(build: Build, items: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user_age\n30\nold\n")
    with pytest.raises(ReleaseRefused, match=r"users\.csv: row 2, column user_age: 'old' is not a number"):
        build(items, users=tmp_path / "users.csv")
    (tmp_path / "users.csv").write_text("user_age\n")
    with pytest.raises(ReleaseRefused, match="has no rows"):
        build(items, users=tmp_path / "users.csv")
    (tmp_path / "users.csv").write_text("user_age,user_city\n,\n,\n")
    with pytest.raises(ReleaseRefused, match="no held-back user can be embedded: the user has no features"):
        build(items, users=tmp_path / "users.csv")


def test_a_model_without_held_back_users_needs_a_table_of_them(build: Build, items: Path, own_model: Path) -> None:
    (own_model / "users.parquet").unlink()
    with pytest.raises(ReleaseRefused, match=r"has no users\.parquet; name a table of held-back users"):
        build(items, model=own_model)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "active", "Books", "a/b", "../up", "a" * 64, "ä", "~building-x", "a b"]
)
def test_a_name_that_cannot_be_a_release(build: Build, items: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match="cannot name a release: use 1 to 63 of a-z"):
        build(items, name)
    assert not (tmp_path / "releases").exists()


def test_a_release_is_never_built_over(build: Build, items: Path, tmp_path: Path) -> None:
    release = build(items)
    before = {path.name: path.read_bytes() for path in release.iterdir()}
    with pytest.raises(ReleaseRefused, match="has a release r1 already; releases never change, choose another name"):
        build(items)
    assert {path.name: path.read_bytes() for path in release.iterdir()} == before
    assert os.listdir(tmp_path / "releases") == ["r1"]


def edit_model(**changes: Any) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        about = json.loads((model / "model.json").read_text())
        (model / "model.json").write_text(json.dumps({**about, **changes}))

    return edit


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda model: (model / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: (model / "model.json").unlink(), "has no model.json; `twotower train --out` writes it"),
        (write("model.json", "{"), "model.json is not JSON"),
        (write("model.json", "[" * 100_000), "model.json is not JSON"),
        (write("model.json", "[]"), "model.json is not of format 1"),
        (edit_model(format=2), "model.json is not of format 1"),
        (edit_model(similarity="euclid"), "model.json.similarity must be dot or cosine, not 'euclid'"),
        (edit_model(calibration={"scale": 0, "bias": 0}), "scale must be greater than 0, not 0"),
        (edit_model(calibration={"scale": 10**400, "bias": 0}), "needs two finite numbers, scale and bias"),
        (edit_model(calibration={"scale": 1}), "needs two finite numbers, scale and bias"),
        (edit_model(training=[]), "model.json.training must be an object"),
        (edit_model(item_columns={"item_price": {"column": "cost"}}), "no column cost for the feature item_price"),
        (lambda model: (model / "schema.json").unlink(), "schema.json is missing"),
        (write("schema.json", "{"), "schema.json is not JSON"),
        (write("schema.json", "[" * 100_000), "schema.json is not JSON"),
        (lambda model: (model / "user_tower.onnx").unlink(), "user_tower.onnx is missing"),
    ],
)
def test_a_model_folder_that_is_refused(
    build: Build, items: Path, own_model: Path, change: Callable[[Path], object], message: str
) -> None:
    change(own_model)
    with pytest.raises(ReleaseRefused) as refused:
        build(items, model=own_model)
    assert message in str(refused.value)


def test_a_model_folder_that_is_not_there(build: Build, items: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match="nowhere is not a folder; `twotower train --out` writes one"):
        build(items, model=tmp_path / "nowhere")


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize(("change", "message"), graphs.BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_graph_that_does_not_fit_its_schema_is_refused(
    build: Build, items: Path, own_model: Path, side: str, change: graphs.Change, message: str
) -> None:
    change(own_model / f"{side}_tower.onnx")
    with pytest.raises(ReleaseRefused, match=message) as refused:
        build(items, model=own_model)
    assert f"{side}_tower.onnx" in str(refused.value)
    assert "/" not in str(refused.value).replace("../../../etc/passwd", "")


@pytest.mark.parametrize(
    ("similarity", "factor", "refused"),
    [
        ("dot", 1e30, True),
        ("dot", math.inf, True),
        ("dot", math.nan, True),
        ("dot", 1e9, False),
        ("cosine", math.inf, True),
        ("cosine", math.nan, True),
        ("cosine", 1e30, False),
    ],
)
@pytest.mark.parametrize("side", ["user", "item"])
def test_a_tower_without_finite_vectors_is_refused(
    build: Build, items: Path, own_model: Path, side: str, similarity: str, factor: float, refused: bool
) -> None:
    edit_model(similarity=similarity)(own_model)
    graphs.multiply_output(own_model / f"{side}_tower.onnx", factor)
    if not refused:
        verify_release(build(items, model=own_model))
        return
    name = "held-back user 1" if side == "user" else "i0"
    with pytest.raises(
        ReleaseRefused, match=f"the tower gives no vector of finite length for '{name}'; are its values"
    ):
        build(items, model=own_model)
