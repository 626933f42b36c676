"""The small languages of `twotower query`: features and filters as one writes them in a shell."""

from __future__ import annotations

import re

import twotower
from twotower import v1

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)?(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CONDITION = re.compile(r"(!?)([^<>=!]+)(<=|>=|!=|<|>|=)(.*)", re.DOTALL)
_PART = re.compile(r'\s*(?:"([^"]*)"|([^|"]*))\s*(\||$)')
_EXACT_INTEGERS = 2**53


def parse_feature(text: str) -> tuple[str, float | str | list[str]]:
    """`age=34`, `gender=f`, `clicks=i7|i9`. Raises ValueError.

    What looks like a number is one, except with leading zeros or beyond 2^53: those are ids. Quotes make a text.
    A bar makes a list of texts; an empty part at its end is left out, so `i7|` is a list of one.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{text!r} is no feature; write NAME=VALUE, such as age=34")
    parts = _parts(value)
    if len(parts) > 1:
        if parts[-1] == ("", False):
            parts.pop()
        return name.strip(), [part for part, _ in parts]
    number = _number(parts[0])
    return name.strip(), parts[0][0] if number is None else number


def parse_condition(text: str) -> v1.Condition:
    """`price<20`, `category=books|film`, `in_stock=true`, `!category=books`, `category!=books`. Raises ValueError."""
    match = _CONDITION.fullmatch(text.strip())
    if match is None or not match[2].strip():
        raise ValueError(f"{text!r} is no condition; write 'price<20', 'category=books|film', '!in_stock=true'")
    bang, operator, parts = match[1], match[3], _parts(match[4])
    attribute = twotower.where(match[2].strip())
    if operator in ("=", "!="):
        condition = _one_of(text, attribute, parts)
        return twotower.not_(condition) if (bang == "!") != (operator == "!=") else condition
    number = _number(parts[0])
    if number is None or len(parts) > 1:
        raise ValueError(f"{text!r} compares with {operator}, which takes one number")
    compare = {
        "<": attribute.less_than,
        "<=": attribute.at_most,
        ">": attribute.more_than,
        ">=": attribute.at_least,
    }[operator]
    return twotower.not_(compare(number)) if bang else compare(number)


def _one_of(text: str, attribute: twotower.Attribute, parts: list[tuple[str, bool]]) -> v1.Condition:
    if parts in ([("true", False)], [("false", False)]):
        return attribute.equals(parts[0][0] == "true")
    if ("", False) in parts:
        raise ValueError(f'{text!r} has an empty value; the empty text is ""')
    numbers = [_number(part) for part in parts]
    if None in numbers:
        return attribute.is_in(*(part for part, _ in parts))
    return attribute.is_in(*(number for number in numbers if number is not None))


def _parts(value: str) -> list[tuple[str, bool]]:
    """The parts between bars, each with whether it was quoted (bars inside quotes belong to the part)."""
    parts: list[tuple[str, bool]] = []
    position = 0
    while True:
        match = _PART.match(value, position)
        if match is None:
            raise ValueError(f"{value!r} has a quote that does not enclose a whole value")
        parts.append((match[2].strip(), False) if match[1] is None else (match[1], True))
        if not match[3]:
            return parts
        position = match.end()


def _number(part: tuple[str, bool]) -> float | None:
    text, quoted = part
    if quoted or not any(letter.isdigit() for letter in text) or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return None if abs(number) > _EXACT_INTEGERS and text.lstrip("-").isdecimal() else number
