"""CONTRACT rule 11: all of (any of (conditions)); an absent attribute never matches, negated or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Recomputed
from tests.rpc.refusal import refused
from twotower import v1

ItemTest = Callable[[dict[str, Any]], object]


def condition(attribute: str, **fields: Any) -> v1.Condition:
    return v1.Condition(attribute=attribute, **fields)


def all_of(*conditions: v1.Condition | list[v1.Condition]) -> v1.Filter:
    groups = [group if isinstance(group, list) else [group] for group in conditions]
    return v1.Filter(all_of=[v1.AnyOf(conditions=group) for group in groups])


FILM = condition("category", any_text=["film"])
CHEAP = condition("price", range=v1.Range(max=20))
IN_STOCK = condition("in_stock", flag=True)
T1 = condition("tags", any_text=["t1"])

FILTERS: list[tuple[v1.Filter, ItemTest]] = [
    (v1.Filter(), lambda i: True),
    (all_of(FILM), lambda i: i["category"] == "film"),
    (
        all_of(condition("category", any_text=["film", "music", "film", "?"])),
        lambda i: i["category"] in ("film", "music"),
    ),
    (all_of(condition("category", any_text=["film"], negate=True)), lambda i: i["category"] != "film"),
    (all_of(condition("title", any_text=["Title 7", "Title 11"])), lambda i: i["title"] in ("Title 7", "Title 11")),
    (all_of(condition("category", any_text=["?"])), lambda i: False),
    (all_of(T1), lambda i: "t1" in i["tags"]),
    (all_of(condition("tags", any_text=["t1", "t2"])), lambda i: {"t1", "t2"} & set(i["tags"])),
    (all_of(condition("tags", any_text=["t1"], negate=True)), lambda i: "t1" not in i["tags"]),
    (all_of(CHEAP), lambda i: i["price"] is not None and i["price"] <= 20),
    (all_of(condition("price", range=v1.Range(), negate=True)), lambda i: False),
    (all_of(condition("price", range=v1.Range())), lambda i: i["price"] is not None),
    (
        all_of(condition("price", range=v1.Range(max=20), negate=True)),
        lambda i: i["price"] is not None and i["price"] > 20,
    ),
    (
        all_of(condition("price", range=v1.Range(min=10, max=20))),
        lambda i: i["price"] is not None and 10 <= i["price"] <= 20,
    ),
    (all_of(IN_STOCK), lambda i: i["in_stock"]),
    (all_of(condition("in_stock", flag=False)), lambda i: not i["in_stock"]),
    (all_of(condition("in_stock", flag=True, negate=True)), lambda i: not i["in_stock"]),
    (
        all_of(FILM, IN_STOCK, CHEAP),
        lambda i: i["category"] == "film" and i["in_stock"] and i["price"] is not None and i["price"] <= 20,
    ),
    (
        all_of([FILM, T1], IN_STOCK),
        lambda i: (i["category"] == "film" or "t1" in i["tags"]) and i["in_stock"],
    ),
    (
        all_of([CHEAP, condition("price", range=v1.Range(min=50), negate=True)]),
        lambda i: i["price"] is not None and i["price"] < 50,
    ),
]


@pytest.mark.parametrize(("filter", "matches"), FILTERS, ids=range(len(FILTERS)))
@pytest.mark.parametrize("k", [5, 300])
def test_the_best_of_those_that_match(
    stub: v1.TwoTowerServiceStub, dot: Recomputed, filter: v1.Filter, matches: ItemTest, k: int
) -> None:
    got = stub.Recommend(v1.RecommendRequest(user=user(USER), filter=filter, k=k))
    assert [item.item_id for item in got.items] == dot.top(dot.user(USER), k, matches)


def test_numbers_are_compared_exactly(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    prices = [price for price in dot.attributes["price"] if price is not None]
    price = sorted(prices)[100]
    cases: list[tuple[dict[str, Any], Callable[[float], bool]]] = [
        ({"any_number": [price, -1.0]}, lambda p: p == price),
        ({"any_number": [price], "negate": True}, lambda p: p != price),
        ({"range": v1.Range(min=price)}, lambda p: p >= price),
        ({"range": v1.Range(min=price, min_exclusive=True)}, lambda p: p > price),
        ({"range": v1.Range(max=price)}, lambda p: p <= price),
        ({"range": v1.Range(max=price, max_exclusive=True)}, lambda p: p < price),
        ({"range": v1.Range(min=price, max=price)}, lambda p: p == price),
        ({"range": v1.Range(min=price, max=price, max_exclusive=True)}, lambda p: False),
    ]
    for fields, matches in cases:
        filter = all_of(condition("price", **fields))
        got = stub.Recommend(v1.RecommendRequest(user=user(USER), filter=filter, k=300))
        assert len(got.items) == sum(map(matches, prices))
        chosen = {
            id for id, p in zip(dot.item_ids, dot.attributes["price"], strict=True) if p is not None and matches(p)
        }
        assert [item.item_id for item in got.items] == dot.top(
            dot.user(USER),
            300,
            lambda i, chosen=chosen: i["item_id"] in chosen,  # type: ignore[misc]
        )


def test_a_filter_and_exclusions_still_give_k(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    best = dot.top(dot.user(USER), 300, lambda i: i["in_stock"])
    request = v1.RecommendRequest(user=user(USER), filter=all_of(IN_STOCK), exclude_item_ids=best[:100], k=50)
    assert [item.item_id for item in stub.Recommend(request).items] == best[100:150]


def test_a_search_is_filtered_too(stub: v1.TwoTowerServiceStub, dot: Recomputed) -> None:
    got = stub.SearchItems(v1.SearchItemsRequest(item_id="i5", filter=all_of(FILM), k=10))
    expected = dot.top(dot.vector("i5"), 10, lambda i: i["category"] == "film" and i["item_id"] != "i5")
    assert [item.item_id for item in got.items] == expected


BROKEN: list[tuple[v1.Filter, str, str]] = [
    (v1.Filter(all_of=[v1.AnyOf()]), "FILTER_INVALID", "all_of[0]"),
    (v1.Filter(all_of=[v1.AnyOf(conditions=[FILM]), v1.AnyOf()]), "FILTER_INVALID", "all_of[1]"),
    (all_of(v1.Condition()), "FILTER_INVALID", "all_of[0].conditions[0].attribute"),
    (all_of(condition("colour", any_text=["red"])), "FILTER_INVALID", "all_of[0].conditions[0].attribute"),
    (all_of(condition("item_id", any_text=["i1"])), "FILTER_INVALID", "all_of[0].conditions[0].attribute"),
    (all_of(FILM, [FILM, condition("category")]), "FILTER_INVALID", "all_of[1].conditions[1]"),
    (all_of(condition("category", negate=True)), "FILTER_INVALID", "all_of[0].conditions[0]"),
    (all_of(condition("category", any_text=["a"], flag=False)), "FILTER_INVALID", "all_of[0].conditions[0]"),
    (all_of(condition("price", any_number=[1], range=v1.Range())), "FILTER_INVALID", "all_of[0].conditions[0]"),
    (all_of(condition("category", any_number=[1])), "FILTER_INVALID", "all_of[0].conditions[0].any_number"),
    (all_of(condition("category", range=v1.Range(min=1))), "FILTER_INVALID", "all_of[0].conditions[0].range"),
    (all_of(condition("category", flag=True)), "FILTER_INVALID", "all_of[0].conditions[0].flag"),
    (all_of(condition("price", any_text=["1"])), "FILTER_INVALID", "all_of[0].conditions[0].any_text"),
    (all_of(condition("price", flag=False)), "FILTER_INVALID", "all_of[0].conditions[0].flag"),
    (all_of(condition("in_stock", any_number=[1])), "FILTER_INVALID", "all_of[0].conditions[0].any_number"),
    (all_of(condition("tags", range=v1.Range())), "FILTER_INVALID", "all_of[0].conditions[0].range"),
    (all_of(condition("price", any_number=[1, math.nan])), "FILTER_INVALID", "all_of[0].conditions[0].any_number"),
    (all_of(condition("price", any_number=[math.inf])), "FILTER_INVALID", "all_of[0].conditions[0].any_number"),
    (all_of(condition("price", range=v1.Range(min=math.nan))), "FILTER_INVALID", "all_of[0].conditions[0].range.min"),
    (all_of(condition("price", range=v1.Range(max=math.inf))), "FILTER_INVALID", "all_of[0].conditions[0].range.max"),
    (all_of(condition("price", range=v1.Range(min=2, max=1))), "FILTER_INVALID", "all_of[0].conditions[0].range"),
    (all_of(*[FILM] * 65), "LIMIT_EXCEEDED", ""),
    (all_of([FILM] * 65), "LIMIT_EXCEEDED", ""),
    (all_of(condition("category", any_text=["a"] * 1_001)), "LIMIT_EXCEEDED", "all_of[0].conditions[0].any_text"),
    (all_of(condition("price", any_number=[1] * 1_001)), "LIMIT_EXCEEDED", "all_of[0].conditions[0].any_number"),
]


@pytest.mark.parametrize(("filter", "reason", "field"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_filter(stub: v1.TwoTowerServiceStub, filter: v1.Filter, reason: str, field: str) -> None:
    field = f"filter.{field}" if field else "filter"
    refused(stub.Recommend, v1.RecommendRequest(user=user(USER), filter=filter), reason, field)
    refused(stub.SearchItems, v1.SearchItemsRequest(item_id="i5", filter=filter), reason, field)
