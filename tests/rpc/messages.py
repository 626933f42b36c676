"""Requests written shortly: one map of features, split into the maps of the message."""

from __future__ import annotations

from typing import Any

from tests.rpc.recomputed import Features
from twotower import v1

# A value for every feature of the schema in `tests.model_folder`, by its full name.
USER: Features = {
    "user_age": 31.0,
    "user_ctr": 0.07,
    "user_hour": 21.0,
    "user_gender": "f",
    "user_city": "Paris",
    "user_tags": ["a", "b"],
    "user_recent_clicks": ["i7", "i9", "i2"],
    "user_interest_film": 0.75,
    "user_interest_sport": 0.25,
    "scene_page": "cart",
}
ITEM: Features = {
    "item_price": 12.5,
    "item_ctr": 0.034,
    "item_age_days": 100.0,
    "item_category": "music",
    "item_tags": ["t1", "t4"],
}


def user(features: Features, **fields: Any) -> v1.User:
    message = v1.User(**fields)
    _fill(message, features)
    return message


def item(features: Features, **fields: Any) -> v1.Item:
    message = v1.Item(**fields)
    _fill(message, features)
    return message


def _fill(message: v1.User | v1.Item, features: Features) -> None:
    for name, value in features.items():
        if isinstance(value, str | list):
            message.string_features[name].values.extend([value] if isinstance(value, str) else value)
        else:
            message.features[name] = value
