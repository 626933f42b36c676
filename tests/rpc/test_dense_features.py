"""CONTRACT rule 4: numbers in the order of the schema, instead of by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Features, Recomputed
from tests.rpc.refusal import refused
from twotower import v1

NAN = math.nan


@pytest.fixture
def info(stub: v1.TwoTowerServiceStub) -> v1.ReleaseInfo:
    (release,) = stub.GetServingInfo(v1.GetServingInfoRequest()).releases
    assert isinstance(release, v1.ReleaseInfo)
    return release


def dense(features: Features, schema: v1.TowerSchema) -> list[float]:
    return [float(features.get(name, NAN)) for name in schema.dense_order]  # type: ignore[arg-type]


def without_numbers(features: Features, schema: v1.TowerSchema) -> Features:
    return {name: value for name, value in features.items() if name not in schema.dense_order}


def call_user(stub: v1.TwoTowerServiceStub, message: v1.User) -> v1.GetUserEmbeddingResponse:
    got: v1.GetUserEmbeddingResponse = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=message))
    return got


@pytest.mark.parametrize("kept", [("user_age", "user_ctr", "user_hour"), ("user_age",), ("user_hour",), ()])
def test_numbers_in_order_equal_numbers_by_name(
    stub: v1.TwoTowerServiceStub, info: v1.ReleaseInfo, dot: Recomputed, kept: tuple[str, ...]
) -> None:
    schema = info.user_schema
    others = without_numbers(USER, schema)
    features = {**others, **{name: USER[name] for name in kept}}
    message = user(others, dense_features=dense(features, schema), schema_fingerprint=schema.fingerprint)
    got = call_user(stub, message)
    assert got == call_user(stub, user(features))
    np.testing.assert_allclose(got.embedding.values, dot.user(features), rtol=1e-5, atol=1e-6)
    assert got.feature_use == v1.FeatureUse(used=6 + len(kept), missing=3 - len(kept))


def test_numbers_alone_are_enough(stub: v1.TwoTowerServiceStub, info: v1.ReleaseInfo, dot: Recomputed) -> None:
    fingerprint = info.user_schema.fingerprint
    got = call_user(stub, v1.User(dense_features=[30.0, NAN, NAN], schema_fingerprint=fingerprint))
    np.testing.assert_allclose(got.embedding.values, dot.user({"user_age": 30.0}), rtol=1e-5, atol=1e-6)
    # Every number stated to be missing is a statement, too.
    got = call_user(stub, v1.User(dense_features=[NAN] * 3, schema_fingerprint=fingerprint))
    np.testing.assert_allclose(got.embedding.values, dot.user({}), rtol=1e-5, atol=1e-6)
    assert got.feature_use == v1.FeatureUse(missing=9)


def test_names_of_others_are_ignored_beside_them(stub: v1.TwoTowerServiceStub, info: v1.ReleaseInfo) -> None:
    given = {"dense_features": [30.0, NAN, NAN], "schema_fingerprint": info.user_schema.fingerprint}
    got = call_user(stub, user({"item_price": 3.0, "cross_x": 1.0, "other": 1.0}, **given))
    assert got.feature_use == v1.FeatureUse(used=1, missing=8, unknown=1)


@pytest.mark.parametrize("lost", [(), ("item_price",), ("item_ctr", "item_age_days")])
def test_items_have_them_too(
    stub: v1.TwoTowerServiceStub, info: v1.ReleaseInfo, dot: Recomputed, lost: tuple[str, ...]
) -> None:
    schema = info.item_schema
    features = {name: value for name, value in ITEM.items() if name not in lost}
    message = item(
        without_numbers(ITEM, schema),
        dense_features=dense(features, schema),
        schema_fingerprint=schema.fingerprint,
    )
    got = stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=message)).embedding.values
    np.testing.assert_allclose(got, dot.item(features), rtol=1e-5, atol=1e-6)
    by_name = stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(features))).embedding.values
    np.testing.assert_allclose(got, by_name, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "features", "fingerprint", "reason", "field"),
    [
        ([1.0, 2.0], {}, None, "DIMENSION_MISMATCH", "dense_features"),
        ([1.0, 2.0, 3.0, 4.0], {}, None, "DIMENSION_MISMATCH", "dense_features"),
        ([1.0] * 100_000, {}, None, "DIMENSION_MISMATCH", "dense_features"),
        ([1.0, 2.0, 3.0], {}, 0, "FIELD_REQUIRED", "schema_fingerprint"),
        ([1.0, 2.0, 3.0], {}, 5, "SCHEMA_MISMATCH", "schema_fingerprint"),
        ([1.0, 2.0, 3.0], {}, 2**64 - 1, "SCHEMA_MISMATCH", "schema_fingerprint"),
        ([1.0, math.inf, 3.0], {}, None, "VALUE_NOT_FINITE", "dense_features[1]"),
        ([1.0, 2.0, -math.inf], {}, None, "VALUE_NOT_FINITE", "dense_features[2]"),
        ([1.0, 2.0, 3.0], {"user_age": 1.0}, None, "FIELD_CONFLICT", "features[user_age]"),
        ([NAN, 2.0, 3.0], {"user_age": 1.0}, None, "FIELD_CONFLICT", "features[user_age]"),
        ([1.0, 2.0, 3.0], {"age": 1.0}, None, "FIELD_CONFLICT", "features[age]"),
        ([1.0, 2.0, 3.0], {"user_user_age": 1.0}, None, "FIELD_CONFLICT", "features[user_user_age]"),
        ([1.0, 2.0, 3.0], {"user_age": "old"}, None, "FEATURE_TYPE", "string_features[user_age]"),
        ([1.0, 2.0, 3.0], {"user_interest_a": NAN}, None, "VALUE_NOT_FINITE", "features[user_interest_a]"),
    ],
)
def test_what_is_wrong_with_them(
    stub: v1.TwoTowerServiceStub,
    info: v1.ReleaseInfo,
    values: list[float],
    features: Features,
    fingerprint: int | None,
    reason: str,
    field: str,
) -> None:
    given = info.user_schema.fingerprint if fingerprint is None else fingerprint
    bad = user(features, dense_features=values, schema_fingerprint=given)
    refused(stub.GetUserEmbedding, v1.GetUserEmbeddingRequest(user=bad), reason, f"user.{field}")


def test_the_schema_of_the_other_tower_is_another(stub: v1.TwoTowerServiceStub, info: v1.ReleaseInfo) -> None:
    swapped = v1.User(dense_features=[1.0, 2.0, 3.0], schema_fingerprint=info.item_schema.fingerprint)
    request = v1.GetUserEmbeddingRequest(user=swapped)
    message = refused(stub.GetUserEmbedding, request, "SCHEMA_MISMATCH", "user.schema_fingerprint")
    assert f"{info.user_schema.fingerprint:016x}" in message


def test_a_fingerprint_without_numbers_says_nothing(stub: v1.TwoTowerServiceStub) -> None:
    assert call_user(stub, user(USER, schema_fingerprint=5)) == call_user(stub, user(USER))
