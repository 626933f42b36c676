"""The switch and its workers in one process, step by step; releases, page, board and folders are real."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.supervisor.running import PATIENCE_S
from twotower_server.app import open_release
from twotower_server.catalog.log import Log
from twotower_server.config import Config
from twotower_server.errors import Reason, Refused, ReleaseRefused, TwoTowerError
from twotower_server.release.completion import Completion
from twotower_server.release.fleet import Fleet
from twotower_server.release.repository import LocalRepository
from twotower_server.release.stamp import write_stamp
from twotower_server.supervisor import switch as switch_module
from twotower_server.supervisor.board import COLUMNS, Board
from twotower_server.supervisor.follower import Follower
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.switch import Switch

pytestmark = pytest.mark.asyncio

FOLLOW_S = 0.02


class Bench:
    """One server: its switch, and workers that follow it."""

    def __init__(self, config: Config, folder: Path, name: str) -> None:
        folder.mkdir()
        self.config = config
        self.folder = folder
        self.page = Page(folder / "page", create=True)
        catalog = folder.with_name(f"catalog-{name}")
        catalog.mkdir()
        changes = Log(catalog, self.page)
        changes.recover()
        self.board = Board(folder / "board", config.workers, create=True)
        assert isinstance(config.releases, Path)
        self.fleet = Fleet(LocalRepository(config.releases), name, config.follow_s)
        completion = Completion(config)
        self.switch = Switch(config, self.fleet, folder, self.page, changes, self.board, self.verify, completion)
        self.followers = [
            Follower(folder, catalog, Page(folder / "page"), row, partial(open_release, config))
            for row in self.board.rows
        ]
        self.broken: dict[str, Exception] = {}
        self.verified: list[str] = []

    async def verify(self, folder: Path) -> Path:
        """Takes every release for sound, but those that are broken."""
        self.verified.append(folder.name)
        if folder.name in self.broken:
            raise self.broken[folder.name]
        write_stamp(folder, self.config.data)
        return folder

    async def start(self, active: str, *, workers: bool = True) -> None:
        await self.switch.start(active)
        for follower in self.followers if workers else []:
            await follower.prepare_current()
            follower.join()

    async def load(self, release: str) -> str:
        await self.switch.load(release)
        await until(lambda: self.state(release) != "verifying")
        return self.state(release)

    def state(self, release: str) -> str:
        return self.switch._state(release, []).state

    def wait_for_workers(self, timeout_s: float) -> None:
        """How long the switch waits for them from now on."""
        self.switch._config = dataclasses.replace(self.config, switch_timeout_s=timeout_s)

    def serves(self) -> list[str]:
        """What each worker serves."""
        return [follower.now().active.release for follower in self.followers]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(FOLLOW_S / 4)


@pytest.fixture
def own(tmp_path: Path, orthogonal: Path) -> Path:
    """A releases folder of the test's own: `left`, which is active, `right`, and `copy`."""
    folder = tmp_path / "releases"
    folder.mkdir()
    for name in ("left", "right"):
        (folder / name).symlink_to(orthogonal / name)
    (folder / "active").write_text("left\n")
    return folder


@asynccontextmanager
async def bench(
    own: Path, *, name: str = "one", start: str = "left", follow: bool = False, **options: Any
) -> AsyncIterator[Bench]:
    """A server that has started. follow: look at the releases folder, too."""
    config = Config(own, data=own.parent / f"data-{name}", follow_s=FOLLOW_S, **options)
    bench = Bench(config, own.parent / name, name)
    await bench.start(start)
    endless = [follower.follow() for follower in bench.followers] + [follower.beat() for follower in bench.followers]
    tasks = [
        asyncio.create_task(task)
        for task in (*endless, *([bench.switch.follow(), bench.switch.report()] if follow else []))
    ]
    try:
        yield bench
        assert not any(task.done() for task in tasks), "none of them ever ends"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def link(own: Path, name: str, target: str = "right") -> None:
    """Adds a release by another name; only `verify` looks at it."""
    (own / name).symlink_to((own / target).resolve())


async def test_a_release_is_loaded_activated_and_gone_back_from(own: Path) -> None:
    async with bench(own, workers=2) as server:
        assert await server.load("right") == "loaded"
        assert server.serves() == ["left", "left"]
        assert await server.switch.activate("right") == "left"
        assert server.serves() == ["right", "right"]
        assert (own / "active").read_text() == "right\n"
        assert await server.switch.rollback("right") == "left"
        assert server.serves() == ["left", "left"]
        assert os.listdir(server.folder).count("generation-4.json") == 1
        assert sorted(os.listdir(server.folder)) == ["board", "generation-4.json", "page"]


