"""CatalogService through the real stubs: two workers, two loaded releases, many connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.catalog.live import Live, by_features, by_vector, living, own_releases
from tests.items.test_catalog import colliding_id
from tests.rpc.messages import ITEM, USER, user
from tests.rpc.recomputed import Recomputed, item_key
from tests.rpc.refusal import refused
from twotower import v1

RELEASES = ("cosine", "dot")


@pytest.fixture(scope="module")
def live(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of `dot` with `cosine` loaded. Every test changes items of its own."""
    folder = tmp_path_factory.mktemp("live")
    with living(own_releases(releases, folder / "releases"), folder / "data") as found:
        assert found.own.load("cosine") == "LOADED"
        yield found


def scaled(release: Recomputed, length: float) -> list[float]:
    """A vector in the direction of `USER`: the longer, the more similar."""
    query = release.user(USER).astype(np.float64)
    return [float(value) for value in query / np.linalg.norm(query) * length]


def recommended(release: str, k: int = 1, **fields: Any) -> Any:
    """Calls Recommend for `USER`; gives ids."""
    request = v1.RecommendRequest(user=user(USER), release=release, k=k, **fields)
    return lambda serving: [found.item_id for found in serving.Recommend(request).items]


def similar_price(least: float) -> v1.Filter:
    condition = v1.Condition(attribute="price", range=v1.Range(min=least))
    return v1.Filter(all_of=[v1.AnyOf(conditions=[condition])])


def counts(serving: Any) -> dict[str, int]:
    info = serving.GetServingInfo(v1.GetServingInfoRequest())
    return {release.release: release.items for release in info.releases}


# ---- what an upsert does


def test_features_give_every_release_its_own_vector(live: Live, dot: Recomputed, cosine: Recomputed) -> None:
    live.upsert(by_features("features", ITEM))
    live.check_vector("features", "dot", dot.item(ITEM))
    live.check_vector("features", "cosine", cosine.item(ITEM))
    other = {**ITEM, "item_price": 9000.0, "item_category": "sport"}
    live.upsert(by_features("features", other))
    for release in (dot, cosine):
        live.check_vector("features", release.name, release.item(other))
        assert not np.allclose(release.item(other), release.item(ITEM), atol=1e-3)
    assert np.linalg.norm(live.vectors("features", "cosine")[0]) == pytest.approx(1.0, abs=1e-5)  # type: ignore[arg-type]


def test_an_item_of_the_release_is_replaced(live: Live, dot: Recomputed, cosine: Recomputed) -> None:
    before = live.own.info()
    live.upsert(by_features("i7", ITEM, title="Another"))
    for release in (dot, cosine):
        live.check_vector("i7", release.name, release.item(ITEM))
    assert [release.items for release in live.own.info().releases] == [release.items for release in before.releases]


def test_a_ready_vector_is_for_its_release_alone(live: Live, dot: Recomputed, cosine: Recomputed) -> None:
    values = [float(i) for i in range(1, dot.dimension + 1)]
    live.upsert(by_vector("ready-dot", "dot", values), by_vector("ready-cosine", "cosine", values))
    live.check_vector("ready-dot", "dot", np.array(values))
    live.check_vector("ready-cosine", "cosine", np.array(values) / np.linalg.norm(values))
    assert not live.has("ready-dot", "cosine")
    assert not live.has("ready-cosine", "dot")
    live.upsert(by_vector("i8", "dot", values))
    live.check_vector("i8", "cosine", cosine.vector("i8"))


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_a_ready_vector_of_any_length_is_normalised_where_it_enters(live: Live, length: float) -> None:
    values = [length, *[0.0] * 7]
    live.upsert(by_vector("long", "cosine", values))
    live.check_vector("long", "cosine", np.array([1.0 if length else 0.0, *[0.0] * 7]))


