"""Building a release: what is in it, whatever the table was."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from tests.conftest import ATTRIBUTES, ITEMS
from tests.model_folder import DIMENSION, item_table, user_table
from tests.release.conftest import Build, manifest_of
from tests.rpc.recomputed import Features, Recomputed, item_key
from twotower_server.features.row import Row
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.build import MAX_QUERIES, Recipe, build_release
from twotower_server.release.fleet import Fleet
from twotower_server.release.format import FILES, MANIFEST
from twotower_server.release.golden import SAMPLES, Golden
from twotower_server.release.repository import LocalRepository
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.verify import Check, verify_release


def features_of(row: dict[str, Any], prefix: str) -> Features:
    """What a row of a table says of an item or a user; nothing and empty lists are missing."""
    return {name: value for name, value in row.items() if name.startswith(prefix) and value not in (None, [])}


@pytest.mark.parametrize("name", ["dot", "cosine"])
def test_vectors_are_those_of_the_item_tower_by_key(releases: Path, name: str) -> None:
    recomputed = Recomputed(releases / name)
    table = {row.pop("item_id"): row for row in item_table(ITEMS).to_pylist()}
    assert sorted(recomputed.item_ids) == sorted(table)
    keys = [item_key(id) for id in recomputed.item_ids]
    assert keys == sorted(keys)
    assert recomputed.attributes["item_key"] == keys
    expected = np.array([recomputed.item(features_of(table[id], "item_")) for id in recomputed.item_ids])
    assert recomputed.vectors.dtype == np.float32
    np.testing.assert_allclose(recomputed.vectors, expected, rtol=1e-5, atol=1e-5)
    if name == "cosine":
        np.testing.assert_allclose(np.linalg.norm(recomputed.vectors, axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["dot", "cosine"])
def test_attributes_stand_in_the_rows_of_their_items(releases: Path, name: str) -> None:
    recomputed = Recomputed(releases / name)
    table = {row["item_id"]: row for row in item_table(ITEMS).to_pylist()}
    for spec in ATTRIBUTES:
        assert recomputed.attributes[spec.name] == [table[id][spec.source] for id in recomputed.item_ids]


@pytest.mark.parametrize("name", ["dot", "cosine"])
def test_built_verified_and_opened_it_agrees_with_a_recomputation(releases: Path, name: str) -> None:
    verify_release(releases / name)
    snapshot, recomputed = Snapshot.open(releases / name), Recomputed(releases / name)
    (row,) = user_table(ITEMS).slice(7, 1).to_pylist()
    query = recomputed.user(features_of(row, "user_"))
    golden = Golden.load(releases / name / "golden.json")
    np.testing.assert_allclose(
        snapshot.embed_users(snapshot.user_encoder.encode(golden.users[7:8]))[0],
        recomputed.user(golden_features(golden.users[7])),
        rtol=1e-5,
        atol=1e-6,
    )
    rows, similarities = snapshot.index.search(query, 10)
    assert snapshot.catalog.item_ids(rows) == recomputed.top(query, 10)
    ids = snapshot.catalog.item_ids(rows)
    np.testing.assert_allclose(similarities, recomputed.similarities(query, ids), rtol=1e-5)


def golden_features(row: Row) -> Features:
    lists = {name: list(strings.values) for name, strings in row.string_features.items()}
    return {**row.features, **lists}


@pytest.mark.parametrize("name", ["dot", "cosine"])
def test_golden_samples_agree_with_a_recomputation(releases: Path, name: str) -> None:
    golden, recomputed = Golden.load(releases / name / "golden.json"), Recomputed(releases / name)
    users = np.array([recomputed.user(golden_features(user)) for user in golden.users])
    items = np.array([recomputed.item(golden_features(item)) for item in golden.items])
    np.testing.assert_allclose(golden.user_vectors, users, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(golden.item_vectors, items, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(golden.scores, recomputed.scores(users @ items.T), rtol=1e-4)


def test_golden_items_are_spread_over_the_catalog_in_any_order_of_the_table(build: Build) -> None:
    table = item_table(2_000)
    found = []
    for name, order in (("a", np.arange(2_000)), ("b", np.arange(2_000)[::-1])):
        release = build(table.take(pa.array(order)), name)
        golden = Golden.load(release / "golden.json")
        assert len(golden.item_ids) == len(golden.users) + 4 == SAMPLES
        found.append(golden.item_ids)
        snapshot = Snapshot.open(release)
        rows = [snapshot.catalog.item_ids(np.arange(2_000)).index(id) for id in golden.item_ids]
        assert np.histogram(rows, bins=8, range=(0, 2_000))[0].min() >= 1
    assert found[0] == found[1]


def test_the_manifest_says_what_was_built(releases: Path) -> None:
    manifest = manifest_of(releases / "dot")
    assert manifest["format"] == 1
    assert (manifest["release"], manifest["items"], manifest["dimension"]) == ("dot", ITEMS, DIMENSION)
    assert manifest["calibration"] == {"scale": 2.0, "bias": -0.5}
    assert manifest["index"] == {"kind": "exact", "recall": 1.0, "parameters": {}}
    assert manifest["training"] == {"seed": 1}
    assert manifest["log_position"] == 0
    assert sorted(path.name for path in (releases / "dot").iterdir()) == sorted([MANIFEST, *FILES])


def test_an_index_that_is_not_exact_reaches_the_wanted_recall(ivf_releases: Path) -> None:
    manifest = manifest_of(ivf_releases / "one")
    assert manifest["index"]["kind"] == "ivf_sq8"
    assert 0.95 <= manifest["index"]["recall"] <= 1
    checks: list[Check] = []
    verify_release(ivf_releases / "one", checks.append)
    assert [check.name for check in checks] == [
        "manifest",
        "checksums",
        "schema, graphs and dimensions",
        "catalog",
        "vectors",
        "golden samples",
        "sample of items recomputed",
        "index recall",
    ]


def test_a_smaller_wanted_recall_costs_fewer_probes(build: Build) -> None:
    table = item_table(4_000, seed=33)
    probes = [
        manifest_of(build(table, name, index="ivf_sq8", recall=recall))["index"]["parameters"]["probes"]
        for name, recall in (("most", 0.99), ("some", 0.5))
    ]
    assert probes[0] > probes[1]


def without_empty_lists(table: pa.Table) -> pa.Table:
    """In CSV an empty list cannot be told from an absent one."""
    tags = pa.array([tags or None for tags in table["item_tags"].to_pylist()])
    return table.set_column(table.column_names.index("item_tags"), "item_tags", tags)


def as_text(table: pa.Table) -> pa.Table:
    """Lists as text separated by bars."""
    tags = pa.array([None if tags is None else "|".join(tags) for tags in table["item_tags"].to_pylist()])
    return table.set_column(table.column_names.index("item_tags"), "item_tags", tags)


def test_csv_parquet_and_arrow_give_the_same_release(build: Build, tmp_path: Path) -> None:
    table = without_empty_lists(item_table(ITEMS))
    pyarrow.csv.write_csv(as_text(table), tmp_path / "items.csv")
    pq.write_table(table, tmp_path / "items.parquet", row_group_size=100)
    with pa.ipc.new_file(str(tmp_path / "items.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=100)
    pyarrow.feather.write_feather(table, tmp_path / "items.feather")
    attributes = [
        AttributeSpec("title"),
        AttributeSpec("in_stock", "flag"),
        AttributeSpec("category", column="item_category"),
        AttributeSpec("price", "number", "item_price"),
        AttributeSpec("tags", "texts", "item_tags"),
    ]
    contents = []
    for ending in ("csv", "parquet", "arrow", "feather"):
        release = build(tmp_path / f"items.{ending}", ending, attributes=attributes)
        contents.append({name: (release / name).read_bytes() for name in FILES})
    assert contents[1] == contents[0]
    assert contents[2] == contents[0]
    assert contents[3] == contents[0]


def test_the_same_table_gives_the_same_files(releases: Path, build: Build, items: Path) -> None:
    again = build(items, attributes=ATTRIBUTES)
    for name in FILES:
        assert (again / name).read_bytes() == (releases / "dot" / name).read_bytes(), name


def test_columns_that_training_mapped_are_found(build: Build, own_model: Path) -> None:
    about = json.loads((own_model / "model.json").read_text())
    mapping = {
        "item_id_column": "sku",
        "item_columns": {
            "item_price": {"column": "cents"},
            "item_tags": {"column": "labels", "separator": ", "},
        },
    }
    (own_model / "model.json").write_text(json.dumps({**about, **mapping}))
    table = pa.table({"sku": [7, 8], "cents": [950, None], "labels": ["t1, t2", None], "item_category": ["film", "1"]})
    recomputed = Recomputed(build(table, model=own_model, attributes=[AttributeSpec("labels")]))
    assert sorted(recomputed.item_ids) == ["7", "8"]
    expected = recomputed.item({"item_price": 950, "item_tags": ["t1", "t2"], "item_category": "film"})
    np.testing.assert_allclose(recomputed.vector("7"), expected, rtol=1e-5)
    np.testing.assert_allclose(recomputed.vector("8"), recomputed.item({"item_category": "1"}), rtol=1e-5)
    assert dict(zip(recomputed.item_ids, recomputed.attributes["labels"], strict=True)) == {"7": "t1, t2", "8": None}


def test_held_back_users_may_be_named(build: Build, items: Path, tmp_path: Path) -> None:
    pq.write_table(user_table(5, seed=77), tmp_path / "others.parquet")
    release = build(items, users=tmp_path / "others.parquet")
    golden = Golden.load(release / "golden.json")
    assert [user.features["user_hour"] for user in golden.users] == user_table(5, seed=77)["user_hour"].to_pylist()


def test_more_held_back_users_than_needed_are_left_unread(build: Build, items: Path, tmp_path: Path) -> None:
    rows = "user_age\n" + "30\n" * MAX_QUERIES + "not a number\n"
    (tmp_path / "users.csv").write_text(rows)
    verify_release(build(items, users=tmp_path / "users.csv"))


class Stages:
    """Hears what a build says of its progress."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.done: list[int] = []

    def start(self, stage: str, total: int | None) -> None:
        self.stages.append((stage, total))
        self.done.append(0)

    def advance(self, units: int) -> None:
        self.done[-1] += units


