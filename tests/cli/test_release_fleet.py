"""The commands that change what real servers of a folder serve, or what is in it."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import twotower
from tests.conftest import Command
from tests.object_store import object_store
from tests.release.conftest import manifest_of, write_manifest
from tests.supervisor.running import PATIENCE_S, Server, until
from twotower_server.cli.exit_code import ExitCode
from twotower_server.release.fleet import Fleet
from twotower_server.release.repository import LocalRepository, open_repository

Release = Callable[..., tuple[int, str, str]]
StartServer = Callable[..., Server]

USER = twotower.user("u1", {"age": 0.5, "ctr": 0.25})
# A server that looks so often is taken for dead after half a second of silence.
QUICK = ("--follow-s", "0.1")


def renamed(release: Path, name: str, **changes: Any) -> Path:
    """The same release under another name."""
    copy = Path(shutil.copytree(release, release.with_name(name)))
    write_manifest(copy, {**manifest_of(copy), "release": name, **changes})
    return copy


@pytest.fixture
def own(built_releases: Path, tmp_path: Path) -> Path:
    """A folder with the releases `r1` (active), `r2` and `r3`, which differ in their names alone."""
    folder = tmp_path / "releases"
    shutil.copytree(built_releases / "r1", folder / "r1")
    renamed(folder / "r1", "r2")
    renamed(folder / "r1", "r3")
    Fleet(LocalRepository(folder)).activate("r1")
    return folder


@pytest.fixture
def release(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_twotower: Command) -> Release:
    """Runs `twotower release` on `own`, unless told otherwise: exit code, standard output, standard error."""
    monkeypatch.setenv("TWOTOWER_RELEASES", str(own))
    monkeypatch.setenv("TWOTOWER_DATA", str(tmp_path / "command"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        return run_twotower("release", *arguments)

    return run


@pytest.fixture
def start(own: Path, start_server: StartServer, tmp_path: Path) -> Callable[..., tuple[Server, str]]:
    """Starts a server of `own` that the fleet sees: itself, and its name there."""
    number = itertools.count()

    def run(*options: str) -> tuple[Server, str]:
        data = str(tmp_path / f"data-{next(number)}")
        server = start_server("--releases", str(own), "--data", data, *QUICK, *options)
        port = server.ready()["port"]
        fleet = Fleet(LocalRepository(own))
        until(lambda: any(found.name.endswith(f"-{port}") for found in fleet.servers()))
        return server, next(found.name for found in fleet.servers() if found.name.endswith(f"-{port}"))

    return run


def answered(result: tuple[int, str, str]) -> Any:
    """The JSON document of a command that ended well."""
    code, out, err = result
    assert (code, err) == (ExitCode.OK, "")
    return json.loads(out)


def words(text: str) -> str:
    return " ".join(text.split())


def served(name: str, users: int = 1) -> set[str]:
    """The releases that serve users of a server, by its name in the fleet."""
    with twotower.Client(f"localhost:{name.rpartition('-')[2]}", timeout_s=PATIENCE_S) as client:
        return {client.get_user_embedding(twotower.user(f"u{i}", age=1)).release for i in range(users)}


# ---- activate and rollback


def test_activate_reaches_every_server_before_it_returns(release: Release, start: Callable[..., Any]) -> None:
    (_, one), (_, two) = start(), start()
    code, out, err = release("activate", "r2")
    first, second = sorted((one, two))
    assert code == ExitCode.OK
    assert out == f"r2 is the active release now; before it was r1\nServed by {first}, {second}\n"
    assert err == f"Waiting for {first}, {second} to load r2\n"
    assert served(one) == served(two) == {"r2"}
    switched = answered(release("rollback", "--json"))
    assert switched == {"active": "r1", "previous": "r2", "serving": [first, second], "late": []}
    assert served(one) == served(two) == {"r1"}


def test_rollback_goes_back_from_the_release_that_is_named_alone(release: Release, own: Path) -> None:
    release("activate", "r2")
    code, out, _ = release("rollback", "--from", "r2")
    assert code == ExitCode.OK
    assert out.startswith("r1 is the active release now; before it was r2\n")
    # A second operator, with the same intent.
    code, _, err = release("rollback", "--from", "r2")
    assert code == ExitCode.FAILED
    assert err == "twotower release: the active release is r1, not r2; nothing was changed\n"
    assert Fleet(LocalRepository(own)).active() == "r1"


def test_rollback_without_a_release_before(release: Release) -> None:
    code, _, err = release("rollback")
    assert code == ExitCode.NO_RELEASE
    assert err == "twotower release: no release is known that was active before r1 and still exists\n"


def test_rollback_from_a_release_that_is_gone(release: Release, own: Path) -> None:
    release("activate", "r2")
    shutil.rmtree(own / "r2")
    code, out, _ = release("rollback")
    assert code == ExitCode.OK
    assert out.startswith("r1 is the active release now; before it was r2\n")


def test_a_release_that_a_server_refuses_does_not_become_active(
    release: Release, own: Path, start: Callable[..., Any]
) -> None:
    _, name = start()
    content = bytearray((own / "r2" / "vectors.npy").read_bytes())
    content[-1] ^= 1
    (own / "r2" / "vectors.npy").write_bytes(content)
    code, _, err = release("activate", "r2")
    assert code == ExitCode.FAILED
    assert f"twotower release: server {name} refuses r2: " in err
    assert "vectors.npy has changed: its SHA-256 is not the one in release.json" in err
    assert Fleet(LocalRepository(own)).active() == "r1"
    assert served(name) == {"r1"}
    assert f"{name} refuses r2: " in release("list")[1]


@pytest.fixture
def endless(own: Path) -> Path:
    """Makes verifying `r2` take for ever: a file of it is a pipe that nobody writes."""
    (own / "r2" / "golden.json").unlink()
    os.mkfifo(own / "r2" / "golden.json")
    return own / "r2"


@pytest.mark.usefixtures("endless")
def test_a_server_that_loads_for_long_is_waited_for_and_follows_meanwhile(
    release: Release, own: Path, start: Callable[..., Any]
) -> None:
    _, name = start()
    answered(release("activate", "r3", "--json"))
    answered(release("rollback", "--json"))
    # Ten times the silence after which a server would be taken for dead.
    code, _, err = release("activate", "r2", "--timeout-s", "5")
    assert code == ExitCode.FAILED
    assert f"twotower release: {name} did not load r2 within 5 s; nothing was changed\n" in err
    assert Fleet(LocalRepository(own)).active() == "r1"
    # It is still verifying r2; going back to a release that it has loaded does not wait for that.
    answered(release("activate", "r3", "--json"))
    assert served(name) == {"r3"}


def test_a_server_that_died_is_not_waited_for(release: Release, own: Path, start: Callable[..., Any]) -> None:
    server, _ = start()
    _, living = start()
    server.send(signal.SIGKILL)
    server.ended()
    assert answered(release("activate", "r2", "--json"))["serving"] == [living]
    # A living server writes its entry anew all the time, under a name of its own until it is whole.
    assert [name for name in os.listdir(own / "~servers") if not name.startswith("~")] == [living]


def test_a_server_that_does_not_follow_in_time_is_named(release: Release, start: Callable[..., Any]) -> None:
    server, name = start()
    release("activate", "r2")
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        # It has r1 loaded, so that nothing is waited for before.
        code, out, err = release("activate", "r1", "--timeout-s", "0.2")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert code == ExitCode.FAILED
    assert out == "r1 is the active release now; before it was r2\n"
    assert err.endswith(f"{name} did not follow in time; the log there says why\n")
    until(lambda: served(name) == {"r1"})


def test_a_server_can_be_stopped_while_it_waits_for_others(own: Path, start: Callable[..., Any]) -> None:
    server, name = start("--fleet-timeout-s", "100000", "--grace-s", "0.1")
    other, stop = Fleet(LocalRepository(own), "other", 0.1), threading.Event()

    def never_load() -> None:
        while not stop.wait(0.1):
            other.report("r1", {}, ["r1"], {})

    thread = threading.Thread(target=never_load)
    thread.start()
    try:
        with grpc.insecure_channel(f"localhost:{name.rpartition('-')[2]}") as channel:
            stub = twotower.v1.ReleaseServiceStub(channel)
            stub.LoadRelease(twotower.v1.LoadReleaseRequest(release="r2"))
            until(lambda: "loaded release r2" in server.log())
            activating = stub.ActivateRelease.future(twotower.v1.ActivateReleaseRequest(release="r2"))
            until(lambda: other.announced() == {"r2"})
            server.send(signal.SIGTERM)
            server.ended()
            with pytest.raises(grpc.RpcError):
                activating.result(PATIENCE_S)
    finally:
        stop.set()
        thread.join()
        other.leave()


# ---- list


def test_list_shows_who_has_loaded_what(release: Release, own: Path, start: Callable[..., Any]) -> None:
    _, name = start()
    release("activate", "r2")
    out = release("list")[1]
    lines = [words(line) for line in out.splitlines() if line.strip()]
    assert lines[0] == "release state created items index recall loaded by"
    assert lines[2].endswith(f" {name}") and lines[3].startswith("r2 active") and lines[3].endswith(f" {name}")
    assert len(lines) == 5, "nothing is remarkable"
    shown = answered(release("list", "--json"))
    assert [server["name"] for server in shown["servers"]] == [name]
    assert shown["servers"][0]["loaded"] == ["r1", "r2"]


def test_list_says_what_is_remarkable(release: Release, own: Path) -> None:
    late, dead = (Fleet(LocalRepository(own), name) for name in ("late", "dead"))
    late.report("r2", {}, ["r2"], {})
    dead.report("r1", {}, ["r1"], {})
    report = json.loads((own / "~servers" / "dead").read_text())
    (own / "~servers" / "dead").write_text(json.dumps({**report, "written": report["written"] - 7200}))
    out = release("list")[1]
    assert "late serves r2\n" in out
    assert "dead has been silent for 2:00:00\n" in out


# ---- split


def test_a_split_divides_the_traffic_until_it_ends(release: Release, start: Callable[..., Any]) -> None:
    _, name = start()
    code, out, _ = release("split", "r1=0.5", "r2=0.5")
    assert code == ExitCode.OK
    assert out == f"Traffic goes: 0.5 to r1, 0.5 to r2\nServed by {name}\n"
    assert served(name, users=50) == {"r1", "r2"}
    listed = [words(line) for line in release("list")[1].splitlines() if line.strip()]
    assert listed[0] == "release state share created items index recall loaded by"
    assert listed[2].startswith("r1 active 50.0%") and listed[3].startswith("r2 50.0%")
    assert answered(release("split", "--off", "--json")) == {
        "active": "r1",
        "shares": {},
        "serving": [name],
        "late": [],
    }
    assert served(name, users=50) == {"r1"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), ExitCode.USAGE, "name each release once with its share, as books-1=0.9 books-2=0.1, or --off"),
        (("r1=1", "--off"), ExitCode.USAGE, "name each release once"),
        (("r1=0.5", "r1=0.5"), ExitCode.USAGE, "name each release once"),
        (("r1",), ExitCode.USAGE, "'r1' is not NAME=SHARE, as books-1=0.9"),
        (("r1=half",), ExitCode.USAGE, "must be more than 0 and at most 1, not 'half'"),
        (("r1=0.5", "r2=0.4"), ExitCode.FAILED, "the shares sum to 0.9, not 1"),
        (("r1=0.5", "r9=0.5"), ExitCode.NO_RELEASE, "has no release r9; it has r1, r2, r3"),
    ],
)
def test_wrong_splits_change_nothing(
    release: Release, own: Path, arguments: tuple[str, ...], code: ExitCode, message: str
) -> None:
    found, _, err = release("split", *arguments)
    assert found == code
    assert message in err
    assert not (own / "~split").exists()


# ---- prune


@pytest.fixture
def aged(own: Path) -> Path:
    """`own` with releases of the last ten days: `day-0` is of today, `day-1` of yesterday. `r1` is active, `r2` was."""
    now = datetime.datetime.now(datetime.UTC)
    for days in range(10):
        created = (now - datetime.timedelta(days=days, hours=1)).isoformat(timespec="seconds")
        renamed(own / "r1", f"day-{days}", created=created)
    for name in ("r1", "r2", "r3"):
        write_manifest(own / name, {**manifest_of(own / name), "created": "2020-01-01T00:00:00+00:00"})
    fleet = Fleet(LocalRepository(own))
    for name in ("r2", "r1"):
        fleet.activate(name)
    return own


def test_prune_keeps_what_is_needed_and_the_newest(release: Release, aged: Path) -> None:
    Fleet(LocalRepository(aged)).set_shares("r1", {"r1": 0.9, "day-9": 0.1})
    code, out, _ = release("prune", "--keep", "2", "--dry-run")
    assert code == ExitCode.OK
    shown = words(out)
    assert "day-0 " in shown and "one of the newest day-2" in shown
    assert "day-9" in shown and "0.1 of the traffic" in shown
    assert "Nothing was removed; day-2, day-3, day-4, day-5, day-6, day-7, day-8, r3 would go: " in shown
    assert len(LocalRepository(aged).names()) == 13
    pruned = answered(release("prune", "--keep", "2", "--yes", "--json"))
    assert pruned["removed"]
    assert pruned["kept"] == {
        "day-0": "one of the newest",
        "day-1": "one of the newest",
        "day-9": "0.1 of the traffic",
        "r1": "active",
        "r2": "active before",
    }
    assert LocalRepository(aged).names() == ["day-0", "day-1", "day-9", "r1", "r2"]
    assert sorted(os.listdir(aged)) == sorted([*pruned["kept"], "active", "~history", "~lock", "~split"])
    assert "No release goes" in release("prune", "--keep", "2", "--yes")[1]


def test_prune_by_age(release: Release, aged: Path) -> None:
    pruned = answered(release("prune", "--keep", "0", "--older-than", "7", "--dry-run", "--json"))
    assert (pruned["removed"], pruned["going"]) == (False, ["day-7", "day-8", "day-9", "r3"])
    assert pruned["kept"]["day-6"] == "not old enough"


def test_prune_never_removes_what_it_cannot_read(release: Release, aged: Path) -> None:
    (aged / "r3" / "release.json").write_text('{"format": 2}')
    pruned = answered(release("prune", "--keep", "0", "--yes", "--json"))
    assert pruned["kept"]["r3"] == "its manifest cannot be read; remove it by hand"
    assert LocalRepository(aged).names() == ["r1", "r2", "r3"]


def test_prune_keeps_what_a_living_server_has_loaded(release: Release, own: Path, start: Callable[..., Any]) -> None:
    server, name = start()
    for active in ("r2", "r3", "r1"):
        release("activate", active)
    pruned = answered(release("prune", "--keep", "0", "--yes", "--json"))
    assert pruned == {
        "removed": False,
        "going": [],
        "kept": {"r1": "active", "r2": f"loaded by {name}", "r3": "active before"},
    }
    server.send(signal.SIGKILL)
    server.ended()
    assert answered(release("prune", "--keep", "0", "--yes", "--json"))["going"] == ["r2"]
    assert LocalRepository(own).names() == ["r1", "r3"]


def test_prune_asks(aged: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twotower_server.cli.main", "release", "prune", "--releases", str(aged)]
    asked = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert asked.returncode == ExitCode.USAGE
    assert asked.stderr == "twotower release: this removes releases: add --yes, or --dry-run to only see which\n"
    for answer, left in (("n", 13), ("", 13), ("y", 5)):
        controller, terminal = os.openpty()
        with subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, text=True) as process:
            os.write(controller, f"{answer}\n".encode())
            out, _ = process.communicate(timeout=PATIENCE_S)
        os.close(terminal)
        os.close(controller)
        assert process.returncode == ExitCode.OK
        assert "Remove 8 releases? [y/N] " in out
        assert len(LocalRepository(aged).names()) == left


def test_prune_without_an_active_release(release: Release, own: Path) -> None:
    (own / "active").unlink()
    code, _, err = release("prune", "--yes")
    assert code == ExitCode.NO_RELEASE
    assert "has no active release; activate one of r1, r2, r3" in err
    assert LocalRepository(own).names() == ["r1", "r2", "r3"]


# ---- places elsewhere


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    (tmp_path / "remote").mkdir()
    return f"file://{tmp_path / 'remote'}"


def test_a_release_travels_to_a_url_and_is_served_from_there(
    release: Release, url: str, start_server: StartServer, tmp_path: Path
) -> None:
    for name in ("r1", "r2", "r3"):
        code, out, _ = release("copy", name, url)
        assert code == ExitCode.OK
        assert out == f"{name} is in {url}. Activate it: twotower release activate {name} --releases {url}\n"
    there = ("--releases", url)
    answered(release("activate", "r1", *there, "--json"))
    assert "r1 is sound" in release("verify", *there)[1]
    (tmp_path / "back").mkdir()
    assert release("copy", "r2", tmp_path / "back", *there)[0] == ExitCode.OK
    assert LocalRepository(tmp_path / "back").names() == ["r2"]
    assert [one["verified"] for one in answered(release("list", *there, "--json"))["releases"]] == [True, False, False]
    server = start_server(*there, *QUICK, "--keep-releases", "0", "--keep-fetched", "0")
    target = server.ready()["target"]
    fleet = Fleet(open_repository(url, tmp_path, 0))
    until(fleet.servers)
    with twotower.Client(target, timeout_s=PATIENCE_S) as client:
        assert client.get_user_embedding(USER).release == "r1"
        for name in ("r2", "r3"):
            code, out, _ = release("activate", name, *there)
            assert code == ExitCode.OK
            assert f"Served by {fleet.servers()[0].name}\n" in out
            assert client.get_user_embedding(USER).release == name
    until(lambda: "retired r2" in server.log())
    pruned = answered(release("prune", *there, "--keep", "0", "--yes", "--json"))
    assert (pruned["going"], fleet.repository.names()) == (["r1"], ["r2", "r3"])
    # What was retired is fetched again when it is wanted; then nobody uses r3 any more.
    answered(release("activate", "r2", *there, "--json"))
    until(lambda: server.log().count("retired") >= 3)
    server.send(signal.SIGTERM)
    assert server.ended() == 0
    assert fleet.servers() == []
    assert "Traceback" not in server.log()


def test_a_server_goes_on_while_the_place_cannot_be_read(
    release: Release, own: Path, start_server: StartServer, tmp_path: Path
) -> None:
    remote = own.rename(tmp_path / "remote")
    url = f"file://{remote}"
    server = start_server("--releases", url, *QUICK)
    with twotower.Client(server.ready()["target"], timeout_s=PATIENCE_S) as client:
        until(Fleet(LocalRepository(remote)).servers)
        (remote / "active").rename(tmp_path / "active")
        until(lambda: "the releases folder cannot be followed" in server.log())
        assert client.get_user_embedding(USER).release == "r1"
        assert client.serving_info().degraded == ("the releases folder cannot be followed; the server's log says why",)
        (remote / "active").write_text("r2\n")
        until(lambda: client.get_user_embedding(USER).release == "r2")
        until(lambda: client.serving_info().degraded == ())


def test_a_server_that_cannot_report_follows_all_the_same(
    release: Release, own: Path, start_server: StartServer
) -> None:
    (own / "~servers").touch()
    server = start_server("--releases", str(own), *QUICK)
    with twotower.Client(server.ready()["target"], timeout_s=PATIENCE_S) as client:
        until(lambda: "the releases folder cannot be written" in server.log())
        assert client.serving_info().degraded == ("the releases folder cannot be written; the server's log says why",)
        assert answered(release("activate", "r2", "--json"))["serving"] == []
        until(lambda: client.get_user_embedding(USER).release == "r2")


def test_what_needs_a_folder_does_not_take_a_url(release: Release, tmp_path: Path) -> None:
    code, _, err = release("build", "--model", tmp_path, "--items", tmp_path, "--releases", "s3://bucket/releases")
    assert code == ExitCode.USAGE
    assert "not a URL; `twotower release copy` copies a release from a folder to a URL" in err


def test_a_place_that_is_none(release: Release, tmp_path: Path) -> None:
    code, _, err = release("list", "--releases", "nfs://host/releases")
    assert code == ExitCode.USAGE
    assert "--releases: Protocol not known: nfs; name a folder, or a URL such as s3://bucket/releases" in err
    code, _, err = release("copy", "r1", tmp_path / "nowhere")
    assert code == ExitCode.RELEASE_REFUSED
    assert "nowhere is no folder" in err


@pytest.mark.parametrize("command", ["activate", "rollback", "split", "prune", "copy", "diff"])
def test_help_of_every_command_names_its_exit_codes(release: Release, command: str) -> None:
    code, out, _ = release(command, "--help")
    assert code == ExitCode.OK
    assert "--releases DIR" in out
    assert "exit codes: 0 done, 1 failed, 2 wrong usage, 3 release" in out
