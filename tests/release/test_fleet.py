"""What servers and commands tell each other beside the releases; the servers here are threads that report."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.release.fleet import Fleet, check_shares
from twotower_server.release.repository import LocalRepository

# A server that reports so often is dead after a tenth of a second.
EVERY_S = 0.02
LONG_S = 60.0

Loads = Callable[[str], bool]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of releases that have nothing but a manifest, and of what is no release."""
    for name in ("b", "a", "c", "~building-d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "release.json").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    return tmp_path


@pytest.fixture
def fleet(folder: Path) -> Fleet:
    """A command's view of the folder."""
    return Fleet(LocalRepository(folder))


@contextmanager
def server(folder: Path, name: str, loads: Loads = lambda release: True, refuses: str = "") -> Iterator[None]:
    """A server that serves `a` at first, loads what is announced where `loads` says so, and follows the pointer."""
    fleet = Fleet(LocalRepository(folder), name, EVERY_S)
    loaded, stop = {"a"}, threading.Event()

    def look() -> None:
        active = "a"
        while not stop.wait(EVERY_S):
            wanted = fleet.active()
            loaded.update(name for name in {*fleet.announced(), wanted} if loads(name))
            active = wanted if wanted in loaded else active
            fleet.report(active, fleet.shares(active), loaded, {refuses: "it is broken"} if refuses else {})

    fleet.report("a", {}, loaded, {})
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        fleet.leave()


@pytest.fixture
def start(folder: Path, fleet: Fleet) -> Iterator[Callable[..., None]]:
    """Starts servers of the folder, whose active release is `a`."""
    fleet.activate("a")
    with ExitStack() as servers:
        yield lambda *arguments, **options: servers.enter_context(server(folder, *arguments, **options))


# ---- the pointer


def test_names_are_those_of_whole_releases(folder: Path) -> None:
    assert LocalRepository(folder).names() == ["a", "b", "c"]
    assert LocalRepository(folder / "nowhere").names() == []


def test_a_release_is_made_active_and_replaced(fleet: Fleet) -> None:
    assert fleet.activate("a") == ""
    assert fleet.active() == "a"
    assert fleet.activate("b") == "a"
    assert fleet.active() == "b"


def test_only_a_release_that_is_there_becomes_active(fleet: Fleet, folder: Path) -> None:
    for name in ("d", "empty", "file"):
        with pytest.raises(Refused, match=f"RELEASE_NOT_FOUND: there is no release {name}; there are a, b, c"):
            fleet.activate(name)
    for name in ("~building-d", "../a", "active"):
        with pytest.raises(ReleaseRefused, match="cannot name a release"):
            fleet.activate(name)
    assert not (folder / "active").exists()


def test_nothing_moves_when_another_release_is_active_by_now(fleet: Fleet) -> None:
    fleet.activate("a", expected="")
    fleet.activate("b", expected="a")
    with pytest.raises(Refused, match="the active release is b by now, not a") as refused:
        fleet.activate("c", expected="a")
    assert refused.value.reason == Reason.RELEASE_MISMATCH
    assert fleet.active() == "b"


def test_without_one_it_is_said_what_to_do(
    fleet: Fleet, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(ReleaseRefused, match=f"one of a, b, c: twotower release activate c --releases {folder}"):
        fleet.active()
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ReleaseRefused, match=f"build one: twotower release build --activate --releases {empty}"):
        Fleet(LocalRepository(empty)).active()


@pytest.mark.parametrize("content", [b"", b"../a\n", b"A B\n", b"a\nb\n"])
def test_what_is_no_name_is_refused(fleet: Fleet, folder: Path, content: bytes) -> None:
    (folder / "active").write_bytes(content)
    with pytest.raises(ReleaseRefused, match="cannot name a release"):
        fleet.active()


def test_what_cannot_be_read_or_written(fleet: Fleet, folder: Path) -> None:
    (folder / "active").write_bytes(b"\xff")
    with pytest.raises(ReleaseRefused, match="active is not text"):
        fleet.active()
    fleet.activate("a")
    assert fleet.active() == "a", "whatever stood there"
    (folder / "active").unlink()
    (folder / "active").mkdir()
    with pytest.raises(IsADirectoryError):
        fleet.active()
    with pytest.raises(IsADirectoryError):
        fleet.activate("a")


def test_the_release_before_is_the_last_that_was_active_and_is_still_there(fleet: Fleet, folder: Path) -> None:
    assert fleet.previous("a") is None
    for name in ("a", "b", "b", "c"):
        fleet.activate(name)
    assert fleet.previous("c") == "b"
    (folder / "b" / "release.json").unlink()
    assert fleet.previous("c") == "a"
    (folder / "~history").write_text("no JSON")
    assert fleet.previous("c") is None
    assert fleet.activate("a") == "c"
    assert fleet.previous("a") == "c"


def test_going_back_again_goes_further_back(fleet: Fleet) -> None:
    for name in ("a", "b", "c"):
        fleet.activate(name)
    assert fleet.activate("b", "c", back=True) == "c"
    assert fleet.previous("b") == "a", "not to where it came from"
    assert fleet.activate("a", "b", back=True) == "b"
    assert fleet.previous("a") is None
    # Whatever is activated by name can be gone back from.
    fleet.activate("c")
    assert fleet.previous("c") == "a"


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("step", ["~history", "~split", "active"])
def test_a_pointer_that_cannot_be_moved_changes_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, step: str, back: bool
) -> None:
    for name in ("a", "b", "c"):
        fleet.activate(name)
    fleet.set_shares("c", {"a": 0.5, "c": 0.5})
    write, remove = LocalRepository.write, LocalRepository.remove

    def fail_at_step(self: LocalRepository, name: str, *text: str) -> None:
        if name == step:
            raise OSError(28, "No space left on device")
        (write if text else remove)(self, name, *text)

    monkeypatch.setattr(LocalRepository, "write", fail_at_step)
    monkeypatch.setattr(LocalRepository, "remove", fail_at_step)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            fleet.activate("c" if step == "~split" else "b", "c", back=back)
        assert (fleet.active(), fleet.previous("c"), fleet.shares("c")) == ("c", "b", {"a": 0.5, "c": 0.5})


