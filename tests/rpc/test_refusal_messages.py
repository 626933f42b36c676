"""What a refusal says: bounded, whatever a caller has sent, and nothing of the inside of the server."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.rpc.messages import USER, user
from tests.rpc.refusal import refused
from twotower import v1

LONG = "x" * 1_000_000
NAN = float("nan")


def named(name: str, value: float = NAN) -> v1.User:
    return user({"user_age": 1.0, name: value})


LONG_NAMES: list[tuple[str, Any, str]] = [
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=named(LONG)), "VALUE_NOT_FINITE"),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=user({LONG: 1.0})), "NO_KNOWN_FEATURE"),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=user({f"user_interest_{LONG}": "a"})), "FEATURE_TYPE"),
    ("Recommend", v1.RecommendRequest(user=user(USER), return_attributes=[LONG]), "FILTER_INVALID"),
    (
        "Recommend",
        v1.RecommendRequest(user=user(USER), filter={"all_of": [{"conditions": [{"attribute": LONG}]}]}),
        "FILTER_INVALID",
    ),
    ("Score", v1.ScoreRequest(user=user(USER), item_ids=[LONG], require_all=True), "ITEM_NOT_FOUND"),
    ("Score", v1.ScoreRequest(embedding={"release": LONG}, release="dot", item_ids=["i1"]), "RELEASE_MISMATCH"),
    ("Score", v1.ScoreRequest(embedding={"release": "Ж" * 500_000}, item_ids=["i1"]), "RELEASE_NOT_LOADED"),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=named("Ж" * 500_000)), "VALUE_NOT_FINITE"),
    ("GetUserEmbedding", v1.GetUserEmbeddingRequest(user=named("🙂" * 250_000)), "VALUE_NOT_FINITE"),
]


@pytest.mark.parametrize(("rpc", "request_", "reason"), LONG_NAMES, ids=range(len(LONG_NAMES)))
def test_a_long_name_is_shortened(stub: v1.TwoTowerServiceStub, rpc: str, request_: Any, reason: str) -> None:
    message = refused(getattr(stub, rpc), request_, reason, None)
    assert len(message.encode()) < 2_000


def test_both_ends_of_what_is_shortened_remain(stub: v1.TwoTowerServiceStub) -> None:
    request = v1.BatchGetUserEmbeddingsRequest(users=[named(LONG)])
    (problem,) = stub.BatchGetUserEmbeddings(request).problems
    assert re.fullmatch(r"VALUE_NOT_FINITE: x+…x+ is nan; leave a missing value out, and .*", problem.message)
    assert re.fullmatch(r"users\[0\]\.features\[x+…x+\]", problem.field)
    assert problem.ByteSize() < 3_000


@pytest.mark.parametrize("name", ["two\nlines", "tab\t", "\0", "é", "Жук", "🙂", "%41%", "a b"])
def test_every_character_comes_back(stub: v1.TwoTowerServiceStub, name: str) -> None:
    request = v1.GetUserEmbeddingRequest(user=named(name))
    message = refused(stub.GetUserEmbedding, request, "VALUE_NOT_FINITE", f"user.features[{name}]")
    assert message.startswith(f"VALUE_NOT_FINITE: {name} is nan")
    message = refused(stub.GetItemEmbedding, v1.GetItemEmbeddingRequest(item_id=name), "ITEM_NOT_FOUND", "item_id")
    assert repr(name) in message
