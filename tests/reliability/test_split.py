"""The traffic split: who goes where, and what of an answer says so (CONTRACT rule 2)."""

from __future__ import annotations

import math
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from xxhash import xxh3_64_intdigest

from tests.orthogonal import build_orthogonal
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import IDS, Expected, features_of
from tests.reliability.serving import OWN_CONNECTION, Own, StartOwn, connected, starting
from tests.rpc.messages import user
from tests.rpc.refusal import check_problem, refused
from tests.supervisor.running import PATIENCE_S, alive, until
from twotower import v1
from twotower_server.release.stamp import write_stamp

# Enough connections that both workers have some.
CONNECTIONS = 8
MATRIX = v1.EMBEDDING_ENCODING_MATRIX
DIMENSIONS = {"left": 8, "right": 8, "wide": 12}


@pytest.fixture(scope="module")
def own(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """Two workers with `left`, which is active, `right`, and `wide`, which has another dimension; all loaded."""
    place = tmp_path_factory.mktemp("split")
    releases = own_folder(orthogonal, place)
    build_orthogonal("wide", 2, releases, places=3)
    stamp(releases, place / "data")
    write_stamp(releases / "wide", place / "data")
    with starting(releases, place / "data", "--workers", "2") as server, connected(server) as own:
        assert (own.load("right"), own.load("wide")) == ("LOADED", "LOADED")
        yield own


@pytest.fixture(autouse=True)
def unsplit(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "own" in request.fixturenames:
        request.getfixturevalue("own").split()


@pytest.fixture(scope="module")
def stubs(own: Own) -> Iterator[list[v1.TwoTowerServiceStub]]:
    """Stubs with a connection each, to either worker."""
    channels = [grpc.insecure_channel(own.target, OWN_CONNECTION) for _ in range(CONNECTIONS)]
    yield [v1.TwoTowerServiceStub(channel) for channel in channels]
    for channel in channels:
        channel.close()


def member(number: int, **fields: Any) -> v1.User:
    fields = fields or {"user_id": f"user-{number}"}
    return user(features_of(number % 7), **fields)


def arm(key: str, shares: Mapping[str, float]) -> str:
    """Where a key goes: worked out here as the contract says it."""
    position, end = (xxh3_64_intdigest(key.encode()) >> 11) / 2**53, 0.0
    for name, share in sorted(shares.items()):
        end += share
        if position < end:
            return name
    return max(shares)


def arms_of(batch: v1.BatchGetUserEmbeddingsResponse, entries: int) -> list[str]:
    """The release of each entry."""
    if len(batch.releases) == 1:
        return [batch.releases[0]] * entries
    return [batch.releases[i] for i in batch.release_indices]


@pytest.mark.parametrize("shares", [{"left": 0.9, "right": 0.1}, {"left": 0.2, "right": 0.5, "wide": 0.3}], ids=len)
def test_shares_are_those_that_were_set(own: Own, shares: dict[str, float]) -> None:
    assert own.split(**shares) == shares
    people = 4_000
    request = v1.BatchGetUserEmbeddingsRequest(users=[member(i) for i in range(people)])
    arms = arms_of(own.serving.BatchGetUserEmbeddings(request), people)
    assert arms == [arm(f"user-{i}", shares) for i in range(people)]
    for name, share in shares.items():
        deviation = math.sqrt(people * share * (1 - share))
        assert abs(Counter(arms)[name] - people * share) < 4 * deviation
    info = own.info()
    assert {r.release: r.traffic_share for r in info.releases if r.traffic_share} == shares
    assert info.active_release == "left"


def test_a_key_always_goes_to_the_same_release(own: Own, stubs: Sequence[v1.TwoTowerServiceStub]) -> None:
    shares = {"left": 0.5, "right": 0.5}
    own.split(**shares)
    for number in range(20):
        by_id, by_key = arm(f"user-{number}", shares), arm(f"key-{number}", shares)
        for stub in stubs:
            assert stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=member(number))).release == by_id
        # The routing key wins over the id, whatever is called.
        keyed = member(number, user_id=f"user-{number}", routing_key=f"key-{number}")
        entry = v1.ScoreRequest(user=keyed, item_ids=IDS)
        stub = stubs[number % CONNECTIONS]
        assert stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=keyed)).release == by_key
        assert stub.Score(entry).release == by_key
        assert stub.Recommend(v1.RecommendRequest(user=keyed, k=1)).release == by_key
        assert stub.BatchScore(v1.BatchScoreRequest(requests=[entry])).responses[0].release == by_key
        batch = stub.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=[keyed]))
        assert list(batch.releases) == [by_key] and not batch.release_indices


