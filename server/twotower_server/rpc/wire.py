"""Numpy arrays as packed fields of messages: copied whole, where protobuf would look at a Python object for each value.

A packed field is its tag, its length in bytes, and the values as they lie in memory (little-endian).
https://protobuf.dev/programming-guides/encoding/#packed
"""

from __future__ import annotations

from collections.abc import Container
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_DELIMITED = 2  # wire type of packed fields, texts and messages


def packed(field: int, values: NDArray[np.float32]) -> bytes:
    """A field of floats, ready for `MergeFromString`. values: float32 [n]."""
    content = values.astype("<f4", copy=False).tobytes()
    return _delimited(field, len(content)) + content if content else b""


def packed_rows(field: int, inner: int, values: NDArray[np.float32], end: bytes, left_empty: Container[int]) -> bytes:
    """A repeated field of messages, one a row, each of its row packed under `inner`, and of `end`.

    values: float32 [n, d]. end: the other fields of every message, serialized. left_empty: rows that become an empty
    message.
    """
    content, width = values.astype("<f4", copy=False).tobytes(), 4 * values.shape[1]
    start = _delimited(inner, width)
    start = _delimited(field, len(start) + width + len(end)) + start
    empty = _delimited(field, 0)
    parts: list[bytes] = []
    for i in range(len(values)):
        parts += (empty,) if i in left_empty else (start, content[i * width : (i + 1) * width], end)
    return b"".join(parts)


@lru_cache
def _delimited(field: int, length: int) -> bytes:
    """What stands before `length` bytes of a field."""
    return _varint(field << 3 | _DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    head = bytearray()
    while number > 0x7F:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    head.append(number)
    return bytes(head)
