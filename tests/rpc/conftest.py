"""Real servers seen through their stubs, and what their releases must answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ATTRIBUTES, Running
from tests.model_folder import item_table, write_model
from tests.rpc.messages import USER, user
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import Server
from twotower import v1
from twotower_server.release.build import Recipe, build_release


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
    with _going_on(cosine_server.stub, cosine_server.server):
        yield cosine_server.stub


@dataclass(frozen=True, slots=True)
class Own:
    """A server beside the shared ones."""

    stub: v1.TwoTowerServiceStub
    server: Server


@contextmanager
def _serve(releases: Path, folder: Path, *options: str) -> Iterator[Own]:
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases)]
    command += ["--data", str(folder / "data"), "--listen", "localhost:0", *options]
    server = Server(command, folder / "log", {})
    try:
        with grpc.insecure_channel(str(server.ready()["target"])) as channel:
            yield Own(v1.TwoTowerServiceStub(channel), server)
    finally:
        server.close()


@pytest.fixture(scope="session")
def tight_server(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    options = "--strict-features --limit-users 3 --limit-items 4 --limit-k 300 --limit-exclusions 5 "
    options += "--limit-features 12 --limit-id-bytes 16 --limit-response-bytes 4096"
    with _serve(server.releases, tmp_path_factory.mktemp("tight"), *options.split()) as own:
        yield own


@pytest.fixture
def tight(tight_server: Own) -> Iterator[v1.TwoTowerServiceStub]:
    """Calls a server of `dot` with small limits, that refuses unknown names; what it refuses must not harm it."""
    with _going_on(tight_server.stub, tight_server.server):
        yield tight_server.stub


@pytest.fixture(scope="module")
def long_titles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[v1.TwoTowerServiceStub]:
    """Calls a server of 60 items whose titles are of 100,000 characters each."""
    folder = tmp_path_factory.mktemp("long-titles")
    items = item_table(60)
    titles = pa.array([f"{i} " + "t" * 100_000 for i in range(60)])
    pq.write_table(items.set_column(items.schema.get_field_index("title"), "title", titles), folder / "items.parquet")
    recipe = Recipe("long", write_model(folder / "model"), folder / "items.parquet", attributes=ATTRIBUTES)
    build_release(recipe, folder / "releases", activate=True)
    with _serve(folder / "releases", folder) as own, _going_on(own.stub, own.server):
        yield own.stub


@pytest.fixture(autouse=True)
def it_goes_on(server: Running) -> Iterator[None]:
    """After every test the server that all of them share is as before."""
    with _going_on(server.stub, server.server):
        yield


@contextmanager
def _going_on(stub: v1.TwoTowerServiceStub, server: Server) -> Iterator[None]:
    """Whatever is sent meanwhile, the same worker then serves as before, and has met with no bug."""
    before = len(server.log())
    yield
    assert len(stub.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).embedding.values) == 8
    assert server.log()[before:] == ""
