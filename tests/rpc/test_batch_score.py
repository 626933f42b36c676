"""BatchScore: many Scores in one call, each good or bad by itself."""

from __future__ import annotations

from tests.rpc.messages import ITEM, USER, item, user
from tests.rpc.recomputed import item_key
from tests.rpc.refusal import check_problem, refused
from twotower import v1

GOOD = [
    v1.ScoreRequest(user=user(USER, user_id="u1"), item_ids=["i1", "nowhere", "i2"]),
    v1.ScoreRequest(user=user({"user_age": 20.0}), item_keys=[item_key("i3")], release="dot"),
    v1.ScoreRequest(embedding=v1.Embedding(values=[1.0] * 8, release="dot"), item_ids=["i4", "i5"]),
    v1.ScoreRequest(user=user({"user_city": "Oslo", "x": 1.0}), items=[item(ITEM), item({})]),
]
NAN = float("nan")
BAD: list[tuple[v1.ScoreRequest, str, str]] = [
    (v1.ScoreRequest(), "FIELD_REQUIRED", "user"),
    (v1.ScoreRequest(user=user(USER)), "FIELD_REQUIRED", "item_ids"),
    (v1.ScoreRequest(user=user({"user_age": NAN}), item_ids=["i1"]), "VALUE_NOT_FINITE", "user.features[user_age]"),
    (v1.ScoreRequest(user=user({"x": 1.0}), item_ids=["i1"]), "NO_KNOWN_FEATURE", "user.features"),
    (v1.ScoreRequest(user=user(USER), item_ids=["i1"], release="old"), "RELEASE_NOT_LOADED", "release"),
    (
        v1.ScoreRequest(embedding=v1.Embedding(values=[1.0] * 7, release="dot"), item_ids=["i1"]),
        "DIMENSION_MISMATCH",
        "embedding.values",
    ),
    (
        v1.ScoreRequest(embedding=v1.Embedding(values=[1.0] * 8, release="dot"), item_ids=["i1"], release="new"),
        "RELEASE_MISMATCH",
        "embedding.release",
    ),
    (v1.ScoreRequest(user=user(USER), item_ids=["x"], require_all=True), "ITEM_NOT_FOUND", "item_ids"),
    (v1.ScoreRequest(user=user(USER), item_ids=["i1"] * 10_001), "LIMIT_EXCEEDED", "item_ids"),
    (v1.ScoreRequest(user=user(USER), item_keys=[1] * 10_001), "LIMIT_EXCEEDED", "item_keys"),
]


def test_every_entry_is_a_score(stub: v1.TwoTowerServiceStub) -> None:
    got = stub.BatchScore(v1.BatchScoreRequest(requests=GOOD * 10))
    assert list(got.responses) == [stub.Score(entry) for entry in GOOD] * 10
    assert not got.problems


def test_a_bad_entry_fails_alone(stub: v1.TwoTowerServiceStub) -> None:
    requests = [entry for bad, _, _ in BAD for entry in (GOOD[0], bad)] + GOOD
    got = stub.BatchScore(v1.BatchScoreRequest(requests=requests))
    for i, (problem, (_, reason, field)) in enumerate(zip(got.problems, BAD, strict=True)):
        check_problem(problem, 2 * i + 1, reason, f"requests[{2 * i + 1}].{field}")
        assert got.responses[2 * i + 1] == v1.ScoreResponse()
        assert got.responses[2 * i] == stub.Score(GOOD[0])
    assert list(got.responses[2 * len(BAD) :]) == [stub.Score(entry) for entry in GOOD]


def test_every_entry_may_be_bad(stub: v1.TwoTowerServiceStub) -> None:
    got = stub.BatchScore(v1.BatchScoreRequest(requests=[bad for bad, _, _ in BAD]))
    assert [problem.index for problem in got.problems] == list(range(len(BAD)))
    assert list(got.responses) == [v1.ScoreResponse()] * len(BAD)


def test_a_bad_entry_is_what_a_call_of_its_own_would_be(stub: v1.TwoTowerServiceStub) -> None:
    for bad, reason, field in BAD:
        refused(stub.Score, bad, reason, field)


def test_bad_candidates_are_told_in_the_entry(stub: v1.TwoTowerServiceStub) -> None:
    got = stub.BatchScore(v1.BatchScoreRequest(requests=[GOOD[0], GOOD[3]]))
    assert not got.problems
    assert list(got.responses[0].missing_indices) == [1]
    (problem,) = got.responses[1].problems
    check_problem(problem, 1, "FIELD_REQUIRED", "items[1].features")


def test_a_batch_without_entries(stub: v1.TwoTowerServiceStub) -> None:
    refused(stub.BatchScore, v1.BatchScoreRequest(), "FIELD_REQUIRED", "requests")


def test_an_entry_that_is_far_too_large_fails_alone(stub: v1.TwoTowerServiceStub) -> None:
    # Its scores would not fit into an answer, but they are not part of it.
    large = v1.ScoreRequest(user=user(USER), item_keys=range(480_000))
    got = stub.BatchScore(v1.BatchScoreRequest(requests=[GOOD[0], large]))
    assert got.responses[0] == stub.Score(GOOD[0])
    check_problem(got.problems[0], 1, "LIMIT_EXCEEDED", "requests[1].item_keys")