def test_who_has_the_new_release_keeps_it_while_its_share_grows(own: Own) -> None:
    people = 2_000
    request = v1.BatchGetUserEmbeddingsRequest(users=[member(i) for i in range(people)])
    before: set[int] = set()
    for share in (0.01, 0.05, 0.25, 0.5, 0.99, 1.0):
        own.split(left=1 - share, right=share)
        arms = arms_of(own.serving.BatchGetUserEmbeddings(request), people)
        now = {i for i in range(people) if arms[i] == "right"}
        assert now >= before and now != before
        before = now
    assert len(before) == people


def test_callers_without_a_key_go_to_the_active_release(own: Own) -> None:
    nameless = user(features_of(1))
    for shares in ({"left": 0.01, "right": 0.99}, {"right": 1.0}):
        own.split(**shares)
        assert own.serving.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=nameless)).release == "left"
        assert own.serving.Score(v1.ScoreRequest(user=nameless, item_ids=IDS)).release == "left"
        assert own.serving.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id="i0")).release == "left"
        assert own.serving.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_ids=IDS)).release == "left"
        assert own.serving.SearchItems(v1.SearchItemsRequest(item_id="i0", k=1)).release == "left"
        batch = own.serving.BatchGetUserEmbeddings(
            v1.BatchGetUserEmbeddingsRequest(users=[nameless, member(1, user_id="user-3"), nameless])
        )
        assert arms_of(batch, 3) == ["left", "right", "left"]


def test_pins_and_vectors_pass_the_split_by(own: Own) -> None:
    own.split(right=1.0)
    people = [member(i) for i in range(20)]
    pinned = own.serving.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=people, release="left"))
    assert list(pinned.releases) == ["left"] and not pinned.release_indices
    vector = pinned.embeddings[0]
    assert own.serving.Score(v1.ScoreRequest(embedding=vector, item_ids=IDS)).release == "left"
    assert own.serving.Score(v1.ScoreRequest(user=people[0], item_ids=IDS, release="wide")).release == "wide"
    assert own.serving.Recommend(v1.RecommendRequest(embedding=vector, k=1)).release == "left"
    request = v1.ScoreRequest(embedding=vector, item_ids=IDS, release="right")
    refused(own.serving.Score, request, "RELEASE_MISMATCH", "embedding.release")


@pytest.mark.parametrize("encoding", [v1.EMBEDDING_ENCODING_LIST, MATRIX])
@pytest.mark.parametrize("shares", [{"left": 0.5, "right": 0.5}, {"left": 0.3, "right": 0.3, "wide": 0.4}], ids=len)
def test_a_batch_answers_for_every_entry(
    own: Own, expected: Mapping[str, Expected], shares: dict[str, float], encoding: int
) -> None:
    own.split(**shares)
    people = [member(i) for i in range(60)]
    bad = (3, 40)
    for i in bad:
        people[i].features["user_age"] = math.nan
    request = v1.BatchGetUserEmbeddingsRequest(users=people, encoding=encoding)  # type: ignore[arg-type]
    batch = own.serving.BatchGetUserEmbeddings(request)
    arms = arms_of(batch, 60)
    assert arms == [arm(f"user-{i}", shares) for i in range(60)]
    for problem, i in zip(batch.problems, bad, strict=True):
        check_problem(problem, i, "VALUE_NOT_FINITE", f"users[{i}].features[user_age]")
    assert [i for i, source in enumerate(batch.sources) if source != v1.SOURCE_COMPUTED] == list(bad)
    # A matrix has one width: vectors of several are a list.
    if encoding == MATRIX and "wide" not in shares:
        assert (batch.matrix.rows, batch.matrix.dimension) == (60, 8) and not batch.embeddings
        rows = memoryview(batch.matrix.values).cast("f")
        vectors = [list(rows[8 * i : 8 * i + 8]) for i in range(60)]
        assert all(vectors[i] == [0.0] * 8 for i in bad)
    else:
        assert not batch.HasField("matrix")
        vectors = [list(embedding.values) for embedding in batch.embeddings]
        assert [e.release for e in batch.embeddings] == ["" if i in bad else arms[i] for i in range(60)]
        assert all(vectors[i] == [] for i in bad)
    for i, vector in enumerate(vectors):
        if i not in bad:
            assert len(vector) == DIMENSIONS[arms[i]]
            if arms[i] in expected:
                expected[arms[i]].check_vector(f"entry {i}", vector, expected[arms[i]].users[i % 7])


