"""`twotower.user` and `twotower.item`: plain values to the two maps of features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import twotower


def texts(message: Any) -> dict[str, list[str]]:
    return {name: list(value.values) for name, value in message.string_features.items()}


def test_values_go_to_the_map_of_their_kind() -> None:
    user = twotower.user(
        "u1",
        {"user_hour": np.int64(23), "user_ctr": np.float32(0.5)},
        age=34,
        gender="f",
        premium=True,
        returning=np.bool_(False),
        recent_clicks=["i7", "i9"],
        shelf=np.array([12, 7], np.int32),
        tags=np.array(["a", "b"]),
        cart=(),
        feature_version="v7",
        routing_key="r",
    )
    assert user.user_id == "u1"
    assert dict(user.features) == {
        "user_hour": 23.0,
        "user_ctr": 0.5,
        "age": 34.0,
        "premium": 1.0,
        "returning": 0.0,
    }
    assert texts(user) == {
        "gender": ["f"],
        "recent_clicks": ["i7", "i9"],
        "shelf": ["12", "7"],
        "tags": ["a", "b"],
        "cart": [],
    }
    assert (user.feature_version, user.routing_key) == ("v7", "r")


def test_numpy_text_is_text() -> None:
    user = twotower.user(city=np.str_("Oslo"))
    assert texts(user) == {"city": ["Oslo"]} and not user.features


def test_none_is_missing() -> None:
    user = twotower.user("u1", {"user_age": None}, gender=None)
    assert not user.features and not user.string_features


@pytest.mark.parametrize("name", ["interest", "interest_*"])
def test_a_mapping_is_a_bag(name: str) -> None:
    user = twotower.user("u1", {name: {"sport": 0.8, "music": 1}})
    assert dict(user.features) == {"interest_sport": 0.8, "interest_music": 1.0}


def test_values_that_are_not_finite_are_left_to_the_server() -> None:
    user = twotower.user(age=math.nan, ctr=math.inf)
    assert math.isnan(user.features["age"]) and user.features["ctr"] == math.inf


def test_an_item_takes_the_same_values() -> None:
    item = twotower.item("i1", {"item_price": 9.5}, category="book", tags=["new", "sale"])
    assert item.item_id == "i1"
    assert dict(item.features) == {"item_price": 9.5}
    assert texts(item) == {"category": ["book"], "tags": ["new", "sale"]}


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"bytes",
        {"a", "b"},
        [0.5, 0.25],
        [True],
        ["a", None],
        np.zeros((2, 2)),
        np.zeros(3),
        1j,
        np.complex64(1j),
        {"sport": "much"},
        {"sport": None},
    ],
)
def test_other_values_are_refused_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match="user_x"):
        twotower.user("u1", {"user_x": value})


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 10**400, np.uint64(2**64 - 1)])
def test_an_integer_that_a_double_would_change_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="send it as text"):
        twotower.user("u1", city_id=value)


def test_the_largest_exact_integer_is_sent() -> None:
    assert twotower.user(city_id=2**53).features["city_id"] == 2**53


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'age' is given twice"):
        twotower.user("u1", {"age": 34}, age=35)
    with pytest.raises(ValueError, match="'interest_a' is given twice"):
        twotower.user("u1", interest={"a": 1}, interest_a=2)