def test_attributes_are_replaced_as_a_whole(live: Live, dot: Recomputed) -> None:
    vector = scaled(dot, 500.0)
    names = ["title", "in_stock", "category", "price", "tags"]

    def attributes(serving: Any) -> dict[str, Any]:
        request = v1.RecommendRequest(user=user(USER), k=1, return_attributes=names)
        (found,) = serving.Recommend(request).items
        assert found.item_id == "attributes"
        return {name: value.WhichOneof("kind") for name, value in found.attributes.items()}

    found = recommended("dot", filter=similar_price(1e6))
    every = {"title": "T", "in_stock": True, "category": "film", "price": 2e6, "tags": ["t1"]}
    live.upsert(by_vector("attributes", "dot", vector, **every))  # type: ignore[arg-type]
    live.everywhere(
        attributes, {"title": "text", "in_stock": "flag", "category": "text", "price": "number", "tags": "texts"}
    )
    live.everywhere(found, ["attributes"])
    live.upsert(by_vector("attributes", "dot", vector, title="Other", nobody_has_it="x"))
    live.everywhere(attributes, {"title": "text"})
    live.everywhere(found, [])
    live.delete("attributes")


def test_new_items_are_found_and_deleted_ones_are_not(live: Live, dot: Recomputed) -> None:
    before = recommended("dot", 3)(live.connections[0].serving)
    live.upsert(*[by_vector(f"top-{i}", "dot", scaled(dot, 400.0 - i)) for i in range(5)])
    live.everywhere(recommended("dot", 3), ["top-0", "top-1", "top-2"])
    live.everywhere(recommended("dot", 2, exclude_item_ids=["top-0", "top-2"]), ["top-1", "top-3"])
    live.everywhere(recommended("dot", 2, exclude_item_keys=[item_key("top-0")]), ["top-1", "top-2"])
    neighbours = v1.SearchItemsRequest(item_id="top-2", release="dot", k=4)
    live.everywhere(
        lambda serving: {found.item_id for found in serving.SearchItems(neighbours).items},
        {"top-0", "top-1", "top-3", "top-4"},
    )
    assert not live.delete("top-0", "top-3").missing_indices
    live.everywhere(recommended("dot", 3), ["top-1", "top-2", "top-4"])
    live.upsert(by_vector("top-1", "dot", scaled(dot, -400.0)), by_vector("top-0", "dot", scaled(dot, 300.0)))
    live.everywhere(recommended("dot", 3), ["top-2", "top-4", "top-0"])
    live.delete(*[f"top-{i}" for i in range(5)])
    live.everywhere(recommended("dot", 3), before)