async def test_going_back_again_never_returns_to_what_was_left(own: Path, orthogonal: Path) -> None:
    async with bench(own) as server:
        await server.load("right")
        for release in ("right", "left", "right"):
            await server.switch.activate(release)
        assert await server.switch.rollback("right") == "left"
        with pytest.raises(Refused, match="the active release is left, not right"):
            await server.switch.rollback("right")
        assert await server.switch.rollback("left") == "right"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Refused(Reason.RELEASE_MISMATCH, "x")])
async def test_when_the_pointer_cannot_be_moved_nothing_has_changed(
    own: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with bench(own) as server:
        await server.load("right")
        before = server.switch.generation

        def fail(*_: Any, **__: Any) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(server.fleet, "activate", fail)
            with pytest.raises(type(error)):
                await server.switch.activate("right")
        assert server.switch.generation is before
        assert server.page.next == server.page.current == before.number
        assert server.serves() == ["left"]
        assert await server.switch.activate("right") == "left"


async def test_a_worker_that_cannot_open_it_keeps_all_of_them_on_what_serves(own: Path) -> None:
    async with bench(own, workers=2) as server:
        for history in server.followers[1]._histories.values():
            history._open_release = lambda folder: open_badly()

        def open_badly() -> Any:
            raise MemoryError

        assert await server.load("right") == "refused"
        assert server.switch._state("right", []).reason == (
            "a worker cannot open it: MemoryError; the server's log says more"
        )
        assert server.page.next == server.page.current
        assert server.serves() == ["left", "left"]


async def test_a_worker_that_is_late_is_named_and_one_that_does_not_beat_is_not_waited_for(own: Path) -> None:
    async with bench(own, workers=2) as server:
        server.wait_for_workers(0.2)
        server.followers[1].look = never  # type: ignore[method-assign]
        assert await server.load("right") == "refused"
        assert server.switch._state("right", []).reason == (
            "worker 1 did not open it within 0.2 s; nothing was changed"
        )
        server.wait_for_workers(PATIENCE_S)
        server.board.rows[1].pid = 0
        assert await server.load("right") == "loaded"


async def never() -> None:
    await asyncio.sleep(PATIENCE_S)


async def test_without_any_healthy_worker_nothing_is_switched(own: Path) -> None:
    async with bench(own) as server:
        await server.load("right")
        server.wait_for_workers(0.1)
        server.board.rows[0].pid = 0
        with pytest.raises(Refused, match="no worker was healthy within") as refused:
            await server.switch.activate("right")
        assert refused.value.reason is Reason.NOT_READY
        assert (own / "active").read_text() == "left\n"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ReleaseRefused("release right: vectors.npy is damaged"), "release right: vectors.npy is damaged"),
        (TwoTowerError("cannot write to {data}: no room"), "cannot write to the data folder: no room"),
        (OSError(5, "Input/output error", "/secret/path"), "Input/output error"),
        (ZeroDivisionError("bug"), "this is a bug of the server; its log has the details"),
    ],
)
async def test_why_a_release_is_refused_is_told_whatever_it_is(own: Path, error: Exception, reason: str) -> None:
    async with bench(own) as server:
        if "{data}" in str(error):
            error = TwoTowerError(str(error).format(data=server.config.data))
        server.broken["right"] = error
        assert await server.load("right") == "refused"
        assert server.switch._state("right", []).reason == reason
        assert await server.switch.degraded() == [], "nobody but the caller wants it"
        del server.broken["right"]
        assert await server.load("right") == "loaded"


# ---- the releases folder


async def test_the_pointer_is_followed(own: Path) -> None:
    async with bench(own, follow=True) as server:
        for release in ("right", "left", "right"):
            (own / "active").write_text(f"{release}\n")
            await until(lambda release=release: server.serves() == [release])  # type: ignore[misc]


async def test_a_pointer_that_cannot_be_followed_is_told_until_it_can(own: Path) -> None:
    link(own, "bad")
    async with bench(own, follow=True) as server:
        server.broken["bad"] = ReleaseRefused("it is broken")

        async def degraded(expected: str) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not any(expected in line for line in (await server.switch.degraded() or [""])):
                    await asyncio.sleep(FOLLOW_S)

        for pointer, sentence in (
            ("no name at all", "the releases folder cannot be followed"),
            ("nowhere", "release nowhere, which the releases folder names, is refused: there is no release nowhere"),
            ("bad", "release bad, which the releases folder names, is refused: it is broken"),
        ):
            (own / "active").write_text(f"{pointer}\n")
            await degraded(sentence)
            assert server.serves() == ["left"]
        (own / "active").unlink()
        await degraded("the releases folder cannot be followed")
        assert str(own) not in str(await server.switch.degraded())
        (own / "active").mkdir()
        await until(lambda: "Is a directory" in str(server.switch._failures))
        (own / "active").rmdir()
        (own / "active").write_text("right\n")
        await until(lambda: server.serves() == ["right"])
        await degraded("")
        assert await server.switch.degraded() == []
        assert server.state("bad") == "refused"


