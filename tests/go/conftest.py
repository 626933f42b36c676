"""The Go toolchain, and a server for what Go programs change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.supervisor.running import Server

MODULE = Path(__file__).parents[2] / "clients" / "go"


@pytest.fixture(scope="session")
def go() -> str:
    """Path of the toolchain."""
    found = shutil.which(os.environ.get("GO", "go"))
    if found is None:
        pytest.fail("no Go toolchain found: run the tests by `make test`, which installs one, or set GO to its path")
    return found


@dataclass(frozen=True, slots=True)
class Switchable:
    """A server that tests may change."""

    target: str
    server: Server


@pytest.fixture(scope="module")
def switchable(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switchable]:
    """A server of two workers, with the releases `dot` (active) and `cosine`, for one file of tests."""
    folder = tmp_path_factory.mktemp("go")
    own = folder / "releases"
    own.mkdir()
    for name in ("dot", "cosine"):
        (own / name).symlink_to(releases / name)
    (own / "active").write_text("dot\n")
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--data", str(folder / "data")]
    server = Server([*command, "--listen", "localhost:0", "--workers", "2"], folder / "log", {})
    try:
        yield Switchable(str(server.ready()["target"]), server)
    finally:
        server.close()
