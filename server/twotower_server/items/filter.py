"""Filters on attributes: all of (any of (conditions)) → matching rows. An absent attribute never matches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from twotower_server.errors import Reason, Refused
from twotower_server.items.attribute import AttributeKind
from twotower_server.items.catalog import Attribute, Catalog

MAX_CONDITIONS = 64
MAX_VALUES = 1_000
# Up to so many numbers each is compared with the whole column; beyond it hashing them is faster. To sort the column, as
# numpy does then, takes ten times as long.
_FEW_NUMBERS = 32

_ALTERNATIVES: dict[AttributeKind, tuple[str, ...]] = {
    "text": ("any_text",),
    "texts": ("any_text",),
    "number": ("any_number", "range"),
    "flag": ("flag",),
}

Mask = NDArray[np.bool_]


class RangeLike(Protocol):
    """`twotower.v1.Range` is one."""

    @property
    def min(self) -> float: ...
    @property
    def max(self) -> float: ...
    @property
    def min_exclusive(self) -> bool: ...
    @property
    def max_exclusive(self) -> bool: ...
    def HasField(self, field_name: str, /) -> bool: ...  # noqa: N802 - protobuf's name


class ConditionLike(Protocol):
    """`twotower.v1.Condition` is one."""

    @property
    def attribute(self) -> str: ...
    @property
    def any_text(self) -> Sequence[str]: ...
    @property
    def any_number(self) -> Sequence[float]: ...
    @property
    def range(self) -> RangeLike: ...
    @property
    def flag(self) -> bool: ...
    @property
    def negate(self) -> bool: ...
    def HasField(self, field_name: str, /) -> bool: ...  # noqa: N802 - protobuf's name


class AnyOfLike(Protocol):
    """`twotower.v1.AnyOf` is one."""

    @property
    def conditions(self) -> Sequence[ConditionLike]: ...


class FilterLike(Protocol):
    """`twotower.v1.Filter` is one, so that a request's filter is read as it is."""

    @property
    def all_of(self) -> Sequence[AnyOfLike]: ...


def mask(catalog: Catalog, filter: FilterLike) -> Mask:
    """Which rows fulfil the filter: bool [items].

    Raises FILTER_INVALID or LIMIT_EXCEEDED, naming the condition, before any row is looked at.
    """
    for condition, field in _conditions(filter):
        _check(catalog, condition, field)
    matching = np.ones(len(catalog), np.bool_)
    for any_of in filter.all_of:
        matching &= np.logical_or.reduce([_matches(catalog, condition) for condition in any_of.conditions])
    return matching


def _conditions(filter: FilterLike) -> Iterator[tuple[ConditionLike, str]]:
    """All conditions with their place in the request."""
    count = sum(len(any_of.conditions) for any_of in filter.all_of)
    if count > MAX_CONDITIONS:
        raise Refused(Reason.LIMIT_EXCEEDED, f"{count} conditions, at most {MAX_CONDITIONS} in one filter", "filter")
    for i, any_of in enumerate(filter.all_of):
        if not any_of.conditions:
            raise Refused(
                Reason.FILTER_INVALID,
                "an any-of without conditions matches nothing; leave it out",
                f"filter.all_of[{i}]",
            )
        for j, condition in enumerate(any_of.conditions):
            yield condition, f"filter.all_of[{i}].conditions[{j}]"


def _check(catalog: Catalog, condition: ConditionLike, field: str) -> None:
    attribute = catalog.columns.get(condition.attribute)
    if attribute is None:
        raise Refused(Reason.FILTER_INVALID, catalog.no_attribute(condition.attribute), f"{field}.attribute")
    alternative = _alternative(condition, field)
    allowed = _ALTERNATIVES[attribute.kind]
    if alternative not in allowed:
        raise Refused(
            Reason.FILTER_INVALID,
            f"the attribute {condition.attribute!r} is of kind {attribute.kind}: use {' or '.join(allowed)}",
            f"{field}.{alternative}",
        )
    count = len(condition.any_text) + len(condition.any_number)
    if count > MAX_VALUES:
        raise Refused(
            Reason.LIMIT_EXCEEDED,
            f"{count} values, at most {MAX_VALUES} in one condition",
            f"{field}.{alternative}",
        )
    if alternative == "any_number" and not all(map(math.isfinite, condition.any_number)):
        raise Refused(Reason.FILTER_INVALID, "any_number holds a value that is not finite", f"{field}.any_number")
    if alternative == "range":
        _check_range(condition.range, f"{field}.range")


