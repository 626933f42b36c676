"""Items under changes, against a dict and brute force: whatever was changed in whatever batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.items.test_catalog import colliding_id
from twotower import v1
from twotower_server.index import ivf
from twotower_server.index.faiss import build_index, open_index
from twotower_server.items.attribute import AttributeKind, AttributeValue
from twotower_server.items.ids import item_keys
from twotower_server.items.live import Item, Items, Segment

KINDS: dict[str, AttributeKind] = {"genre": "text", "price": "number", "new": "flag", "tags": "texts"}
DIMENSION = 4
BASE = 300
POOL = [f"i{i}" for i in range(BASE + 200)]  # of which the first are in the base

Catalog = dict[str, Item]
Eligible = Callable[[Mapping[str, AttributeValue]], bool]


def condition(name: str, **values: Any) -> v1.Filter:
    return v1.Filter(all_of=[v1.AnyOf(conditions=[v1.Condition(attribute=name, **values)])])


FILTERS: list[tuple[v1.Filter | None, Eligible]] = [
    (None, lambda a: True),
    (condition("genre", any_text=["novel"]), lambda a: a.get("genre") == "novel"),
    (condition("genre", any_text=["novel"], negate=True), lambda a: a.get("genre", "novel") != "novel"),
    (condition("price", range=v1.Range(max=5.0)), lambda a: a.get("price", 9.0) <= 5.0),  # type: ignore[operator]
    (condition("price", any_number=[3.0], negate=True), lambda a: a.get("price", 3.0) != 3.0),
    (condition("new", flag=True), lambda a: a.get("new") is True),
    (condition("new", flag=False), lambda a: a.get("new") is False),
    (condition("tags", any_text=["t1", "t2"]), lambda a: not {"t1", "t2"}.isdisjoint(a.get("tags", []))),  # type: ignore[arg-type]
    (condition("tags", any_text=["t1"], negate=True), lambda a: "t1" not in a.get("tags", ["t1"])),  # type: ignore[operator]
    (condition("genre", any_text=["nothing is"]), lambda a: False),
]


def vector(order: random.Random) -> NDArray[np.float32]:
    """One of few: many items tie."""
    return np.array([order.choice((-1.0, 0.0, 0.5, 1.0)) for _ in range(DIMENSION)], np.float32)


def item(item_id: str, order: random.Random) -> Item:
    every: dict[str, AttributeValue] = {
        "genre": order.choice(["novel", "poetry", "essay"]),
        "price": float(order.randrange(10)),
        "new": order.random() < 0.5,
        "tags": [f"t{order.randrange(4)}" for _ in range(order.randrange(3))],
    }
    given = {name: value for name, value in every.items() if order.random() < 0.8}
    return Item(item_id, vector(order), {**given, "unknown to the release": "x"})


def base(order: random.Random, count: int = BASE) -> tuple[Items, Catalog]:
    found = [item(item_id, order) for item_id in POOL[:count]]
    return Items((Segment.of(found, KINDS),)), {item.item_id: item for item in found}


def with_ivf(items: Items, folder: Path, probes: int) -> Items:
    (segment,) = items.segments
    path = folder / "index.faiss"
    entry = build_index(segment.vectors, path, kind="ivf_sq8")
    entry = replace(entry, parameters={**entry.parameters, "probes": probes})
    index = open_index(path, segment.vectors, entry, segment.catalog.item_ids)
    return Items((replace(segment, index=index),))


def change(items: Items, catalog: Catalog, order: random.Random, most: int = 40) -> Items:
    """One batch of changes, to both."""
    chosen = order.sample(POOL, order.randint(1, most))
    cut = order.choice((0, 1, len(chosen) // 2, len(chosen)))
    upserted, deleted = [item(item_id, order) for item_id in chosen[cut:]], chosen[:cut]
    for item_id in deleted:
        catalog.pop(item_id, None)
    catalog.update((one.item_id, one) for one in upserted)
    return items.changed(upserted, deleted)


def check_rows(items: Items, catalog: Catalog) -> None:
    """Ids, vectors, similarities and attributes of all items at once, and of what is absent."""
    assert len(items) == len(catalog)
    keys = item_keys(POOL)
    rows = items.find(keys)
    assert [row >= 0 for row in rows.tolist()] == [item_id in catalog for item_id in POOL] == items.holds(POOL)
    here = [item_id for item_id in POOL if item_id in catalog]
    found = rows[rows >= 0]
    assert len(np.unique(found)) == len(found)
    assert items.item_ids(found) == here
    expected = np.array([catalog[item_id].vector for item_id in here]).reshape(-1, DIMENSION)
    np.testing.assert_array_equal(items.vectors(found), expected)
    np.testing.assert_array_equal(items.vectors(rows)[rows >= 0], expected)
    query = np.array([0.25, -1.0, 2.0, 0.5], np.float32)
    np.testing.assert_array_equal(items.similarities(rows, query)[rows >= 0], np.vecdot(expected, query))
    assert items.attributes(found, list(KINDS)) == [attributes_of(catalog[item_id]) for item_id in here]
    assert items.attributes(found, ["price"]) == [
        {name: value for name, value in attributes_of(catalog[item_id]).items() if name == "price"} for item_id in here
    ]


def attributes_of(item: Item) -> dict[str, AttributeValue]:
    return {name: item.attributes[name] for name in KINDS if name in item.attributes}


def ranked(catalog: Catalog, query: NDArray[np.float32], eligible: Eligible, excluded: Sequence[str]) -> list[str]:
    """All eligible items, the most similar first, ties by id."""
    found = [
        (-float(np.vecdot(item.vector, query)), item_id)
        for item_id, item in catalog.items()
        if item_id not in excluded and eligible(attributes_of(item))
    ]
    return [item_id for _, item_id in sorted(found)]


def excluded_rows(items: Items, ids: Sequence[str]) -> NDArray[np.int64] | None:
    rows = np.unique(items.find(item_keys(ids)))
    return rows[rows >= 0] if ids else None


def check_search(items: Items, catalog: Catalog, order: random.Random) -> None:
    query = vector(order)
    for filter, eligible in FILTERS:
        for k in (1, 7, 100, len(POOL)):
            excluded = order.sample(POOL, order.choice((0, 0, 3, 250)))
            rows, similar = items.search(query, k, excluded_rows(items, excluded), filter)
            expected = ranked(catalog, query, eligible, excluded)[:k]
            assert items.item_ids(rows) == expected
            np.testing.assert_array_equal(similar, [np.vecdot(catalog[id].vector, query) for id in expected])


def test_what_is_absent_has_a_vector_that_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    items, _ = base(random.Random(9))
    items = items.changed([], ["i0"])
    # Memory that was used before may hold anything.
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, 3e38, dtype))
    similar = items.similarities(items.find(item_keys(["i0", "never", "i1"])), np.ones(DIMENSION, np.float32))
    assert np.isfinite(similar).all()


@pytest.mark.parametrize("seed", range(8))
def test_items_are_as_a_dict_says_after_any_changes(seed: int) -> None:
    order = random.Random(seed)
    items, catalog = base(order)
    check_rows(items, catalog)
    for _ in range(30):
        items = change(items, catalog, order)
        check_rows(items, catalog)


@pytest.mark.parametrize("seed", range(4))
def test_a_search_finds_what_brute_force_finds(seed: int) -> None:
    order = random.Random(100 + seed)
    items, catalog = base(order)
    for _ in range(10):
        check_search(items, catalog, order)
        items = change(items, catalog, order)


@pytest.mark.parametrize("probes", [1, 2, 7])
def test_over_an_approximate_index_there_are_k_results_and_all_of_them_are_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probes: int
) -> None:
    monkeypatch.setattr(ivf, "EXACT_ITEMS", 20)  # so that filters and hidden rows reach the lists, too
    order = random.Random(probes)
    items, catalog = base(order)
    items = with_ivf(items, tmp_path, probes)
    shares = []
    for _ in range(12):
        items = change(items, catalog, order)
        check_rows(items, catalog)
        query = vector(order)
        for filter, eligible in FILTERS:
            for k in (1, 10, 100, len(POOL)):
                excluded = order.sample(POOL, order.choice((0, 5, 250)))
                rows, similar = items.search(query, k, excluded_rows(items, excluded), filter)
                found = items.item_ids(rows)
                expected = ranked(catalog, query, eligible, excluded)
                assert len(found) == len(set(found)) == min(k, len(expected))
                assert set(found) <= set(expected)
                assert found == ranked({id: catalog[id] for id in found}, query, eligible, excluded)
                np.testing.assert_array_equal(similar, [np.vecdot(catalog[id].vector, query) for id in found])
                worst = similar[-1] if len(found) else 0.0
                better = sum(np.vecdot(catalog[id].vector, query) > worst for id in expected)
                shares.append(1.0 if better < k else k / better)
    assert np.mean(shares) > 0.9


def test_everything_can_be_deleted_and_come_back() -> None:
    order = random.Random(1)
    items, catalog = base(order)
    items = items.changed([], POOL)
    check_rows(items, {})
    check_search(items, {}, order)
    assert len(items.segments) == 1
    items = items.changed(list(catalog.values()), [])
    check_rows(items, catalog)
    check_search(items, catalog, order)


def test_changes_lie_in_few_segments() -> None:
    order = random.Random(2)
    items, catalog = base(order, 1)
    for count in range(1, 500):
        one = item(POOL[count], order)
        catalog[one.item_id] = one
        items = items.changed([one], [])
        sizes = [len(segment) for segment in items.segments[1:]]
        assert len(sizes) <= count.bit_length()
        assert sum(sizes) == count
        assert all(one > 2 * other for one, other in pairwise(sizes))
    check_rows(items, catalog)


def test_one_item_that_changes_for_ever_does_not_grow_the_segments() -> None:
    order = random.Random(3)
    items, catalog = base(order)
    for _ in range(200):
        one = item("i0", order)
        catalog["i0"] = one
        items = items.changed([one], [])
        assert [len(segment) for segment in items.segments] == [BASE, 1]
    check_rows(items, catalog)


def test_a_merge_leaves_out_what_is_hidden() -> None:
    order = random.Random(4)
    items, catalog = base(order)
    items = items.changed([item(f"n{i}", order) for i in range(20)], [])
    items = items.changed([item(f"m{i}", order) for i in range(5)], [f"n{i}" for i in range(12)])
    assert [len(segment) for segment in items.segments] == [BASE, 13]
    assert len(items) == len(catalog) + 13


def test_whoever_holds_the_items_before_a_change_goes_on_with_them() -> None:
    order = random.Random(5)
    items, catalog = base(order)
    held = []
    for _ in range(15):
        held.append((items, dict(catalog)))
        items = change(items, catalog, order)
    for before, expected in held:
        check_rows(before, expected)
        check_search(before, expected, order)


def test_hidden_rows_are_never_found_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    order = random.Random(6)
    items, catalog = base(order)
    for item_id in order.sample(POOL[:BASE], 200):  # few are left out by name, more by a bitmap
        items = items.changed([], [item_id])
        del catalog[item_id]
        assert items.find(item_keys([item_id])).tolist() == [-1]
        query = vector(order)
        rows, _ = items.search(query, 20, None, None)
        assert items.item_ids(rows) == ranked(catalog, query, lambda a: True, ())[:20]


def test_only_the_item_itself_is_held_and_none_with_its_key() -> None:
    order = random.Random(7)
    one, other = colliding_id("a", "b"), colliding_id("b", "a")
    items, _ = base(order)
    items = items.changed([item(one, order)], [])
    assert items.holds([one, other, "i0", "none"]) == [True, False, True, False]
    assert items.holds([]) == []


def test_attributes_that_nobody_has_are_absent_in_a_segment() -> None:
    order = random.Random(8)
    items, catalog = base(order)
    bare = [Item(f"i{i}", vector(order), {}) for i in range(5)]
    catalog.update((one.item_id, one) for one in bare)
    items = items.changed(bare, [])
    check_rows(items, catalog)
    check_search(items, catalog, order)
