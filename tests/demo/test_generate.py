"""The demo's data: one seed gives one set of it, values are plausible, tastes are there and are mixed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from twotower_server.demo.category import CATEGORIES, NAMES, TAGS
from twotower_server.demo.generate import generate, generate_catalog, main
from twotower_server.demo.item import ITEMS, NOW
from twotower_server.demo.user import CITIES, DEVICES, GENDERS, USERS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate(folder)
    return folder


@pytest.fixture(scope="module")
def items(data: Path) -> pa.Table:
    return pq.read_table(data / "items.parquet")


@pytest.fixture(scope="module")
def users(data: Path) -> pa.Table:
    return pq.read_table(data / "users.parquet")


@pytest.fixture(scope="module")
def clicks(data: Path) -> pa.Table:
    return pa.csv.read_csv(data / "interactions.csv")


def test_one_seed_gives_the_same_data_in_every_process(
    items: pa.Table, users: pa.Table, clicks: pa.Table, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "twotower_server.demo.generate", "--out", str(tmp_path / "again")]
    # Another order of sets and dictionaries must not matter.
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, stdout=subprocess.DEVNULL)
    assert pq.read_table(tmp_path / "again/items.parquet").equals(items)
    assert pq.read_table(tmp_path / "again/users.parquet").equals(users)
    assert pa.csv.read_csv(tmp_path / "again/interactions.csv").equals(clicks)


def test_another_seed_gives_other_data() -> None:
    assert not generate_catalog(seed=1, count=100).table.equals(generate_catalog(seed=2, count=100).table)


def test_more_users_do_not_change_the_items(items: pa.Table, tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--users", "100"]) == 0
    assert pq.read_table(tmp_path / "items.parquet").equals(items)
    assert pq.read_table(tmp_path / "users.parquet").num_rows == 100


def test_items_are_plausible(items: pa.Table) -> None:
    assert items.num_rows == ITEMS
    rows = items.to_pylist()
    assert len({row["item_id"] for row in rows}) == ITEMS
    assert all(len(row["title"].split()) >= 4 for row in rows)
    assert all(1 <= row["item_price"] < 5_000 for row in rows)
    assert all(row["item_ctr"] is None or 0 < row["item_ctr"] < 1 for row in rows)
    assert all(NOW - 1_500 * 86_400 <= row["item_publish_time"] <= NOW for row in rows)
    assert all(2 <= len(row["item_tags"]) <= 6 and set(row["item_tags"]) <= set(TAGS) for row in rows)
    counts = Counter(row["item_category"] for row in rows)
    assert set(counts) == set(NAMES)
    assert min(counts.values()) > ITEMS / 40
    assert 0.9 < np.mean([row["in_stock"] for row in rows]) < 0.96
    # Some values are missing, so that the rules for them are in use.
    assert 0 < items["item_ctr"].null_count < ITEMS / 10
    assert 0 < items["item_brand"].null_count < ITEMS / 10


def test_prices_follow_the_category(items: pa.Table) -> None:
    price, category = items["item_price"].to_numpy(), np.array(items["item_category"].to_pylist())
    for one in CATEGORIES:
        assert np.median(price[category == one.name]) == pytest.approx(one.median_price, rel=0.25)


def test_users_are_plausible(users: pa.Table) -> None:
    assert users.num_rows == USERS
    rows = users.to_pylist()
    assert len({row["user_id"] for row in rows}) == USERS
    for row in rows:
        assert row["user_age"] is None or 16 <= row["user_age"] <= 90
        assert row["user_gender"] in (*GENDERS, None)
        assert row["user_device_type"] in (*DEVICES, None)
        assert row["user_city"] in (*CITIES, None)
        assert row["user_hour"] in range(24)
        assert row["user_ctr"] is None or 0 < row["user_ctr"] < 1
    weights = [weight for row in rows for _, weight in row["user_interest_*"] or ()]
    assert min(weights) > 0
    assert max(weights) == 1
    for name in ("user_age", "user_gender", "user_ctr", "user_interest_*"):
        assert 0 < users[name].null_count < USERS / 4, name


def test_everybody_clicks_known_items_once_each(users: pa.Table, items: pa.Table, clicks: pa.Table) -> None:
    clicked = list(zip(clicks["user_id"].to_pylist(), clicks["item_id"].to_pylist(), strict=True))
    assert len(set(clicked)) == len(clicked) > 100_000
    assert {item for _, item in clicked} <= set(items["item_id"].to_pylist())
    counts = Counter(user for user, _ in clicked)
    assert set(counts) == set(users["user_id"].to_pylist())
    assert (min(counts.values()), max(counts.values())) == (6, 40)
    times = clicks["timestamp"].to_numpy()
    assert NOW - 60 * 86_400 <= times.min() < times.max() < NOW


def test_a_user_clicks_what_they_like_but_not_that_alone(users: pa.Table, items: pa.Table, clicks: pa.Table) -> None:
    category = dict(zip(items["item_id"].to_pylist(), items["item_category"].to_pylist(), strict=True))
    likes = {
        row["user_id"]: max(row["user_interest_*"], key=lambda interest: interest[1])[0]
        for row in users.to_pylist()
        if row["user_interest_*"]
    }
    liked = [
        category[item] == likes[user]
        for user, item in zip(clicks["user_id"].to_pylist(), clicks["item_id"].to_pylist(), strict=True)
        if user in likes
    ]
    assert 0.3 < np.mean(liked) < 0.8


def test_demographics_move_tastes(users: pa.Table) -> None:
    def share(name: str, rows: list[dict[str, Any]]) -> float:
        """How many of those whose interests are known like one category best."""
        known = [row["user_interest_*"] for row in rows if row["user_interest_*"]]
        return float(np.mean([max(interests, key=lambda one: one[1])[0] == name for interests in known]))

    rows = users.to_pylist()
    young = [row for row in rows if row["user_age"] and row["user_age"] < 25]
    old = [row for row in rows if row["user_age"] and row["user_age"] > 60]
    assert share("games", young) > 1.5 * share("games", old)
    assert share("garden", old) > 1.5 * share("garden", young)
    women = [row for row in rows if row["user_gender"] == "f"]
    men = [row for row in rows if row["user_gender"] == "m"]
    assert share("fashion", women) > 1.15 * share("fashion", men)


def test_tags_cross_the_borders_of_categories(items: pa.Table) -> None:
    own = {tag: one.name for one in CATEGORIES for tag in one.tags}
    crossing = [own[tag] != row["item_category"] for row in items.to_pylist() for tag in row["item_tags"]]
    assert 0.2 < np.mean(crossing) < 0.7