def test_progress_counts_to_its_totals(model: Path, items: Path, tmp_path: Path) -> None:
    stages = Stages()
    recipe = Recipe("r1", model, items, index="ivf_sq8")
    build_release(recipe, tmp_path / "releases", stages)
    assert dict(stages.stages)["embedding items"] == ITEMS
    totals: Sequence[int | None] = [total for _, total in stages.stages]
    assert [done for done, total in zip(stages.done, totals, strict=True) if total is not None] == [
        total for total in totals if total is not None
    ]


def test_it_becomes_the_active_release_when_told_so(model: Path, items: Path, tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    build_release(Recipe("first", model, items), releases, activate=True)
    build_release(Recipe("second", model, items), releases)
    assert Fleet(LocalRepository(releases)).active() == "first"
    build_release(Recipe("third", model, items), releases, activate=True)
    assert Fleet(LocalRepository(releases)).active() == "third"


def test_times_mean_the_same_on_every_machine(build: Build, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [datetime.datetime(2024, 1, 2, 3, 4, 5), None]
    release = None
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        table = pa.table({"item_id": ["a", "b"], "item_age_days": times, "item_category": ["film", "film"]})
        release = build(table, zone.lower().replace("/", "-"))
        golden = Golden.load(release / "golden.json")
        item = golden.items[list(golden.item_ids).index("a")]
        assert item.features["item_age_days"] == 1_704_164_645.0
    monkeypatch.undo()
    time.tzset()
