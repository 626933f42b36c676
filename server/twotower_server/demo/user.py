"""The demo's users: tastes along a continuum, moved by age, gender, hour and device; and their clicks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twotower_server.demo.category import CATEGORIES, NAMES
from twotower_server.demo.item import DAY_S, NOW, Items

USERS = 6_000
GENDERS = ("f", "m", "x")
DEVICES = ("phone", "desktop", "tablet", "tv")
CITIES = ("Amsterdam", "Athens", "Berlin", "Dublin", "Hamburg", "Helsinki", "Lisbon", "London", "Lyon",
          "Madrid", "Milan", "Oslo", "Paris", "Porto", "Prague", "Rome", "Sevilla", "Vienna", "Warsaw",
          "Zurich")  # fmt: skip

_LARGE_SCREEN = (0.0, 1.0, 0.4, 0.8)
# Interests below this weight are not reported.
_LEAST_INTEREST = 0.12
_MIN_CLICKS, _MAX_CLICKS = 6, 40
_CLICK_DAYS = 60
# Every block of users chooses among a random part of the catalog: nobody sees all of it.
_BLOCK_USERS = 250
_SEEN_ITEMS = 3_000


@dataclass(frozen=True, slots=True)
class Users:
    """The users, and what lies behind them.

    table:  their features; what they clicked is in the table of clicks.
    tastes: float64 [n, categories], rows sum to 1.
    place:  float64 [n, 5]: the direction they lean to in the space of tastes.
    budget: the price level they like. novelty: how much a fresh item gains.
    """

    table: pa.Table
    tastes: NDArray[np.float64]
    place: NDArray[np.float64]
    budget: NDArray[np.float64]
    novelty: NDArray[np.float64]


def generate_users(random: np.random.Generator, count: int = USERS) -> Users:
    """`count` users. Equal generators give equal users."""
    age = np.clip(np.round(16.0 + random.gamma(2.6, 10.0, count)), 16, 90)
    gender = random.choice(len(GENDERS), count, p=(0.48, 0.48, 0.04))
    device = random.choice(len(DEVICES), count, p=(0.6, 0.25, 0.1, 0.05))
    hour = np.floor((19.0 + 5.5 * random.normal(size=count)) % 24.0)
    anchors = np.array([c.anchor for c in CATEGORIES])
    place = random.normal(size=(count, anchors.shape[1]))
    peak_age = np.array([c.peak_age for c in CATEGORIES])
    peak_hour = np.array([c.peak_hour for c in CATEGORIES])
    side = np.array([1.0, -1.0, 0.0])[gender]
    logits = 0.85 * place @ anchors.T + random.normal(0.0, 0.9, (count, len(CATEGORIES)))
    logits += 2.0 * np.exp(-(((age[:, None] - peak_age) / 16.0) ** 2))
    logits += 0.6 * np.cos((hour[:, None] - peak_hour) * (2.0 * np.pi / 24.0))
    logits += side[:, None] * np.array([c.gender for c in CATEGORIES])
    logits += np.array(_LARGE_SCREEN)[device][:, None] * np.array([c.desktop for c in CATEGORIES])
    tastes = np.exp(logits - logits.max(1, keepdims=True))
    tastes /= tastes.sum(1, keepdims=True)

    budget = 0.02 * (age - 38.0) + random.normal(0.0, 0.6, count)
    novelty = 1.0 / (1.0 + np.exp((age - 35.0) / 12.0)) + random.normal(0.0, 0.15, count)
    ctr = 1.0 / (1.0 + np.exp(3.0 - 0.8 * novelty - random.normal(0.0, 0.4, count)))

    city = random.integers(len(CITIES), size=count)

    def lost(share: float) -> NDArray[np.bool_]:
        return random.random(count) < share

    table = pa.table(
        {
            "user_id": pa.array([f"u{row}" for row in range(count)]),
            "user_age": pa.array(age, mask=lost(0.07)),
            "user_gender": pa.array([GENDERS[g] for g in gender], mask=lost(0.08)),
            "user_city": pa.array([CITIES[c] for c in city], mask=lost(0.1)),
            "user_device_type": pa.array([DEVICES[d] for d in device], mask=lost(0.03)),
            "user_hour": pa.array(hour),
            "user_ctr": pa.array(np.round(ctr, 4), mask=lost(0.1)),
            "user_interest_*": _interests(random, tastes),
        }
    )
    return Users(table, tastes, place, budget, novelty)


def _interests(random: np.random.Generator, tastes: NDArray[np.float64]) -> pa.Array:
    """What is known of the tastes: the strongest is about 1, all are a bit wrong, weak ones are left out."""
    weights = tastes / tastes.max(1, keepdims=True) * np.exp(random.normal(0.0, 0.2, tastes.shape))
    weights = np.round(np.minimum(weights, 1.0), 2)
    unknown = random.random(len(tastes)) < 0.12
    rows = [
        [(NAMES[c], float(row[c])) for c in np.flatnonzero(row >= _LEAST_INTEREST)] if not none else None
        for row, none in zip(weights, unknown, strict=True)
    ]
    return pa.array(rows, pa.map_(pa.string(), pa.float64()))


def generate_clicks(random: np.random.Generator, users: Users, items: Items) -> pa.Table:
    """What the users clicked, nothing twice: columns user_id, item_id, timestamp (epoch seconds).

    Clicks are drawn by utility: shared categories, leaning, a price near the budget, freshness, quality.
    """
    count = len(users.tastes)
    counts = random.integers(_MIN_CLICKS, _MAX_CLICKS + 1, count)
    seen_items = min(_SEEN_ITEMS, len(items.ids))
    most = min(_MAX_CLICKS, seen_items)
    clicked_users: list[str] = []
    clicked_items: list[str] = []
    user_ids = users.table.column("user_id").to_pylist()
    for start in range(0, count, _BLOCK_USERS):
        block = slice(start, min(start + _BLOCK_USERS, count))
        seen = random.choice(len(items.ids), seen_items, replace=False)
        utility = _utility(users, block, items, seen) + random.gumbel(size=(block.stop - start, seen_items))
        best = np.argpartition(-utility, most - 1, 1)[:, :most]
        for row, columns in enumerate(best):
            user = start + row
            chosen = seen[columns[np.argsort(-utility[row, columns])][: counts[user]]]
            clicked_items += [items.ids[i] for i in chosen]
            clicked_users += [user_ids[user]] * len(chosen)
    # Drawn apart from the choice: the order of a user's clicks says nothing of how much they are liked.
    timestamps = NOW - random.integers(1, _CLICK_DAYS * DAY_S, len(clicked_users))
    return pa.table({"user_id": clicked_users, "item_id": clicked_items, "timestamp": timestamps})


def _utility(users: Users, block: slice, items: Items, seen: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 [users of the block, seen items]; 1 more makes an item e times as likely to be clicked."""
    shared = users.tastes[block] @ items.mixture[seen].T
    leaning = users.place[block] @ items.place[seen].T
    dearer = items.price_level[seen][None] - users.budget[block][:, None]
    fresh = users.novelty[block][:, None] * items.freshness[seen][None]
    return np.asarray(
        1.6 * np.log(shared + 0.03) + 0.5 * leaning - 0.5 * dearer**2 + 2.0 * fresh + 0.5 * items.quality[seen][None]
    )
