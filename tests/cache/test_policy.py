"""Who is cached, and under what key."""

from __future__ import annotations

import logging
import math

import pytest

from tests.model_folder import SCHEMA
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Features
from twotower import v1
from twotower_server.cache.policy import CacheKey, CachePolicy, RealTimeFeatures
from twotower_server.features.schema import Schema

USERS = Schema.from_json(SCHEMA).user
AGE: Features = {"user_age": 31.0}


ALL = CachePolicy()


def key_of(message: v1.User, policy: CachePolicy = ALL) -> CacheKey | None:
    return policy.key("r1", RealTimeFeatures(policy.real_time, USERS), message)


def test_a_key_holds_release_version_and_user() -> None:
    assert key_of(user(AGE, user_id="u1")) == ("r1", "-", "u1")
    assert key_of(user(AGE, user_id="u1", feature_version="v7")) == ("r1", "v7", "u1")


def test_an_anonymous_user_is_not_cached() -> None:
    assert key_of(user(AGE)) is None
    assert key_of(user(AGE, feature_version="v7", routing_key="session")) is None


def test_a_version_policy_wants_a_version() -> None:
    by_version = CachePolicy(by_version=True)
    assert key_of(user(AGE, user_id="u1"), by_version) is None
    assert key_of(user(AGE, user_id="u1", feature_version="v7"), by_version) == ("r1", "v7", "u1")


@pytest.mark.parametrize("version", ["a:b", ":", "2026-05-01T10:00", "-"])
@pytest.mark.parametrize("by_version", [False, True])
def test_a_version_that_a_redis_key_cannot_hold_is_not_cached(version: str, by_version: bool) -> None:
    assert key_of(user(AGE, user_id="u1", feature_version=version), CachePolicy(by_version=by_version)) is None


def test_a_colon_in_the_user_id_is_no_harm() -> None:
    assert key_of(user(AGE, user_id="v7:u1")) != key_of(user(AGE, user_id="u1", feature_version="v7"))
    assert key_of(user(AGE, user_id=":")) == ("r1", "-", ":")


def test_a_user_without_features_is_not_cached() -> None:
    assert key_of(v1.User(user_id="u1")) is None


@pytest.mark.parametrize("name", ["user_hour", "hour", "user_user_hour"])
def test_a_real_time_feature_by_any_of_its_names(name: str) -> None:
    policy = CachePolicy(real_time=("user_hour", "user_city"))
    assert key_of(user({**AGE, name: 3.0}, user_id="u1"), policy) is None
    assert key_of(user({**AGE, name: 3.0}, user_id="u1")) is not None
    assert key_of(user(AGE, user_id="u1"), policy) is not None


@pytest.mark.parametrize("name", ["user_city", "city", "scene_page", "user_interest_Ж", "interest_film"])
def test_real_time_texts_and_bags(name: str) -> None:
    policy = CachePolicy(real_time=("user_city", "scene_page", "user_interest_*"))
    value = 0.5 if "interest" in name else "Paris"
    assert key_of(user({**AGE, name: value}, user_id="u1"), policy) is None
    assert key_of(user({**AGE, "user_gender": "f"}, user_id="u1"), policy) is not None


def test_a_real_time_feature_among_dense_ones() -> None:
    policy = CachePolicy(real_time=("user_hour",))
    assert [feature.name for feature in USERS.numeric] == ["user_age", "user_ctr", "user_hour"]

    def dense(*values: float) -> v1.User:
        return v1.User(user_id="u1", dense_features=values, schema_fingerprint=USERS.fingerprint)

    assert key_of(dense(30.0, 0.1, 21.0), policy) is None
    assert key_of(dense(30.0, 0.1, math.nan), policy) is not None  # not sent
    # These will be refused: dense features of a wrong length, or in the order of another schema.
    for wrong in (dense(30.0), v1.User(user_id="u1", dense_features=[30.0, 0.1, math.nan], schema_fingerprint=5)):
        assert key_of(wrong, policy) is key_of(wrong) is None
    assert key_of(dense(30.0, 0.1, 21.0)) is not None


def test_a_misspelt_real_time_feature_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        RealTimeFeatures(("user_hour",), USERS)
        assert not caplog.records
        RealTimeFeatures(("user_huor",), USERS)
    assert "user_huor" in caplog.text


def test_every_feature_can_be_real_time() -> None:
    every = CachePolicy(real_time=tuple(feature.name for feature in USERS.features))
    for name, value in USER.items():
        assert key_of(user({name: value}, user_id="u1"), every) is None
