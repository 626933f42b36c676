"""A small set of data with tastes in it: users of one taste take items of one kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

KINDS = ("art", "bikes", "cats", "dance")
ITEMS = 120
USERS = 240

CONFIG = """
[data]
interactions = "interactions.csv"
items = "items.csv"
users = "users.csv"
item_id = "sku"
timestamp = "at"

[model]
dimension = 8
hidden = [16]
embedding = 8
dropout = 0.0

[training]
epochs = 20
stopping_k = 10
batch_size = 64
learning_rate = 0.01
uniform_negatives = 64
validation_share = 0.2
test_share = 0.2

[features.user_age]
kind = "numeric"
clip = [0, 100]
transform = "standardize"

[features."user_interest_*"]
kind = "weighted_bag"
buckets = 50
max_length = 4

[features.user_recent]
kind = "sequence"
history = true
max_length = 5

[features.item_kind]
kind = "categorical"
column = "kind"

[features.item_makers]
kind = "multi_value"
column = "makers"
separator = " & "
max_length = 2
vocabulary = {min_count = 2}

[features.item_price]
kind = "numeric"
column = "price"
transform = "log1p"
missing = "mean"
"""


@dataclass(frozen=True)
class Shop:
    """folder: of the tables. config: the TOML file beside them."""

    folder: Path
    config: Path


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(7)
    items = ["sku,kind,makers,price,name"]
    for i in range(ITEMS):
        kind = KINDS[i % len(KINDS)]
        price = "" if i % 10 == 0 else f"{random.uniform(1, 100):.2f}"
        items.append(f"s{i},{kind if i % 17 else ''},m{i % 9} & m{i % 5},{price},thing {i}")
    users = ["user_id,user_age,user_interest_*"]
    interactions = []
    for u in range(USERS):
        taste = u % len(KINDS)
        age = "" if u % 7 == 0 else str(int(random.integers(16, 80)))
        users.append(f"u{u},{age},{'' if u % 3 == 0 else f'{KINDS[taste]}:0.9'}")
        for at in range(int(random.integers(4, 12))):
            item = int(random.integers(ITEMS // len(KINDS))) * len(KINDS) + taste
            interactions.append((at * 1000 + u, f"u{u},s{item},{at * 1000 + u}"))
    shuffled = random.permutation(len(interactions))  # the timestamp tells the order, not the rows
    lines = ["user_id,sku,at", *(interactions[i][1] for i in shuffled)]
    for name, rows in (("items.csv", items), ("users.csv", users), ("interactions.csv", lines)):
        (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    config = folder / "train.toml"
    config.write_text(CONFIG, "utf-8")
    return Shop(folder, config)
