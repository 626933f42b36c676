"""Real servers with an HTTP port, and the same server's gRPC to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.http.calling import Http
from tests.supervisor.running import Server, until
from twotower import v1


@dataclass(frozen=True, slots=True)
class Own:
    """A server that is ready."""

    server: Server
    http: Http
    stub: v1.TwoTowerServiceStub
    releases: v1.ReleaseServiceStub

    def load(self, release: str) -> None:
        self.releases.LoadRelease(v1.LoadReleaseRequest(release=release))
        until(lambda: self.http.get(f"/v2/models/score/versions/{release}/ready").status == 200)


Start = Callable[..., Own]


def _start(held: ExitStack, folder: Path, releases: Path, active: str, *options: str) -> Own:
    own = folder / "releases"
    own.mkdir()
    for release in releases.iterdir():
        if release.is_dir():
            (own / release.name).symlink_to(release)
    (own / "active").write_text(f"{active}\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
    command += ["--listen", "localhost:0", "--http-listen", "localhost:0", *options]
    server = Server(command, folder / "log", {})
    held.callback(server.close)
    ready = server.ready()
    channel = held.enter_context(grpc.insecure_channel(str(ready["target"])))
    http = Http(str(ready["http_target"]))
    return Own(server, http, v1.TwoTowerServiceStub(channel), v1.ReleaseServiceStub(channel))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server of the test's own: folder of releases, the active one, options."""
    with ExitStack() as held:
        yield lambda releases, active, *options: _start(held, tmp_path, releases, active, *options)


@pytest.fixture(scope="session")
def own(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    """A server of the releases `dot` (active) and `cosine`, for the whole session: do not stop it."""
    with ExitStack() as held:
        found = _start(held, tmp_path_factory.mktemp("http"), releases, "dot")
        found.load("cosine")
        yield found


@pytest.fixture
def http(own: Own) -> Iterator[Http]:
    """Its HTTP port. Whatever a test sends, no worker may die of it, and nothing may be a bug."""
    before = own.server.children()
    yield own.http
    assert own.server.children() == before
    assert "Traceback" not in own.server.log()
