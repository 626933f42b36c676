"""The releases folder, changed by others while a server runs: followed, and never trusted."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.orthogonal import build_orthogonal
from tests.reliability.conftest import own_folder, stamp
from tests.reliability.load import caller
from tests.reliability.serving import Own, connected, starting
from tests.rpc.refusal import refused
from tests.supervisor.running import PATIENCE_S, until
from twotower import v1

REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))
CANNOT_FOLLOW = "the releases folder cannot be followed; the server's log says why"


@pytest.fixture(scope="module")
def own(orthogonal: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """A server that looks at its folder ten times a second; `bad` in it disagrees with itself."""
    place = tmp_path_factory.mktemp("folder")
    releases = own_folder(orthogonal, place)
    bad = build_orthogonal("bad", 1, releases)
    (bad / "golden.json").write_text("{}")
    stamp(releases, place / "data")
    with starting(releases, place / "data", "--workers", "2", "--follow-s", "0.1") as server, connected(server) as own:
        yield own


@pytest.fixture
def folder(own: Own, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of releases; after a test the server serves `left` again, with the same workers, and is sound."""
    folder = Path(own.server.process.args[own.server.process.args.index("--releases") + 1])  # type: ignore[index,union-attr,arg-type]
    workers = own.server.children()
    yield folder
    own.load("left")
    own.activate("left")
    until(lambda: served(own) == "left" and own.degraded() == [])
    assert own.server.children() == workers
    assert "Traceback" not in own.server.log()


def served(own: Own) -> str:
    return str(own.serving.GetUserEmbedding(REQUEST).release)


def point(folder: Path, release: str) -> None:
    """Moves the pointer from another process, as an operator does."""
    command = ["-m", "twotower_server.cli.main", "release", "activate", release, "--releases", str(folder)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=PATIENCE_S)


def test_the_pointer_is_followed_wherever_another_process_moves_it(own: Own, folder: Path) -> None:
    for release in ("right", "left", "right"):
        point(folder, release)
        assert served(own) == release, "the command waits until the servers follow"
        assert own.state(release) == "ACTIVE"
    assert json.loads((folder / "~history").read_text())[-2:] == ["right", "left"]


def test_a_split_is_followed_too(own: Own, folder: Path) -> None:
    text = json.dumps({"active": "left", "shares": {"left": 0.5, "right": 0.5}})
    (folder / "~split").write_text(text)
    until(lambda: {r.release: r.traffic_share for r in own.info().releases} == {"left": 0.5, "right": 0.5})
    for nonsense in (
        "no JSON",
        '{"active": "left", "shares": {"left": "much"}}',
        '{"active": "left", "shares": {"x": 7}}',
    ):
        (folder / "~split").write_text(nonsense)
        until(lambda: {r.release: r.traffic_share for r in own.info().releases if r.traffic_share} == {"left": 1.0})
        (folder / "~split").write_text(text)
        until(lambda: {r.release: r.traffic_share for r in own.info().releases} == {"left": 0.5, "right": 0.5})


@pytest.mark.parametrize("content", ["nowhere\n", "bad\n", "no name\n", "", None, b"\xff\xfe"], ids=repr)
def test_a_pointer_to_what_cannot_be_served(own: Own, folder: Path, content: str | bytes | None) -> None:
    pointer = folder / "active"
    if content is None:
        pointer.unlink()
    else:
        pointer.write_bytes(content if isinstance(content, bytes) else content.encode())
    until(own.degraded)
    (sentence,) = own.degraded()
    if content in ("nowhere\n", "bad\n"):
        assert sentence.startswith(f"release {str(content).strip()}, which the releases folder names, is refused: ")
    else:
        assert sentence == CANNOT_FOLLOW
    assert str(folder) not in sentence
    assert served(own) == "left"
    # A caller repairs it, whatever stands there.
    own.load("right")
    assert own.activate("right") == "left"
    assert pointer.read_text() == "right\n"
    until(lambda: own.degraded() == [])
    assert served(own) == "right"


def test_a_pointer_that_cannot_be_read(own: Own, folder: Path) -> None:
    pointer = folder / "active"
    pointer.unlink()
    pointer.mkdir()
    until(lambda: own.degraded() == [CANNOT_FOLLOW])
    assert served(own) == "left"
    own.load("right")
    message = refused(own.releases.ActivateRelease, v1.ActivateReleaseRequest(release="right"), "STORE_UNAVAILABLE")
    assert message == "STORE_UNAVAILABLE: the releases folder cannot be used; the server's log says more"
    assert served(own) == "left"
    pointer.rmdir()


@pytest.mark.parametrize("place", ["~lock", "~history"])
def test_a_folder_in_which_the_pointer_cannot_be_moved(own: Own, folder: Path, place: str) -> None:
    own.load("right")
    own.split(left=0.25, right=0.75)
    path = folder / place
    kept = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    (path / "in the way").mkdir(parents=True)
    try:
        request = v1.ActivateReleaseRequest(release="right")
        refused(own.releases.ActivateRelease, request, "STORE_UNAVAILABLE")
        assert own.active() == "left" and (folder / "active").read_text() == "left\n"
        assert {r.release: r.traffic_share for r in own.info().releases} == {"left": 0.25, "right": 0.75}
        assert own.degraded() == []
    finally:
        (path / "in the way").rmdir()
        path.rmdir()
        if kept is not None:
            path.write_bytes(kept)
    assert own.activate("right") == "left"
    assert served(own) == "right"


def test_a_full_disk(own: Own, folder: Path) -> None:
    own.load("right")
    supervisor = own.server.process.pid
    limits = resource.prlimit(supervisor, resource.RLIMIT_FSIZE)
    resource.prlimit(supervisor, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        refused(own.releases.ActivateRelease, v1.ActivateReleaseRequest(release="right"), "STORE_UNAVAILABLE")
        assert own.active() == "left" and (folder / "active").read_text() == "left\n"
        until(lambda: own.degraded() == ["the releases folder cannot be written; the server's log says why"])
    finally:
        resource.prlimit(supervisor, resource.RLIMIT_FSIZE, limits)
    until(lambda: own.degraded() == [])
    assert own.activate("right") == "left"


def test_what_others_leave_in_the_folder_is_in_nobodys_way(own: Own, folder: Path) -> None:
    (folder / "~servers" / "of-another-version").write_text('{"name": 1, "beat": "x", "loaded": null}')
    (folder / "~servers" / "half").write_text('{"name": "ha')
    (folder / "~servers" / "folder").mkdir()
    (folder / "~next").mkdir(exist_ok=True)
    (folder / "~next" / "no name").write_text("9e99")
    (folder / "~next" / "left").write_text("soon")
    (folder / "~history").write_text('{"left": 1}')
    try:
        own.load("right")
        assert own.activate("right") == "left"
        assert own.rollback("right") == "left"
        assert own.degraded() == []
    finally:
        (folder / "~next" / "no name").unlink()
        (folder / "~servers" / "folder").rmdir()
