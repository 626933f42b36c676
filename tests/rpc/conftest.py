"""Real servers seen through their stubs, and what their releases must answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.conftest import Running
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import Server
from twotower import v1


@pytest.fixture(scope="session")
def dot(releases: Path) -> Recomputed:
    return Recomputed(releases / "dot")


@pytest.fixture(scope="session")
def cosine(releases: Path) -> Recomputed:
    return Recomputed(releases / "cosine")


@pytest.fixture
def stub(server: Running) -> v1.TwoTowerServiceStub:
    """Calls the server of the release `dot`."""
    return server.stub


@pytest.fixture
def cosine_stub(cosine_server: Running) -> Iterator[v1.TwoTowerServiceStub]:
    """Calls the server of the release `cosine`; what it refuses must not harm it."""
    yield cosine_server.stub
    _check_it_goes_on(cosine_server.stub, cosine_server.server)


@dataclass(frozen=True, slots=True)
class Tight:
    """A server of the release `dot` with small limits, that refuses unknown names."""

    stub: v1.TwoTowerServiceStub
    server: Server


@pytest.fixture(scope="session")
def tight_server(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tight]:
    folder = tmp_path_factory.mktemp("tight")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(server.releases)]
    command += ["--data", str(folder / "data"), "--listen", "localhost:0", "--strict-features"]
    command += ["--limit-users", "3", "--limit-items", "4", "--limit-k", "300", "--limit-exclusions", "5"]
    command += ["--limit-features", "12", "--limit-id-bytes", "16", "--limit-response-bytes", "4096"]
    running = Server(command, folder / "log", {})
    try:
        with grpc.insecure_channel(str(running.ready()["target"])) as channel:
            yield Tight(v1.TwoTowerServiceStub(channel), running)
    finally:
        running.close()


@pytest.fixture
def tight(tight_server: Tight) -> Iterator[v1.TwoTowerServiceStub]:
    """Calls a server with small limits; what it refuses must not harm it."""
    yield tight_server.stub
    _check_it_goes_on(tight_server.stub, tight_server.server)


@pytest.fixture(autouse=True)
def it_goes_on(server: Running) -> Iterator[None]:
    """After every test the same worker serves as before, and has not stumbled over a bug."""
    yield
    _check_it_goes_on(server.stub, server.server)


def _check_it_goes_on(stub: v1.TwoTowerServiceStub, server: Server) -> None:
    assert len(stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).embedding.values) == 8
    log = server.log()
    assert "Traceback" not in log and "Warning" not in log
    assert log.count("worker 0 is ready") == 1
