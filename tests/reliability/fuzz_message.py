"""Requests that are nearly right: strategies of hypothesis, built from the descriptors of messages.

A request begins as one that a server can serve, or empty; then up to four of its fields are set to something else,
emptied, doubled, or filled until the message is about as large as a server reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

Draw = st.DrawFn
# What the fields of a name hold when they are right.
Words = Mapping[str, Sequence[Any]]

_MAX_BYTES = 4 * 1024 * 1024 - 1024
_MAX_CHANGES = 4
_MAX_DEPTH = 4
# One change in so many makes a list so long that limits of counts and sizes are met.
_GIANTS = 100
_LENGTHS = (0, 1, 1, 2, 3, 5)
_GIANT_LENGTHS = (257, 1_001, 10_001, 100_001, 1_000_001)

_NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 31.0, 1e-45, 5e-324, 1e38, 3.5e38, 1e308, 2.0**63, math.nan, math.inf, -math.inf)
_TEXTS = ("", " ", "0", "1.0", "\x00", "..", "../dot", "/", "*", "user_interest_*", "ü", "\u202e", "💥" * 9, "x" * 257)
_INTEGERS = (0, 1, 2, 7, 8, 63, 99, 100, 1_000, 10_001, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_BYTES = (b"", b"\x00", b"\xff" * 9, b"\x00\x00\xc0\x7f" * 8, b"\x00\x00\x80\x3f" * 8)

_number = st.one_of(st.sampled_from(_NUMBERS), st.floats())
_text = st.one_of(st.sampled_from(_TEXTS), st.text(max_size=12))
_integer = st.one_of(st.sampled_from(_INTEGERS), st.integers(0, 2**64 - 1))
_bytes = st.one_of(st.sampled_from(_BYTES), st.binary(max_size=64))
_giant = st.integers(1, _GIANTS)
_tenth = st.integers(1, 10)


@st.composite
def nearly_right(draw: Draw, kind: type[Message], right: Sequence[bytes], words: Words) -> bytes:
    """A serialized message. right: some that can be served. words: see `Words`."""
    message = kind()
    if right and draw(_tenth) > 1:
        message.MergeFromString(draw(st.sampled_from(right)))
    for _ in range(draw(st.integers(0, _MAX_CHANGES))):
        _change(draw, message, words, 0)
    return message.SerializeToString()


def _change(draw: Draw, message: Message, words: Words, depth: int) -> None:
    fields = tuple(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = draw(st.sampled_from(fields))
    if field.is_repeated:
        _change_many(draw, message, field, words, depth)
    elif field.message_type and message.HasField(field.name) and draw(_tenth) > 2:
        _change(draw, getattr(message, field.name), words, depth + 1)
    elif draw(_tenth) == 1:
        message.ClearField(field.name)
    elif field.message_type:
        inner = getattr(message, field.name)
        inner.SetInParent()
        if depth < _MAX_DEPTH:
            _change(draw, inner, words, depth + 1)
    else:
        setattr(message, field.name, _scalar(draw, field, words))


def _change_many(draw: Draw, message: Message, field: FieldDescriptor, words: Words, depth: int) -> None:
    values = getattr(message, field.name)
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        _change_map(draw, values, inner, words, depth)
        return
    choice = draw(_tenth)
    if choice == 1:
        message.ClearField(field.name)
        return
    if inner is not None:
        if not values or choice < 5:
            values.add()
        if depth < _MAX_DEPTH:
            _change(draw, values[draw(st.integers(0, len(values) - 1))], words, depth + 1)
    else:
        values.extend(_scalar(draw, field, words) for _ in range(draw(st.sampled_from(_LENGTHS))))
    if values and draw(_giant) == 1:
        _fill(message, values, draw(st.sampled_from(_GIANT_LENGTHS)))


def _fill(message: Message, values: Any, length: int) -> None:
    """Repeats the last value, as often as fits into a message of 4 MiB."""
    before = message.ByteSize()
    values.append(values[-1])
    each = max(1, message.ByteSize() - before)
    values.extend([values[-1]] * min(length, (_MAX_BYTES - message.ByteSize()) // each))


def _change_map(draw: Draw, values: Any, entry: Any, words: Words, depth: int) -> None:
    key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
    names = words.get(_field_of_map(entry))
    for _ in range(draw(st.sampled_from(_LENGTHS))):
        key = draw(st.sampled_from(names)) if names and draw(_tenth) > 2 else _scalar(draw, key_field, words)
        if value_field.message_type is None:
            values[key] = _scalar(draw, value_field, words)
        elif depth < _MAX_DEPTH:
            _change(draw, values[key], words, depth + 1)
        else:
            values[key].SetInParent()
    if values and draw(_tenth) == 1:
        del values[draw(st.sampled_from(sorted(values)))]
    if draw(_giant) == 1:
        for number in range(draw(st.sampled_from(_GIANT_LENGTHS[:3]))):
            if value_field.message_type is None:
                values[f"x{number}"] = 1
            else:
                values[f"x{number}"].SetInParent()


def _field_of_map(entry: Any) -> str:
    """As `string_features` of its StringFeaturesEntry."""
    name = entry.name.removesuffix("Entry")
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _scalar(draw: Draw, field: FieldDescriptor, words: Words) -> Any:
    known = words.get(field.name)
    if known and draw(_tenth) > 2:
        return draw(st.sampled_from(known))
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return draw(_bytes if field.type == FieldDescriptor.TYPE_BYTES else _text)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return draw(_number)
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw(st.booleans())
        case FieldDescriptor.CPPTYPE_UINT64:
            return draw(_integer)
        case FieldDescriptor.CPPTYPE_UINT32:
            return draw(_integer) % 2**32
        case FieldDescriptor.CPPTYPE_INT64:
            return draw(_integer) - 2**63
        case FieldDescriptor.CPPTYPE_INT32:
            return draw(_integer) % 2**32 - 2**31
        case FieldDescriptor.CPPTYPE_ENUM:  # also numbers that nobody knows
            return draw(st.one_of(st.integers(0, 4), st.integers(-(2**31), 2**31 - 1)))
        case kind:
            raise AssertionError(f"{field.full_name} is of a kind that no message had: {kind}")