def test_scores_are_of_the_vectors_as_they_are_now(live: Live, dot: Recomputed) -> None:
    vector = scaled(dot, 0.5)
    live.upsert(by_vector("scored", "dot", vector), by_features("i9", ITEM))
    live.delete("i10")
    ids = ["i11", "scored", "i9", "i10", "never"]
    query = dot.user(USER)
    expected = [float(v @ query) for v in (dot.vector("i11"), np.array(vector), dot.item(ITEM))]
    for connection in live.connections:
        for candidates in ({"item_ids": ids}, {"item_keys": [item_key(id) for id in ids]}):
            request = v1.ScoreRequest(user=user(USER), release="dot", **candidates)
            answer = connection.serving.Score(request)
            assert list(answer.missing_indices) == [3, 4]
            np.testing.assert_allclose(answer.similarities, [*expected, 0.0, 0.0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(answer.scores[:3], dot.scores(expected), rtol=1e-4)
        batch = v1.BatchGetItemEmbeddingsRequest(item_ids=ids, release="dot")
        stored = connection.serving.BatchGetItemEmbeddings(batch)
        assert list(stored.missing_indices) == [3, 4]
        np.testing.assert_allclose(stored.embeddings[1].values, vector, rtol=1e-5)


def test_the_last_change_of_an_item_in_one_request_wins(live: Live, dot: Recomputed) -> None:
    others = [{**ITEM, "item_price": float(price)} for price in (1, 50, 900)]
    answer = live.upsert(*[by_features("twice", features) for features in others])
    live.check_vector("twice", "dot", dot.item(others[-1]))
    assert live.upsert(by_features("after", ITEM)).log_position == answer.log_position + 1
    answer_of_delete = live.delete("twice", "twice", "never", "never")
    assert list(answer_of_delete.missing_indices) == [2, 3]
    assert not live.has("twice", "dot")


def test_a_sequence_keeps_older_changes_out(live: Live, dot: Recomputed) -> None:
    def check(price: float) -> None:
        live.check_vector("numbered", "dot", dot.item({**ITEM, "item_price": price}))

    for price, sequence, applied in (
        (1.0, 10, 1.0),
        (50.0, 9, 1.0),
        (50.0, 10, 50.0),
        (900.0, 11, 900.0),
        (7.0, 0, 7.0),
    ):
        live.upsert(by_features("numbered", {**ITEM, "item_price": price}, sequence))
        check(applied)
    live.delete("numbered")
    live.upsert(by_features("numbered", {**ITEM, "item_price": 2.0}, 10))
    assert not live.has("numbered", "dot"), "older than what was deleted"
    live.upsert(by_features("numbered", {**ITEM, "item_price": 3.0}, 12))
    check(3.0)


def test_the_log_grows_by_what_was_accepted(live: Live) -> None:
    first = live.upsert(by_features("grows-1", ITEM), by_features("grows-2", ITEM)).log_position
    assert live.delete("grows-1", "never").log_position == first + 2
    tried = live.tried(by_features("", ITEM))
    assert tried.log_position == first + 2
    assert [problem.index for problem in tried.problems] == [0]


def test_serving_info_counts_the_items_of_now(live: Live) -> None:
    before = counts(live.connections[0].serving)
    live.upsert(*[by_features(f"counted-{i}", ITEM) for i in range(7)], by_vector("counted-dot", "dot", [1.0] * 8))
    live.everywhere(counts, {"dot": before["dot"] + 8, "cosine": before["cosine"] + 7})
    live.delete("counted-0", "counted-dot", "never")
    live.everywhere(counts, {"dot": before["dot"] + 6, "cosine": before["cosine"] + 6})


def test_a_traffic_split_serves_changes_on_both_sides(live: Live, dot: Recomputed, cosine: Recomputed) -> None:
    for release in (dot, cosine):
        live.upsert(by_vector("split", release.name, scaled(release, 600.0)))
    live.own.split(dot=0.5, cosine=0.5)
    try:
        served = set()
        for number, connection in enumerate(live.connections * 4):
            request = v1.RecommendRequest(user=user(USER, user_id=f"u{number}"), k=1)
            answer = connection.serving.Recommend(request)
            assert answer.items[0].item_id == "split"
            served.add(answer.release)
        assert served == set(RELEASES)
    finally:
        live.own.split(dot=1.0)
    live.delete("split")


# ---- what is refused


def embedding(**fields: Any) -> v1.Embedding:
    return v1.Embedding(**{"release": "dot", "values": [1.0] * 8, **fields})


NAMED = v1.Item(item_id="refused")
NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, tuple[v1.ItemChange, str, str]] = {
    "no item": (v1.ItemChange(), "FIELD_REQUIRED", "item.item_id"),
    "no id": (v1.ItemChange(embedding=embedding()), "FIELD_REQUIRED", "item.item_id"),
    "neither features nor vector": (v1.ItemChange(item=NAMED), "FIELD_REQUIRED", "item.features"),
    "both": (
        v1.ItemChange(item=v1.Item(item_id="refused", features={"item_price": 1}), embedding=embedding()),
        "FIELD_CONFLICT",
        "embedding",
    ),
    "a vector of no release": (
        v1.ItemChange(item=NAMED, embedding=embedding(release="")),
        "FIELD_REQUIRED",
        "embedding.release",
    ),
    "a vector of a release that is not loaded": (
        v1.ItemChange(item=NAMED, embedding=embedding(release="other")),
        "RELEASE_NOT_LOADED",
        "embedding.release",
    ),
    "a vector that is too short": (
        v1.ItemChange(item=NAMED, embedding=embedding(values=[1.0])),
        "DIMENSION_MISMATCH",
        "embedding.values",
    ),
    "an empty vector": (
        v1.ItemChange(item=NAMED, embedding=embedding(values=[])),
        "DIMENSION_MISMATCH",
        "embedding.values",
    ),
    "a vector with NaN": (
        v1.ItemChange(item=NAMED, embedding=embedding(values=[NAN] * 8)),
        "VALUE_NOT_FINITE",
        "embedding.values",
    ),
    "a vector that is too long": (
        v1.ItemChange(item=NAMED, embedding=embedding(values=[3e38] * 8)),
        "VALUE_NOT_FINITE",
        "embedding.values",
    ),
    "a feature that is not finite": (
        by_features("refused", {"item_price": INF}),
        "VALUE_NOT_FINITE",
        "item.features[item_price]",
    ),
    "no known feature": (by_features("refused", {"user_age": 3.0}), "NO_KNOWN_FEATURE", "item.features"),
    "a feature of the wrong type": (
        by_features("refused", {"item_price": "dear"}),
        "FEATURE_TYPE",
        "item.string_features[item_price]",
    ),
    "dense features": (
        v1.ItemChange(item=v1.Item(item_id="refused", dense_features=[1, 2, 3])),
        "FEATURE_TYPE",
        "item.dense_features",
    ),
    "too many features": (
        by_features("refused", {f"item_x{i}": 1.0 for i in range(2001)}),
        "LIMIT_EXCEEDED",
        "item.features",
    ),
    "a long id": (by_features("x" * 513, ITEM), "LIMIT_EXCEEDED", "item.item_id"),
    "an attribute without value": (
        v1.ItemChange(
            item=v1.Item(item_id="refused", features={"item_price": 1}), attributes={"price": v1.AttributeValue()}
        ),
        "FIELD_REQUIRED",
        "attributes[price]",
    ),
    "an attribute that is not finite": (
        by_features("refused", ITEM, price=NAN),
        "VALUE_NOT_FINITE",
        "attributes[price]",
    ),
    "an attribute of another kind": (by_features("refused", ITEM, price="dear"), "FEATURE_TYPE", "attributes[price]"),
    "texts for a text": (by_features("refused", ITEM, title=["a"]), "FEATURE_TYPE", "attributes[title]"),
    "a number for a flag": (by_features("refused", ITEM, in_stock=1.0), "FEATURE_TYPE", "attributes[in_stock]"),
    "a text for texts": (by_features("refused", ITEM, tags="t1"), "FEATURE_TYPE", "attributes[tags]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_change_fails_alone(live: Live, name: str) -> None:
    change, reason, field = REFUSED[name]
    answer = live.tried(by_features("good-1", ITEM), change, by_features("good-2", ITEM))
    (problem,) = answer.problems
    assert problem.index == 1
    assert v1.ErrorReason.Name(problem.reason) == f"ERROR_REASON_{reason}"
    assert problem.message.startswith(f"{reason}: ")
    assert problem.field == f"changes[1].{field}"
    assert live.has("good-1", "dot") and live.has("good-2", "cosine")
    for release in RELEASES:
        assert not live.has("refused", release)
    assert not live.delete("good-1", "good-2").missing_indices


def test_where_one_release_refuses_the_other_has_the_item(live: Live, cosine: Recomputed) -> None:
    # So far from the mean that the vector is too long for dot products; of unit length it is comparable.
    features = {**ITEM, "item_ctr": 1e30}
    (problem,) = live.tried(by_features("i20", features, title="New")).problems
    assert problem.reason == v1.ERROR_REASON_VALUE_NOT_FINITE
    assert problem.message.startswith("VALUE_NOT_FINITE: release dot alone: ")
    assert problem.field == "changes[0].item.features"
    live.check_vector("i20", "cosine", cosine.item(features))
    before = v1.SearchItemsRequest(item_id="i20", release="dot", k=1)
    live.everywhere(lambda serving: len(serving.SearchItems(before).items), 1)


def test_ids_with_one_key_keep_out_of_each_others_way(live: Live, dot: Recomputed) -> None:
    one, other = colliding_id("a", "b"), colliding_id("b", "a")
    live.upsert(by_features(one, ITEM))
    (problem,) = live.tried(by_features(other, {**ITEM, "item_price": 3.0})).problems
    assert problem.reason == v1.ERROR_REASON_ITEM_KEY_COLLISION
    assert (problem.code, problem.field) == (6, "changes[0].item.item_id")
    live.check_vector(one, "dot", dot.item(ITEM))
    assert list(live.delete(other).missing_indices) == [0], "it is another item"
    live.check_vector(one, "dot", dot.item(ITEM))
    live.upsert(by_features(one, {**ITEM, "item_price": 9.0}))
    live.delete(one)
    live.upsert(by_features(other, ITEM))
    live.check_vector(other, "dot", dot.item(ITEM))
    live.delete(other)
    refused_first = live.tried(by_features(one, {"user_age": 1.0}), by_features(other, ITEM), by_features(one, ITEM))
    assert [(problem.index, problem.reason) for problem in refused_first.problems] == [
        (0, v1.ERROR_REASON_NO_KNOWN_FEATURE),
        (2, v1.ERROR_REASON_ITEM_KEY_COLLISION),
    ]
    live.delete(other)


def test_whole_requests_that_are_refused(live: Live) -> None:
    catalog = live.connections[0].catalog
    refused(catalog.UpsertItems, v1.UpsertItemsRequest(), "FIELD_REQUIRED", "changes")
    refused(catalog.DeleteItems, v1.DeleteItemsRequest(), "FIELD_REQUIRED", "item_ids")
    refused(catalog.DeleteItems, v1.DeleteItemsRequest(item_ids=["i1", ""]), "FIELD_REQUIRED", "item_ids[1]")
    refused(catalog.DeleteItems, v1.DeleteItemsRequest(item_ids=["x" * 513]), "LIMIT_EXCEEDED", "item_ids[0]")
    many = [v1.ItemChange(item=v1.Item(item_id=f"m{i}", features={"item_price": 1})) for i in range(10_001)]
    refused(catalog.UpsertItems, v1.UpsertItemsRequest(changes=many), "LIMIT_EXCEEDED", "changes")
    refused(catalog.DeleteItems, v1.DeleteItemsRequest(item_ids=["a"] * 10_001), "LIMIT_EXCEEDED", "item_ids")
    assert live.has("i1", "dot")
    assert not live.has("m0", "dot")


def test_a_request_as_large_as_the_limit_allows(live: Live) -> None:
    ids = [f"limit-{i}" for i in range(10_000)]
    answer = live.upsert(*[by_features(item_id, {"item_price": 2.0}) for item_id in ids])
    assert live.has("limit-0", "dot") and live.has("limit-9999", "cosine")
    gone = live.delete(*ids)
    assert gone.log_position == answer.log_position + 10_000
    assert not gone.missing_indices
    assert not live.has("limit-5000", "dot")


def test_ten_thousand_problems_fit_an_answer(live: Live) -> None:
    long = "y" * 600
    answer = live.tried(*[by_features(f"{long[:590]}{i}", {}) for i in range(5_000)])
    assert [problem.index for problem in answer.problems] == list(range(5_000))
