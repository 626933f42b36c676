"""Ids → keys → rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from twotower import v1
from twotower_server.items.ids import KeyTable, item_key, item_keys

MILLION = 1_000_000


def table_of(keys: list[int]) -> KeyTable:
    return KeyTable(np.array(sorted(keys), np.uint64))


def rows_of(table: KeyTable, keys: list[int]) -> list[int]:
    rows: list[int] = table.rows(np.array(keys, np.uint64)).tolist()
    return rows


def test_a_key_is_xxh3_64_with_seed_0() -> None:
    # From the specification's test vectors.
    assert item_key("") == 0x2D06800538D394C2
    assert item_keys([""]).tolist() == [0x2D06800538D394C2]


@pytest.mark.parametrize("item_id", ["item-1", "é", "本-7", "🎬", "a" * 512, "\0"])
def test_one_key_and_many_agree(item_id: str) -> None:
    assert item_keys(["other", item_id]).tolist() == [item_key("other"), item_key(item_id)]


def test_keys_of_a_repeated_field_a_generator_and_nothing() -> None:
    request = v1.ScoreRequest(item_ids=["a", "b"])
    assert item_keys(request.item_ids).tolist() == [item_key("a"), item_key("b")]
    assert item_keys(c for c in "ab").tolist() == [item_key("a"), item_key("b")]
    assert item_keys([]).dtype == np.uint64
    assert item_keys([]).size == 0


def test_a_million_present_and_a_million_absent_ids_against_a_dict() -> None:
    present = [f"item-{i}" for i in range(MILLION)]
    keys = item_keys(present)
    order = np.argsort(keys)
    table = KeyTable(keys[order])
    wanted = {present[position]: row for row, position in enumerate(order.tolist())}
    assert table.rows(keys).tolist() == [wanted[item_id] for item_id in present]
    absent = [f"gone-{i}" for i in range(MILLION)]
    assert not any(item_id in wanted for item_id in absent)
    assert (table.rows(item_keys(absent)) == -1).all()


@pytest.mark.parametrize("top", [0, 0x0123_4567, 0xFFFF_FFFF])
def test_a_crafted_overfull_bucket(top: int) -> None:
    # All but two keys share the upper half, so that every radix table puts them into one bucket.
    crowd = [(top << 32) + 3 * i + 1 for i in range(100_001)]
    keys = sorted({*crowd, 0, 2**64 - 1})
    table = table_of(keys)
    rows = {key: row for row, key in enumerate(keys)}
    asked = [key + offset for key in crowd for offset in (-1, 0, 1)] + [0, 2**64 - 1, 1 << 63]
    assert rows_of(table, asked) == [rows.get(key, -1) for key in asked]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 1000])
@pytest.mark.parametrize("spread", [1, 2**40, 2**53])
def test_small_tables(count: int, spread: int) -> None:
    keys = [i * spread for i in range(count)]
    rows = {key: row for row, key in enumerate(keys)}
    asked = [*keys, *(key + 1 for key in keys), 2**64 - 1, 2**63]
    assert rows_of(table_of(keys), asked) == [rows.get(key, -1) for key in asked]


def test_asking_for_nothing_and_twice_for_the_same() -> None:
    table = table_of([5, 6])
    assert rows_of(table, []) == []
    assert rows_of(table, [6, 6, 7, 5]) == [1, 1, -1, 0]


def test_the_answer_is_the_callers_to_change() -> None:
    keys: NDArray[np.uint64] = np.array([1, 2], np.uint64)
    keys.flags.writeable = False
    table = KeyTable(keys)
    table.rows(keys)[:] = 9
    assert table.rows(keys).tolist() == [0, 1]