@pytest.mark.parametrize("pointer", ["", "no name at all", "nowhere", "bad"])
async def test_what_cannot_be_served_is_replaced_by_what_a_caller_activates(own: Path, pointer: str) -> None:
    link(own, "bad")
    async with bench(own, follow=True) as server:
        server.broken["bad"] = ReleaseRefused("it is broken")
        await server.load("right")
        for release in ("left", "right"):
            (own / "active").write_text(pointer) if pointer else (own / "active").unlink()
            await until(lambda: server.switch._failures or server.switch._refused)
            if pointer == "bad":
                await until(lambda: server.state("bad") == "refused")
            await server.switch.activate(release)
            assert (own / "active").read_text() == f"{release}\n"
            assert server.serves() == [release]


async def test_a_refused_release_is_tried_again_when_it_is_named_anew(own: Path) -> None:
    link(own, "bad")
    async with bench(own, follow=True) as server:
        server.broken["bad"] = ReleaseRefused("it is half copied")
        for _ in range(2):
            (own / "active").write_text("bad\n")
            await until(lambda: server.state("bad") == "refused" and "bad" in server.switch._named)
            tries = server.verified.count("bad")
            (own / "active").write_text("left\n")
            await until(lambda: "bad" not in server.switch._named)
            assert server.verified.count("bad") == tries, "once for every time that it is named"
        assert tries == 2


