"""The plain functions that make filters."""

from __future__ import annotations

import pytest

from twotower import all_of, any_of, not_, v1, where
from twotower._filter import filter_of


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (where("price").less_than(20), v1.Range(max=20, max_exclusive=True)),
        (where("price").at_most(20), v1.Range(max=20)),
        (where("price").more_than(0), v1.Range(min=0, min_exclusive=True)),
        (where("price").at_least(0), v1.Range(min=0)),
        (where("price").between(5, 20), v1.Range(min=5, max=20)),
    ],
)
def test_ranges(condition: v1.Condition, expected: v1.Range) -> None:
    assert condition == v1.Condition(attribute="price", range=expected)


def test_a_bound_of_zero_is_set() -> None:
    assert where("price").at_least(0).range.HasField("min")


def test_values_choose_the_alternative() -> None:
    assert where("a").equals("x") == v1.Condition(attribute="a", any_text=["x"])
    assert where("a").equals(3) == v1.Condition(attribute="a", any_number=[3])
    assert where("a").is_in("x", "y") == v1.Condition(attribute="a", any_text=["x", "y"])
    assert where("a").is_in(1, 2.5) == v1.Condition(attribute="a", any_number=[1, 2.5])


def test_a_false_flag_is_set() -> None:
    condition = where("in_stock").equals(False)
    assert condition.HasField("flag") and condition.flag is False


def test_texts_and_numbers_do_not_mix() -> None:
    with pytest.raises(TypeError, match="texts or numbers, not both"):
        where("a").is_in("x", 1)


def test_not_negates_a_copy_and_twice_is_none() -> None:
    condition = where("a").equals("x")
    assert not_(condition).negate and not condition.negate
    assert not_(not_(condition)) == condition


def test_all_and_any_nest() -> None:
    a, b, c = where("a").equals("x"), where("b").equals(1), where("c").equals(True)
    expected = v1.Filter(all_of=[v1.AnyOf(conditions=[a]), v1.AnyOf(conditions=[b, c])])
    assert all_of(a, any_of(b, c)) == expected
    assert filter_of(expected) == expected
    assert filter_of(a) == v1.Filter(all_of=[v1.AnyOf(conditions=[a])])
    assert filter_of(any_of(b, c)) == v1.Filter(all_of=[v1.AnyOf(conditions=[b, c])])
    assert filter_of(None) is None
