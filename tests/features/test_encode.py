"""Raw features → arrays, under CONTRACT rules 3 and 4."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xxhash

from twotower import v1
from twotower_server.errors import Reason, Refused
from twotower_server.features.encode import Encoder, FeatureUse
from twotower_server.features.row import Row, Strings
from twotower_server.features.schema import TowerSchema

AGE = {"name": "user_age", "kind": "numeric", "missing": {"rule": "mean", "value": 30}}
CTR = {"name": "user_ctr", "kind": "numeric", "missing": {"rule": "marker"}}
SCENE = {"name": "scene_id", "kind": "numeric", "missing": {"rule": "constant", "value": 0}}
GENDER = {
    "name": "user_gender",
    "kind": "categorical",
    "vocabulary": ["f", "m", "1"],
    "missing": {"rule": "marker"},
}
CITY = {
    "name": "user_city",
    "kind": "categorical",
    "buckets": 9,
    "missing": {"rule": "constant", "value": "none"},
}
TAGS = {
    "name": "user_tags",
    "kind": "multi_value",
    "buckets": 50,
    "max_length": 2,
    "missing": {"rule": "marker"},
}
CLICKS = {
    "name": "user_clicks",
    "kind": "sequence",
    "vocabulary": ["a", "b", "c", "d"],
    "max_length": 3,
    "missing": {"rule": "constant", "value": ["d"]},
}
INTEREST = {
    "name": "user_interest_*",
    "kind": "weighted_bag",
    "buckets": 100,
    "max_length": 2,
    "missing": {"rule": "constant", "value": {}},
}


def encoder(*features: dict[str, Any], strict: bool = False, side: Any = "user") -> Encoder:
    schema = TowerSchema.from_json(side, {"transforms": "graph", "features": list(features)})
    return Encoder(schema, strict=strict)


def row(features: dict[str, float] | None = None, **strings: list[str]) -> Row:
    return Row(features or {}, {name: Strings(values) for name, values in strings.items()})


def hashed(value: str, buckets: int) -> int:
    return 3 + xxhash.xxh3_64_intdigest(value.encode()) % buckets


def numeric(encoder: Encoder, features: dict[str, float]) -> list[float]:
    array = encoder.encode_one(row(features)).numeric
    assert array is not None
    return list(array[0].tolist())


def ids(encoder: Encoder, given: Row) -> list[int]:
    array = encoder.encode_one(given).ids
    assert array is not None
    return list(array[0].tolist())


def refusal(encoder: Encoder, given: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        encoder.encode_one(given)
    return caught.value


def test_numbers_stand_in_order_of_names_and_missing_is_nan() -> None:
    got = numeric(encoder(CTR, AGE, SCENE), {"user_ctr": 0.5, "user_age": 20})
    assert math.isnan(got[0])
    assert got[1:] == [20.0, 0.5]


@pytest.mark.parametrize(
    ("features", "age"),
    [
        ({"user_age": 1.0}, 1.0),
        ({"age": 2.0}, 2.0),
        ({"user_user_age": 3.0}, 3.0),
        ({"user_user_age": 3.0, "age": 2.0, "user_age": 1.0}, 1.0),
        ({"user_age": 1.0, "age": 2.0}, 1.0),
        ({"user_user_age": 3.0, "age": 2.0}, 2.0),
    ],
)
def test_the_exact_name_wins(features: dict[str, float], age: float) -> None:
    assert numeric(encoder(AGE), features) == [age]


def test_names_of_others_are_ignored_and_unknown_ones_counted() -> None:
    merged = {
        "user_age": 1.0,
        "item_price": 2.0,
        "scene_id": 3.0,
        "cross_a_b": 4.0,
        "user_shoe_size": 5.0,
        "x": 6.0,
    }
    assert encoder(AGE, CTR).encode_one(row(merged)).use[0] == FeatureUse(used=1, missing=1, unknown=2)
    assert encoder(AGE, SCENE).encode_one(row(merged)).use[0] == FeatureUse(used=2, missing=0, unknown=2)


def test_an_item_reads_its_own_names() -> None:
    price = {"name": "item_price", "kind": "numeric", "missing": {"rule": "constant", "value": 0}}
    items = encoder(price, side="item")
    assert numeric(items, {"price": 2.0, "user_age": 1.0}) == [2.0]
    assert items.encode_one(row({"item_item_price": 2.0, "user_age": 1.0})).use[0] == FeatureUse(1, 0, 0)


def test_names_of_others_stay_theirs_when_a_feature_without_its_prefix_is_called_so() -> None:
    count = {"name": "user_item_count", "kind": "numeric", "missing": {"rule": "constant", "value": 0}}
    page = {"name": "user_scene_page", "kind": "categorical", "buckets": 5, "missing": {"rule": "marker"}}
    one = encoder(AGE, count, page)
    given = row({"user_age": 1.0, "item_count": 9.0}, scene_page=["home"])
    assert one.encode_one(given).use[0] == FeatureUse(used=1, missing=2, unknown=0)
    assert one.encode_one(row({"user_user_item_count": 9.0})).use[0] == FeatureUse(used=1, missing=2, unknown=0)


def test_a_bag_of_everything_takes_no_names_of_others() -> None:
    everything = {
        "name": "user_*",
        "kind": "weighted_bag",
        "buckets": 9,
        "max_length": 4,
        "missing": {"rule": "marker"},
    }
    one = encoder(everything)
    others = row({"user_a": 1.0, "b": 2.0, "item_price": 3.0, "scene_x": 4.0, "cross_y": 5.0}, item_tags=["t"])
    encoded = one.encode_one(others)
    assert encoded.weights is not None
    assert encoded.weights[0].tolist() == [1.0, 2.0, 0.0, 0.0]
    assert encoded.use[0] == FeatureUse(used=1, missing=0, unknown=0)
    scene = {"name": "scene_*", "kind": "weighted_bag", "buckets": 9, "max_length": 4, "missing": {"rule": "marker"}}
    assert encoder(scene).encode_one(row({"scene_x": 4.0})).use[0] == FeatureUse(used=1, missing=0, unknown=0)


def test_strict_refuses_unknown_names_only() -> None:
    strict = encoder(AGE, strict=True)
    assert refusal(strict, row({"user_age": 1.0, "user_hight": 2.0})).reason is Reason.FEATURE_UNKNOWN
    assert numeric(strict, {"user_age": 1.0, "item_price": 2.0, "cross_x": 1.0}) == [1.0]


@pytest.mark.parametrize("given", [row({"x": 1.0}), row({"item_age": 1.0}), row(user_shoe=["a"])])
def test_no_known_feature(given: Row) -> None:
    assert refusal(encoder(AGE), given).reason is Reason.NO_KNOWN_FEATURE


def test_nothing_at_all() -> None:
    assert refusal(encoder(AGE), row()).reason is Reason.FIELD_REQUIRED


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, -1e39])
@pytest.mark.parametrize("name", ["user_age", "age", "user_interest_x", "unknown"])
def test_not_finite(value: float, name: str) -> None:
    error = refusal(encoder(AGE, CTR, INTEREST), row({"user_ctr": 1.0, name: value}))
    assert (error.reason, error.field) == (Reason.VALUE_NOT_FINITE, f"features[{name}]")


def test_large_but_finite_numbers_pass() -> None:
    assert numeric(encoder(AGE, CTR), {"user_age": 3e38, "user_ctr": 3e38}) == [
        float(np.float32(3e38)),
        float(np.float32(3e38)),
    ]


def test_the_same_name_in_two_maps() -> None:
    assert refusal(encoder(GENDER), row({"user_gender": 1.0}, user_gender=["f"])).reason is Reason.FIELD_CONFLICT


def test_vector_features_are_refused() -> None:
    user = v1.User(features={"user_age": 1})
    user.vector_features["user_clip"].values.append(1)
    assert refusal(encoder(AGE), user).reason is Reason.FEATURE_TYPE
    user.features["user_clip"] = 1
    assert refusal(encoder(AGE), user).reason is Reason.FIELD_CONFLICT


@pytest.mark.parametrize(
    ("given", "id"),
    [
        (row(user_gender=["f"]), 3),
        (row(gender=["m"]), 4),
        (row(user_gender=["x"]), 2),
        (row({"user_gender": 1.0}), 5),
        (row({"user_gender": -0.0}), 2),
        (row({"user_age": 1.0}), 1),
        (row({"user_age": 1.0}, user_gender=[]), 1),
        (row({"user_age": 1.0}, user_gender=[""]), 1),
    ],
)
def test_categories(given: Row, id: int) -> None:
    assert ids(encoder(AGE, GENDER), given) == [id]


def test_a_known_name_without_a_value_is_missing() -> None:
    assert encoder(CITY, CLICKS).encode_one(row(user_clicks=[])).use[0] == FeatureUse(used=0, missing=2, unknown=0)
    assert ids(encoder(CITY, CLICKS), row(clicks=[])) == [hashed("none", 9), 6, 0, 0]


def test_hashed_categories() -> None:
    assert ids(encoder(CITY), row(user_city=["Zürich"])) == [hashed("Zürich", 9)]
    assert ids(encoder(AGE, CITY), row({"age": 1.0})) == [hashed("none", 9)]


@pytest.mark.parametrize(
    "given",
    [
        row(user_age=["old"]),
        row({"user_gender": 1.5}),
        row(user_gender=["f", "m"]),
        row({"user_gender": 1e17}),
    ],
)
def test_wrong_types(given: Row) -> None:
    assert refusal(encoder(AGE, GENDER), given).reason is Reason.FEATURE_TYPE


def test_a_bag_takes_no_strings() -> None:
    assert refusal(encoder(AGE, INTEREST), row({"age": 1.0}, user_interest_x=["a"])).reason is Reason.FEATURE_TYPE


def test_lists_are_cut_and_padded() -> None:
    assert ids(encoder(TAGS), row(user_tags=["x", "y", "z"])) == [hashed("x", 50), hashed("y", 50)]
    assert ids(encoder(TAGS), row(user_tags=["x"])) == [hashed("x", 50), 0]
    assert ids(encoder(AGE, TAGS), row({"age": 1.0})) == [1, 0]
    assert ids(encoder(CLICKS), row(user_clicks=["a", "b", "c", "zz"])) == [4, 5, 2]
    assert ids(encoder(AGE, CLICKS), row({"age": 1.0})) == [6, 0, 0]


def test_a_bag_keeps_the_heaviest() -> None:
    given = row({"user_interest_a": 0.1, "interest_b": -0.9, "user_user_interest_c": 0.5, "user_interest_": 1.0})
    encoded = encoder(INTEREST).encode_one(given)
    assert encoded.ids is not None and encoded.weights is not None
    assert encoded.ids[0].tolist() == [hashed("b", 100), hashed("c", 100)]
    assert encoded.weights[0].tolist() == [float(np.float32(-0.9)), 0.5]
    assert encoded.use[0] == FeatureUse(used=1, missing=0, unknown=1)


def test_in_a_bag_the_exact_name_wins() -> None:
    encoded = encoder(INTEREST).encode_one(row({"interest_a": 0.1, "user_interest_a": 0.2}))
    assert encoded.weights is not None
    assert encoded.weights[0].tolist() == [float(np.float32(0.2)), 0.0]


def test_a_feature_named_exactly_is_not_part_of_a_bag() -> None:
    named = {"name": "user_interest_count", "kind": "numeric", "missing": {"rule": "constant", "value": 0}}
    encoded = encoder(INTEREST, named).encode_one(row({"user_interest_count": 7.0, "user_interest_a": 1.0}))
    assert encoded.numeric is not None and encoded.weights is not None
    assert encoded.numeric[0].tolist() == [7.0]
    assert encoded.weights[0].tolist() == [1.0, 0.0]


def dense(encoder: Encoder, values: list[float], fingerprint: int | None = None, **features: float) -> v1.User:
    fingerprint = encoder.schema.fingerprint if fingerprint is None else fingerprint
    return v1.User(dense_features=values, schema_fingerprint=fingerprint, features=features)


def test_dense_features() -> None:
    both = encoder(AGE, CTR, GENDER)
    encoded = both.encode_one(dense(both, [20, math.nan], user_gender=1))
    assert encoded.numeric is not None and encoded.ids is not None
    assert encoded.numeric[0][0] == 20.0
    assert math.isnan(encoded.numeric[0][1])
    assert encoded.ids[0].tolist() == [5]
    assert encoded.use[0] == FeatureUse(used=2, missing=1, unknown=0)


def test_bad_dense_features() -> None:
    both = encoder(AGE, CTR)
    assert refusal(both, dense(both, [1, 2, 3])).reason is Reason.DIMENSION_MISMATCH
    assert refusal(both, dense(both, [1, 2], fingerprint=0)).reason is Reason.FIELD_REQUIRED
    assert refusal(both, dense(both, [1, 2], fingerprint=5)).reason is Reason.SCHEMA_MISMATCH
    assert refusal(both, dense(both, [1, math.inf])).reason is Reason.VALUE_NOT_FINITE
    assert refusal(both, dense(both, [1, 2], user_age=1)).reason is Reason.FIELD_CONFLICT
    assert refusal(both, dense(both, [1, 2], age=1)).reason is Reason.FIELD_CONFLICT


def test_a_bad_row_fails_alone() -> None:
    rows = [row({"age": 1.0}), row({"age": math.nan}), row({"age": 3.0}), row()]
    encoded = encoder(AGE, INTEREST, CLICKS).encode(rows)
    assert {i: error.reason for i, error in encoded.refused.items()} == {
        1: Reason.VALUE_NOT_FINITE,
        3: Reason.FIELD_REQUIRED,
    }
    assert encoded.numeric is not None
    np.testing.assert_array_equal(encoded.numeric[:, 0], [1, np.nan, 3, np.nan])


def test_a_message_is_read_as_it_is() -> None:
    user = v1.User(features={"user_age": 1.0}, string_features={"user_clicks": v1.StringList(values=["a", "b"])})
    mixed = encoder(AGE, CLICKS)
    same = row({"user_age": 1.0}, user_clicks=["a", "b"])
    for one, two in zip(
        mixed.encode_one(user).inputs().values(), mixed.encode_one(same).inputs().values(), strict=True
    ):
        np.testing.assert_array_equal(one, two)
