"""What differs between two releases, checked against what the test has changed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.conftest import ATTRIBUTES
from tests.model_folder import SCHEMA, item_table, user_table, write_model
from tests.release.conftest import manifest_of, write_manifest
from twotower_server.errors import ReleaseRefused
from twotower_server.features.table import feature_rows
from twotower_server.items.attribute import AttributeSpec
from twotower_server.release.diff import Change, SetChange, diff_releases
from twotower_server.release.format import SCHEMA as SCHEMA_FILE
from twotower_server.release.snapshot import Snapshot

Build = Callable[..., Path]

TABLE = item_table(300)


@pytest.fixture
def built(build: Build) -> Path:
    """The release `before`, of 300 items."""
    return build(TABLE, "before", attributes=ATTRIBUTES)


def test_a_release_and_itself_do_not_differ(built: Path) -> None:
    diff = diff_releases(built, built)
    assert all(change.before == change.after for change in diff.facts)
    for tower in (diff.user, diff.item):
        assert tower.same_graph and tower.same_schema
        assert (tower.added, tower.removed, tower.changed) == ([], [], [])
    assert diff.catalog == SetChange(300, 0, 0, [], [])
    assert (diff.attributes, diff.training) == ([], [])
    assert diff.moves is not None
    assert (diff.moves.users, diff.moves.items, diff.moves.k) == (60, 300, 100)
    assert (diff.moves.overlap_mean, diff.moves.overlap_min, diff.moves.best_changed) == (1.0, 1.0, 0.0)


def test_items_that_come_and_go(build: Build, built: Path) -> None:
    new = pa.concat_tables([TABLE.slice(10), item_table(303).slice(300)])
    diff = diff_releases(built, build(new, "after", attributes=ATTRIBUTES), k=5)
    catalog = diff.catalog
    assert (catalog.common, catalog.added, catalog.removed) == (290, 3, 10)
    assert sorted(catalog.added_examples) == ["i300", "i301", "i302"]
    assert len(catalog.removed_examples) == 5
    assert set(catalog.removed_examples) <= {f"i{i}" for i in range(10)}
    # The towers are the same, so on the items that both have nothing moves, whatever was added.
    assert diff.moves is not None
    assert (diff.moves.items, diff.moves.overlap_min, diff.moves.best_changed) == (290, 1.0, 0.0)
    assert Change("items", 300, 293) in diff.facts


def test_nothing_in_common(build: Build, built: Path) -> None:
    other = TABLE.set_column(0, "item_id", pc.binary_join_element_wise("x", TABLE["item_id"], ""))
    diff = diff_releases(built, build(other, "after"))
    assert (diff.catalog.common, diff.catalog.added, diff.catalog.removed) == (0, 300, 300)
    assert diff.moves is None


def test_attributes(build: Build, built: Path) -> None:
    price = AttributeSpec("price", kind="text", column="title")
    after = build(TABLE, "after", attributes=(AttributeSpec("title"), price, AttributeSpec("ctr", column="item_ctr")))
    assert diff_releases(built, after).attributes == [
        Change("in_stock", "flag", None),
        Change("category", "text", None),
        Change("price", "number", "text"),
        Change("tags", "texts", None),
        Change("ctr", None, "number"),
    ]


def changed_schema() -> dict[str, Any]:
    schema = copy.deepcopy(SCHEMA)
    user = {feature["name"]: feature for feature in schema["user"]["features"]}
    user["user_age"]["missing"] = {"rule": "constant", "value": 30.0}
    user["user_age"]["clip"] = [0, 120]
    user["user_gender"]["vocabulary"] = ["m", "x", "1"]
    user["scene_page"]["vocabulary"] = ["cart", "home"]
    del user["user_city"]["buckets"]
    user["user_city"]["vocabulary"] = ["Berlin"]
    schema["user"]["features"].append(
        {"name": "user_os", "kind": "categorical", "buckets": 8, "missing": {"rule": "marker"}}
    )
    schema["item"]["features"] = [one for one in schema["item"]["features"] if one["name"] != "item_age_days"]
    schema["item"]["transforms"] = "graph"
    return schema


def test_schemas_and_towers(build: Build, built: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "other", schema=changed_schema(), similarity="cosine", scale=8.0)
    diff = diff_releases(built, build(TABLE, "after", model=model, index="ivf_sq8"))
    assert not diff.user.same_graph and not diff.user.same_schema
    assert (diff.user.added, diff.user.removed) == (["user_os"], [])
    changed = {feature.feature: feature for feature in diff.user.changed}
    assert changed.keys() == {"user_age", "user_gender", "scene_page", "user_city"}
    assert changed["user_age"].changes == [
        Change("missing", {"rule": "mean", "value": 38.0}, {"rule": "constant", "value": 30.0}),
        Change("clip", None, [0.0, 120.0]),
    ]
    assert changed["user_gender"].changes == []
    assert changed["user_gender"].vocabulary == SetChange(2, 1, 1, ["x"], ["f"])
    assert changed["scene_page"].vocabulary == SetChange(2, 0, 0, [], []), "the order is part of a schema"
    assert changed["user_city"].changes == [Change("buckets", 16, None), Change("vocabulary", None, "1 values")]
    assert (diff.item.added, diff.item.removed, diff.item.changed) == ([], ["item_age_days"], [])
    assert diff.item.transforms == Change("transforms", "server", "graph")
    facts = {change.name: (change.before, change.after) for change in diff.facts}
    assert facts["similarity"] == ("dot", "cosine")
    assert facts["scale"] == (2.0, 8.0)
    assert facts["index"] == ("exact", "ivf_sq8")
    assert facts["index probes"][0] is None and facts["index probes"][1] > 0


def test_training(built: Path, build: Build) -> None:
    after = build(TABLE, "after")
    training = {"seed": 2, "metrics": {"recall": 0.5}, "layers": [64]}
    write_manifest(after, {**manifest_of(after), "training": training})
    assert diff_releases(built, after).training == [
        Change("seed", 1, 2),
        Change("metrics.recall", None, 0.5),
        Change("layers", None, [64]),
    ]


def test_lists_move_as_far_as_exact_search_says(build: Build, built: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "other", seed=7)
    after = build(TABLE.slice(20), "after", model=model, index="ivf_sq8")
    moves = diff_releases(built, after, k=10).moves
    assert moves is not None

    def best(folder: Path) -> list[list[str]]:
        """Of each user, among the items that both have, worked out from the vectors."""
        snapshot = Snapshot.open(folder)
        rows = np.arange(len(snapshot.catalog))
        ids = np.array(snapshot.catalog.item_ids(rows))
        common = np.isin(ids, [f"i{i}" for i in range(20, 300)])
        users = feature_rows(user_table(60).to_batches()[0], snapshot.schema.user, 0)
        vectors = snapshot.embed_users(snapshot.user_encoder.encode(users))
        order = np.argsort(-(vectors @ snapshot.vectors[common].T), axis=1)[:, :10]
        return [list(ids[common][row]) for row in order]

    pairs = list(zip(best(built), best(after), strict=True))
    overlaps = [len(set(one) & set(other)) / 10 for one, other in pairs]
    assert 0 < np.mean(overlaps) < 0.5, "other towers give other lists"
    assert (moves.users, moves.items, moves.k) == (60, 280, 10)
    assert moves.overlap_mean == pytest.approx(np.mean(overlaps))
    assert moves.overlap_min == min(overlaps)
    assert moves.best_changed == pytest.approx(np.mean([one[0] != other[0] for one, other in pairs]))


def test_golden_users_of_both_are_asked(build: Build, built: Path, model: Path, tmp_path: Path) -> None:
    pq.write_table(user_table(40, seed=99), tmp_path / "users.parquet")
    after = build(TABLE, "after", users=tmp_path / "users.parquet")
    moves = diff_releases(built, after).moves
    assert moves is not None
    assert moves.users == 100


def test_a_release_that_cannot_be_opened_is_named(built: Path, build: Build) -> None:
    after = build(TABLE, "after")
    (after / SCHEMA_FILE).unlink()
    with pytest.raises(ReleaseRefused, match=r"^release after: schema\.json is missing$"):
        diff_releases(built, after)


def test_it_is_json_as_it_is(built: Path, build: Build) -> None:
    diff = diff_releases(built, build(TABLE, "after"))
    assert diff.to_json().keys() == {field.name for field in dataclasses.fields(diff)}
    assert diff.to_json()["moves"]["k"] == 100