def _alternative(condition: ConditionLike, field: str) -> str:
    """The one alternative that is set."""
    alternatives = {
        "any_text": len(condition.any_text) > 0,
        "any_number": len(condition.any_number) > 0,
        "range": condition.HasField("range"),
        "flag": condition.HasField("flag"),
    }
    chosen = [name for name, given in alternatives.items() if given]
    if len(chosen) != 1:
        given = f"has {' and '.join(chosen)}" if chosen else "has nothing to compare with"
        raise Refused(
            Reason.FILTER_INVALID, f"a condition {given}; set exactly one of {', '.join(alternatives)}", field
        )
    return chosen[0]


def _check_range(bounds: RangeLike, field: str) -> None:
    for side, value in (("min", bounds.min), ("max", bounds.max)):
        if not math.isfinite(value):
            raise Refused(
                Reason.FILTER_INVALID,
                f"{side} is not finite; leave it out for an open side",
                f"{field}.{side}",
            )
    if bounds.HasField("min") and bounds.HasField("max") and bounds.min > bounds.max:
        raise Refused(Reason.FILTER_INVALID, f"min {bounds.min:g} is greater than max {bounds.max:g}", field)


def _matches(catalog: Catalog, condition: ConditionLike) -> Mask:
    attribute = catalog.columns[condition.attribute]
    matching = _compared(attribute, condition)
    if condition.negate:
        matching = ~matching
    if attribute.values.null_count:
        matching &= _bools(attribute.values.is_valid())
    return matching


def _compared(attribute: Attribute, condition: ConditionLike) -> Mask:
    """Rows that match before `negate`; of no meaning where the attribute is absent."""
    values = attribute.values
    if attribute.kind == "text":
        return _is_in(values, condition.any_text)
    if attribute.kind == "texts":
        # Lists with a hit: those over which the running count of hits grows.
        hits = np.zeros(len(values.values) + 1, np.int64)
        np.cumsum(_is_in(values.values, condition.any_text), out=hits[1:])
        offsets: NDArray[np.int64] = values.offsets.to_numpy()
        return hits[offsets[1:]] > hits[offsets[:-1]]
    if attribute.kind == "flag":
        flags = _bools(values.fill_null(False))
        return flags if condition.flag else ~flags
    numbers = np.frombuffer(values.buffers()[1], np.float64, len(values))
    if condition.any_number:
        wanted = np.array(condition.any_number)
        if len(wanted) <= _FEW_NUMBERS:
            return np.isin(numbers, wanted)
        # To Arrow 0.0 and -0.0 are two numbers.
        return _bools(pc.is_in(values, pa.array(np.concatenate([wanted, -wanted[wanted == 0.0]]))))
    return _within(numbers, condition.range)


def _is_in(texts: pa.Array, wanted: Sequence[str]) -> Mask:
    if not pa.types.is_dictionary(texts.type):
        return _bools(pc.is_in(texts, pa.array(wanted, texts.type)))
    chosen = _is_in(texts.dictionary, wanted)
    if not len(chosen):  # every value is absent
        return np.zeros(len(texts), np.bool_)
    # The codes of absent values are undefined, hence the clip.
    return chosen.take(np.frombuffer(texts.indices.buffers()[1], np.int32, len(texts)), mode="clip")


def _within(numbers: NDArray[np.float64], bounds: RangeLike) -> Mask:
    matching = np.ones(len(numbers), np.bool_)
    if bounds.HasField("min"):
        matching &= numbers > bounds.min if bounds.min_exclusive else numbers >= bounds.min
    if bounds.HasField("max"):
        matching &= numbers < bounds.max if bounds.max_exclusive else numbers <= bounds.max
    return matching


def _bools(array: pa.Array) -> Mask:
    bools: Mask = array.to_numpy(zero_copy_only=False)
    return bools
