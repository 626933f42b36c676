"""The demo's items: mixtures of categories on a continuous space, not clusters.

An item has a category, which it shows, and a second one, which shows in its tags alone. Its price, quality
and age matter to users as well, so neighbouring vectors come from many categories, as in a real catalog.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from twotower_server.demo.category import CATEGORIES, NAMES, TAGS

ITEMS = 10_000
# 2026-01-01, epoch seconds. All times are before it, so that the demo is the same whenever it is generated.
NOW = 1_767_225_600
DAY_S = 86_400
_OLDEST_DAYS = 1_500

# Standard deviation of items around the anchor of their category; anchors are about 2 apart.
_SPREAD = 0.72
_BRANDS = 120
_BRAND_STARTS = ("Nor", "Al", "Bel", "Cas", "Dor", "El", "Fen", "Gal", "Hol", "Kor", "Lum", "Mar",
                 "Ost", "Per", "Tal")  # fmt: skip
_BRAND_ENDS = ("den", "vik", "mont", "aria", "well", "ford", "ona", "berg")
# From the cheapest to the dearest fifth of a category.
_LEVELS = ("Basic", "Handy", "Classic", "Select", "Master")
_STYLES = ("Blue", "Quiet", "Bright", "Northern", "Little", "Grand", "Hidden", "Golden", "Silver",
           "Wild", "Modern", "Simple", "Urban", "Early", "Evening", "Pocket", "Double", "Coastal", "Green",
           "Red")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Items:
    """The catalog, and what lies behind it and is only seen through features.

    table:   what is written to disk. ids: in the order of its rows.
    mixture: float64 [n, categories], rows sum to 1: how much of each category an item is.
    place:   float64 [n, 5]: in the space of tastes.
    price_level: about 1.2 standard normals from the category's median. quality: standard normal.
    freshness: 1 for an item of today, falling to 0 with age.
    """

    table: pa.Table
    ids: tuple[str, ...]
    mixture: NDArray[np.float64]
    place: NDArray[np.float64]
    price_level: NDArray[np.float64]
    quality: NDArray[np.float64]
    freshness: NDArray[np.float64]


def generate_items(random: np.random.Generator, count: int = ITEMS) -> Items:
    """`count` items. Equal generators give equal items."""
    anchors = np.array([c.anchor for c in CATEGORIES])

    # Categories are not equally large, and each spreads far into its neighbours.
    sizes = random.dirichlet(np.full(len(CATEGORIES), 12.0))
    category = random.choice(len(CATEGORIES), count, p=sizes)
    place = anchors[category] + random.normal(0.0, _SPREAD, (count, anchors.shape[1]))
    mixture = sizes * np.exp(-((place[:, None] - anchors) ** 2).sum(2) / (2.0 * _SPREAD**2))
    mixture /= mixture.sum(1, keepdims=True)

    quality = random.normal(size=count)
    brand_of, brand_names, brand_level = _brands(random, anchors, place)
    price_level = 0.5 * brand_level[brand_of] + 0.25 * quality + random.normal(0.0, 0.7, count)
    price = np.array([c.median_price for c in CATEGORIES])[category] * np.exp(0.6 * price_level)
    age_days = _OLDEST_DAYS * random.beta(0.9, 2.2, count)
    ctr = 1.0 / (1.0 + np.exp(3.2 - 0.6 * quality - random.normal(0.0, 0.25, count)))
    tags = _tags(random, anchors, place)
    words = _titles(random, category, price_level)

    ids = tuple(f"i{row}" for row in range(count))
    publish_time = NOW - np.round(age_days * DAY_S).astype(np.int64)
    # A new item has no click rate yet, and some sellers name no brand: missing values as they really come.
    no_ctr = age_days < 10
    no_brand = random.random(count) < 0.06
    table = pa.table(
        {
            "item_id": pa.array(ids),
            "title": pa.array([f"{brand_names[b]} {title}" for b, title in zip(brand_of, words, strict=True)]),
            "item_category": pa.array([NAMES[c] for c in category]),
            "item_tags": pa.array(tags, pa.list_(pa.string())),
            "item_brand": pa.array([brand_names[b] for b in brand_of], mask=no_brand),
            "item_price": pa.array(np.round(price, 2)),
            "item_ctr": pa.array(np.round(ctr, 4), mask=no_ctr),
            "item_publish_time": pa.array(publish_time),
            "in_stock": pa.array(random.random(count) < 0.93),
        }
    )
    return Items(table, ids, mixture, place, price_level, quality, np.exp(-age_days / 250.0))


def _brands(
    random: np.random.Generator, anchors: NDArray[np.float64], place: NDArray[np.float64]
) -> tuple[NDArray[np.int64], list[str], NDArray[np.float64]]:
    """The brand of each item, the brands' names and price levels. A brand makes things that lie together."""
    centre = anchors[random.integers(len(anchors), size=_BRANDS)] + random.normal(0.0, 0.7, (_BRANDS, anchors.shape[1]))
    names = [start + end for start in _BRAND_STARTS for end in _BRAND_ENDS]
    squared = ((place[:, None] - centre[None]) ** 2).sum(2)
    return _choose(random, -1.5 * squared), names, random.normal(size=_BRANDS)


def _tags(random: np.random.Generator, anchors: NDArray[np.float64], place: NDArray[np.float64]) -> list[list[str]]:
    """Two to six tags for each item, likelier the nearer they lie: they cross the borders of categories."""
    per_category = len(TAGS) // len(CATEGORIES)
    spots = np.repeat(anchors, per_category, 0) + random.normal(0.0, 0.45, (len(TAGS), anchors.shape[1]))
    squared = ((place[:, None] - spots[None]) ** 2).sum(2)
    order = np.argsort(2.0 * squared - random.gumbel(size=squared.shape), 1)
    counts = random.integers(2, 7, len(place))
    return [[TAGS[t] for t in row[:count]] for row, count in zip(order, counts, strict=True)]


def _titles(random: np.random.Generator, category: NDArray[np.int64], price_level: NDArray[np.float64]) -> list[str]:
    nouns = [c.nouns for c in CATEGORIES]
    noun = random.integers(len(nouns[0]), size=len(category))
    style = random.integers(len(_STYLES), size=len(category))
    level = np.searchsorted([-0.85, -0.25, 0.25, 0.85], price_level)
    return [f"{_LEVELS[k]} {_STYLES[s]} {nouns[c][n]}" for c, n, s, k in zip(category, noun, style, level, strict=True)]


def _choose(random: np.random.Generator, logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """One column for each row, with probabilities softmax(logits) (the Gumbel trick)."""
    return np.asarray(np.argmax(logits + random.gumbel(size=logits.shape), 1), np.int64)
