"""Servers of releases whose vectors are orthogonal, with real processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.load import Expected
from tests.reliability.serving import Own, StartOwn, connected, starting
from twotower_server.release.stamp import write_stamp


@pytest.fixture(scope="session")
def expected(orthogonal: Path) -> Mapping[str, Expected]:
    """What each release answers."""
    return {name: Expected(orthogonal / name) for name in ("left", "right")}


@pytest.fixture
def folder(orthogonal: Path, tmp_path: Path) -> Path:
    """A releases folder of the test's own: `left`, which is active, and `right`."""
    return own_folder(orthogonal, tmp_path)


def own_folder(orthogonal: Path, place: Path) -> Path:
    releases = place / "releases"
    shutil.copytree(orthogonal, releases)
    (releases / "active").write_text("left\n")
    return releases


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[StartOwn]:
    """Starts servers of `folder`, and waits until they are ready. data: of the server; the rest as for `starting`."""
    with ExitStack() as started:

        def run(*options: str, data: str = "data", **patches: Any) -> Own:
            stamp(folder, tmp_path / data)
            server = started.enter_context(starting(folder, tmp_path / data, *options, **patches))
            return started.enter_context(connected(server))

        yield run


def stamp(releases: Path, data: Path, *names: str) -> None:
    """Records releases (`left` and `right`) as verified, which they were when they were built: to start sooner."""
    for name in names or ("left", "right"):
        write_stamp(releases / name, data)