def test_a_batch_of_scores_has_a_release_for_every_entry(own: Own, expected: Mapping[str, Expected]) -> None:
    shares = {"left": 0.3, "right": 0.3, "wide": 0.4}
    own.split(**shares)
    entries = [v1.ScoreRequest(user=member(i), item_ids=IDS) for i in range(40)]
    entries[5].release = "nowhere"
    entries[7].user.features["user_age"] = math.inf
    entries[9].release = "right"
    answer = own.serving.BatchScore(v1.BatchScoreRequest(requests=entries))
    check_problem(answer.problems[0], 5, "RELEASE_NOT_LOADED", "requests[5].release")
    check_problem(answer.problems[1], 7, "VALUE_NOT_FINITE", "requests[7].user.features[user_age]")
    assert len(answer.problems) == 2
    for i, scored in enumerate(answer.responses):
        if i in (5, 7):
            assert scored == v1.ScoreResponse()
            continue
        assert scored.release == ("right" if i == 9 else arm(f"user-{i}", shares))
        if scored.release in expected:
            own_answers = expected[scored.release]
            own_answers.check_scores(f"entry {i}", scored, own_answers.users[i % 7])


@pytest.mark.parametrize(
    ("shares", "reason", "message"),
    [
        ({"left": 0.5, "nowhere": 0.5}, "RELEASE_NOT_LOADED", "release 'nowhere' is not loaded"),
        ({"left": 0.5, "": 0.5}, "FIELD_REQUIRED", "name the release"),
        ({"left": 0.5, "right": 0.4}, "FIELD_CONFLICT", "the shares sum to 0.9, not 1"),
        ({"left": 1.5, "right": -0.5}, "VALUE_NOT_FINITE", "the share of"),
        ({"left": math.nan}, "VALUE_NOT_FINITE", "the share of left is nan"),
    ],
)
def test_what_is_no_split_changes_nothing(own: Own, shares: dict[str, float], reason: str, message: str) -> None:
    own.split(left=0.5, right=0.5)
    request = v1.SetTrafficSplitRequest(shares=shares)
    assert message in refused(own.releases.SetTrafficSplit, request, reason, "shares")
    assert {r.release: r.traffic_share for r in own.info().releases if r.traffic_share} == {"left": 0.5, "right": 0.5}


def test_the_split_ends_when_a_release_is_activated(own: Own) -> None:
    own.split(left=0.5, right=0.5)
    assert own.activate("left") == "left"
    assert {r.release: r.traffic_share for r in own.info().releases if r.traffic_share} == {"left": 1.0}
    assert own.split(left=1.0, right=0.0) == {"left": 1.0}
    assert own.split() == {"left": 1.0}


def test_every_entry_served_is_counted_also_after_a_worker_was_killed_and_arms_outlive_the_server(
    start: StartOwn,
) -> None:
    shares = {"left": 0.5, "right": 0.5}
    own = start("--workers", "2")
    own.load("right")
    own.split(**shares)
    wanted: Counter[str] = Counter()
    people = [member(i) for i in range(200)]
    arms = [arm(f"user-{i}", shares) for i in range(200)]

    def call(times: int) -> None:
        for time in range(times):
            with grpc.insecure_channel(own.target, OWN_CONNECTION) as channel:
                stub = v1.TwoTowerServiceStub(channel)
                batch = stub.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=people))
                assert arms_of(batch, 200) == arms
                wanted.update(arms)
                i = random.Random(time).randrange(200)
                stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=people[i]))
                stub.Recommend(v1.RecommendRequest(user=people[i], k=1))
                stub.BatchScore(v1.BatchScoreRequest(requests=3 * [v1.ScoreRequest(user=people[i], item_ids=IDS)]))
                wanted[arms[i]] += 5
                stub.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=people[:7], release="right"))
                wanted["right"] += 7
                stub.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_ids=IDS))
                stub.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id="i0"))
                stub.SearchItems(v1.SearchItemsRequest(item_id="i0", k=1))
                wanted["left"] += 3
                stub.GetServingInfo(v1.GetServingInfoRequest())

    def served() -> dict[str, int]:
        return {name: own.status(name).served for name in ("left", "right")}

    call(8)
    assert served() == wanted
    for victim in own.server.children():
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: not alive(victim))  # type: ignore[misc]
        until(lambda: own.server.log().count("is ready") > 2)
    until(lambda: own.server.log().count("is ready") == 4)
    grpc.channel_ready_future(own.channel).result(PATIENCE_S)
    assert served() == wanted
    call(8)
    assert served() == wanted
    own.server.send(signal.SIGTERM)
    assert own.server.ended() == 0
    again = start("--workers", "2")
    batch = again.serving.BatchGetUserEmbeddings(v1.BatchGetUserEmbeddingsRequest(users=people))
    assert arms_of(batch, 200) == arms
