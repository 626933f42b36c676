"""A worker's side of a switch, step by step: the page is moved by the test, the releases are real."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from twotower_server.app import open_release
from twotower_server.catalog.log import Log
from twotower_server.config import Config
from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.stamp import write_stamp
from twotower_server.supervisor.board import Board, Row
from twotower_server.supervisor.follower import Follower
from twotower_server.supervisor.generation import Generation, Loaded, refusal_path
from twotower_server.supervisor.page import Page

pytestmark = pytest.mark.asyncio


class Desk:
    """The supervisor's side: writes generations and moves the page."""

    def __init__(self, folder: Path, releases: Path) -> None:
        self.folder = folder
        self.releases = releases
        self.page = Page(folder / "page", create=True)
        Log(folder, self.page).recover()
        self.row: Row = Board(folder / "board", 1, create=True).rows[0]

    def name(self, number: int, active: str, *others: str) -> None:
        """Writes a generation and names it as the next."""
        names = (active, *others)
        loaded = {name: Loaded(str(self.releases / name), column) for column, name in enumerate(names)}
        Generation(number, active, loaded).write(self.folder)
        self.page.next = number

    def switch(self, number: int) -> None:
        """Makes a generation the current one, and removes the one before."""
        before = self.page.current
        self.page.next = self.page.current = number
        Generation.remove(self.folder, before)


Open = Callable[[Path], Snapshot]
MakeFollower = Callable[..., Follower]


@pytest.fixture
def data(tmp_path: Path, orthogonal: Path) -> Path:
    for name in ("left", "right"):
        write_stamp(orthogonal / name, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def desk(tmp_path: Path, orthogonal: Path) -> Desk:
    desk = Desk(tmp_path, orthogonal)
    desk.name(1, "left")
    desk.switch(1)
    return desk


@pytest.fixture
def open_real(data: Path, orthogonal: Path) -> Open:
    return partial(open_release, Config(orthogonal, data=data))


@pytest.fixture
def follower(desk: Desk, tmp_path: Path, open_real: Open) -> Follower:
    return Follower(tmp_path, tmp_path, Page(tmp_path / "page"), desk.row, open_real)


async def test_what_is_next_is_opened_beside_what_serves(desk: Desk, follower: Follower) -> None:
    await follower.prepare_current()
    assert follower.now().active.release == "left"
    desk.name(2, "right", "left")
    assert desk.row.prepared == 1
    await follower.look()
    assert desk.row.prepared == 2
    assert follower.now().active.release == "left" and set(follower.now().loaded) == {"left"}
    desk.switch(2)
    assert follower.now().active.release == "right" and set(follower.now().loaded) == {"left", "right"}


async def test_a_worker_that_is_behind_serves_nothing_until_it_has_caught_up(desk: Desk, follower: Follower) -> None:
    await follower.prepare_current()
    assert follower.now().active.release == "left"
    for number, names in ((2, ("left", "right")), (3, ("right", "left"))):
        desk.name(number, *names)
        desk.switch(number)
        with pytest.raises(Refused, match="still opening") as caught:
            follower.now()
        assert caught.value.reason is Reason.NOT_READY
    await follower.look()
    assert follower.now().active.release == "right"


async def test_a_worker_that_starts_waits_out_the_switches_before_it(desk: Desk, follower: Follower) -> None:
    # It has read that 1 is current when 2 becomes it, and the file of 1 is gone.
    read = Generation.read

    def read_late(folder: Path, number: int) -> Generation:
        if number == 1:
            desk.name(2, "right")
            desk.switch(2)
        return read(folder, number)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Generation, "read", read_late)
        await follower.prepare_current()
    assert follower.now().active.release == "right"


async def test_without_the_file_of_what_is_served_a_worker_ends(desk: Desk, follower: Follower) -> None:
    Generation.remove(desk.folder, 1)
    with pytest.raises(FileNotFoundError):
        await follower.prepare_current()


