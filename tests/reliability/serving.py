"""A server of a test's own, with what the test puts into its processes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from tests.supervisor.running import Server, until
from twotower import v1

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# A connection of its own: channels of one target would share theirs.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

_number = itertools.count()


@dataclass(slots=True)
class Own:
    """A server that is ready, and a connection to it."""

    server: Server
    target: str
    channel: grpc.Channel
    serving: v1.TwoTowerServiceStub = field(init=False)
    releases: v1.ReleaseServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.serving = v1.TwoTowerServiceStub(self.channel)
        self.releases = v1.ReleaseServiceStub(self.channel)

    def info(self) -> v1.GetServingInfoResponse:
        found: v1.GetServingInfoResponse = self.serving.GetServingInfo(v1.GetServingInfoRequest())
        return found

    def active(self) -> str:
        """What this server serves."""
        return str(self.info().active_release)

    def degraded(self) -> list[str]:
        return list(self.info().degraded)

    def status(self, release: str) -> v1.ReleaseStatus:
        """What ListReleases says of a release."""
        listed = self.releases.ListReleases(v1.ListReleasesRequest())
        found: v1.ReleaseStatus = next(status for status in listed.releases if status.info.release == release)
        return found

    def state(self, release: str) -> str:
        """As VERIFYING or LOADED."""
        return v1.ReleaseState.Name(self.status(release).state).removeprefix("RELEASE_STATE_")

    def load(self, release: str) -> str:
        """Loads a release; the state that this ends in."""
        self.releases.LoadRelease(v1.LoadReleaseRequest(release=release))
        until(lambda: self.state(release) != "VERIFYING")
        return self.state(release)

    def activate(self, release: str, expected_active: str = "") -> str:
        """Returns what was active before."""
        request = v1.ActivateReleaseRequest(release=release, expected_active=expected_active)
        return str(self.releases.ActivateRelease(request).previous)

    def rollback(self, from_release: str) -> str:
        """Returns what is active now."""
        return str(self.releases.RollbackRelease(v1.RollbackReleaseRequest(from_release=from_release)).active)

    def split(self, **shares: float) -> dict[str, float]:
        """Returns the shares that apply now."""
        return dict(self.releases.SetTrafficSplit(v1.SetTrafficSplitRequest(shares=shares)).shares)


@contextmanager
def starting(
    releases: Path, data: Path, *options: str, worker: str = "-", verifier: str = "-", patch: str = "-", **environ: str
) -> Iterator[Server]:
    """Starts a server. worker, verifier, patch: see `serve_patched`. environ: of all its processes."""
    command = [str(HERE / "serve_patched.py"), worker, verifier, patch]
    command += ["--releases", str(releases), "--data", str(data), "--listen", "localhost:0", *options]
    environ = {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))), **environ}
    server = Server(command, data.with_name(f"log-{next(_number)}"), environ)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def connected(server: Server) -> Iterator[Own]:
    """Waits until the server is ready."""
    target = str(server.ready()["target"])
    with grpc.insecure_channel(target, OWN_CONNECTION) as channel:
        yield Own(server, target, channel)


StartOwn = Callable[..., Own]
