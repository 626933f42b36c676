"""CONTRACT rule 3: which names a feature has, and whose names are ignored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import Features, Recomputed
from twotower import v1


def embed_user(stub: v1.TwoTowerServiceStub, features: Features) -> v1.GetUserEmbeddingResponse:
    got: v1.GetUserEmbeddingResponse = stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(features)))
    return got


def embed_item(stub: v1.TwoTowerServiceStub, features: Features) -> list[float]:
    return list(stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(features))).embedding.values)


def renamed(features: Features, old: str, new: str) -> Features:
    return {name.replace(old, new, 1) if name.startswith(old) else name: value for name, value in features.items()}


def test_a_user_may_leave_the_prefix_out_or_double_it(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    expected = dot.user(USER)
    for prefix in ("", "user_user_"):
        got = embed_user(stub, renamed(USER, "user_", prefix))
        np.testing.assert_allclose(got.embedding.values, expected, rtol=1e-5, atol=1e-6)
        assert got.feature_use == v1.FeatureUse(used=9)


def test_an_item_may_leave_the_prefix_out_or_double_it(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    for prefix in ("", "item_item_"):
        got = embed_item(stub, renamed(ITEM, "item_", prefix))
        np.testing.assert_allclose(got, dot.item(ITEM), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"user_age": 20.0, "age": 30.0, "user_user_age": 40.0}, {"user_age": 20.0}),
        ({"age": 30.0, "user_user_age": 40.0}, {"user_age": 30.0}),
        ({"user_city": "Oslo", "city": "Rome", "user_user_city": "Bonn"}, {"user_city": "Oslo"}),
        ({"city": "Rome", "user_user_city": "Bonn"}, {"user_city": "Rome"}),
        ({"user_interest_a": 0.1, "interest_a": 0.2, "user_user_interest_a": 0.3}, {"user_interest_a": 0.1}),
        # In two maps, under two names: not a conflict.
        ({"user_gender": 1.0, "gender": "f"}, {"user_gender": "1"}),
        ({"user_gender": "f", "gender": 1.0}, {"user_gender": "f"}),
    ],
)
def test_the_exact_name_wins(stub: v1.TwoTowerServiceStub, dot: Recomputed, given: Features, read: Features) -> None:
    got = embed_user(stub, given)
    np.testing.assert_allclose(got.embedding.values, dot.user(read), rtol=1e-5, atol=1e-6)
    assert got.feature_use == v1.FeatureUse(used=1, missing=8)


def test_a_merged_map_serves_both_towers(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    merged: Features = {**USER, **ITEM, "cross_age_price": 1.0, "scene_city": "Rome", "scene_hour": 3.0}
    got = embed_user(stub, merged)
    np.testing.assert_allclose(got.embedding.values, dot.user(USER), rtol=1e-5, atol=1e-6)
    assert got.feature_use == v1.FeatureUse(used=9)
    np.testing.assert_allclose(embed_item(stub, merged), dot.item(ITEM), rtol=1e-5, atol=1e-6)


def test_a_merged_map_passes_the_strict_mode(tight: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = embed_user(tight, {"user_age": 20.0, "item_price": 3.0, "cross_a": 1.0, "scene_b": "c"})
    np.testing.assert_allclose(got.embedding.values, dot.user({"user_age": 20.0}), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("number", "text"), [(1.0, "1"), (-0.0, "0"), (-7.0, "-7"), (2.0**53, "9007199254740992")])
def test_an_integral_number_is_a_category(
    stub: v1.TwoTowerServiceStub, dot: Recomputed, number: float, text: str
) -> None:
    for name in ("user_gender", "user_city", "user_tags", "user_recent_clicks"):
        got = embed_user(stub, {name: number})
        np.testing.assert_allclose(got.embedding.values, dot.user({name: [text]}), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        embed_item(stub, {"item_category": number}), dot.item({"item_category": text}), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_an_empty_text_is_missing(stub: v1.TwoTowerServiceStub, dot: Recomputed, texts: list[str]) -> None:
    for name in ("user_gender", "user_tags", "user_recent_clicks"):
        got = embed_user(stub, {"user_age": 20.0, name: texts})
        np.testing.assert_allclose(got.embedding.values, dot.user({"user_age": 20.0}), rtol=1e-5, atol=1e-6)
        assert got.feature_use == v1.FeatureUse(used=1, missing=8)


def test_empty_texts_among_others_are_skipped(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = embed_user(stub, {"user_tags": ["", "a", "", "b"], "user_gender": ["", "f"]})
    expected = dot.user({"user_tags": ["a", "b"], "user_gender": "f"})
    np.testing.assert_allclose(got.embedding.values, expected, rtol=1e-5, atol=1e-6)


def test_a_known_name_without_a_value_is_no_mistake(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    # A new user who has clicked nothing yet: the name is known, so the missing-value rules apply.
    got = embed_user(stub, {"user_recent_clicks": []})
    np.testing.assert_allclose(got.embedding.values, dot.user({}), rtol=1e-5, atol=1e-6)
    assert got.feature_use == v1.FeatureUse(missing=9)