@pytest.mark.parametrize(
    "error", [ReleaseRefused("its files have changed"), MemoryError(), OSError(24, "too many files"), RuntimeError("x")]
)
async def test_what_cannot_be_opened_is_refused_and_what_serves_goes_on(
    desk: Desk, tmp_path: Path, open_real: Open, error: Exception
) -> None:
    def open_but_right(folder: Path) -> Snapshot:
        if folder.name == "right":
            raise error
        return open_real(folder)

    follower = Follower(tmp_path, tmp_path, Page(tmp_path / "page"), desk.row, open_but_right)
    await follower.prepare_current()
    desk.name(2, "left", "right")
    await follower.look()
    assert (desk.row.prepared, desk.row.refused) == (1, 2)
    reason = refusal_path(tmp_path, 2).read_text()
    assert reason.startswith(str(error) if isinstance(error, ReleaseRefused) else type(error).__name__)
    await follower.look()  # not tried again
    assert follower.now().active.release == "left"
    # The supervisor withdraws it, and another attempt has another number.
    desk.page.next = 1
    Generation.remove(tmp_path, 2)
    desk.name(3, "left")
    await follower.look()
    assert desk.row.prepared == 3


async def test_a_refusal_that_cannot_be_written_down_is_one_all_the_same(
    desk: Desk, tmp_path: Path, open_real: Open
) -> None:
    def open_but_right(folder: Path) -> Snapshot:
        if folder.name == "right":
            raise ReleaseRefused("no")
        return open_real(folder)

    follower = Follower(tmp_path, tmp_path, Page(tmp_path / "page"), desk.row, open_but_right)
    await follower.prepare_current()
    desk.name(2, "right")
    refusal_path(tmp_path, 2).mkdir()
    await follower.look()
    assert desk.row.refused == 2


async def test_what_was_withdrawn_while_it_was_opened_is_no_refusal(
    desk: Desk, tmp_path: Path, open_real: Open
) -> None:
    def withdrawn(folder: Path) -> Snapshot:
        if folder.name == "right":
            desk.page.next = 1
            Generation.remove(tmp_path, 2)
            raise FileNotFoundError(folder)
        return open_real(folder)

    follower = Follower(tmp_path, tmp_path, Page(tmp_path / "page"), desk.row, withdrawn)
    await follower.prepare_current()
    desk.name(2, "right")
    await follower.look()
    assert desk.row.refused == 0
    assert follower.now().active.release == "left"


class Stepping(Page):
    """A page that another process moves just after it was read for the n-th time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads_left = 0
        self.move: Callable[[], None] | None = None

    def _moved(self, value: int) -> int:
        self.reads_left -= 1
        if self.reads_left == 0 and self.move is not None:
            self.move()
        return value

    @property  # type: ignore[misc]
    def current(self) -> int:
        return self._moved(super().current)

    @property  # type: ignore[misc]
    def next(self) -> int:
        return self._moved(super().next)


@pytest.mark.parametrize("reads", range(1, 7))
async def test_what_it_has_opened_is_never_forgotten_before_it_serves(
    desk: Desk, tmp_path: Path, open_real: Open, reads: int
) -> None:
    page = Stepping(tmp_path / "page")
    follower = Follower(tmp_path, tmp_path, page, desk.row, open_real)
    await follower.prepare_current()
    desk.name(2, "right", "left")
    await follower.look()

    def switch_and_begin_another() -> None:
        desk.switch(2)
        desk.name(3, "left", "right")

    page.reads_left, page.move = reads, switch_and_begin_another
    await follower.look()
    page.move = None
    if page.reads_left > 0:
        switch_and_begin_another()
    assert follower.now().active.release == "right"


async def test_what_no_generation_names_is_closed_but_not_for_calls_in_flight(
    desk: Desk, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    await follower.prepare_current()
    in_flight = follower.now().active
    desk.name(2, "right", "left")
    await follower.look()
    desk.switch(2)
    await follower.look()
    assert follower.now().loaded["left"] is in_flight, "it was not opened anew"
    desk.name(3, "right")
    await follower.look()
    with caplog.at_level(logging.INFO):
        desk.switch(3)
        await follower.look()
    assert "closed release left" in caplog.text
    assert set(follower.now().loaded) == {"right"}
    assert in_flight.vectors.any()


async def test_a_worker_joins_with_a_beat(desk: Desk, follower: Follower) -> None:
    await follower.prepare_current()
    assert not desk.row.healthy
    follower.join()
    assert desk.row.healthy and desk.row.pid == os.getpid()


async def test_a_replacement_begins_with_a_row_of_its_own_truth(desk: Desk, follower: Follower, tmp_path: Path) -> None:
    await follower.prepare_current()
    desk.row.prepared, desk.row.refused = 9, 8
    desk.row.count(0, 5)
    Follower(tmp_path, tmp_path, Page(tmp_path / "page"), desk.row, lambda _: pytest.fail("nothing to open yet"))
    assert (desk.row.prepared, desk.row.refused, desk.row.counted(0)) == (0, 0, 5)