async def test_a_refused_release_that_stays_named_is_tried_again_after_a_while(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(own, "bad")
    monkeypatch.setattr(switch_module, "_TRY_AGAIN_S", 0.1)
    async with bench(own, follow=True) as server:
        server.broken["bad"] = OSError(5, "Input/output error")
        (own / "active").write_text("bad\n")
        await until(lambda: server.verified.count("bad") == 3)


async def test_an_arm_that_is_refused_does_not_keep_a_server_from_starting(own: Path) -> None:
    (own / "~split").write_text('{"active": "left", "shares": {"left": 0.5, "gone": 0.5}}')
    async with bench(own, follow=True) as server:
        assert dict(server.switch.generation.shares) == {}
        await until(lambda: "gone" in server.switch._refused)
        assert "there is no release gone" in (await server.switch.degraded())[0]
        (own / "~split").write_text('{"active": "left", "shares": {"left": 0.5, "right": 0.5}}')
        await until(lambda: dict(server.switch.generation.shares) == {"left": 0.5, "right": 0.5})
        # A split that cannot be served leaves the one that is.
        (own / "~split").write_text('{"active": "left", "shares": {"left": 0.4, "gone": 0.6}}')
        await until(lambda: "gone" in server.switch._named)
        assert dict(server.switch.generation.shares) == {"left": 0.5, "right": 0.5}
        # But not the pointer: another active release is followed, without the split.
        (own / "~split").write_text('{"active": "right", "shares": {"right": 0.4, "gone": 0.6}}')
        (own / "active").write_text("right\n")
        await until(lambda: server.serves() == ["right"])
        assert dict(server.switch.generation.shares) == {}


# ---- retirement


async def test_what_has_served_is_kept_by_count_and_what_waits_to_serve_is_not_counted(own: Path) -> None:
    async with bench(own, follow=True, keep_releases=0) as server:
        await server.load("right")
        for _ in range(3):
            await server.switch._retire()
        assert server.state("right") == "loaded"
        await server.switch.activate("right")
        await until(lambda: server.state("left") == "available")
        assert set(server.followers[0].now().loaded) == {"right"}


async def test_the_one_that_rests_longest_goes_first_however_fast_they_followed_each_other(own: Path) -> None:
    link(own, "copy")
    for active in ("right", "copy"):
        async with bench(own, name=active, keep_releases=1) as server:
            for name in ("copy", "right"):
                assert await server.load(name) == "loaded"
            for name in ("right", "copy", "left", active):
                await server.switch.activate(name)
            await server.switch._retire()
            assert set(server.switch.generation.loaded) == {active, "left"}
            await server.switch.activate("left")


async def test_what_has_not_served_for_long_is_closed(own: Path) -> None:
    async with bench(own, follow=True, keep_s=0.15) as server:
        await server.load("right")
        assert server.state("right") == "loaded"
        await until(lambda: server.state("right") == "available")
        assert server.serves() == ["left"]


async def test_a_release_that_is_loaded_again_rests_anew(own: Path) -> None:
    async with bench(own, keep_s=0.05) as server:
        await server.load("right")
        await server.switch._retire()
        await asyncio.sleep(0.1)
        await server.switch._retire()
        assert server.state("right") == "available"
        await server.load("right")
        await server.switch._retire()
        assert server.state("right") == "loaded"


async def test_an_arm_of_a_split_is_not_closed(own: Path) -> None:
    async with bench(own, follow=True, keep_s=0.1, keep_releases=0) as server:
        await server.load("right")
        await server.switch.split({"left": 0.5, "right": 0.5})
        await asyncio.sleep(0.3)
        assert server.state("right") == "loaded"
        await server.switch.split({})
        await until(lambda: server.state("right") == "available")


# ---- several at once


async def test_switches_at_the_same_moment_come_one_after_the_other(own: Path) -> None:
    async with bench(own, workers=2) as server:
        await server.load("right")
        switch = server.switch
        answers = await asyncio.gather(
            *(switch.activate(name, expected) for name, expected in (("right", "left"), ("left", "right")) * 5),
            return_exceptions=True,
        )
        for answer in answers:
            assert isinstance(answer, str) or (isinstance(answer, Refused) and answer.reason is Reason.RELEASE_MISMATCH)
        assert server.serves() == [(own / "active").read_text().strip()] * 2


async def test_two_servers_that_wait_for_each_other_do_not_wait_for_ever(own: Path) -> None:
    link(own, "copy")
    async with bench(own, name="one", follow=True) as one, bench(own, name="two", follow=True) as two:
        await until(lambda: len(one.fleet.servers()) == 2)
        await one.load("right")
        await two.load("copy")
        # Each has to load what the other activates before anybody can switch.
        answers = await asyncio.gather(
            one.switch.activate("right", "left"), two.switch.activate("copy", "left"), return_exceptions=True
        )
        (refused,) = [answer for answer in answers if isinstance(answer, Refused)]
        assert refused.reason is Reason.RELEASE_MISMATCH and "left" in answers
        await until(lambda: one.switch.generation.active == two.switch.generation.active == one.fleet.active())


async def test_a_server_of_the_fleet_that_refuses_is_named(own: Path) -> None:
    async with bench(own, name="one", follow=True) as one, bench(own, name="two", follow=True) as two:
        await until(lambda: len(one.fleet.servers()) == 2)
        await one.load("right")
        two.broken["right"] = ReleaseRefused("not now")
        with pytest.raises(Refused, match="server two refuses right: not now"):
            await one.switch.activate("right")
        assert one.serves() == two.serves() == ["left"]


async def test_two_servers_that_activate_at_once_end_in_one_state(own: Path, orthogonal: Path) -> None:
    async with AsyncExitStack() as servers:
        one, two, three = [
            await servers.enter_async_context(bench(own, name=name, follow=True)) for name in ("one", "two", "three")
        ]
        await until(lambda: len(one.fleet.servers()) == 3)
        await one.load("right")
        await one.switch.activate("right")
        await until(lambda: three.serves() == two.serves() == ["right"])
        for _ in range(3):
            answers = await asyncio.gather(
                one.switch.activate("left", "right"),
                two.switch.split({"right": 0.5, "left": 0.5}),
                return_exceptions=True,
            )
            assert any(not isinstance(answer, BaseException) for answer in answers)
            await until(lambda: one.serves() == two.serves() == three.serves() == [one.fleet.active()])
            await until(lambda: one.switch.generation.shares == two.switch.generation.shares)
            await one.load("right")
            await one.switch.activate("right")
            await until(lambda: three.serves() == two.serves() == ["right"])


async def test_counters_of_releases_are_used_again_when_there_are_too_many(own: Path) -> None:
    async with bench(own) as server:
        switch, folder = server.switch, own / "right"
        columns = {switch._loaded(f"r{i}", folder).column for i in range(COLUMNS - 1)}
        assert columns == set(range(1, COLUMNS)), "one each, and none is that of the active release"
        server.board.rows[0].count(1, 5)
        assert switch._loaded("r0", folder).column == 1 and server.board.counted(1) == 5, "the one it had"
        assert switch._loaded("more", folder).column == 2, "the one that has rested longest, r1"
        server.board.rows[0].count(2, 5)
        assert switch._loaded("still more", folder).column == 3
        assert switch._loaded("r1", folder).column == 4
