"""Servers with a cache of user vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.serving import Own, connected
from tests.rpc.recomputed import Recomputed
from tests.supervisor.running import Server

StartServer = Callable[..., Own]


@pytest.fixture
def start_server(releases: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers of `dot` and `cosine`, the first of them active, with more options of `twotower serve`."""
    own = tmp_path / "releases"
    own.mkdir()
    for name in ("dot", "cosine"):
        (own / name).symlink_to(releases / name)
    (own / "active").write_text("dot\n")
    number = itertools.count()
    with ExitStack() as started:

        def start(*options: str) -> Own:
            command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(own), "--listen", "localhost:0"]
            folder = tmp_path / f"server-{next(number)}"
            folder.mkdir()
            server = Server([*command, "--data", str(folder / "data"), *options], folder / "log", {})
            started.callback(server.close)
            return started.enter_context(connected(server))

        yield start


@pytest.fixture(scope="session")
def dot(releases: Path) -> Recomputed:
    return Recomputed(releases / "dot")
