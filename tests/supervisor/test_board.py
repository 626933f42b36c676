"""The board: a row a slot, which a worker that replaces a dead one goes on with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from twotower_server.supervisor import board as board_module
from twotower_server.supervisor.board import COLUMNS, Board


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board", 3, create=True)


def test_what_a_worker_writes_others_read(board: Board, tmp_path: Path) -> None:
    row = Board(tmp_path / "board", 3).rows[1]
    row.pid, row.prepared, row.refused = 4711, 2**40, 3
    row.count(0, 2)
    row.count(COLUMNS - 1, 5)
    seen = board.rows[1]
    assert (seen.pid, seen.prepared, seen.refused) == (4711, 2**40, 3)
    assert (seen.counted(0), seen.counted(1), seen.counted(COLUMNS - 1)) == (2, 0, 5)


def test_rows_do_not_overlap(board: Board) -> None:
    for slot, row in enumerate(board.rows):
        row.pid = row.prepared = row.refused = slot + 1
        for column in range(COLUMNS):
            row.count(column, slot * COLUMNS + column)
    for slot, row in enumerate(board.rows):
        assert (row.pid, row.prepared, row.refused) == (slot + 1, slot + 1, slot + 1)
        assert [row.counted(column) for column in range(COLUMNS)] == [slot * COLUMNS + c for c in range(COLUMNS)]


def test_counters_are_added_up_over_slots_and_go_on_when_a_worker_is_replaced(board: Board, tmp_path: Path) -> None:
    board.rows[0].count(7, 10)
    board.rows[2].count(7, 1)
    replacement = Board(tmp_path / "board", 3).rows[0]
    replacement.count(7, 100)
    assert board.counted(7) == 111
    replacement.forget(7)
    assert board.counted(7) == 1


def test_a_worker_is_healthy_while_it_beats(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    row = board.rows[0]
    assert not row.healthy, "nobody is there"
    row.beat()
    assert not row.healthy, "nobody has joined"
    row.pid = 1
    assert row.healthy
    now = time.monotonic_ns()
    monkeypatch.setattr(board_module.time, "monotonic_ns", lambda: now + int(board_module.HEALTHY_S * 1e9) + 1)
    assert not row.healthy
    row.beat()
    assert row.healthy


def test_its_bytes_are_on_the_disk_before_they_are_mapped(board: Board, tmp_path: Path) -> None:
    stat = (tmp_path / "board").stat()
    assert stat.st_blocks * 512 >= stat.st_size > 0
