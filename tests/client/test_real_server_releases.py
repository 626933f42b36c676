"""Two releases in one server: every path of CONTRACT rule 1, pins across switches, and what managing releases does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import twotower
from tests.client.conftest import StartSwitchable, Switchable
from tests.go.make_routing import GOLDEN
from tests.supervisor.running import until
from twotower import Embedding, ErrorReason, ReleaseState, where

OpenClient = Callable[..., Any]
Call = Callable[[Any], Any]

USER = twotower.user("u1", age=34, gender="f", interest={"sport": 0.8})
ITEM = twotower.item("x", price=12.5, category="books")
RELEASES = ("dot", "cosine")

# Calls without a vector, of any client or pinned client; each gives the releases of its answer.
WITHOUT_VECTOR: dict[str, Call] = {
    "get_user_embedding": lambda c: {c.get_user_embedding(USER).release},
    "batch_get_user_embeddings": lambda c: set(c.batch_get_user_embeddings([USER, USER]).releases),
    "get_item_embedding by id": lambda c: {c.get_item_embedding("i1").release},
    "get_item_embedding": lambda c: {c.get_item_embedding(ITEM).release},
    "batch_get_item_embeddings by id": lambda c: {c.batch_get_item_embeddings(["i1"]).release},
    "batch_get_item_embeddings": lambda c: {c.batch_get_item_embeddings(items=[ITEM]).release},
    "score": lambda c: {c.score(USER, ["i1"]).release},
    "recommend": lambda c: {c.recommend(USER, 3).release},
    "search_items by id": lambda c: {c.search_items("i1", 3).release},
    "search_items": lambda c: {c.search_items(ITEM, 3).release},
}
# Calls with a vector that another call gave back.
WITH_VECTOR: dict[str, Callable[[Any, Embedding], Any]] = {
    "score": lambda c, vector: {c.score(vector, ["i1"]).release},
    "score of features": lambda c, vector: {c.score(vector, items=[ITEM]).release},
    "recommend": lambda c, vector: {c.recommend(vector, 3).release},
    "search_items": lambda c, vector: {c.search_items(vector, 3).release},
}


@pytest.fixture(scope="module")
def switchable(start_switchable: StartSwitchable) -> Switchable:
    return start_switchable()


@pytest.fixture
def client(switchable: Switchable, open_client: OpenClient) -> Any:
    """Of a server with both releases loaded, `dot` active, and no split."""
    client = open_client(switchable.target)
    for release in RELEASES:
        client.releases.load(release, wait_s=60)
    client.releases.activate("dot")
    return client


# ---- rule 1


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("call", WITHOUT_VECTOR.values(), ids=WITHOUT_VECTOR)
def test_a_pin_chooses_the_release(client: Any, call: Call, release: str) -> None:
    assert call(client.pin(release)) == {release}
    assert call(client) == call(client.pin()) == {"dot"}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("call", WITH_VECTOR.values(), ids=WITH_VECTOR)
def test_a_vector_goes_to_the_release_that_made_it(
    client: Any, call: Callable[[Any, Embedding], Any], release: str
) -> None:
    pinned = client.pin(release)
    found = pinned.recommend(USER, 1, include_embeddings=True)
    vectors = [
        pinned.get_user_embedding(USER),
        pinned.batch_get_user_embeddings([USER])[0],
        pinned.get_item_embedding("i1"),
        pinned.get_item_embedding(ITEM),
        pinned.batch_get_item_embeddings(["i1"])[0],
        pinned.batch_get_item_embeddings(items=[ITEM])[0],
        found.user_embedding,
        found.items[0].embedding,
    ]
    for vector in vectors:
        assert call(client, vector) == call(pinned, vector) == {release}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("call", WITH_VECTOR.values(), ids=WITH_VECTOR)
def test_a_vector_of_another_release_than_the_pin(
    client: Any, call: Callable[[Any, Embedding], Any], release: str
) -> None:
    (other,) = set(RELEASES) - {release}
    vector = client.get_user_embedding(USER, release=other)
    with pytest.raises(twotower.ReleaseMismatch) as caught:
        call(client.pin(release), vector)
    assert caught.value.message == f"the embedding is of release {other}, the request pins {release}"


@pytest.mark.parametrize("call", WITHOUT_VECTOR.values(), ids=WITHOUT_VECTOR)
def test_a_pin_to_a_release_that_is_not_loaded(client: Any, call: Call) -> None:
    with pytest.raises(twotower.ReleaseNotLoaded, match=r"'gone' is not loaded; loaded are cosine, dot$"):
        call(client.pin("gone"))


@pytest.mark.parametrize("call", WITH_VECTOR.values(), ids=WITH_VECTOR)
def test_a_vector_of_a_release_that_is_not_loaded(client: Any, call: Callable[[Any, Embedding], Any]) -> None:
    vector = Embedding(client.get_user_embedding(USER).values, "gone")
    with pytest.raises(twotower.ReleaseNotLoaded, match=r"'gone' is not loaded; loaded are cosine, dot$"):
        call(client, vector)
    with pytest.raises(twotower.ReleaseMismatch):
        call(client.pin(), vector)


def test_every_entry_of_a_batch_has_its_own_release(client: Any) -> None:
    of_dot = client.get_user_embedding(USER, release="dot")
    of_cosine = client.get_user_embedding(USER, release="cosine")
    batch = client.batch_score(
        [
            twotower.score_request(of_dot, ["i1"]),
            twotower.score_request(of_cosine, ["i1"]),
            twotower.score_request(USER, ["i1"]),
            twotower.score_request(USER, ["i1"], release="cosine"),
            twotower.score_request(of_dot, ["i1"], release="cosine"),
            twotower.score_request(USER, ["i1"], release="gone"),
        ]
    )
    assert [one and one.release for one in batch.responses] == ["dot", "cosine", "dot", "cosine", None, None]
    assert [problem.reason for problem in batch.problems] == [
        ErrorReason.RELEASE_MISMATCH,
        ErrorReason.RELEASE_NOT_LOADED,
    ]
    pinned = client.pin("cosine").batch_score([twotower.score_request(one, ["i1"]) for one in (USER, of_dot)])
    assert pinned[0].release == "cosine" and pinned.problems[0].reason is ErrorReason.RELEASE_MISMATCH


def test_the_releases_really_answer_differently(client: Any) -> None:
    """Else a mix would go unseen."""
    ids = ["i1", "i2", "i3"]
    dot, cosine = (client.score(USER, ids, release=release) for release in RELEASES)
    assert abs(dot.similarities - cosine.similarities).min() > 1e-3


# ---- a switch in the middle of a flow


def test_a_pinned_flow_survives_a_switch(client: Any) -> None:
    pinned = client.pin()
    vector = pinned.get_user_embedding(USER)
    before = pinned.recommend(vector, 20)
    scores = pinned.score(vector, before.item_ids)

    assert client.releases.activate("cosine", expected_active="dot") == "dot"

    after = pinned.recommend(vector, 20, filter=where("in_stock").equals(True))
    assert after.release == "dot" and client.recommend(vector, 20).item_ids == before.item_ids
    assert pinned.score(vector, before.item_ids).similarities.tolist() == scores.similarities.tolist()
    assert pinned.get_user_embedding(USER).values.tolist() == vector.values.tolist()
    assert pinned.serving_info().active_release == "cosine"
    # What is not pinned has switched.
    assert client.get_user_embedding(USER).release == client.search_items("i1").release == "cosine"


def test_a_flow_is_held_together_by_its_vector_alone(client: Any) -> None:
    vector = client.get_user_embedding(USER)
    before = client.recommend(vector, 20)
    client.releases.activate("cosine")
    scores = client.score(vector, before.item_ids)
    assert scores.release == before.release == "dot"
    assert scores.similarities == pytest.approx(before.similarities, abs=1e-5)


def test_a_pin_by_the_users_own_arm_of_a_split(client: Any) -> None:
    client.releases.set_traffic_split({"dot": 0.5, "cosine": 0.5})
    users = [twotower.user(f"u{number}", age=34) for number in range(20)]
    assert {client.get_user_embedding(user).release for user in users} == set(RELEASES)
    for user in users:
        vector = client.get_user_embedding(user)
        pinned = client.pin(vector.release)
        assert pinned.recommend(vector, 3).release == pinned.search_items("i1", 3).release == vector.release
    assert client.releases.set_traffic_split({}) == {"dot": 1.0}
    assert {client.get_user_embedding(user).release for user in users} == {"dot"}


def test_the_split_is_the_one_that_a_go_caller_computes(client: Any) -> None:
    splits = json.loads(GOLDEN.read_text("utf-8"))["splits"]
    (split,) = (one for one in splits if set(one["shares"]) == set(RELEASES))
    assert client.releases.set_traffic_split(split["shares"]) == split["shares"]
    keys, expected = list(split["arms"]), list(split["arms"].values())
    by_id = client.batch_get_user_embeddings([twotower.user(key, age=34) for key in keys])
    by_routing_key = client.batch_score(
        [twotower.score_request(twotower.user("u1", age=34, routing_key=key), ["i1"]) for key in keys]
    )
    assert [by_id.releases[index] for index in by_id.release_indices] == expected
    assert [one.release for one in by_routing_key.responses] == expected


def test_a_dense_client_under_a_split(client: Any, switchable: Switchable, open_client: OpenClient) -> None:
    dense = open_client(switchable.target, dense=True)
    users = [twotower.user(f"u{number}", age=20 + number) for number in range(20)]
    assert not dense.batch_get_user_embeddings(users).problems
    client.releases.set_traffic_split({"dot": 0.5, "cosine": 0.5})
    found = dense.batch_get_user_embeddings(users)
    assert set(found.releases) == set(RELEASES) and not found.problems
    assert found.matrix == pytest.approx(client.batch_get_user_embeddings(users).matrix, abs=1e-5)


def test_a_pinned_client_says_that_its_release_was_retired(
    start_switchable: StartSwitchable, open_client: OpenClient
) -> None:
    server = start_switchable("--keep-releases", "0", "--follow-s", "0.05")
    client = open_client(server.target)
    pinned = client.pin()
    vector = pinned.get_user_embedding(USER)
    (server.releases / "active").write_text("cosine\n")
    until(lambda: [info.release for info in client.serving_info().releases] == ["cosine"])

    said = "release 'dot' is not loaded; loaded are cosine"
    for call in WITHOUT_VECTOR.values():
        with pytest.raises(twotower.ReleaseNotLoaded) as caught:
            call(pinned)
        assert caught.value.message == said
    for with_vector in WITH_VECTOR.values():
        for one in client, pinned:
            with pytest.raises(twotower.ReleaseNotLoaded) as caught:
                with_vector(one, vector)
            assert caught.value.message == said
    (problem,) = pinned.batch_score([twotower.score_request(vector, ["i1"])]).problems
    assert (problem.reason, problem.message) == (ErrorReason.RELEASE_NOT_LOADED, said)
    assert client.pin().recommend(USER, 3).release == "cosine"


# ---- managing releases


def test_load_activate_and_roll_back(start_switchable: StartSwitchable, open_client: OpenClient) -> None:
    server = start_switchable("--follow-s", "60")
    releases = open_client(server.target).releases
    assert [(one.release, one.state) for one in releases.list()] == [
        ("cosine", ReleaseState.AVAILABLE),
        ("dot", ReleaseState.ACTIVE),
    ]
    assert [one.info is None for one in releases.list()] == [True, False]
    with pytest.raises(twotower.ReleaseNotLoaded, match="'cosine' is not loaded; loaded are dot; LoadRelease loads it"):
        releases.activate("cosine")
    loaded = releases.load("cosine", wait_s=60)
    assert loaded.state is ReleaseState.LOADED and loaded.info.similarity is twotower.Similarity.COSINE
    assert releases.activate("cosine", expected_active="dot") == "dot"
    assert {one.release: one.state for one in releases.list()} == {
        "cosine": ReleaseState.ACTIVE,
        "dot": ReleaseState.LOADED,
    }
    assert releases.rollback("cosine") == "dot"


def test_operators_who_do_not_know_of_each_other(client: Any) -> None:
    releases = client.releases
    releases.activate("cosine", expected_active="dot")
    with pytest.raises(twotower.ReleaseMismatch, match="the active release is cosine, not dot"):
        releases.activate("dot", expected_active="dot")
    assert releases.rollback("cosine") == "dot"
    with pytest.raises(twotower.ReleaseMismatch, match="the active release is dot, not cosine"):
        releases.rollback("cosine")
    assert client.serving_info().active_release == "dot"


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda r: r.load(""), twotower.InvalidRequest, "FIELD_REQUIRED"),
        (lambda r: r.load("nowhere"), twotower.NotFound, "RELEASE_NOT_FOUND"),
        (lambda r: r.activate(""), twotower.InvalidRequest, "FIELD_REQUIRED"),
        (lambda r: r.rollback(""), twotower.InvalidRequest, "FIELD_REQUIRED"),
        (lambda r: r.set_traffic_split({"nowhere": 1.0}), twotower.ReleaseNotLoaded, "RELEASE_NOT_LOADED"),
        (lambda r: r.set_traffic_split({"dot": 0.5}), twotower.InvalidRequest, "FIELD_CONFLICT"),
        (lambda r: r.set_traffic_split({"dot": float("nan")}), twotower.InvalidRequest, "VALUE_NOT_FINITE"),
    ],
)
def test_refusals(client: Any, call: Call, kind: type[twotower.TwoTowerError], reason: str) -> None:
    with pytest.raises(kind) as caught:
        call(client.releases)
    assert type(caught.value) is kind and caught.value.reason is ErrorReason[reason]


def test_a_release_that_disagrees_with_itself_is_refused_with_the_reason(client: Any, switchable: Switchable) -> None:
    broken = switchable.releases / "broken"
    if not broken.exists():
        broken.mkdir()
        for file in (switchable.releases / "dot").iterdir():
            content = file.read_bytes()
            (broken / file.name).write_bytes(content[:-1] if file.name == "vectors.npy" else content)
    with pytest.raises(twotower.ReleaseNotLoaded, match="'broken' was refused: ") as caught:
        client.releases.load("broken", wait_s=60)
    status = {one.release: one for one in client.releases.list()}["broken"]
    assert status.state is ReleaseState.REFUSED and status.reason and status.reason in caught.value.message
    assert client.recommend(USER, 3).release == "dot"
