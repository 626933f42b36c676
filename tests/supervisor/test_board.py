"""The board: a row a slot, which a worker that replaces a dead one goes on with."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from twotower_server.observe.layout import CALL_BUCKETS_S, COLUMNS, OUTCOMES, RPCS, SOURCES, STAGE_BUCKETS_S, Stage
from twotower_server.supervisor import board as board_module
from twotower_server.supervisor.board import Board

FIELDS = ("pid", "prepared", "refused", "cpu_ns", "resident_bytes", "starts", "degraded")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board", 3, create=True)


def test_what_a_worker_writes_others_read(board: Board, tmp_path: Path) -> None:
    row = Board(tmp_path / "board", 3).rows[1]
    row.pid, row.prepared, row.refused = 4711, 2**40, 3
    row.counters.add_served(0, 1, 2)
    row.counters.add_served(COLUMNS - 1, 3, 5)
    seen = board.rows[1]
    assert (seen.pid, seen.prepared, seen.refused) == (4711, 2**40, 3)
    assert [seen.counters.served(0, source) for source in range(4)] == [0, 2, 0, 0]
    assert [seen.counters.served(COLUMNS - 1, source) for source in range(4)] == [0, 0, 0, 5]
    assert [board.served(column) for column in (0, 1, COLUMNS - 1)] == [2, 0, 5]


def test_no_two_values_share_a_word(board: Board) -> None:
    values = 0
    for slot, row in enumerate(board.rows):
        counters = row.counters
        for name in FIELDS:
            values += 1
            setattr(row, name, values)
        for rpc in range(len(RPCS)):
            for outcome in range(OUTCOMES):
                for _ in range(outcome % 3):
                    counters.add_call(rpc, outcome, slot)
        for column in range(COLUMNS):
            for source in range(len(SOURCES)):
                counters.add_served(column, source, slot + column * len(SOURCES) + source)
            counters.set_items(column, slot + 7 * column)
        counters.in_flight, counters.waiting = 100 + slot, 200 + slot
        for stage in Stage:
            for _ in range(stage + slot):
                counters.add_stage(stage, 10**12)
    values = 0
    for slot, row in enumerate(board.rows):
        counters = row.counters
        for name in FIELDS:
            values += 1
            assert getattr(row, name) == values
        for rpc in range(len(RPCS)):
            calls = [counters.calls(rpc, outcome) for outcome in range(OUTCOMES)]
            assert calls == [outcome % 3 for outcome in range(OUTCOMES)]
            assert counters.call_times(rpc) == [sum(calls), *[0] * len(CALL_BUCKETS_S), slot * sum(calls)]
        served = [counters.served(column, source) for column in range(COLUMNS) for source in range(len(SOURCES))]
        assert served == [slot + i for i in range(COLUMNS * len(SOURCES))]
        assert [counters.items(column) for column in range(COLUMNS)] == [slot + 7 * column for column in range(COLUMNS)]
        assert (counters.in_flight, counters.waiting) == (100 + slot, 200 + slot)
        for stage in Stage:
            assert counters.stage_times(stage) == [*[0] * len(STAGE_BUCKETS_S), stage + slot, (stage + slot) * 10**12]


@pytest.mark.parametrize(
    ("elapsed_ns", "bucket"), [(0, 0), (250_000, 0), (250_001, 1), (10 * 10**9, 14), (10 * 10**9 + 1, 15)]
)
def test_a_bucket_holds_its_upper_end(board: Board, elapsed_ns: int, bucket: int) -> None:
    board.rows[0].counters.add_call(3, 0, elapsed_ns)
    times = board.rows[0].counters.call_times(3)
    assert times[bucket] == 1 and sum(times[:-1]) == 1 and times[-1] == elapsed_ns


def test_counters_are_added_up_over_slots_and_go_on_when_a_worker_is_replaced(board: Board, tmp_path: Path) -> None:
    board.rows[0].counters.add_served(7, 1, 10)
    board.rows[2].counters.add_served(7, 2, 1)
    replacement = Board(tmp_path / "board", 3).rows[0]
    replacement.counters.add_served(7, 1, 100)
    assert board.served(7) == 111
    replacement.counters.forget_served(7)
    assert board.served(7) == 1


def test_threads_lose_no_stage(board: Board) -> None:
    counters, times = board.rows[0].counters, 20_000

    def record() -> None:
        for _ in range(times):
            counters.add_stage(Stage.INDEX, 1_000)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counters.stage_times(Stage.INDEX)[-1] == 4 * times * 1_000


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
