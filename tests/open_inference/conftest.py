"""A real server of two releases: by the Open Inference Protocol, and by its own, to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from open_inference.grpc.protocol import ModelReadyRequest
from open_inference.grpc.service import GRPCInferenceServiceStub

from tests.supervisor.running import Server, until
from twotower import v1


@dataclass(frozen=True, slots=True)
class Own:
    """`inference` and `native` call the same server."""

    target: str
    channel: grpc.Channel
    server: Server
    inference: GRPCInferenceServiceStub
    native: v1.TwoTowerServiceStub
    releases: v1.ReleaseServiceStub


@pytest.fixture(scope="session")
def shared(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    folder = tmp_path_factory.mktemp("open-inference")
    own = folder / "releases"
    own.mkdir()
    for name in ("dot", "cosine"):
        (own / name).symlink_to(releases / name)
    (own / "active").write_text("dot\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
    server = Server([*command, "--listen", "localhost:0"], folder / "log", {})
    try:
        target = str(server.ready()["target"])
        with grpc.insecure_channel(target) as channel:
            inference = GRPCInferenceServiceStub(channel)
            of_releases = v1.ReleaseServiceStub(channel)
            of_releases.LoadRelease(v1.LoadReleaseRequest(release="cosine"))
            until(lambda: inference.ModelReady(ModelReadyRequest(name="score", version="cosine")).ready)
            yield Own(target, channel, server, inference, v1.TwoTowerServiceStub(channel), of_releases)
    finally:
        server.close()


@pytest.fixture
def own(shared: Own) -> Iterator[Own]:
    """A server of `dot` (active) and `cosine`: do not stop it. Whatever a test sends, nothing may be a bug."""
    before = shared.server.children()
    yield shared
    assert shared.server.children() == before
    assert "Traceback" not in shared.server.log()
