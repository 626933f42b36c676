"""Writes the demo's data: `python -m twotower_server.demo.generate --out DIR`.

    items.parquet      10,000 items: item_id, features and attributes
    users.parquet      6,000 users: user_id and features; their recent clicks follow from the interactions
    interactions.csv   what they clicked: user_id, item_id, timestamp (epoch seconds)

One seed gives one set of files. `twotower demo` builds its release of the items alone (`generate_catalog`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet

from twotower_server.demo.item import ITEMS, Items, generate_items
from twotower_server.demo.user import USERS, generate_clicks, generate_users

SEED = 20_260_101


def generate_catalog(seed: int = SEED, count: int = ITEMS) -> Items:
    """The items that the checked-in towers were trained on, unless told otherwise."""
    return generate_items(np.random.default_rng([seed, 0]), count)


def write_items(items: Items, path: Path) -> None:
    """Writes the catalog as Parquet."""
    pyarrow.parquet.write_table(items.table, path)


def generate(out: Path, seed: int = SEED, items_count: int = ITEMS, users_count: int = USERS) -> None:
    """Writes items.parquet, users.parquet and interactions.csv into `out`, made where it is absent."""
    out.mkdir(parents=True, exist_ok=True)
    items = generate_catalog(seed, items_count)
    # Streams of their own: more users do not change the items.
    users = generate_users(np.random.default_rng([seed, 1]), users_count)
    clicks = generate_clicks(np.random.default_rng([seed, 2]), users, items)
    write_items(items, out / "items.parquet")
    pyarrow.parquet.write_table(users.table, out / "users.parquet")
    pyarrow.csv.write_csv(clicks, out / "interactions.csv")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m twotower_server.demo.generate",
        description="Write the demo's items, users and interactions.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=SEED, help="another set of data (default: %(default)s)")
    parser.add_argument("--items", type=int, default=ITEMS, metavar="N", help="default: %(default)s")
    parser.add_argument("--users", type=int, default=USERS, metavar="N", help="default: %(default)s")
    args = parser.parse_args(arguments)
    generate(args.out, args.seed, args.items, args.users)
    print(f"wrote items.parquet, users.parquet and interactions.csv to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
