"""A worker's side of changes: applied as they come, and again when an error came between."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from twotower_server.app import open_release
from twotower_server.catalog.change import Change
from twotower_server.catalog.log import Log
from twotower_server.config import Config
from twotower_server.engine.route import Releases
from twotower_server.release.apply import apply
from twotower_server.supervisor.board import Board
from twotower_server.supervisor.follower import Follower
from twotower_server.supervisor.generation import Generation, Loaded
from twotower_server.supervisor.page import Page

pytestmark = pytest.mark.asyncio

APPLY = "twotower_server.supervisor.history.apply"


@pytest.fixture
def log(tmp_path: Path, folder: Path) -> Log:
    """The log of a server whose page and board are in the same folder; `dot` and `cosine` are loaded."""
    page = Page(tmp_path / "page", create=True)
    log = Log(tmp_path, page)
    log.recover()
    Board(tmp_path / "board", 1, create=True)
    loaded = {name: Loaded(str(folder / name), column) for column, name in enumerate(("dot", "cosine"))}
    Generation(1, "dot", loaded).write(tmp_path)
    page.next = page.current = 1
    return log


@pytest.fixture
def follower(tmp_path: Path, log: Log, folder: Path, data: Path) -> Follower:
    row = Board(tmp_path / "board", 1).rows[0]
    return Follower(tmp_path, tmp_path, Page(tmp_path / "page"), row, partial(open_release, Config(folder, data=data)))


def lacks(releases: Releases, *item_ids: str) -> bool:
    return not any(held for snapshot in releases.loaded.values() for held in snapshot.items.holds(item_ids))


async def test_a_call_that_begins_sees_what_was_appended(follower: Follower, log: Log) -> None:
    log.append([Change("i0")])
    await follower.prepare_current()
    assert lacks(follower.now(), "i0")
    log.append([Change("i1"), Change("i2")])
    assert lacks(follower.now(), "i0", "i1", "i2")
    assert follower.now() is follower.now()


async def test_a_worker_without_calls_applies_changes_as_they_come(
    follower: Follower, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.prepare_current()
    log.append([Change("i0")])
    await follower.look()
    monkeypatch.setattr(APPLY, lambda *_: pytest.fail("nothing is left to do for a call"))
    assert lacks(follower.now(), "i0")


async def test_an_error_while_changes_are_applied_loses_none(
    follower: Follower, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await follower.prepare_current()
    log.append([Change("i0")])
    applied = []

    def fails_at_the_second(*arguments: object) -> object:
        applied.append(arguments)
        if len(applied) == 2:
            raise MemoryError
        return apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(APPLY, fails_at_the_second)
    with pytest.raises(MemoryError):
        follower.now()
    log.append([Change("i1")])
    assert lacks(follower.now(), "i0", "i1")
