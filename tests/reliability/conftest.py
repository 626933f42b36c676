"""The frame of the suite: its marker, its table of figures, and servers of releases whose vectors are orthogonal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.figures import KEPT, Figures
from tests.reliability.load import Expected
from tests.reliability.serving import Own, StartOwn, connected, starting
from twotower_server.release.stamp import write_stamp

HERE = Path(__file__).parent
_FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = Figures()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder take long: `make test` leaves them out, `make test-reliability` runs them."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.reliability)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if figures.rows:
        terminalreporter.section("figures")
        terminalreporter.write_line(figures.table())
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(f"{figures.table()}\n")


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> Figures:
    """Takes the rows of the table of figures."""
    return pytestconfig.stash[_FIGURES]


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
