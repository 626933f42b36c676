"""Servers with the workers of `tiny_worker`, and a release that has nothing in it but a stamp."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.supervisor.running import Server
from twotower_server.release.format import FILES, MANIFEST
from twotower_server.release.stamp import write_stamp

HERE = Path(__file__).parent

StartServer = Callable[..., Server]


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A folder with the active release `r1`, stamped as verified in `tmp_path / "data"`."""
    folder = tmp_path / "releases"
    release = folder / "r1"
    release.mkdir(parents=True)
    for name in (MANIFEST, *FILES):
        (release / name).write_text(name)
    (folder / "active").write_text("r1\n")
    write_stamp(release, tmp_path / "data")
    return folder


@pytest.fixture
def start_tiny(releases: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Starts servers: the entry in `tiny_worker`, then options of `twotower serve`."""
    started: list[Server] = []
    number = itertools.count()

    def start(entry: str, *options: str) -> Server:
        defaults = ("--releases", str(releases), "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0")
        environ = {"PYTHONPATH": os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))}
        command = (str(HERE / "serve_tiny.py"), entry, *defaults, *options)
        started.append(Server(command, tmp_path / f"log-{next(number)}", environ))
        return started[-1]

    yield start
    for server in started:
        server.close()