def test_the_history_is_bounded(fleet: Fleet, folder: Path) -> None:
    for name in 30 * ("a", "b"):
        fleet.activate(name)
    assert len(json.loads((folder / "~history").read_text())) == 20


# ---- the split


def test_a_split_ends_with_its_active_release(fleet: Fleet) -> None:
    fleet.activate("a")
    fleet.set_shares("a", {"a": 0.75, "b": 0.25})
    assert fleet.shares("a") == {"a": 0.75, "b": 0.25}
    assert fleet.shares("b") == {}
    fleet.activate("b")
    fleet.activate("a")
    assert fleet.shares("a") == {}
    fleet.set_shares("a", {"b": 1.0})
    fleet.set_shares("a", {})
    assert fleet.shares("a") == {}


def test_the_pointer_moves_and_the_split_ends_in_one_step(folder: Path) -> None:
    """What a server reads between any two steps, which are also the moments when a command can be killed."""
    seen: list[tuple[str, dict[str, float]]] = []

    class Watched(LocalRepository):
        def write(self, name: str, text: str) -> None:
            super().write(name, text)
            self.look()

        def remove(self, name: str) -> None:
            super().remove(name)
            self.look()

        def look(self) -> None:
            reader = Fleet(LocalRepository(folder))
            seen.append((reader.active(), reader.shares(reader.active())))

    split = {"a": 0.5, "b": 0.5}
    Fleet(LocalRepository(folder)).activate("a")
    Fleet(LocalRepository(folder)).set_shares("a", split)
    stale = (folder / "~split").read_text()
    fleet = Fleet(Watched(folder))
    fleet.activate("b")
    assert set(map(str, seen)) == {str(("a", split)), str(("b", {}))}
    # Killed before the end, it has left the split; that must not come back with its release.
    (folder / "~split").write_text(stale)
    seen.clear()
    fleet.activate("a")
    assert set(map(str, seen)) == {str(("b", {})), str(("a", {}))}
    fleet.set_shares("a", split)
    seen.clear()
    fleet.activate("a")
    assert set(map(str, seen)) == {str(("a", {}))}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 0.5, "b": 0.4}, "the shares sum to 0.9, not 1"),
        ({"a": 1.5, "b": -0.5}, "the share of a is 1.5, not from 0 to 1"),
        ({"a": float("nan")}, "the share of a is nan"),
    ],
)
def test_what_cannot_be_shares(shares: dict[str, float], message: str) -> None:
    with pytest.raises(Refused, match=message):
        check_shares(shares)
    check_shares({})
    check_shares({f"r{i}": 0.1 for i in range(10)})


@pytest.mark.parametrize(
    "shares", ['{"a": "much"}', '{"a": null}', '{"a": 0.5}', '{"a": NaN}', '{"../a": 1}', "[1]", '{"a": 2, "b": -1}']
)
def test_a_split_that_makes_no_sense_is_none(fleet: Fleet, folder: Path, shares: str) -> None:
    fleet.activate("a")
    (folder / "~split").write_text(f'{{"active": "a", "shares": {shares}}}')
    assert fleet.shares("a") == {}


def test_the_traffic_of_a_release_that_is_no_longer_active_is_not_split(fleet: Fleet) -> None:
    fleet.activate("a")
    fleet.activate("b")
    with pytest.raises(Refused, match="the active release is b by now, not a") as refused:
        fleet.set_shares("a", {"a": 0.5, "b": 0.5})
    assert refused.value.reason == Reason.RELEASE_MISMATCH
    assert fleet.shares("b") == {}


