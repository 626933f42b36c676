"""Features and filters as one writes them in a shell."""

from __future__ import annotations

import pytest

import twotower
from twotower import v1, where
from twotower_server.cli.query_syntax import parse_condition, parse_feature


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=34", 34.0),
        ("x=-3.5", -3.5),
        ("x=0", 0.0),
        ("x=.5", 0.5),
        ("x=1e-3", 0.001),
        ("x=2.5E+2", 250.0),
        ("x= 7 ", 7.0),
        ("x=9007199254740992", 2.0**53),
        ("x=-9007199254740992", -(2.0**53)),
    ],
)
def test_numbers(text: str, value: float) -> None:
    assert parse_feature(text) == ("x", value)
    assert type(parse_feature(text)[1]) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=f", "f"),
        ("x= New York ", "New York"),
        ("x=a=b", "a=b"),
        ('x="10115"', "10115"),
        ('x=" padded "', " padded "),
        ('x="a|b"', "a|b"),
        ('x=""', ""),
        ('x="5"" disk"', '5" disk'),
        ("x=007", "007"),  # leading zeros: an id
        ("x=-01", "-01"),
        ("x=9007199254740993", "9007199254740993"),  # no double holds it
        ("x=-9007199254740993", "-9007199254740993"),
        ("x=" + "9" * 5000, "9" * 5000),
        ("x=e5", "e5"),
        ("x=-e5", "-e5"),
        ("x=5.", "5."),
        ("x=-", "-"),
        ("x=.", "."),
        ("x=1_000", "1_000"),
        ("x=0x10", "0x10"),
        ("x=nan", "nan"),
        ("x=inf", "inf"),
        ("x=true", "true"),
        ("x=٣", "٣"),  # a digit, but not of JSON
        ("x=größe", "größe"),
    ],
)
def test_texts(text: str, value: str) -> None:
    assert parse_feature(text) == ("x", value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=i7|i9", ["i7", "i9"]),
        ("x= i7 | i9 ", ["i7", "i9"]),
        ("x=i7|", ["i7"]),
        ("x=7|8", ["7", "8"]),
        ('x="a|b"|c', ["a|b", "c"]),
        ('x=""|', [""]),
        ('x=a|""', ["a", ""]),
    ],
)
def test_lists(text: str, values: list[str]) -> None:
    assert parse_feature(text) == ("x", values)


def test_a_name_is_trimmed_and_may_be_any_text() -> None:
    assert parse_feature(" user_interest_* =1") == ("user_interest_*", 1.0)
    assert parse_feature("größe<3=1") == ("größe<3", 1.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("age", "write NAME=VALUE"),
        ("", "write NAME=VALUE"),
        ("=34", "write NAME=VALUE"),
        (" =34", "write NAME=VALUE"),
        ("age=", "empty value"),
        ("age=  ", "empty value"),
        ("x=|", "empty value"),
        ("x=a||b", "empty value"),
        ("x=|a", "empty value"),
        ('x="a', "quotes enclose a whole value"),
        ('x="a"b', "quotes enclose a whole value"),
        ('x=a"b"', "quotes enclose a whole value"),
        ('x=a|"b', "quotes enclose a whole value"),
    ],
)
def test_features_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_feature(text)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("price<20", where("price").less_than(20)),
        ("price<=20.5", where("price").at_most(20.5)),
        ("price>-1", where("price").more_than(-1)),
        (" price >= 1e3 ", where("price").at_least(1000)),
        ("year=1999", where("year").equals(1999.0)),
        ("year=1999|2000", where("year").is_in(1999.0, 2000.0)),
        ('year="1999"', where("year").equals("1999")),
        ('year="1999"|2000', where("year").is_in("1999", "2000")),
        ("category=books", where("category").equals("books")),
        ("category= books | film ", where("category").is_in("books", "film")),
        ("category=1|books", where("category").is_in("1", "books")),
        ('category="a|b"', where("category").equals("a|b")),
        ('category=""', where("category").equals("")),
        ('category="=x"', where("category").equals("=x")),
        ('category="5"" disk"', where("category").equals('5" disk')),
        ("category=a!b", where("category").equals("a!b")),
        ("code=007", where("code").equals("007")),
        ("in_stock=true", where("in_stock").equals(True)),
        ("in_stock = false", where("in_stock").equals(False)),
        ('in_stock="true"', where("in_stock").equals("true")),
        ("in_stock=true|false", where("in_stock").is_in("true", "false")),
        ("title=line\nbreak", where("title").equals("line\nbreak")),
    ],
)
def test_conditions(text: str, condition: v1.Condition) -> None:
    assert parse_condition(text) == condition
    assert parse_condition(f"!{text.strip()}") == twotower.not_(condition)


def test_unequal_is_negated() -> None:
    assert parse_condition("category!=books") == twotower.not_(where("category").equals("books"))
    assert parse_condition("!category!=books") == where("category").equals("books")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("price", "is no condition"),
        ("", "is no condition"),
        ("<20", "is no condition"),
        ("!=20", "is no condition"),
        (" =20", "is no condition"),
        ("category==books", "there is no =="),
        ("price=<20", "there is no =<"),
        ("price<>20", "there is no <>"),
        ("a!b=3", "there is no !;"),
        ("price<cheap", "takes one number"),
        ('price<"20"', "takes one number"),
        ("price<20|30", "takes one number"),
        ("price<", "takes one number"),
        ("category=", "empty value"),
        ("category=a|", "empty value"),
        ('category="a', "quotes enclose a whole value"),
    ],
)
def test_conditions_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_condition(text)
