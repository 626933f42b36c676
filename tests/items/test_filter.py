"""Filters, through the messages that carry them. CONTRACT rules 7 and 11."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from twotower import v1
from twotower_server.errors import Reason, Refused
from twotower_server.items.catalog import Catalog
from twotower_server.items.filter import MAX_CONDITIONS, MAX_VALUES, mask


def condition(attribute: str, **fields: Any) -> v1.Condition:
    if "range" in fields:
        fields["range"] = v1.Range(**fields["range"])
    return v1.Condition(attribute=attribute, **fields)


def all_of(*any_of: list[v1.Condition]) -> v1.Filter:
    return v1.Filter(all_of=[v1.AnyOf(conditions=conditions) for conditions in any_of])


def matching(catalog: Catalog, filter: v1.Filter) -> set[str]:
    return set(catalog.item_ids(np.flatnonzero(mask(catalog, filter))))


@pytest.mark.parametrize(
    ("attribute", "fields", "wanted"),
    [
        ("genre", {"any_text": ["novel"]}, {"b1", "b3"}),
        ("genre", {"any_text": ["novel", "essay"]}, {"b1", "b3", "b5"}),
        ("genre", {"any_text": ["opera"]}, set()),
        ("genre", {"any_text": ["novel"], "negate": True}, {"b2", "b5"}),
        ("genre", {"any_text": ["opera"], "negate": True}, {"b1", "b2", "b3", "b5"}),
        ("title", {"any_text": ["Emma", "Odes"]}, {"b1", "b2"}),
        ("title", {"any_text": ["Emma"], "negate": True}, {"b2", "b3", "b4"}),
        ("tags", {"any_text": ["classic"]}, {"b1", "b4"}),
        ("tags", {"any_text": ["love", "short"]}, {"b1", "b5"}),
        ("tags", {"any_text": ["classic"], "negate": True}, {"b2", "b5"}),
        ("price", {"any_number": [10, 20.5]}, {"b1", "b2", "b5"}),
        ("price", {"any_number": [10], "negate": True}, {"b2", "b4"}),
        ("price", {"any_number": [-0.0]}, {"b4"}),
        ("price", {"any_number": [-0.0, 10, *range(100, 1_000)]}, {"b1", "b4", "b5"}),
        ("price", {"any_number": [0.0, *range(100, 1_000)], "negate": True}, {"b1", "b2", "b5"}),
        ("price", {"range": {"min": 10}}, {"b1", "b2", "b5"}),
        ("price", {"range": {"min": 10, "min_exclusive": True}}, {"b2"}),
        ("price", {"range": {"max": 10}}, {"b1", "b4", "b5"}),
        ("price", {"range": {"max": 10, "max_exclusive": True}}, {"b4"}),
        ("price", {"range": {"min": 10, "max": 10}}, {"b1", "b5"}),
        ("price", {"range": {"min": 10, "max": 10, "max_exclusive": True}}, set()),
        ("price", {"range": {}}, {"b1", "b2", "b4", "b5"}),
        ("price", {"range": {}, "negate": True}, set()),
        ("price", {"range": {"max": 0}}, {"b4"}),
        ("price", {"range": {"min": 10}, "negate": True}, {"b4"}),
        ("pages", {"range": {"min": 80, "max": 300}}, {"b1", "b2"}),
        ("pages", {"any_number": [0]}, {"b5"}),
        ("new", {"flag": True}, {"b1", "b4"}),
        ("new", {"flag": False}, {"b2", "b5"}),
        ("new", {"flag": True, "negate": True}, {"b2", "b5"}),
    ],
)
def test_one_condition(books: Catalog, attribute: str, fields: dict[str, Any], wanted: set[str]) -> None:
    assert matching(books, all_of([condition(attribute, **fields)])) == wanted


def test_all_of_any_of(books: Catalog) -> None:
    cheap = condition("price", range={"max": 10})
    novel, classic = condition("genre", any_text=["novel"]), condition("tags", any_text=["classic"])
    assert matching(books, all_of([novel, classic])) == {"b1", "b3", "b4"}
    assert matching(books, all_of([novel], [classic])) == {"b1"}
    assert matching(books, all_of([novel, classic], [cheap])) == {"b1", "b4"}


def test_an_empty_filter_matches_every_item(books: Catalog) -> None:
    assert matching(books, v1.Filter()) == {"b1", "b2", "b3", "b4", "b5"}


def test_an_attribute_that_no_item_has_matches_nothing(make_catalog: Callable[..., Catalog]) -> None:
    table = {"item_id": ["a", "b"], "genre": ["", ""], "tags": ["", ""], "price": ["", ""], "new": ["", ""]}
    catalog = make_catalog(table, "genre", "tags:texts", "price:number", "new:flag")
    for negate in (False, True):
        for attribute, fields in (
            ("genre", {"any_text": ["x"]}),
            ("tags", {"any_text": ["x"]}),
            ("price", {"any_number": [1]}),
            ("new", {"flag": False}),
        ):
            assert matching(catalog, all_of([condition(attribute, **fields, negate=negate)])) == set()


def test_filters_agree_with_python_on_a_random_catalog(make_catalog: Callable[..., Catalog]) -> None:
    rng = np.random.default_rng(5)
    words = [f"w{i}" for i in range(40)]

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.2 else value

    table: dict[str, list[Any]] = {
        "item_id": [f"i{i}" for i in range(500)],
        "text": [maybe(str(rng.choice(words))) for _ in range(500)],
        "own": [maybe(f"own {i}") for i in range(500)],
        "number": [maybe(float(rng.integers(20))) for _ in range(500)],
        "texts": [maybe([str(w) for w in rng.choice(words, rng.integers(4))]) for _ in range(500)],
    }
    catalog = make_catalog(table, "text", "own", "number", "texts", batch_rows=64)
    some = {"w1", "w2", "w3", "own 7", "own 8"}
    for negate in (False, True):
        tests: dict[str, Callable[[Any], bool]] = {
            "text": lambda value: value in some,
            "own": lambda value: value in some,
            "texts": lambda values: any(value in some for value in values),
        }
        for attribute, test in tests.items():
            wanted = {
                item_id
                for item_id, value in zip(table["item_id"], table[attribute], strict=True)
                if value is not None and test(value) != negate
            }
            filter = all_of([condition(attribute, any_text=sorted(some), negate=negate)])
            assert matching(catalog, filter) == wanted, attribute
        wanted = {
            item_id
            for item_id, value in zip(table["item_id"], table["number"], strict=True)
            if value is not None and (5 < value <= 9) != negate
        }
        between = {"min": 5, "min_exclusive": True, "max": 9}
        assert matching(catalog, all_of([condition("number", range=between, negate=negate)])) == wanted


@pytest.mark.parametrize(
    ("attribute", "fields", "field", "words"),
    [
        ("colour", {"any_text": ["red"]}, "attribute", ["colour", "genre, title, price, pages, new, tags"]),
        ("", {"any_text": ["red"]}, "attribute", ["genre"]),
        ("item_id", {"any_text": ["b1"]}, "attribute", ["item_id", "genre"]),
        ("genre", {}, "", ["exactly one of any_text, any_number, range, flag"]),
        ("genre", {"any_text": ["a"], "flag": True}, "", ["any_text and flag"]),
        ("price", {"any_number": [1], "range": {}}, "", ["any_number and range"]),
        ("genre", {"any_number": [1]}, "any_number", ["genre", "text", "use any_text"]),
        ("tags", {"flag": True}, "flag", ["tags", "use any_text"]),
        ("price", {"any_text": ["10"]}, "any_text", ["price", "number", "use any_number or range"]),
        ("new", {"range": {}}, "range", ["new", "use flag"]),
        ("price", {"any_number": [1, math.nan]}, "any_number", ["finite"]),
        ("price", {"range": {"min": math.nan}}, "range.min", ["finite"]),
        ("price", {"range": {"max": math.inf}}, "range.max", ["finite", "open side"]),
        ("price", {"range": {"min": 2, "max": 1}}, "range", ["min 2", "max 1"]),
    ],
)
def test_a_broken_condition_is_refused(
    books: Catalog, attribute: str, fields: dict[str, Any], field: str, words: list[str]
) -> None:
    good = condition("new", flag=True)
    with pytest.raises(Refused) as refused:
        mask(books, all_of([good], [good, condition(attribute, **fields)]))
    assert refused.value.reason is Reason.FILTER_INVALID
    assert refused.value.field == ".".join(filter(None, ["filter.all_of[1].conditions[1]", field]))
    for word in words:
        assert word in refused.value.message


def test_an_any_of_without_conditions_is_refused(books: Catalog) -> None:
    with pytest.raises(Refused) as refused:
        mask(books, all_of([condition("new", flag=True)], []))
    assert (refused.value.reason, refused.value.field) == (Reason.FILTER_INVALID, "filter.all_of[1]")


def test_too_many_conditions_and_too_many_values_are_refused(books: Catalog) -> None:
    one = condition("new", flag=True)
    mask(books, all_of([one] * (MAX_CONDITIONS - 1), [one]))
    with pytest.raises(Refused) as refused:
        mask(books, all_of([one] * MAX_CONDITIONS, [one]))
    assert refused.value.reason is Reason.LIMIT_EXCEEDED
    mask(books, all_of([condition("price", any_number=range(MAX_VALUES))]))
    with pytest.raises(Refused) as refused:
        mask(books, all_of([condition("price", any_number=range(MAX_VALUES + 1))]))
    assert refused.value.reason is Reason.LIMIT_EXCEEDED
    assert refused.value.field == "filter.all_of[0].conditions[0].any_number"


def test_a_catalog_without_attributes_says_so(make_catalog: Callable[..., Catalog]) -> None:
    catalog = make_catalog({"item_id": ["a"]})
    with pytest.raises(Refused, match="built without attributes"):
        mask(catalog, all_of([condition("genre", any_text=["a"])]))