# ---- the servers


def test_without_servers_nothing_is_waited_for(fleet: Fleet, folder: Path) -> None:
    fleet.wait_loaded("b", 0.0)
    assert fleet.wait_serving("b", {}, 0.0) == []
    assert sorted(os.listdir(folder)) == ["a", "b", "c", "empty", "file", "~building-d"]


def test_servers_load_what_is_announced_and_follow_the_pointer(fleet: Fleet, start: Callable[..., None]) -> None:
    start("one")
    start("two")
    assert [server.name for server in fleet.servers()] == ["one", "two"]
    fleet.wait_loaded("b", LONG_S)
    assert all("b" in server.loaded and server.active == "a" for server in fleet.servers())
    assert fleet.announced() == set()
    fleet.activate("b", "a")
    assert fleet.wait_serving("b", {}, LONG_S) == []
    assert all(server.active == "b" for server in fleet.servers())


def test_a_split_is_followed(fleet: Fleet, start: Callable[..., None]) -> None:
    start("one")
    fleet.set_shares("a", {"a": 0.5, "b": 0.5})
    assert fleet.wait_serving("a", {"a": 0.5, "b": 0.5}, LONG_S) == []


def test_who_does_not_load_in_time_is_named(fleet: Fleet, start: Callable[..., None]) -> None:
    start("one")
    start("two", loads=lambda release: False)
    with pytest.raises(Refused, match=r"^RELEASE_NOT_LOADED: two did not load b within 0.2 s; nothing was changed"):
        fleet.wait_loaded("b", 0.2)
    assert fleet.announced() == set()
    fleet.activate("b")
    assert fleet.wait_serving("b", {}, 0.2) == ["two"]


def test_who_refuses_is_named_with_the_reason(fleet: Fleet, start: Callable[..., None]) -> None:
    start("one", loads=lambda release: False, refuses="b")
    with pytest.raises(Refused, match="server one refuses b: it is broken"):
        fleet.wait_loaded("b", LONG_S)


def test_a_server_that_died_without_a_word_is_forgotten(fleet: Fleet, folder: Path, start: Callable[..., None]) -> None:
    start("one")
    Fleet(LocalRepository(folder), "dead", EVERY_S).report("a", {}, ["a"], {})
    fleet.wait_loaded("b", LONG_S)
    assert [server.name for server in fleet.servers()] == ["one"]


def test_who_lives_is_found_out(fleet: Fleet, folder: Path, start: Callable[..., None]) -> None:
    assert fleet.living() == []
    start("one")
    Fleet(LocalRepository(folder), "dead", EVERY_S).report("a", {}, ["a"], {})
    assert [server.name for server in fleet.living()] == ["one"]
    assert LocalRepository(folder).listed("~servers") == ["one"]


def test_reports_of_other_versions_are_read(fleet: Fleet, folder: Path) -> None:
    Fleet(LocalRepository(folder), "one").report("a", {"a": 1.0}, ["a"], {})
    report = json.loads((folder / "~servers" / "one").read_text())
    del report["shares"]
    (folder / "~servers" / "two").write_text(json.dumps({**report, "name": "two", "zones": ["north"]}))
    (folder / "~servers" / "three").write_text("{}")
    (folder / "~servers" / "four").write_text("half a rep")
    (folder / "~servers" / "five").write_text(json.dumps({**report, "loaded": None}))
    (folder / "~servers" / "six").mkdir()
    assert [server.name for server in fleet.servers()] == ["one", "two"]


def test_two_that_wait_at_once_do_not_hide_what_the_other_announces(
    fleet: Fleet, folder: Path, start: Callable[..., None]
) -> None:
    start("one", loads=lambda release: release != "b")
    (folder / "~next").mkdir()
    (folder / "~next" / "c").write_text(f"{time.time() + LONG_S}\n")
    with pytest.raises(Refused, match="one did not load b"):
        fleet.wait_loaded("b", 0.3)
    assert fleet.announced() == {"c"}
    assert "c" in fleet.servers()[0].loaded


@pytest.mark.parametrize("until", ["1.5\n", "", "soon"])
def test_what_a_killed_server_has_announced_is_over_after_a_time(fleet: Fleet, folder: Path, until: str) -> None:
    (folder / "~next").mkdir()
    (folder / "~next" / "b").write_text(until)
    assert fleet.announced() == set()


def test_what_was_refused_before_may_be_right_by_now(fleet: Fleet, folder: Path, start: Callable[..., None]) -> None:
    # It has refused `b`, and will load it when it is asked again.
    Fleet(LocalRepository(folder), "one", EVERY_S).report("a", {}, ["a"], {"b": "it was half copied"})
    waiting = threading.Thread(target=start, args=("one",))
    waiting.start()
    fleet.wait_loaded("b", LONG_S)
    waiting.join()
