"""Reading and splitting: the order of time, no leakage, and errors that name the place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower_server.errors import ReleaseRefused
from twotower_server.features.encode import Encoder
from twotower_server.features.row import Row, Strings
from twotower_server.release.calibration import scores
from twotower_server.train.calibrate import fit_calibration
from twotower_server.train.config import DataConfig, TrainConfig, load_config
from twotower_server.train.data import (
    Entities,
    Interactions,
    column_mapping,
    read_entities,
    read_interactions,
    split_by_user,
    user_rows,
)
from twotower_server.train.errors import TrainingFailed
from twotower_server.train.evaluate import held_back_ranks, popularity_ranks
from twotower_server.train.statistics import measure_schema


class Shop(Protocol):
    folder: Path
    config: Path


def read(config: TrainConfig) -> tuple[Interactions, Entities, Entities]:
    items = read_entities(
        config.data.items,
        "item",
        config.side("item"),
        column_mapping(config.side("item"), config.data.item_id),
    )
    assert config.data.users is not None
    users = read_entities(
        config.data.users, "user", config.side("user"), column_mapping(config.side("user"), "user_id")
    )
    interactions, users = read_interactions(config.data, items, users)
    return interactions, items, users


def small(pairs: Sequence[tuple[str, str]], tmp_path: Path, **data: Any) -> Interactions:
    path = tmp_path / "i.csv"
    path.write_text("user_id,item_id,at\n" + "".join(f"{u},{i},{n}\n" for n, (u, i) in enumerate(pairs)), "utf-8")
    config = tmp_path / "t.toml"
    config.write_text(
        '[data]\ninteractions = "i.csv"\nitems = "t.csv"\n[features.item_x]\nkind = "categorical"\n'
        '[features.user_shelf]\nkind = "sequence"\nhistory = true\n'
    )
    declared = dataclasses.replace(load_config(config).data, **data)
    return read_interactions(declared, Entities(["a", "b", "c"], [Row()] * 3), None)[0]


def test_interactions_are_ordered_by_time_within_each_user(shop: Shop) -> None:
    config = load_config(shop.config)
    interactions, items, users = read(config)
    lines = [line.split(",") for line in (shop.folder / "interactions.csv").read_text().splitlines()[1:]]
    for u in (0, 17, 239):
        own = sorted((int(at), sku) for user, sku, at in lines if user == users.ids[u])
        found = interactions.items[interactions.offsets[u] : interactions.offsets[u + 1]]
        assert [items.ids[i] for i in found] == [sku for _, sku in own]
    assert (np.diff(interactions.users) >= 0).all()


@pytest.mark.parametrize(
    "times",
    [
        ("9", "10", "11"),
        ("-5.5", "1e3", "2e3"),
        ("2024-02-01", "2024-02-01T10:00:00", "2024-02-01T11:00:00+00:00"),
        # As text, the last of these would come first.
        ("2024-02-01T10:00:00+02:00", "2024-02-01T09:00:00Z", "2024-02-01 09:00:00.5"),
    ],
)
def test_times_are_ordered_as_times(times: tuple[str, str, str], tmp_path: Path) -> None:
    rows = zip("bca", (times[1], times[2], times[0]), strict=True)
    (tmp_path / "i.csv").write_text("user_id,item_id,at\n" + "".join(f"u,{item},{at}\n" for item, at in rows))
    data = DataConfig(tmp_path / "i.csv", tmp_path / "t.csv", timestamp="at")
    interactions, _ = read_interactions(data, Entities(["a", "b", "c"], [Row()] * 3), None)
    assert interactions.items.tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.date32(), pa.int64()])
def test_times_of_typed_columns_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    days = pa.array([19_000, 18_000, 20_000], pa.int32())
    at = days.cast(pa.date32()).cast(kind) if kind != pa.int64() else days.cast(kind)
    table = pa.table({"user_id": ["u", "u", "u"], "item_id": ["b", "a", "c"], "at": at})
    pq.write_table(table, tmp_path / "i.parquet")
    data = DataConfig(tmp_path / "i.parquet", tmp_path / "t.csv", timestamp="at")
    interactions, _ = read_interactions(data, Entities(["a", "b", "c"], [Row()] * 3), None)
    assert interactions.items.tolist() == [0, 1, 2]


@pytest.mark.parametrize("time", ["31/12/2023", "yesterday", "nan"])
def test_a_time_that_cannot_be_ordered_is_refused(time: str, tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text(f"user_id,item_id,at\nu,a,2024-01-01\nu,b,{time}\n")
    data = DataConfig(tmp_path / "i.csv", tmp_path / "t.csv", timestamp="at")
    with pytest.raises(ReleaseRefused, match=rf"i\.csv row 2: the at '{time}' is neither a number nor ISO 8601"):
        read_interactions(data, Entities(["a", "b"], [Row()] * 2), None)


def test_columns_are_read_under_the_names_of_features(shop: Shop) -> None:
    _, items, users = read(load_config(shop.config))
    assert items.ids[1] == "s1"
    assert list(items.rows[1].string_features["item_makers"].values) == ["m1", "m1"]
    assert list(items.rows[7].string_features["item_makers"].values) == ["m7", "m2"]
    assert "item_price" not in items.rows[10].features
    assert users.rows[1].features["user_interest_bikes"] == 0.9


def test_no_history_holds_its_own_target_or_anything_later(tmp_path: Path) -> None:
    pairs = [("u", "a"), ("u", "b"), ("v", "c"), ("u", "a"), ("u", "c"), ("v", "a")]
    interactions = small(pairs, tmp_path)
    features = load_config(tmp_path / "t.toml").side("user")
    users = Entities(["u", "v"], [Row(), Row()])
    rows = user_rows(interactions, users, ["a", "b", "c"], features, np.arange(6))
    histories = [list(row.string_features.get("user_shelf", Strings([])).values) for row in rows]
    # u takes a, b, a, c; the third is `a` again, so `a` is not in the history that foretells it.
    assert histories == [[], ["a"], ["b"], ["a", "b", "a"], [], ["c"]]


def test_no_example_of_real_data_leaks(shop: Shop) -> None:
    config = load_config(shop.config)
    interactions, items, users = read(config)
    rows = user_rows(interactions, users, items.ids, config.side("user"), np.arange(len(interactions.items)))
    for n, row in enumerate(rows):
        target = items.ids[interactions.items[n]]
        start = interactions.offsets[interactions.users[n]]
        earlier = [items.ids[i] for i in interactions.items[start:n]]
        expected = [id for id in earlier if id != target][-5:]
        found = row.string_features.get("user_recent")
        assert (list(found.values) if found else []) == expected


def test_held_back_users_are_not_learned_from(shop: Shop) -> None:
    interactions, _, _ = read(load_config(shop.config))
    split = split_by_user(interactions, 0.2, 0.1, 3)
    groups = [set(interactions.users[part].tolist()) for part in (split.train, split.validation, split.test)]
    assert [len(g) for g in groups[1:]] == [48, 24]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    for n in (*split.validation, *split.test):
        assert n + 1 == interactions.offsets[interactions.users[n] + 1], "not the last one"
    again = split_by_user(interactions, 0.2, 0.1, 3)
    assert (again.test == split.test).all()
    assert (split_by_user(interactions, 0.2, 0.1, 4).test.tolist()) != split.test.tolist()


def test_statistics_come_from_training_alone(shop: Shop) -> None:
    config = load_config(shop.config)
    interactions, items, users = read(config)
    split = split_by_user(interactions, 0.5, 0.4, 1)  # so few are left that some items never occur
    counts = np.bincount(interactions.items[split.train], minlength=len(items.ids))
    trained = np.unique(interactions.users[split.train])
    schema = measure_schema(config, [users.rows[i] for i in trained], items.rows, counts.tolist(), items.ids)
    age = next(f for f in schema.user.features if f.name == "user_age")
    ages = [users.rows[i].features["user_age"] for i in trained if "user_age" in users.rows[i].features]
    assert age.transform.numbers == pytest.approx((np.mean(ages), np.std(ages)))
    price = next(f for f in schema.item.features if f.name == "item_price")
    prices = [r.features["item_price"] for r, n in zip(items.rows, counts, strict=True) if n and r.features]
    assert price.missing.value == pytest.approx(np.mean(prices))
    recent = next(f for f in schema.user.features if f.name == "user_recent")
    assert set(recent.vocabulary or ()) == {id for id, n in zip(items.ids, counts, strict=True) if n}
    assert len(recent.vocabulary or ()) < len(items.ids)
    json.dumps(schema.to_json())
    assert Encoder(schema.user).encode(users.rows[1:2]).numeric is not None


@pytest.mark.parametrize("value", ["0.1", "1700000000.3", "-3e-9"])
def test_a_constant_feature_is_divided_by_one(value: str, tmp_path: Path) -> None:
    """Its deviation is rounding, and dividing by that would blow up the first other value in serving."""
    (tmp_path / "t.csv").write_text("item_id,item_x\n" + "".join(f"i{i},{value}\n" for i in range(1000)))
    config = tmp_path / "t.toml"
    config.write_text(
        '[data]\ninteractions = "i.csv"\nitems = "t.csv"\n[features.item_x]\nkind = "numeric"\n'
        'transform = "standardize"\n[features.user_shelf]\nkind = "sequence"\nhistory = true\n'
    )
    declared = load_config(config)
    items = read_entities(tmp_path / "t.csv", "item", declared.side("item"), column_mapping((), "item_id"))
    schema = measure_schema(declared, [], items.rows, [1] * 1000, items.ids)
    assert schema.item.features[0].transform.divisor == 1.0


def test_interactions_with_unknown_items_are_counted(tmp_path: Path) -> None:
    interactions = small([("u", "a"), ("u", "zz"), ("v", "b")], tmp_path)
    assert interactions.skipped == 1
    assert interactions.items.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("pairs", "data", "message"),
    [
        ([("u", "zz")], {}, "no item of i.csv is in t.csv"),
        ([("u", "a"), ("u", "")], {}, "i.csv row 2 has no item_id"),
        ([("u", "a")], {"item_id": "sku"}, "has no column sku; it has user_id, item_id, at"),
    ],
)
def test_bad_interactions_are_named(
    pairs: list[tuple[str, str]], data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ReleaseRefused, match=message):
        small(pairs, tmp_path, **data)


def test_too_few_users_to_hold_back(tmp_path: Path) -> None:
    with pytest.raises(ReleaseRefused, match="only 1 users have two or more"):
        split_by_user(small([("u", "a"), ("u", "b"), ("v", "a")], tmp_path), 0.1, 0.1, 1)


def test_an_item_twice_is_refused(shop: Shop, tmp_path: Path) -> None:
    config = load_config(shop.config)
    table = tmp_path / "items.csv"
    table.write_text("sku,kind,makers,price\na,x,m,1\na,y,m,2\n")
    with pytest.raises(ReleaseRefused, match="'a' twice"):
        read_entities(table, "item", config.side("item"), column_mapping(config.side("item"), "sku"))


def test_an_absent_column_is_refused(shop: Shop, tmp_path: Path) -> None:
    config = load_config(shop.config)
    table = tmp_path / "items.csv"
    table.write_text("sku,kind,makers\na,x,m\n")
    with pytest.raises(ReleaseRefused, match=r"no column price for features\.item_price"):
        read_entities(table, "item", config.side("item"), column_mapping(config.side("item"), "sku"))


def test_ranks_leave_out_what_the_user_had(tmp_path: Path) -> None:
    interactions = small([("u", "a"), ("u", "b"), ("v", "c"), ("v", "b")], tmp_path)
    which = np.array([1, 3])
    similarities = np.array([[0.9, 0.5, 0.7], [0.5, 0.5, 0.9]], np.float32)
    ranks = held_back_ranks(interactions, which, lambda part: similarities[part].copy())
    # u: a is left out, c is before b. v: c is left out, a is equal and earlier in the table.
    assert ranks.ranks.tolist() == [1, 1]
    assert (ranks.recall(1), ranks.recall(2)) == (0.0, 1.0)
    assert popularity_ranks(interactions, which, np.array([1, 9, 5])).ranks.tolist() == [0, 0]


def test_calibration_finds_the_line_that_made_the_labels() -> None:
    random = np.random.default_rng(0)
    values = random.uniform(-1, 1, 200_000).astype(np.float32)
    probability = 1 / (1 + np.exp(-(5.0 * values - 0.0)))
    positive = random.random(len(values)) < probability
    fitted = fit_calibration(values[positive], values[~positive])
    assert fitted.scale == pytest.approx(5.0, rel=0.05)
    assert fitted.bias == pytest.approx(0.0, abs=0.05)


def test_calibration_of_separated_classes_is_finite() -> None:
    fitted = fit_calibration(np.full(50, 0.9, np.float32), np.full(500, 0.1, np.float32))
    high, low = scores(np.array([0.9, 0.1], np.float32), fitted)
    assert np.isfinite([fitted.scale, fitted.bias]).all() and high > 0.9 and low < 0.1


def test_calibration_refuses_a_model_that_learned_nothing() -> None:
    with pytest.raises(TrainingFailed, match="learned nothing"):
        fit_calibration(np.array([0.1, 0.2], np.float32), np.array([0.3, 0.4], np.float32))
