"""The small languages of `twotower query`: features and filters as one writes them in a shell."""

from __future__ import annotations

import re

import twotower
from twotower import v1

# Numbers as JSON has them, and `.5`. Digits after a zero are an id.
_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CONDITION = re.compile(r"(!?)([^<>=!]+)([<>=!]+)(.*)", re.DOTALL)
_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^|"]*))\s*(\||$)')
_EMPTY = ("", False)
_EXACT_INTEGERS = 2**53  # beyond it a double no longer holds every integer

Part = tuple[str, bool]
"""A value, and whether it stood in quotes."""


def parse_feature(text: str) -> tuple[str, float | str | list[str]]:
    """`age=34`, `gender=f`, `clicks=i7|i9`. Raises ValueError.

    What looks like a number is one, except with leading zeros or beyond 2^53: those are ids. Quotes make a text,
    a quote inside of them is doubled. A bar makes a list of texts; one at the end makes a list of one: `i7|`.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ValueError(f"{text!r} is no feature; write NAME=VALUE, such as age=34")
    parts = _parts(value)
    is_list = len(parts) > 1
    if is_list and parts[-1] == _EMPTY:
        parts.pop()
    if _EMPTY in parts:
        raise ValueError(f'{text!r} has an empty value; leave out what is missing, write "" for the empty text')
    if is_list:
        return name, [part for part, _ in parts]
    number = _number(parts[0])
    return name, parts[0][0] if number is None else number


def parse_condition(text: str) -> v1.Condition:
    """`price<20`, `category=books|film`, `in_stock=true`, `!category=books`, `category!=books`. Raises ValueError."""
    match = _CONDITION.fullmatch(text.strip())
    if match is None or not match[2].strip():
        raise ValueError(f"{text!r} is no condition; write 'price<20', 'category=books|film', '!in_stock=true'")
    attribute, operator, parts = twotower.where(match[2].strip()), match[3], _parts(match[4])
    negate = match[1] == "!"
    if operator in ("=", "!="):
        condition = _one_of(text, attribute, parts)
        negate ^= operator == "!="
    else:
        condition = _compared(text, attribute, operator, parts)
    return twotower.not_(condition) if negate else condition


def _one_of(text: str, attribute: twotower.Attribute, parts: list[Part]) -> v1.Condition:
    if parts in ([("true", False)], [("false", False)]):
        return attribute.equals(parts[0][0] == "true")
    if _EMPTY in parts:
        raise ValueError(f'{text!r} has an empty value; the empty text is ""')
    numbers = [number for part in parts if (number := _number(part)) is not None]
    return attribute.is_in(*(numbers if len(numbers) == len(parts) else [part for part, _ in parts]))


def _compared(text: str, attribute: twotower.Attribute, operator: str, parts: list[Part]) -> v1.Condition:
    compare = {
        "<": attribute.less_than,
        "<=": attribute.at_most,
        ">": attribute.more_than,
        ">=": attribute.at_least,
    }.get(operator)
    if compare is None:
        raise ValueError(f"{text!r}: there is no {operator}; use = != < <= > >=, and quotes around a text with these")
    number = _number(parts[0])
    if number is None or len(parts) > 1:
        raise ValueError(f"{text!r} compares by {operator}, which takes one number")
    return compare(number)


def _parts(value: str) -> list[Part]:
    """The parts between bars; bars inside quotes belong to the part."""
    parts: list[Part] = []
    position = 0
    while True:
        match = _PART.match(value, position)
        if match is None:
            raise ValueError(f"{value!r}: quotes enclose a whole value, and a quote inside of them is doubled")
        parts.append((match[2].strip(), False) if match[1] is None else (match[1].replace('""', '"'), True))
        if not match[3]:
            return parts
        position = match.end()


def _number(part: Part) -> float | None:
    text, quoted = part
    if quoted or not _NUMBER.fullmatch(text):
        return None
    digits = text.removeprefix("-")
    if digits.isdecimal() and (len(digits) > 16 or int(digits) > _EXACT_INTEGERS):
        return None
    return float(text)
