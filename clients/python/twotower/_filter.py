"""Filters on the attributes of items, in plain functions.

    from twotower import all_of, any_of, not_, where

    all_of(
        where("price").less_than(20),
        any_of(where("category").is_in("books", "film"), where("on_sale").equals(True)),
        not_(where("language").equals("fr")),
    )

Every method that takes a filter also takes a single condition or an `any_of`. An item without the attribute
never matches, negated or not.
"""

from __future__ import annotations

from twotower import v1

FilterLike = v1.Filter | v1.AnyOf | v1.Condition


class Attribute:
    """An attribute by its name; its methods make conditions."""

    def __init__(self, name: str) -> None:
        self._name = name

    def equals(self, value: str | float | bool) -> v1.Condition:
        """The attribute is this text, number or flag; for a list of texts: it has this text."""
        if isinstance(value, bool):
            return v1.Condition(attribute=self._name, flag=value)
        return self.is_in(value)

    def is_in(self, *values: str | float) -> v1.Condition:
        """The attribute is one of these texts, or one of these numbers; for a list of texts: it has one of
        them."""
        texts = [value for value in values if isinstance(value, str)]
        if not texts:
            return v1.Condition(attribute=self._name, any_number=[float(value) for value in values])
        if len(texts) < len(values):
            raise TypeError(f"where({self._name!r}).is_in takes texts or numbers, not both")
        return v1.Condition(attribute=self._name, any_text=texts)

    def less_than(self, value: float) -> v1.Condition:
        """attribute < value"""
        return v1.Condition(attribute=self._name, range=v1.Range(max=value, max_exclusive=True))

    def at_most(self, value: float) -> v1.Condition:
        """attribute <= value"""
        return v1.Condition(attribute=self._name, range=v1.Range(max=value))

    def more_than(self, value: float) -> v1.Condition:
        """attribute > value"""
        return v1.Condition(attribute=self._name, range=v1.Range(min=value, min_exclusive=True))

    def at_least(self, value: float) -> v1.Condition:
        """attribute >= value"""
        return v1.Condition(attribute=self._name, range=v1.Range(min=value))

    def between(self, minimum: float, maximum: float) -> v1.Condition:
        """minimum <= attribute <= maximum"""
        return v1.Condition(attribute=self._name, range=v1.Range(min=minimum, max=maximum))


def where(attribute: str) -> Attribute:
    """The attribute of that name, to make a condition of."""
    return Attribute(attribute)


def not_(condition: v1.Condition) -> v1.Condition:
    """The condition negated; a new message."""
    negated = v1.Condition()
    negated.CopyFrom(condition)
    negated.negate = not condition.negate
    return negated


def any_of(*conditions: v1.Condition) -> v1.AnyOf:
    """At least one of the conditions holds."""
    return v1.AnyOf(conditions=conditions)


def all_of(*parts: v1.Condition | v1.AnyOf) -> v1.Filter:
    """Every one of the conditions and alternatives holds."""
    return v1.Filter(all_of=[any_of(part) if isinstance(part, v1.Condition) else part for part in parts])


def filter_of(like: FilterLike | None) -> v1.Filter | None:
    """The filter message of whatever a method accepts as one."""
    if like is None or isinstance(like, v1.Filter):
        return like
    return all_of(like)
