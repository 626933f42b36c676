"""Real servers, started as the tests want them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.serving import Own, connected, starting
from tests.supervisor.running import Server

Start = Callable[..., Server]
StartOwn = Callable[..., Own]


@pytest.fixture
def releases(orthogonal: Path, tmp_path: Path) -> Path:
    """A folder of a test's own, with the releases `left` (active) and `right`."""
    own = tmp_path / "releases"
    own.mkdir()
    for release in orthogonal.iterdir():
        if release.is_dir():
            (own / release.name).symlink_to(release)
    (own / "active").write_text("left\n")
    return own


@pytest.fixture
def start(releases: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a server with options; each has its own data folder `data-N`."""
    number = itertools.count()
    with ExitStack() as started:

        def one(*options: str, worker: str = "-", patch: str = "-") -> Server:
            data = tmp_path / f"data-{next(number)}"
            return started.enter_context(starting(releases, data, *options, worker=worker, patch=patch))

        yield one


@pytest.fixture
def start_own(start: Start) -> Iterator[StartOwn]:
    """The same, and waits until it is ready."""
    with ExitStack() as open:

        def one(*options: str, worker: str = "-", patch: str = "-") -> Own:
            return open.enter_context(connected(start(*options, worker=worker, patch=patch)))

        yield one
